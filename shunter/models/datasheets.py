"""What a data sheet says of a device, or a description of a host."""

from __future__ import annotations

import re

from shunter.catalog.gpus import GpuSpec, catalog_gpus, gpu_name
from shunter.catalog.hosts import host_in

HOST = "host"
"""Device of what ran without a GPU on a host that is known by its data sheet only."""

HOST_BANDWIDTH_BYTES_PER_S = 51.2e9
"""Where a host's is unknown: two channels of DDR4-3200, 8 bytes wide each. What rests on it is marked out of
range, with an interval that most hosts are in. Source: JEDEC JESD79-4."""


def datasheet(device: str) -> GpuSpec | None:
    """Peak rates of a device; None if the catalogue has none."""
    name = gpu_name(device)
    return None if name is None else catalog_gpus()[name]


def host_bandwidth_bytes_per_s(cpu: str | None) -> float | None:
    """Peak memory bandwidth that a description of a host states or implies.

    Understands ``~360 GB/s``; ``dual-channel DDR4-3200`` and ``12ch DDR5-5600``, transfers a second x 8 bytes
    x channels; and CPUs of the catalogue, whose channels count where only the memory's speed is stated.
    Source: JEDEC JESD79-4 and JESD79-5 (64 data bits a channel); ``shunter/data/hosts.csv``.

    Returns:
        None where it says none of these: a speed alone is of any number of channels.
    """
    text = cpu or ""
    stated = re.search(r"([\d.]+)\s*GB/s", text)
    if stated:
        return float(stated[1]) * 1e9
    known = host_in(text)
    speed = re.search(r"\bDDR[345]-(\d+)", text)
    if speed is None:
        return known.bandwidth_bytes_per_s if known else None
    channels = _channels(text) or (known.channels if known else None)
    return None if channels is None else float(speed[1]) * 1e6 * 8 * channels


def _channels(text: str) -> int | None:
    counted = re.search(r"\b(\d+)[\s-]*ch(?:annels?)?\b", text, re.I)
    words = {"single": 1, "dual": 2, "quad": 4, "six": 6, "octa": 8, "eight": 8, "twelve": 12}
    named = next((n for word, n in words.items() if re.search(rf"\b{word}[\s-]channel", text, re.I)), None)
    return int(counted[1]) if counted else named
