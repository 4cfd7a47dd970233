"""Configurations with the peak rates of where their parts are."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pandas as pd

from shunter.catalog.work import PlacedConfigurations, placed_configurations
from shunter.models.datasheets import HOST, HOST_BANDWIDTH_BYTES_PER_S, datasheet
from shunter.models.physics.release import DOT8, has_graphs, has_int8, has_library, release_of

Array = npt.NDArray[np.float64]

EXTRA_COLUMNS = ("gpu_count", "kv_on_host", "host_bandwidth_bytes_per_s")
"""Columns that configurations may have beside the dataset's: GPUs that share the layers (1), whether the KV
cache is in host memory though its layers are not (0), and the host's peak memory bandwidth."""


@dataclass(frozen=True)
class RatedConfigurations:
    """Configurations with the peak rates of where their parts are; arrays of shape (n_configurations,).

    Attributes:
        at: Where layers, weights and KV are.
        bandwidth: Device memory, bytes/s.
        matrix: Matrix units, FLOP/s.
        clocks: Multiprocessors x clock, 1/s.
        link: Host to device, bytes/s.
        host_bandwidth: Host memory, bytes/s.
        gpu_count: GPUs that share the layers.
        kv_on_host: 1 where KV of device layers is in host memory.
        quantised: 1 where weights have fewer than 16 bits.
        cold: 1 where the file is not in the page cache.
        host_known: 1 where the host's memory is, 0 where ``host_bandwidth`` is a guess.
        power: What the boards of all GPUs may draw each, W; 0 where it is not known.
        generation: Architecture of the device; ``host`` without one.
        year: When the engine was released.
        graphs: 1 where a step's kernels are launched as one graph.
        units: 1 where the device has matrix units, 0 where ``matrix`` is the rate of its lanes.
        dot8: Operations on bytes a clock and multiprocessor, by lanes; 0 where they have none.
        library: 1 where a vendor's library multiplies, whose builds differ by a factor of several.
        int8: 1 where quantised weights are multiplied in int8 matrix units.
        flash: 1 where attention is computed tile by tile.
        ubatch_tokens: Tokens of one pass of a prefill.
    """

    at: PlacedConfigurations
    bandwidth: Array
    matrix: Array
    clocks: Array
    link: Array
    host_bandwidth: Array
    gpu_count: Array
    kv_on_host: Array
    quantised: Array
    cold: Array
    host_known: Array
    power: Array
    generation: npt.NDArray[np.object_]
    year: Array
    graphs: Array
    units: Array
    dot8: Array
    library: Array
    int8: Array
    flash: Array
    ubatch_tokens: Array


UBATCH_TOKENS = 512
"""Tokens that one pass over the weights processes in prefill. Source: llama.cpp's default n_ubatch."""


def rated_configurations(frame: pd.DataFrame) -> RatedConfigurations:
    """Configurations of devices that have data sheets, or of ``host``.

    Args:
        frame: Configurations with the columns that ``complete`` gives, ``datasheet`` among them.
    """
    codes, names = pd.factorize(frame["datasheet"])
    sheets = [None if name == HOST else datasheet(str(name)) for name in names]

    def rate(name: str) -> Array:
        rates = [1.0 if sheet is None else getattr(sheet, name) for sheet in sheets]
        return np.array(rates, dtype=np.float64)[codes]

    def extra(name: str, default: float) -> Array:
        if name not in frame:
            return np.full(len(frame), default)
        return frame[name].fillna(default).to_numpy(dtype=np.float64)

    generations = np.array([HOST if sheet is None else sheet.architecture for sheet in sheets], dtype=object)
    powers = np.array([0.0 if sheet is None else sheet.board_power_w or 0.0 for sheet in sheets])
    generation = generations[codes]
    units = np.array([float(sheet is None or sheet.fp16_flop_per_s is not None) for sheet in sheets])
    releases, year = _releases(frame)
    host_known = np.zeros(len(frame))
    if "host_bandwidth_bytes_per_s" in frame:
        host_known = np.asarray(frame["host_bandwidth_bytes_per_s"].notna(), dtype=np.float64)
    bits = 8 * frame["weight_bytes"].to_numpy(dtype=np.float64) / frame["params"].to_numpy(dtype=np.float64)
    quantised = (bits < 15.0).astype(np.float64)
    cold = frame["page_cache"].eq("cold") if "page_cache" in frame else pd.Series(False, index=frame.index)
    return RatedConfigurations(
        at=placed_configurations(frame),
        bandwidth=rate("bandwidth_bytes_per_s"),
        matrix=rate("matrix_flop_per_s"),
        clocks=rate("lane_clocks_per_s"),
        link=rate("link_bytes_per_s"),
        host_bandwidth=extra("host_bandwidth_bytes_per_s", HOST_BANDWIDTH_BYTES_PER_S),
        gpu_count=extra("gpu_count", 1.0),
        kv_on_host=extra("kv_on_host", 0.0),
        quantised=quantised,
        cold=np.asarray(cold, dtype=np.float64),
        host_known=host_known,
        power=powers[codes],
        generation=generation,
        year=year,
        graphs=has_graphs(year, generation),
        units=units[codes],
        dot8=np.array([DOT8.get(str(name), 0.0) for name in generations], dtype=np.float64)[codes],
        library=has_library(generation, quantised),
        int8=has_int8(year, generation),
        flash=releases[:, 0],
        ubatch_tokens=releases[:, 1],
    )


def _releases(frame: pd.DataFrame) -> tuple[Array, Array]:
    """Whether attention is tiled and the tokens of a pass, (n_configurations, 2); the release's year."""
    said = frame["engine_version"] if "engine_version" in frame else pd.Series("", index=frame.index)
    codes, texts = pd.factorize(said.fillna(""))
    found = [release_of(str(text)) for text in texts]
    told = [(float(r.flash_attention), r.ubatch_tokens or float(UBATCH_TOKENS)) for r in found]
    years = np.array([r.year for r in found], dtype=np.float64)
    return np.array(told, dtype=np.float64).reshape(-1, 2)[codes], years[codes]


def kinds(c: RatedConfigurations) -> npt.NDArray[np.object_]:
    """Kinds of configurations that err apart: on ``several`` GPUs, in part ``offloaded``, or ``whole``."""
    whole = np.where(c.at.layers_host + c.kv_on_host > 0, "offloaded", "whole")
    return np.asarray(np.where(c.gpu_count > 1, "several", whole), dtype=object)
