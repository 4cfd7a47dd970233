"""Published times of loads, of engines that fall asleep and wake, and of reloads in preemptions, in one form.

Two tables are read: ``preemption.csv`` and ``loads.csv`` (``shunter/data/README.md``). What a row does not
say is not guessed, but for two things: a checkpoint whose stored type is not told is of 16 bits, as those
that the rows name are published; and the models that the paper reloads again and again, in a host of 512 GB,
come from the page cache.
"""

from __future__ import annotations

import re
from functools import cache
from importlib.resources import as_file, files
from typing import Any

import numpy as np
import pandas as pd

from shunter.catalog.gpu_names import matching_gpus
from shunter.catalog.gpus import catalog_gpus
from shunter.profiling.dataset.reference import PAPER

__all__ = ["load_rows", "refused_loads"]

LOAD_SOURCES = ("disk", "page-cache", "pinned", "sleep-1", "sleep-2")
"""Where the bytes of a load come from: a file that nothing holds; one that the page cache holds; pinned
memory of the host; and what an engine that is asleep kept: at level 1 its weights in pinned memory, at level
2 nothing, so that it reads the file again into memory that is set up already."""

FALL_ASLEEP = ("fall-asleep-1", "fall-asleep-2")
"""Going to sleep, which gives the device's memory back: with a copy of the weights, and without."""

LOADERS = ("plain", "parallel")
"""One reader, which copies through memory that is not pinned; or several, through memory that is."""

COLUMNS = (
    *("row_id", "source_url", "gpu", "host", "path", "loader", "bytes", "gpu_count"),
    *("link_bytes_per_s", "storage_bytes_per_s", "duration_s"),
)
_PARALLEL = re.compile(r"SLLM|streamer(?! c=1$)|Tensorizer|fastsafetensors|prefetch")
_SLEEPS = {
    "L1_wake": "sleep-1",
    "L2_wake": "sleep-2",
    "L1_sleep": FALL_ASLEEP[0],
    "L2_sleep": FALL_ASLEEP[1],
}
_SWAP_SHARE = "share_model_swap(unload+reload)"
_TOTAL = "total_preemption_overhead"


def load_rows() -> pd.DataFrame:
    """The usable rows; repeats of one cell by one source count as one, of their median.

    Returns:
        Shape (n_rows, ...): ``path`` is one of ``LOAD_SOURCES`` or ``FALL_ASLEEP``, ``loader`` one of
        ``LOADERS``, ``bytes`` those of all ``gpu_count`` GPUs together, ``link_bytes_per_s`` one GPU's,
        ``storage_bytes_per_s`` the rate that the source states of its disk, else NaN; ``host`` names whose
        machine it is, ``source_url`` who measured.
    """
    rows = _all_rows()
    rows = rows[rows["refused"] == ""].drop(columns="refused")
    cell = [name for name in COLUMNS if name not in ("row_id", "duration_s")]
    grouped = rows.groupby(cell, dropna=False, sort=False)
    return grouped.agg(row_id=("row_id", "first"), duration_s=("duration_s", "median")).reset_index()[
        list(COLUMNS)
    ]


def refused_loads() -> pd.Series[str]:
    """Why rows of both tables are not used, by row id; those that are about no load are left out."""
    rows = _all_rows()
    return rows.loc[rows["refused"] != ""].set_index("row_id")["refused"]


@cache
def _all_rows() -> pd.DataFrame:
    rows = [*_of_preemptions(), *_of_loads()]
    return pd.DataFrame([{**row, "refused": _why_not(row)} for row in rows])


def _why_not(row: dict[str, Any]) -> str:
    """Why a row cannot be used; empty if it can."""
    if row["path"] is None:
        return "where its bytes come from is not told"
    if not np.isfinite(row["link_bytes_per_s"]):
        return "its GPU is not told, or has no data sheet"
    if not np.isfinite(row["bytes"]):
        return "how many bytes it moves is not told"
    return "" if row["duration_s"] > 0 else "its time is no number"


