"""How ``shunter demo`` uses each engine."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Recipe:
    """How the demo uses one engine.

    Attributes:
        format: Format of the checkpoints.
        quantization: Quantization of the checkpoints.
        device: The device, without its budget, which is set to about half of what all models take.
        gpu_layers: Levels to profile and to schedule.
        sizes_mb: Catalogue model to size of its weights, most popular first.
    """

    format: str
    quantization: str
    device: str
    gpu_layers: tuple[str, ...]
    sizes_mb: dict[str, int]


RECIPES = {
    "transformers": Recipe(
        "safetensors",
        "F32",
        "cpu:1-threads",
        ("all",),
        {"Qwen3-8B": 120, "Llama-3-8B": 240, "Qwen2.5-14B": 360},
    ),
    "llama-cpp": Recipe(
        "gguf",
        "Q8_0",
        "loopback:1-threads",
        ("all", "50%"),
        {"Qwen3-8B": 80, "Llama-3-8B": 160, "Qwen2.5-14B": 240},
    ),
}
