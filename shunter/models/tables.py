"""Tables of configurations as people write them: blank cells, units, reasons, and an example."""

from __future__ import annotations

from contextlib import suppress
from typing import Any

import numpy as np
import pandas as pd

from shunter.catalog.devices import parse_device
from shunter.catalog.gpus import get_gpu, gpu_name
from shunter.catalog.work import EXPERT_LAYERS_ON_HOST
from shunter.errors import InputError, UnknownNameError
from shunter.models.configurations import check_rows
from shunter.models.datasheets import HOST
from shunter.models.outside import why_out_of_range
from shunter.models.performance import PerformanceModel
from shunter.models.published.load_costs import COSTS, LOAD_SOURCE_COLUMNS, UNKNOWN_SOURCE, load_costs
from shunter.models.published.load_rows import LOAD_SOURCES
from shunter.models.state import ResidentMemory
from shunter.profiling.dataset.schema import COLUMNS

__all__ = ["example_table", "loads_by_source", "predicted_table"]

NEEDED = ("engine", "device", "model", "operation")
_COUNTS = (*(column.name for column in COLUMNS if column.counts), EXPERT_LAYERS_ON_HOST)


def predicted_table(model: PerformanceModel, asked: pd.DataFrame) -> pd.DataFrame:
    """Predicts a table; a blank cell is as good as a column that is left out.

    Args:
        model: Any fitted model.
        asked: Configurations; shape (n_configurations, any). Loads may say ``load_source``, where their bytes
            come from, and ``disk_bytes_per_s``; other rows leave them blank.

    Returns:
        The table with the columns of ``PerformanceModel.predict``, ``unit`` of its times (a decode's is one
        step) and ``why_out_of_range``, empty within. What is not predicted to fit a device whose memory is
        known is out of range too.

    Raises:
        InputError: See ``PerformanceModel.predict``, or a count is no whole number; rows are counted from 0,
            as in the table.
        UnknownNameError: An unknown operation or model.
    """
    rows = asked.reset_index(drop=True)
    for name in _COUNTS:
        if name in rows:
            found = pd.to_numeric(rows[name], errors="coerce")  # what is no number at all, predict refuses
            check_rows(rows[name], found.isna() | (found % 1 == 0) | np.isinf(found), "be a whole number")
    blank = rows.isna() | (rows == "")
    done = []
    for _, group in blank.groupby(list(blank.columns), sort=False) if len(rows) else ():
        empty = [name for name in rows if group[name].iloc[0] and name not in NEEDED]
        part = rows.loc[group.index].drop(columns=empty)
        said = [name for name in LOAD_SOURCE_COLUMNS if name in part]
        plain = part.drop(columns=said)
        predicted = model.predict(plain).assign(why_out_of_range=why_out_of_range(model, plain))
        if said:
            predicted = predicted.assign(**_from_sources(model, part))
        too_large = _too_large(model, plain)
        predicted["out_of_range"] |= np.array([bool(words) for words in too_large])
        reasons = zip(too_large, predicted["why_out_of_range"], strict=True)
        predicted["why_out_of_range"] = ["; ".join(filter(None, both)) for both in reasons]
        done.append(predicted.drop(columns=plain.columns))
    new = pd.concat(done).sort_index() if done else _nothing(model, rows)
    whole = rows.join(new)
    whole["unit"] = np.where(whole["operation"] == "decode", "s per step", "s")
    return whole


def _too_large(model: PerformanceModel, part: pd.DataFrame) -> list[str]:
    """Says of each configuration what it is predicted to take of its device, where that is too much."""
    room = part["device"].map({name: _memory_bytes(str(name)) for name in part["device"].unique()})
    if "gpu_count" in part:
        room *= pd.to_numeric(part["gpu_count"], errors="coerce").fillna(1)
    takes = np.full(len(part), np.nan)
    with suppress(InputError, UnknownNameError):  # of loads nothing is known there
        takes = model.predict(part.assign(operation="load"))["device_bytes_predicted"].to_numpy()
    return [
        f"takes {taken / 1e9:.1f} GB of a device of {there / 1e9:.1f} GB: fewer gpu_layers may fit"
        if taken > there
        else ""
        for taken, there in zip(takes, room, strict=True)
    ]


