"""What loads of a performance model's configurations take, where it is said where their bytes come from.

Loads from a disk or the page cache are those that were measured, where they were; of an engine that was
measured asleep, its loads are wakes. All others are what others published (``published.loads``), flagged so.
"""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import pandas as pd

from shunter.catalog import work
from shunter.errors import InputError, UnknownNameError
from shunter.models.datasheets import datasheet
from shunter.models.performance import PerformanceModel
from shunter.models.published.load_rows import LOAD_SOURCES
from shunter.models.published.loads import published_loads

__all__ = ["COSTS", "LOAD_SOURCE_COLUMNS", "load_costs", "measured_sleep_level", "published_costs"]

UNKNOWN_SOURCE = "unknown"
"""Said of a load that may come from a disk, the page cache or pinned memory."""

_MEASURED = {"disk": "cold", "page-cache": "warm"}
COSTS = (
    *("duration_s_predicted", "duration_s_low", "duration_s_high", "duration_s_mean"),
    *("out_of_range", "why_out_of_range"),
)
"""What ``load_costs`` gives."""

LOAD_SOURCE_COLUMNS = ("load_source", "disk_bytes_per_s")
"""What tables of configurations may say of a load, beside the dataset's columns."""


def load_costs(
    model: PerformanceModel, loads: pd.DataFrame, source: str, disk_bytes_per_s: float | None = None
) -> pd.DataFrame:
    """Predicts loads from one source.

    Args:
        model: Any fitted model: what it has measured counts before what is published.
        loads: Configurations of loads as ``PerformanceModel.predict`` takes them; shape (n_loads, any).
        source: One of ``load_rows.LOAD_SOURCES``, or ``UNKNOWN_SOURCE``.
        disk_bytes_per_s: What the disk is said to reach, with several readers; None: not told.

    Returns:
        Shape (n_loads, ...): ``duration_s_predicted``, ``duration_s_low``, ``duration_s_high`` and
        ``duration_s_mean`` as of ``PerformanceModel.predict``, ``out_of_range`` and ``why_out_of_range``.

    Raises:
        InputError: A configuration is no load, or as ``PerformanceModel.predict``.
        UnknownNameError: The source is unknown.
    """
    if source not in (*LOAD_SOURCES, UNKNOWN_SOURCE):
        raise UnknownNameError("load_source", source, (*LOAD_SOURCES, UNKNOWN_SOURCE))
    if not loads["operation"].eq("load").all():
        other = loads.loc[loads["operation"] != "load", "operation"].iloc[0]
        raise InputError("load_source", "be given of loads only", other)
    done = published_costs(model, loads, "" if source == UNKNOWN_SOURCE else source, disk_bytes_per_s)
    asked = re.fullmatch(r"sleep-(\d)", source)
    same = measured_sleep_levels(model, loads) == (int(asked[1]) if asked else 0)
    if same.any() and (asked or source in _MEASURED):
        own = _measured(model, loads.assign(page_cache=_MEASURED.get(source, "warm"))).set_axis(loads.index)
        known = ~own["out_of_range"].astype(bool) & same
        own = own.assign(why_out_of_range="")
        done = done.where(~known, own)
    return done.astype({"out_of_range": bool})


def measured_sleep_level(model: PerformanceModel, engine: str) -> int | None:
    """At which level of sleep loads and unloads of an engine were measured as waking and falling asleep.

    Args:
        model: Any fitted model, or one that assumes all.
        engine: Its name.

    Returns:
        1 or 2; None: they were loads and unloads.
    """
    state = vars(model).get("state_")
    version = None if state is None else state.engine_versions.get(engine)
    found = re.search(r"sleep level (\d)", version or "")
    return int(found[1]) if found else None


def measured_sleep_levels(model: PerformanceModel, loads: pd.DataFrame) -> pd.Series[int]:
    """``measured_sleep_level`` of the engine of each load, 0 where it is None; shape (n_loads,)."""
    levels = {engine: measured_sleep_level(model, str(engine)) or 0 for engine in loads["engine"].unique()}
    return loads["engine"].map(levels).astype(int)


def published_costs(
    model: PerformanceModel, loads: pd.DataFrame, path: str, disk_bytes_per_s: float | None = None
) -> pd.DataFrame:
    """Predicts loads, or the sleep of what they load, as others published them, whatever was measured.

    Args:
        model: Completes configurations.
        loads: Configurations of loads; shape (n_loads, any).
        path: One of ``load_rows.LOAD_SOURCES`` or ``load_rows.FALL_ASLEEP``; empty: a load from anywhere.
        disk_bytes_per_s: What the disk is said to reach; None: not told.

    Returns:
        As ``load_costs``; all is out of range.
    """
    complete = model.complete(loads)
    held, whole = (
        work.weights_held_bytes(work.placed_configurations(complete)).device,
        complete["weight_bytes"],
    )
    sheets = [datasheet(str(name)) for name in complete["datasheet"]]
    links = [np.nan if sheet is None else sheet.link_bytes_per_s for sheet in sheets]
    asked = pd.DataFrame(
        {
            "path": path,
            # A disk gives all of a file, the link what is of the device.
            "bytes": np.where((held > 0) & (path != "disk"), held, whole),
            "link_bytes_per_s": [link if link > 0 else np.nan for link in links],
            "storage_bytes_per_s": np.nan if disk_bytes_per_s is None else disk_bytes_per_s,
        },
        index=complete.index,
    )
    done = published_loads().predict(asked)
    done = done.assign(duration_s_mean=done["duration_s_predicted"], out_of_range=True)
    return done.set_axis(loads.index)


def _measured(model: PerformanceModel, loads: pd.DataFrame) -> pd.DataFrame:
    """What the model itself says; what it cannot say counts as not measured."""
    columns: list[Any] = [*COSTS[:-1]]
    try:
        return model.predict(loads)[columns]
    except InputError:
        return pd.DataFrame(np.nan, loads.index, columns).assign(out_of_range=True)
