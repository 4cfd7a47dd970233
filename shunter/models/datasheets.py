"""What a data sheet says of a device, under one name however it is spelled."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cache

from shunter.catalog.gpus import catalog_gpus

__all__ = ["gpu_name"]

HOST = "host"
"""Device of what ran without a GPU on a host that is known by its data sheet only."""

HOST_BANDWIDTH_BYTES_PER_S = 51.2e9
"""Where a host's is unknown: two channels of DDR4-3200, 8 bytes wide each. Source: JEDEC JESD79-4."""

_SM_CLOCKS = {
    "RTX 5000 Ada": (100, 2.550),
    "RTX A6000": (84, 1.800),
    "RTX 3090": (82, 1.695),
    "RTX 4090": (128, 2.520),
    "RTX 5090": (170, 2.407),
    "A100 PCIe 40GB": (108, 1.410),
    "A100 PCIe 80GB": (108, 1.410),
    "A100 SXM4 80GB": (108, 1.410),
    "H100 PCIe 80GB": (114, 1.755),
    "H100 SXM5 80GB": (132, 1.980),
    "H200 SXM": (132, 1.980),
    "L4": (58, 2.040),
    "L40S": (142, 2.520),
    "T4": (40, 1.590),
    "A10": (72, 1.695),
    "RTX 6000 Ada": (142, 2.505),
    "MI300X": (304, 2.100),
    "RTX 2080": (46, 1.710),
    "RTX 5070": (48, 2.512),
    "Tesla P4": (20, 1.114),
    "RTX 3070": (46, 1.725),
    "RTX 3080 10GB": (68, 1.710),
    "RTX 3080 Ti": (80, 1.665),
    "RTX 3090 Ti": (84, 1.860),
    "RTX 4070 Ti": (60, 2.610),
    "RTX 4080": (76, 2.505),
    "RTX 4000 Ada": (48, 2.175),
    "A40": (84, 1.740),
    "A30": (56, 1.440),
    "GTX 1070": (15, 1.683),
}
"""Multiprocessors (compute units) and boost clock in GHz.

Source: the vendors' architecture white papers and data sheets; count x clock x 256 gives the FP32 rates
that the catalogue's ``fp16_vector_tflops`` hold for GPUs with 128 lanes each, which checks 16 of them.
"""

_SMI_NAMES = {"NVIDIA H100 80GB HBM3": "H100 SXM5 80GB", "NVIDIA H200": "H200 SXM"}
"""What nvidia-smi calls those that it does not call by form."""

_VENDOR_WORDS = re.compile(
    r"\b(nvidia|amd|geforce|quadro|radeon|instinct|tesla|generation|graphics|hbm3e?|hbm2e?)\b", re.I
)
_MEMORY = re.compile(r"[\s-]*\d+\s*(gb|gib|mib)\b", re.I)


@dataclass(frozen=True)
class Datasheet:
    """Peak rates of one device.

    Attributes:
        name: Name in the catalogue.
        bandwidth_bytes_per_s: Bandwidth of the device's memory, bytes per second.
        matrix_flop_per_s: Dense FP16 operations per second of its matrix units, or of its lanes if it has
            none.
        lane_clocks_per_s: Multiprocessors x clock: what bounds how many reads and operations are in flight.
        link_bytes_per_s: Bandwidth of the link from the host, one direction, bytes per second.
    """

    name: str
    bandwidth_bytes_per_s: float
    matrix_flop_per_s: float
    lane_clocks_per_s: float
    link_bytes_per_s: float


@cache
def _sheets() -> dict[str, Datasheet]:
    sheets = {}
    for name, gpu in catalog_gpus().items():
        count, ghz = _SM_CLOCKS.get(name, (gpu.fp16_vector_flop_per_s / 256 / 1e9, 1.0))
        clocks = count * ghz * 1e9
        sheets[name] = Datasheet(
            name=name,
            bandwidth_bytes_per_s=gpu.memory_bandwidth_bytes_per_s,
            matrix_flop_per_s=gpu.fp16_flop_per_s or 256 * clocks,
            lane_clocks_per_s=clocks,
            link_bytes_per_s=gpu.pcie_bytes_per_s,
        )
    return sheets


@cache
def gpu_name(text: str) -> str | None:
    """The catalogue's name of a GPU, however it is spelled: ``NVIDIA GeForce RTX 4090 24GB`` is RTX 4090.

    Returns:
        None for what is no GPU of the catalogue, or could be several of them (``A100``).
    """
    text = _SMI_NAMES.get(text.split(",")[0], text)
    if text in _sheets():
        return text
    wanted = _plain(text)
    exact = [name for name in _sheets() if _plain(name) == wanted]
    if len(exact) == 1:
        return exact[0]
    alike = [name for name in _sheets() if _plain(_MEMORY.sub("", name)) == _plain(_MEMORY.sub("", text))]
    return alike[0] if len(alike) == 1 else None


def _plain(text: str) -> str:
    words = text.split(",")[0].lower().replace("sxm4", "sxm").replace("sxm5", "sxm").replace("gib", "gb")
    words = re.sub(r"(\d)\s+gb\b", r"\1gb", _VENDOR_WORDS.sub(" ", words))
    return " ".join(sorted(re.split(r"[\s_-]+", words.strip())))


def datasheet(device: str) -> Datasheet | None:
    """Peak rates of a device; None if the catalogue has none."""
    name = gpu_name(device)
    return None if name is None else _sheets()[name]


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