def _of_preemptions() -> list[dict[str, Any]]:
    raw = _read("preemption.csv")
    raw = raw.assign(row_id=[f"p{i:04}" for i in range(len(raw))], value=_numbers(raw["value"]))
    swaps = raw[raw["metric"] == _SWAP_SHARE].set_index(["model", "gpu"])["value"] / 100
    found = []
    for _, row in raw.iterrows():
        path, seconds = _preemption_path(row), row["value"]
        if row["metric"] == _TOTAL:
            seconds *= swaps[row["model"], row["gpu"]]
        if path is not None:
            workers = re.search(r"TP=(\d+)", str(row["notes"]))
            count = int(workers[1]) if workers else 1
            stored = row["weight_gb"] * 1e9
            loader = "parallel" if _PARALLEL.search(row["event"]) else "plain"
            found.append(_row(row, path, loader, stored, count, str(row["storage_or_link"]), seconds))
    return found


def _preemption_path(row: Any) -> str | None:
    """Where a row's bytes come from, as far as the row is about a load or a sleep at all."""
    metric, event = str(row["metric"]), str(row["event"])
    if metric in _SLEEPS:
        return _SLEEPS[metric]
    if str(row["system"]).startswith(PAPER):
        return "page-cache" if metric == _TOTAL else None
    if metric == "load_time_mean":
        held = "pinned" if "SLLM" in event else "page-cache"
        return held if "cached" in event else "disk"
    return "disk" if metric == "load_time" and "SSD" in str(row["storage_or_link"]) else None


def _of_loads() -> list[dict[str, Any]]:
    named = {"disk": "disk", "page cache": "page-cache", "sleep 1": "sleep-1", "sleep 2": "sleep-2"}
    found = []
    for _, row in _read("loads.csv").iterrows():
        path = named.get(str(row["source_of_bytes"]))
        if path is not None and row["operation"] == "sleep":
            path = FALL_ASLEEP[path == "sleep-2"]
        loader = "parallel" if _PARALLEL.search(str(row["notes"])) else "plain"
        count = 1 if pd.isna(row["gpu_count"]) else int(row["gpu_count"])
        found.append(_row(row, path, loader, row["bytes"], count, str(row["storage"]), row["seconds"]))
    return found


def _row(
    row: Any, path: str | None, loader: str, stored: float, count: int, storage: str, seconds: float
) -> dict[str, Any]:
    if path in ("pinned", "sleep-1", *FALL_ASLEEP):
        loader = LOADERS[1]  # what is pinned has no other
    gpu = str(row["gpu"]).partition(" (")[0]
    return {
        "row_id": row["row_id"],
        "source_url": _whole_source(row["source_url"]),
        "gpu": gpu,
        "host": f"{_whole_source(row['source_url'])} {gpu}",
        "path": path,
        "loader": loader,
        "bytes": stored if stored > 0 else _bytes_of(row),
        "gpu_count": max(1, count),
        "link_bytes_per_s": _link_bytes_per_s(gpu),
        "storage_bytes_per_s": _stated_bytes_per_s(storage),
        "duration_s": float(seconds),
    }


def _whole_source(url: str) -> str:
    """Figures of one folder of a repository are of one source."""
    return re.sub(r"/[^/]+\.js$", "", url.partition(" ;")[0])


def _bytes_of(row: Any) -> float:
    """Weights by their parameters and their stored type; of 16 bits where that is not told."""
    told = str(row["dtype"]).upper()
    width = {"FP8": 1.0, "BF16": 2.0, "FP16": 2.0, "NAN": 2.0}.get(told, np.nan)
    return float(row["params_b"]) * 1e9 * width if row["engine_said"] == "vLLM" else np.nan


def _link_bytes_per_s(gpu: str) -> float:
    """Theoretical rate of a GPU's link, where all cards of its name have the same; else NaN."""
    gpus = catalog_gpus()
    named = set(gpu.split())
    found = matching_gpus(gpu, gpus) or [name for name in gpus if named <= set(name.split())]
    rates = {gpus[name].link_bytes_per_s for name in found}
    return rates.pop() if len(rates) == 1 else np.nan


def _stated_bytes_per_s(storage: str) -> float:
    """The rate that a description of a disk states; else NaN."""
    for unit, size in (("MiB/s", 2**20), ("MB/s", 1e6), ("GB/s", 1e9)):
        if stated := re.search(rf"([\d.]+) {unit}", storage):
            return float(stated[1]) * size
    return np.nan


def _numbers(values: pd.Series[Any]) -> pd.Series[Any]:
    return pd.to_numeric(values, errors="coerce")


def _read(name: str) -> pd.DataFrame:
    with as_file(files("shunter.data").joinpath(name)) as path:
        raw = pd.read_csv(path)
    engine = raw["engine"] if "engine" in raw else raw["system"].fillna("").str.partition(" ")[0]
    return raw.assign(engine_said=engine)
