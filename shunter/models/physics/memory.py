"""What a resident takes on each side: weights, reserved KV, buffers."""

from __future__ import annotations

import numpy as np

from shunter.models.physics.cells import Array, RatedCells
from shunter.models.physics.terms import Stage, Term

__all__ = [
    "DEVICE",
    "HOST",
    "device_kv_bytes",
    "device_weights_bytes",
    "host_kv_bytes",
    "host_weights_bytes",
    "runtime_bytes",
]


def device_weights_bytes(c: RatedCells) -> Array:
    """Weights on the device."""
    return c.at.read_bytes_device


def device_kv_bytes(c: RatedCells) -> Array:
    """KV reserved on the device."""
    return (1 - c.kv_on_host) * c.at.reserved_tokens * c.at.kv_bytes_device


def host_weights_bytes(c: RatedCells) -> Array:
    """Weights on the host."""
    return c.at.weight_bytes_host


def host_kv_bytes(c: RatedCells) -> Array:
    """KV reserved on the host."""
    return c.at.reserved_tokens * (c.at.kv_bytes_host + c.kv_on_host * c.at.kv_bytes_device)


def runtime_bytes(c: RatedCells) -> Array:
    """Runtime context and work buffers: 500 MB."""
    return np.full_like(c.bandwidth, 5e8)


DEVICE: tuple[Stage, ...] = (
    (Term("weights", device_weights_bytes, 1.0, 0.02),),
    (Term("kv", device_kv_bytes, 1.0, 0.1),),
    (Term("runtime", runtime_bytes, 1.0, 0.7),),
)

HOST: tuple[Stage, ...] = (
    (Term("weights", host_weights_bytes, 1.0, 0.3),),
    (Term("kv", host_kv_bytes, 1.0, 0.1),),
    (Term("runtime", runtime_bytes, 1.0, 0.7),),
)
