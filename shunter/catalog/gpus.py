"""Facts of GPUs, and where each was checked."""

from __future__ import annotations

import csv
from dataclasses import dataclass
from functools import cache
from importlib.resources import files

from shunter.catalog.gpu_names import is_slice, matching_gpus, nearest_gpus
from shunter.errors import InputError, UnknownNameError

__all__ = ["GpuSpec", "catalog_gpus", "get_gpu", "gpu_name", "similar_gpus"]


@dataclass(frozen=True)
class GpuSpec:
    """One GPU by its data sheet.

    Attributes:
        name: Name in the catalogue.
        memory_bytes: Device memory as a driver shows it, where that was seen, else as marketed.
        marketed_bytes: Device memory as marketed, its GB read as GiB, as they are built.
        bandwidth_bytes_per_s: Peak of its memory.
        fp16_flop_per_s: Peak dense FP16 of its matrix units; None if it has none.
        fp16_vector_flop_per_s: Peak FP16 outside of them.
        lane_clocks_per_s: Multiprocessors (compute units) x boost clock: what bounds how many reads and
            operations are in flight. Where they are not known it follows from the FP16 rate outside of matrix
            units, 256 operations each, which holds for GPUs with 128 lanes and checks 16 of those known.
        pcie_gen: Generation of its PCIe link; 0 where it is not on PCIe.
        pcie_lanes: Lanes of it; 0 where it is not on PCIe.
        link_bytes_per_s: The link's theoretical rate in one direction, from the host or to it.
        memory_source: Where memory, bandwidth and link were looked up.
        fp16_cross_checked: Whether, and where, a second source says the same of FP16.
        notes: What to know when using the figures.
        architecture: The vendor's name of its generation; of another design in data centres, apart.
        board_power_w: Power that it may draw, with its memory; None where it is set by what it is built into.
        driver_memory_source: Where the memory that a driver shows was seen, or that it is derived; empty:
            memory_bytes is the marketed size.
        driver_names: What drivers and people call it beside its name, where that does not follow from it.
    """

    name: str
    memory_bytes: int
    marketed_bytes: int
    bandwidth_bytes_per_s: float
    fp16_flop_per_s: float | None
    fp16_vector_flop_per_s: float
    lane_clocks_per_s: float
    pcie_gen: int
    pcie_lanes: int
    link_bytes_per_s: float
    memory_source: str
    fp16_cross_checked: str
    notes: str
    architecture: str = ""
    board_power_w: float | None = None
    driver_memory_source: str = ""
    driver_names: tuple[str, ...] = ()

    @property
    def matrix_flop_per_s(self) -> float:
        """Peak dense FP16 of its matrix units, or of its lanes if it has none."""
        return self.fp16_flop_per_s or 256 * self.lane_clocks_per_s


@cache
def catalog_gpus() -> dict[str, GpuSpec]:
    """All GPUs of the catalogue by name.

    Source: ``shunter/data/gpus.csv``; each row names what it was looked up in and checked against.
    Multiprocessors and clocks: the vendors' architecture white papers and data sheets.
    """
    text = files("shunter.data").joinpath("gpus.csv").read_text(encoding="utf-8")
    return {row["gpu"]: _spec(row) for row in csv.DictReader(text.splitlines())}


def _spec(row: dict[str, str]) -> GpuSpec:
    vector_flop_per_s = float(row["fp16_vector_tflops"]) * 1e12
    clocks_per_s = float(row["multiprocessors"] or 0) * float(row["boost_clock_ghz"] or 0) * 1e9
    marketed_bytes = int(row["vram_gb"]) * 2**30
    return GpuSpec(
        name=row["gpu"],
        memory_bytes=int(row["driver_memory_mib"] or 0) * 2**20 or marketed_bytes,
        marketed_bytes=marketed_bytes,
        bandwidth_bytes_per_s=float(row["mem_bandwidth_gb_s"]) * 1e9,
        fp16_flop_per_s=float(row["fp16_tensor_dense_tflops"]) * 1e12 or None,
        fp16_vector_flop_per_s=vector_flop_per_s,
        lane_clocks_per_s=clocks_per_s or vector_flop_per_s / 256,
        pcie_gen=int(row["pcie_gen"]),
        pcie_lanes=int(row["pcie_lanes"]),
        link_bytes_per_s=float(row["pcie_theoretical_gb_s_per_direction"]) * 1e9,
        memory_source=row["vram_bw_pcie_source"],
        fp16_cross_checked=row["fp16_dense_cross_checked"],
        notes=row["notes"],
        architecture=row["architecture"],
        board_power_w=float(row["board_power_w"] or 0) or None,
        driver_memory_source=row["driver_memory_source"],
        driver_names=tuple(filter(None, row["driver_names"].split(";"))),
    )


@cache
def gpu_name(text: str) -> str | None:
    """The catalogue's name of a GPU, however it is spelled: ``NVIDIA L4, 23034 MiB`` is L4.

    Returns:
        None for what is no GPU of the catalogue, a slice of one, or could be several of them (``A100``).
    """
    found = matching_gpus(text, catalog_gpus())
    return found[0] if len(found) == 1 else None


def similar_gpus(text: str) -> list[str]:
    """Names of the catalogue that a text may stand for: all that it fits, else up to four like it."""
    return matching_gpus(text, catalog_gpus()) or nearest_gpus(text, catalog_gpus())


def get_gpu(name: str, *, field: str = "gpu") -> GpuSpec:
    """Looks a GPU up by its name, however it is spelled.

    Raises:
        InputError: It is a slice of a GPU.
        UnknownNameError: It is not in the catalogue, or could be several of its GPUs: names the nearest.
    """
    known = gpu_name(name)
    if known is not None:
        return catalog_gpus()[known]
    if is_slice(name):
        raise InputError(field, "be a whole GPU: slices of one (MIG, vGPU) are not in the catalogue", name)
    raise UnknownNameError(field, name, catalog_gpus(), similar_gpus(name))
