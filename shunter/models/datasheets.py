"""What a data sheet says of a device, or a description of a host."""

from __future__ import annotations

import re

from shunter.catalog.gpus import GpuSpec, catalog_gpus, gpu_name

HOST = "host"
"""Device of what ran without a GPU on a host that is known by its data sheet only."""

HOST_BANDWIDTH_BYTES_PER_S = 51.2e9
"""Where a host's is unknown: two channels of DDR4-3200, 8 bytes wide each. Source: JEDEC JESD79-4."""


def datasheet(device: str) -> GpuSpec | None:
    """Peak rates of a device; None if the catalogue has none."""
    name = gpu_name(device)
    return None if name is None else catalog_gpus()[name]


def host_bandwidth_bytes_per_s(cpu: str | None) -> float | None:
    """Peak memory bandwidth that a description of a host states or implies.

    Understands ``~360 GB/s``, and ``dual-channel DDR4-3200``, ``12ch DDR5-5600``: transfers a second x 8
    bytes x channels. Source: JEDEC JESD79-4 and JESD79-5 (64 data bits a channel).

    Returns:
        None where it says neither.
    """
    text = cpu or ""
    stated = re.search(r"([\d.]+)\s*GB/s", text)
    if stated:
        return float(stated[1]) * 1e9
    memory = re.search(r"DDR[45]-(\d+)", text)
    if memory is None:
        return None
    counted = re.search(r"(\d+)\s*ch\b", text)
    words = {"dual": 2, "quad": 4, "octa": 8}
    named = next((count for word, count in words.items() if f"{word}-channel" in text.lower()), 2)
    return float(memory[1]) * 1e6 * 8 * (int(counted[1]) if counted else named)
