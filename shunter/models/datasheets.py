"""What a data sheet says of a device, under one name however it is spelled."""

from __future__ import annotations

import re
from functools import cache

from shunter.catalog.gpus import GpuSpec, catalog_gpus

__all__ = ["gpu_name"]

HOST = "host"
"""Device of what ran without a GPU on a host that is known by its data sheet only."""

HOST_BANDWIDTH_BYTES_PER_S = 51.2e9
"""Where a host's is unknown: two channels of DDR4-3200, 8 bytes wide each. Source: JEDEC JESD79-4."""

_SMI_NAMES = {"NVIDIA H100 80GB HBM3": "H100 SXM5 80GB", "NVIDIA H200": "H200 SXM"}
"""What nvidia-smi calls those that it does not call by form."""

_VENDOR_WORDS = re.compile(
    r"\b(nvidia|amd|geforce|quadro|radeon|instinct|tesla|generation|graphics|hbm3e?|hbm2e?)\b", re.I
)
_MEMORY = re.compile(r"[\s-]*\d+\s*(gb|gib|mib)\b", re.I)


@cache
def gpu_name(text: str) -> str | None:
    """The catalogue's name of a GPU, however it is spelled: ``NVIDIA GeForce RTX 4090 24GB`` is RTX 4090.

    Returns:
        None for what is no GPU of the catalogue, or could be several of them (``A100``).
    """
    text = _SMI_NAMES.get(text.split(",")[0], text)
    if text in catalog_gpus():
        return text
    wanted = _plain(text)
    exact = [name for name in catalog_gpus() if _plain(name) == wanted]
    if len(exact) == 1:
        return exact[0]
    alike = [
        name for name in catalog_gpus() if _plain(_MEMORY.sub("", name)) == _plain(_MEMORY.sub("", text))
    ]
    return alike[0] if len(alike) == 1 else None


def _plain(text: str) -> str:
    words = text.split(",")[0].lower().replace("sxm4", "sxm").replace("sxm5", "sxm").replace("gib", "gb")
    words = re.sub(r"(\d)\s+gb\b", r"\1gb", _VENDOR_WORDS.sub(" ", words))
    return " ".join(sorted(re.split(r"[\s_-]+", words.strip())))


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
