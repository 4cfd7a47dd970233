"""The engine, which only a worker process imports.

A real one implements ``shunter.engines.base.Engine`` around its library. This one changes the
durations of the public fake, so that the example is complete and runs anywhere. In a worker nothing else of
shunter than ``shunter.engines`` can be relied on.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from shunter.engines.base import Capabilities, CheckpointError, Engine, LoadResult
from shunter.engines.fake.engine import FakeEngine, FakeWallClock, LinearDurations

__all__ = ["Metronome", "create"]


@dataclass(frozen=True)
class Beat(LinearDurations):
    """Steps that take the same time, whatever the batch, the context and the level.

    Attributes:
        beat_s: That time.
    """

    beat_s: float = 0.002

    def decode_step_s(self, model: str, gpu_layers: int, batch: int, context_tokens: float) -> float:
        """One beat."""
        return self.beat_s


class Metronome(FakeEngine):
    """The public fake with a beat of its own and as many layers as the checkpoint says."""

    def __init__(self, device: str, memory_bytes: int | None) -> None:
        super().__init__(Beat(), FakeWallClock(), device=device, memory_bytes=memory_bytes)
        self.total_layers: dict[str, int] = {}

    def capabilities(self) -> Capabilities:
        """Those of the fake, under another name."""
        return replace(
            super().capabilities(),
            engine="metronome",
            engine_version="0.1.0",
            checkpoint_formats=("safetensors",),
        )

    def footprint_bytes(
        self, model: str, checkpoint: str, gpu_layers: int | None, *, context_tokens: int, max_batch: int
    ) -> int:
        """Reads the layer count first."""
        self.total_layers[model] = _total_layers(checkpoint)
        sizes = {"context_tokens": context_tokens, "max_batch": max_batch}
        return super().footprint_bytes(model, checkpoint, gpu_layers, **sizes)

    def load(
        self, model: str, checkpoint: str, gpu_layers: int | None, *, context_tokens: int, max_batch: int
    ) -> LoadResult:
        """Reads the layer count first."""
        self.total_layers[model] = _total_layers(checkpoint)
        sizes = {"context_tokens": context_tokens, "max_batch": max_batch}
        return super().load(model, checkpoint, gpu_layers, **sizes)


def _total_layers(checkpoint: str) -> int:
    """Transformer layers and the output layer, as shunter counts them."""
    try:
        config = json.loads((Path(checkpoint) / "config.json").read_text(encoding="utf-8"))
        return int(config["num_hidden_layers"]) + 1
    except (OSError, ValueError, KeyError) as error:
        raise CheckpointError(f"{checkpoint}: no Hugging Face folder: {error}") from error


def create(device: dict[str, Any]) -> Engine:
    """What the worker calls.

    Args:
        device: Fields of ``shunter.catalog.devices.DeviceSpec``.
    """
    return Metronome(device["name"], device["memory_bytes"])