def _memory_bytes(device: str) -> float:
    """The budget in a device's name, or what a GPU of the catalogue has; infinite: nobody says."""
    if (name := gpu_name(device)) is not None:
        return float(get_gpu(name).memory_bytes)
    try:
        return float(parse_device(device).memory_bytes or np.inf)
    except InputError:
        return float(np.inf)


def _from_sources(model: PerformanceModel, loads: pd.DataFrame) -> pd.DataFrame:
    """What loads take from where they say that their bytes come from."""
    if "load_source" not in loads:
        raise InputError("disk_bytes_per_s", "be given beside load_source", loads["disk_bytes_per_s"].iloc[0])
    by = [name for name in LOAD_SOURCE_COLUMNS if name in loads]
    done = []
    for stated, part in loads.groupby(by, sort=False):
        source, *disk = stated
        plain = part.drop(columns=by)
        done.append(load_costs(model, plain, str(source), _positive(disk[0]) if disk else None))
    return pd.concat(done).reindex(loads.index)


def _positive(value: Any) -> float:
    number = float(pd.to_numeric(value, errors="coerce"))
    if not (np.isfinite(number) and number > 0):
        raise InputError("disk_bytes_per_s", "be a number above 0", value)
    return number


def loads_by_source(model: PerformanceModel, asked: pd.DataFrame) -> pd.DataFrame:
    """What each load of a table takes by where its bytes come from, a row for each.

    Args:
        model: Any fitted model.
        asked: As for ``predicted_table``.

    Returns:
        Columns ``model``, ``device``, ``load_source`` and those that ``load_costs`` gives.

    Raises:
        InputError: The table has no loads; or as ``predicted_table``.
    """
    loads = asked[asked["operation"] == "load"] if "operation" in asked else asked[:0]
    if loads.empty:
        raise InputError("--load-sources", "be asked of a table with loads", f"{len(asked)} other rows")
    found = []
    for source in (*LOAD_SOURCES, UNKNOWN_SOURCE):
        done = predicted_table(model, loads.assign(load_source=source))
        found.append(done[["model", "device", "load_source", *COSTS]])
    return pd.concat(found).drop_duplicates().sort_values(["model", "device"], kind="stable")


def _nothing(model: PerformanceModel, rows: pd.DataFrame) -> pd.DataFrame:
    return model.predict(rows).drop(columns=rows.columns).assign(why_out_of_range="")


def example_table(model: PerformanceModel) -> pd.DataFrame:
    """Configurations that a model can predict, on the first GPU or device that it knows, to start from.

    Raises:
        InputError: It knows no device and model together.
    """
    sizes = model.models["weight_bytes"]
    known = sorted(model.residents, key=lambda r: (r.device == HOST, sizes[r.model], r.engine, r.device))
    if not known:
        raise InputError("--performance", "have seen a model on a device", "none")
    first = known[0]
    found: list[dict[str, Any]] = []
    for example in _examples(first):
        row = {"engine": first.engine, "device": first.device, "model": first.model, **example}
        try:
            model.predict(pd.DataFrame([row]))
        except InputError:
            continue  # nothing like it was measured
        found.append(row)
    return pd.DataFrame(found).convert_dtypes()


def _examples(known: ResidentMemory) -> list[dict[str, Any]]:
    """One of each kind, as long as what was measured."""
    tokens = known.max_context_tokens
    limits = {"max_batch": known.max_batch, "max_context_tokens": tokens}
    return [
        {"operation": "load", "page_cache": "warm", **limits},
        {"operation": "load", "page_cache": "cold", **limits},
        {"operation": "unload"},
        {"operation": "prefill", "tokens": max(1, tokens // 2)},
        {"operation": "decode", "batch": 1, "context_tokens": max(1, tokens // 4)},
        {"operation": "decode", "batch": 1, "context_tokens": max(1, tokens // 2)},
    ]
