"""Everything fixed during an episode: predicted durations, sizes and limits, as arrays for compiled code."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from shunter.envs.state.records import FAR_NS

__all__ = ["MEAN_RESPONSE", "SLO", "Tables", "make_tables"]

Floats = NDArray[np.float64]
Records = NDArray[np.void]

MEAN_RESPONSE, SLOWDOWN, SLO, PRICED = 0, 1, 2, 3
"""What rewards are made of (``limits.objective``)."""

LEVEL = np.dtype(
    [
        ("level_ok", np.int64),  # whether it exists, the engine honours it and the device can hold it alone
        ("gpu_share", np.float64),  # share of layers on the device, 1 - offload_ratio
        ("footprint_bytes", np.float64),  # device memory of a resident: weights, KV budget and buffers
        ("load_s", np.float64),  # seconds to load weights from the host's memory
        ("cold_load_s", np.float64),  # seconds to load weights from disk
        ("unload_s", np.float64),
        ("load_halfwidth", np.float64),  # half width of the 90 % interval of load_s, relative
        ("prefill_halfwidth", np.float64),  # half width of the 90 % interval of a prefill, relative
        ("step_halfwidth", np.float64),  # half width of the 90 % interval of a decode step, relative
        ("kv_can_save", np.int64),  # whether KV survives an eviction; otherwise it is dropped and recomputed
    ],
    align=True,
)
"""A model at one level on one device. Flags are integers here: compiled code reads them much faster."""

ASLEEP = np.dtype(
    [
        ("wake_s", np.float64),  # seconds to wake, with what level 2 reads again in the host's memory
        ("fall_asleep_s", np.float64),
        ("wake_halfwidth", np.float64),  # half width of the 90 % interval of wake_s, relative
        ("asleep_bytes", np.float64),  # device memory that it keeps
    ],
    align=True,
)
"""A model that sleeps at one level on one device; apart from ``LEVEL``, which every decision reads."""

DEVICE = np.dtype(
    [
        ("capacity_bytes", np.float64),  # the device's memory budget
        ("busy_rate", np.float64),  # what it costs per second while it loads or runs
        ("idle_rate", np.float64),  # what it costs per second while it does neither
        ("run_contention", np.float64),  # where servers drain: 1 if models that run share the device in time,
        # 0 if they do not slow each other down
        ("load_contention", np.float64),  # the same of a load and what runs beside it
    ],
    align=True,
)
"""A device."""

MODEL = np.dtype(
    [
        ("max_batch", np.int64),  # requests that a resident decodes at once
        ("pinned", np.int64),  # device that never evicts it, -1 if none
        ("start_device", np.int64),  # device that it is resident on when an episode begins, -1 if none
        ("start_level", np.int64),  # and at which level
        ("replicas_max", np.int64),  # on how many devices it, or KV of its requests, may be at once
        ("ttl_ns", np.int64),  # how long it lies idle before it is evicted, FAR_NS if for ever
        ("priority", np.int64),  # the guard counts waits for it so many times more
    ],
    align=True,
)
"""A model."""

LIMITS = np.dtype(
    [
        ("quantum_steps", np.int64),
        ("quantum_ns", np.int64),
        ("max_wait_ns", np.int64),
        ("decision_ns", np.int64),
        ("max_time_ns", np.int64),
        ("drain", np.int64),  # whether running requests can only be drained, as on servers
        ("least_ttl_ns", np.int64),  # the shortest ttl_ns of any model
        ("oracle", np.int64),  # whether observations tell true remaining lengths
        ("objective", np.int64),  # one of the values above
        ("guard_ns", np.int64),  # longest wait before a request goes first, FAR_NS without such a bound
        ("ttft_ns", np.int64),  # longest time to the first token, FAR_NS without one
        ("tpot_ns", np.int64),  # longest time per further token, FAR_NS without one
        ("waiting_price", np.float64),  # price of one request in the system, per second
        ("sleep", np.int64),  # whether evicting sends to sleep: 0, or the level of sleep
        ("host_bytes", np.float64),  # the host's memory for weights
        ("time_scale_s", np.float64),  # the scenario's own unit of time
    ],
    align=True,
)
"""Limits of the protocol."""

_DEFAULTS = {
    "drain": 0,
    "objective": MEAN_RESPONSE,
    "guard_ns": FAR_NS,
    "ttft_ns": FAR_NS,
    "tpot_ns": FAR_NS,
    "waiting_price": 0.0,
    "busy_rate": 0.0,
    "idle_rate": 0.0,
    "run_contention": 1.0,
    "load_contention": 0.0,
    "wake_s": 0.0,
    "fall_asleep_s": 0.0,
    "wake_halfwidth": 0.0,
    "asleep_bytes": 0.0,
    "sleep": 0,
    "pinned": -1,
    "start_device": -1,
    "start_level": -1,
    "replicas_max": FAR_NS,
    "ttl_ns": FAR_NS,
    "least_ttl_ns": FAR_NS,
    "priority": 0,
}
"""The objective that nobody named, no bound on waiting, no sleep, and nothing said of single models."""


class Tables(NamedTuple):
    """Tables of a scenario. D devices, M models, L levels, B batch sizes.

    Every field of the records can also be read as an attribute: ``tables.load_s`` is (D, M, L).

    Attributes:
        level: (D, M, L) records of ``LEVEL``.
        asleep: (D, M, L) records of ``ASLEEP``; all 0 where nothing sleeps.
        device: (D,) records of ``DEVICE``.
        model: (M,) records of ``MODEL``.
        limits: (1,) record of ``LIMITS``.
        prefill_s: (D, M, L, P) seconds of a prefill, over ``prefill_tokens``.
        prefill_tokens: (P,) grid, ascending.
        step_s: (D, M, L, B, C) seconds per decode step for 1 to B requests over ``context_tokens``.
        context_tokens: (C,) grid of the mean context per request, ascending.
        kv_save_s: (D, M, L, C) seconds to save a KV cache, over ``context_tokens``.
        kv_restore_s: (D, M, L, C) seconds to restore a KV cache, over ``context_tokens``.
        remaining_tokens: (M, G) expected further tokens of a request that generated g so far; (1, G) where
            all models' requests are alike.
        weight_bytes: (M,) what a model's weights take in the host's memory.
        offload_sensitivity: (D, M) how much slower a step is at the level with most layers on the host.
    """

    level: Records
    asleep: Records
    device: Records
    model: Records
    limits: Records
    prefill_s: Floats
    prefill_tokens: Floats
    step_s: Floats
    context_tokens: Floats
    kv_save_s: Floats
    kv_restore_s: Floats
    remaining_tokens: Floats
    weight_bytes: Floats
    offload_sensitivity: Floats

    def __getattr__(self, name: str) -> Any:
        """A field of the records by its name."""
        for records in (self.level, self.asleep, self.device, self.model, self.limits):
            if name in (records.dtype.names or ()):
                return records[name] != 0 if name in ("level_ok", "kv_can_save") else records[name]
        raise AttributeError(name)

    def changed(self, **fields: Any) -> Tables:
        """A copy in which some fields of the records are others."""
        names = ("level", "asleep", "device", "model", "limits")
        parts = {name: getattr(self, name).copy() for name in names}
        for name, values in fields.items():
            records = next(r for r in parts.values() if name in (r.dtype.names or ()))
            records[name] = values
        parts["limits"]["least_ttl_ns"] = parts["model"]["ttl_ns"].min()
        return self._replace(**parts)


def make_tables(**fields: Any) -> Tables:
    """Packs arrays into tables.

    Args:
        fields: One for every field of ``LEVEL``, ``DEVICE``, ``MODEL``, ``LIMITS`` and every other attribute
            of ``Tables``, of the shapes given there, or one for all; without those of an objective it is mean
            response, without ``guard_ns`` nothing bounds waiting, and ``MODEL`` needs ``max_batch`` only.
    """
    parts: dict[str, Any] = {}
    fields = {**_DEFAULTS, **fields}
    for part, dtype, like in (
        ("level", LEVEL, fields["load_s"]),
        ("asleep", ASLEEP, fields["load_s"]),
        ("device", DEVICE, fields["capacity_bytes"]),
        ("model", MODEL, fields["weight_bytes"]),
        ("limits", LIMITS, np.zeros(1)),
    ):
        parts[part] = np.zeros(np.shape(like), dtype)
        for name in dtype.names or ():
            parts[part][name] = fields.pop(name)
    fields["remaining_tokens"] = np.atleast_2d(fields["remaining_tokens"])
    parts.update({name: np.ascontiguousarray(values, np.float64) for name, values in fields.items()})
    return Tables(**parts).changed()
