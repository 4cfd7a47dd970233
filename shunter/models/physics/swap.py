"""Swaps: loads from disk or page cache, unloads, and copies of a request's KV."""

from __future__ import annotations

import numpy as np

from shunter.catalog import work
from shunter.models.physics.decode import step_s
from shunter.models.physics.rated import Array, RatedConfigurations
from shunter.models.physics.terms import Stage, Term


def open_s(c: RatedConfigurations) -> Array:
    """Opening files, starting the runtime, allocating: 1 s."""
    return np.ones_like(c.bandwidth)


def tensor_s(c: RatedConfigurations) -> Array:
    """Work for each tensor that a load creates: 1 ms a layer."""
    return 1e-3 * c.at.layers


def disk_s(c: RatedConfigurations) -> Array:
    """A cold file comes from a disk of 3 GB/s. Bytes / (bytes/s)."""
    return c.cold * c.at.weight_bytes / 3e9


def transfer_s(c: RatedConfigurations) -> Array:
    """Weights cross the link to the device. Bytes / (bytes/s)."""
    return work.weights_held_bytes(c.at).device / c.link


def host_copy_s(c: RatedConfigurations) -> Array:
    """Weights of the host's layers are copied in its memory. Bytes / (bytes/s)."""
    return work.weights_held_bytes(c.at).host / c.host_bandwidth


def kv_transfer_s(c: RatedConfigurations) -> Array:
    """KV of a request crosses the link. Bytes / (bytes/s)."""
    return work.kv_copied_bytes(c.at).device / c.link


def kv_host_copy_s(c: RatedConfigurations) -> Array:
    """KV on the host is copied there. Bytes / (bytes/s)."""
    return work.kv_copied_bytes(c.at).host / c.host_bandwidth


def copy_call_s(c: RatedConfigurations) -> Array:
    """Each layer's KV is a copy of its own: 100 us."""
    return 1e-4 * c.at.layers


def free_s(c: RatedConfigurations) -> Array:
    """Memory is given back at 100 GB/s. Bytes / (bytes/s)."""
    return c.at.weight_bytes / 1e11


LOAD: tuple[Stage, ...] = (
    (Term("open", open_s, 1.0, 1.0),),
    (Term("tensors", tensor_s, 3.0, 1.0),),
    (Term("disk", disk_s, 1.0, 0.7), Term("transfer", transfer_s, 3.0, 0.7, by_device=True)),
    (Term("host_copy", host_copy_s, 3.0, 0.7, by_host=True),),
)

KV: tuple[Stage, ...] = (
    (Term("transfer", kv_transfer_s, 2.0, 0.5, by_device=True),),
    (Term("host_copy", kv_host_copy_s, 3.0, 0.7, by_host=True),),
    (Term("calls", copy_call_s, 0.3, 1.0),),
)

UNLOAD: tuple[Stage, ...] = (
    (Term("step", step_s, 100.0, 1.5, by_version=True),),
    (Term("free", free_s, 1.0, 1.0),),
)
