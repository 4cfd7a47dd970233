"""Checkpoints with random weights, GGUF and safetensors: speed and memory do not depend on the values."""
