"""Time and costs of the fake engine: its clocks and the formulas of its durations."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TypeAlias


@dataclass
class FakeVirtualClock:
    """Time that passes only when someone sets it; each call of an engine advances it."""

    now_s: float = 0.0


class FakeWallClock:
    """Real time: setting it to a later moment sleeps until then."""

    @property
    def now_s(self) -> float:
        """Seconds of ``time.monotonic``."""
        return time.monotonic()

    @now_s.setter
    def now_s(self, value: float) -> None:
        time.sleep(max(0.0, value - time.monotonic()))


FakeClock: TypeAlias = FakeVirtualClock | FakeWallClock
"""What a fake engine's time is read from and written to."""


@dataclass(frozen=True)
class LinearDurations:
    """How long each operation takes, in seconds, and how much memory a model takes: linear in everything.

    The same simple costs for every model; a subclass may have others for each.

    Attributes:
        layer_bytes: Weights and buffers of one layer.
        bytes_per_s: Speed of loading and of moving KV.
        layer_step_s: Time of one layer on the device, per step; on the host it is 3 times that.
        token_s: Time of one prompt token.
        kv_bytes_per_token: Keys and values of one token.
        total_layers: Layers of every model.
    """

    layer_bytes: int = 10_000_000
    bytes_per_s: float = 1e9
    layer_step_s: float = 1e-3
    token_s: float = 5e-4
    kv_bytes_per_token: int = 10_000
    total_layers: int = 9

    def load_s(self, model: str, checkpoint: str, gpu_layers: int) -> float:
        """A latency, and all weights once over the bus."""
        return 0.05 + self.layer_bytes * self.total_layers / self.bytes_per_s

    def unload_s(self, model: str, gpu_layers: int) -> float:
        """A latency."""
        return 0.005

    def prefill_s(self, model: str, gpu_layers: int, tokens: int) -> float:
        """A latency, and a time per token."""
        return 0.005 + self.token_s * tokens

    def decode_step_s(self, model: str, gpu_layers: int, batch: int, context_tokens: float) -> float:
        """A time per layer by where it is, and one per request and token of context.

        context_tokens is the mean over the batch, with the token being processed.
        """
        layers = gpu_layers + 3 * (self.total_layers - gpu_layers)
        return self.layer_step_s * layers + 2e-4 * batch + 1e-7 * batch * context_tokens

    def kv_save_s(self, model: str, gpu_layers: int, tokens: int) -> float:
        """All KV once over the bus."""
        return 1e-4 + tokens * self.kv_bytes_per_token / self.bytes_per_s

    def kv_restore_s(self, model: str, gpu_layers: int, tokens: int) -> float:
        """As saving."""
        return self.kv_save_s(model, gpu_layers, tokens)

    def wake_s(self, model: str, checkpoint: str, gpu_layers: int, level: int) -> float:
        """A latency, and what is on the device over a bus that is four times as fast; at level 2 a load's."""
        if level == 2:
            return self.load_s(model, checkpoint, gpu_layers) - 0.04
        return 0.01 + self.layer_bytes * gpu_layers / (4 * self.bytes_per_s)

    def fall_asleep_s(self, model: str, gpu_layers: int, level: int) -> float:
        """A latency, and at level 1 what is on the device over the same bus."""
        return 0.01 + (2 - level) * self.layer_bytes * gpu_layers / (4 * self.bytes_per_s)

    def asleep_bytes(self, model: str, gpu_layers: int) -> int:
        """Memory on the device that a sleeper keeps: a megabyte, or less if it takes less awake."""
        return min(1_000_000, self.device_bytes(model, gpu_layers))

    def device_bytes(self, model: str, gpu_layers: int) -> int:
        """Memory on the device, buffers included: that of the layers that are there."""
        return self.layer_bytes * gpu_layers
