"""What a resident takes on each side: weights, reserved KV, buffers."""

from __future__ import annotations

import numpy as np

from shunter.catalog import work
from shunter.models.physics.rated import Array, RatedConfigurations
from shunter.models.physics.terms import Stage, Term


def device_weights_bytes(c: RatedConfigurations) -> Array:
    """Weights on the device."""
    return work.weights_kept_bytes(c.at).device


def device_kv_bytes(c: RatedConfigurations) -> Array:
    """KV reserved on the device."""
    return (1 - c.kv_on_host) * work.kv_reserved_bytes(c.at).device


def host_weights_bytes(c: RatedConfigurations) -> Array:
    """Weights on the host."""
    return work.weights_kept_bytes(c.at).host


def host_kv_bytes(c: RatedConfigurations) -> Array:
    """KV reserved on the host."""
    reserved = work.kv_reserved_bytes(c.at)
    return reserved.host + c.kv_on_host * reserved.device


def runtime_bytes(c: RatedConfigurations) -> Array:
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
