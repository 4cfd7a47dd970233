"""llama.cpp by llama-cpp-python.

GPU layers on CUDA, Vulkan or the loopback device, and what it needs of GGUF.
"""
