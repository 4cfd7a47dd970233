"""What is predicted of devices that were neither profiled nor have a data sheet: assumed from sizes alone.

Nothing here was measured. A gateway can begin with it, and replaces loads by what it measures as it goes;
evaluations and trainings ask for a profile instead.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pandas as pd

from shunter.catalog.devices import parse_device
from shunter.catalog.gpus import gpu_name
from shunter.catalog.work import kept_tokens, placed_configurations
from shunter.models.performance import PerformanceModel
from shunter.models.state import ProfiledWork
from shunter.profiling.dataset.fingerprint import digest

__all__ = ["AssumedPerformance"]

READ_BYTES_PER_S: Mapping[str, float] = {"cpu": 10e9, "loopback": 10e9, "cuda": 400e9, "vulkan": 200e9}
"""Weights that a decode step reads per second: one channel of memory or two, and a middling GPU."""

WORK_PER_S: Mapping[str, float] = {"cpu": 100e9, "loopback": 100e9, "cuda": 30e12, "vulkan": 15e12}
"""Operations per second of a prefill, two for each byte of weights and token."""

LOAD_BYTES_PER_S = 1.5e9
START_S = 1.0
"""What starting a server takes besides its weights."""

UNLOAD_S = 0.2

BUFFER_BYTES = 60e6
HALFWIDTH = 2.0
"""How far off all of it may be: between a third and three times."""


class AssumedPerformance(PerformanceModel):
    """Predicts from sizes alone; see this module for every figure that it assumes."""

    @property
    def digest(self) -> str:
        """Names what is assumed, where others name what was learned."""
        figures = (LOAD_BYTES_PER_S, START_S, UNLOAD_S, BUFFER_BYTES, HALFWIDTH)
        return digest({"assumed": figures, "read": dict(READ_BYTES_PER_S), "work": dict(WORK_PER_S)})

    @property
    def models(self) -> pd.DataFrame:
        """None were profiled."""
        return pd.DataFrame(index=pd.Index([], name="model"))

    @property
    def profiled(self) -> tuple[ProfiledWork, ...]:
        """None was measured."""
        return ()

    def saves_kv(self, engine: str, device: str) -> bool:
        """No: servers cannot."""
        return False

    def complete(self, frame: pd.DataFrame) -> pd.DataFrame:
        """Adds the data sheets' names; configurations of tables have all else."""
        return frame.assign(datasheet=frame.device.map(lambda name: gpu_name(name) or ""))

    def predict(self, frame: pd.DataFrame) -> pd.DataFrame:
        """See ``PerformanceModel.predict``; all is out of range."""
        kinds = frame.device.map({name: _kind(name) for name in frame.device.unique()})
        on_device = 1.0 - frame.offload_ratio
        at = placed_configurations(frame)
        experts = at.expert_bytes_device + at.expert_bytes_host
        together = frame.batch.where(frame.operation.eq("decode"), frame.tokens)
        read_bytes = frame.weight_bytes - experts * at.expert_idle_share**together
        read_s = read_bytes * (
            on_device / kinds.map(READ_BYTES_PER_S) + frame.offload_ratio / READ_BYTES_PER_S["cpu"]
        )
        context_tokens = kept_tokens(at.context_tokens, at.windowed_share, at.window_tokens)
        kv_s = frame.batch * context_tokens * frame.kv_bytes_per_token / kinds.map(READ_BYTES_PER_S)
        active_bytes = frame.weight_bytes - experts * at.expert_idle_share
        work_s = 2.0 * active_bytes * frame.tokens / kinds.map(WORK_PER_S)
        seconds = {
            "load": START_S + frame.weight_bytes / LOAD_BYTES_PER_S,
            "unload": pd.Series(UNLOAD_S, frame.index),
            "prefill": work_s + read_s,
            "decode": read_s + kv_s,
        }
        taken_s = np.select([frame.operation.eq(name) for name in seconds], list(seconds.values()), 0.0)
        kv_bytes = frame.kv_bytes_per_token * at.reserved_kv_tokens
        device_bytes = on_device * (frame.weight_bytes + kv_bytes) + BUFFER_BYTES
        is_load = frame.operation.eq("load")
        values = {
            "duration_s": pd.Series(taken_s, frame.index),
            "device_bytes": device_bytes.where(is_load),
            "host_bytes": frame.weight_bytes.where(is_load).astype(float),
        }
        columns: dict[str, pd.Series[float] | bool] = {}
        for name, value in values.items():
            columns[f"{name}_predicted"] = value
            columns[f"{name}_low"] = value / (1.0 + HALFWIDTH)
            columns[f"{name}_high"] = value * (1.0 + HALFWIDTH)
        return frame.assign(**columns, duration_s_mean=values["duration_s"], out_of_range=True)


def _kind(name: str) -> str:
    """The kind of a device; a GPU of the catalogue, beside devices of none, is one like any other."""
    return "cuda" if gpu_name(name) else parse_device(name).kind
