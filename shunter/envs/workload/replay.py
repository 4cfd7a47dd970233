"""What a replayed trace says: its requests, how fast they come, and which model each of them asks for."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from functools import lru_cache
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from shunter.envs.scenario.model import Model
from shunter.envs.scenario.workload import Replay, TracePart, Workload
from shunter.envs.workload.formats.base import TimeUnit
from shunter.envs.workload.slices import slice_trace
from shunter.envs.workload.traces import Trace, read_trace
from shunter.errors import InputError, UnknownNameError

Ints = NDArray[np.int64]

_EDITIONS: dict[Path, tuple[int, int]] = {}
"""When a trace file was last written, and how long it was, as it was last looked at."""

_MOST_NAMES = 5
"""Names of models that a note spells out."""


def look_again(file: Path) -> None:
    """Has a trace file read anew by whoever reads it next, if it has changed since it was last looked at.

    A compiled scenario draws its requests from what its process has read, so that a file that is written to
    meanwhile does not give one of them two workloads; whoever compiles one looks again.
    """
    with suppress(OSError):  # whoever reads it says so
        found = file.stat()
        _EDITIONS[file] = (found.st_mtime_ns, found.st_size)


def edition(file: Path) -> tuple[int, int] | None:
    """Tells what a file held when it was last looked at from what it held before."""
    return _EDITIONS.get(file)


def read_replay(workload: Workload) -> Trace:
    """Reads the part of a trace that a workload replays, once per process unless ``look_again`` is told.

    Raises:
        InputError: It is missing, broken or empty.
        ValueError: The workload replays none.
    """
    if workload.replay is None:
        raise ValueError("the workload replays no trace")
    return read_part(workload.replay)


def read_part(part: TracePart, *, needs_arrivals: bool = True) -> Trace:
    """Reads a part of a trace file, once per process unless ``look_again`` is told.

    Args:
        part: Which part of which file.
        needs_arrivals: As of ``read_trace``.

    Raises:
        InputError: The file is missing or broken, or the part holds no request.
    """
    same = {name: getattr(part, name) for name in TracePart.model_fields}
    return _part(TracePart(**same), needs_arrivals, edition(part.file))  # a replay's names have no hash


def replay_rate_per_s(workload: Workload) -> float:
    """Mean arrivals per second of the trace that a workload replays."""
    arrivals_s = read_replay(workload).frame["arrival_s"].to_numpy()
    span_s = float(arrivals_s[-1] - arrivals_s[0])
    if span_s <= 0:
        raise InputError("workload.replay.file", "span some time", f"{len(arrivals_s)} requests at once")
    return (len(arrivals_s) - 1) / span_s


def models_by_row(workload: Workload, models: Sequence[Model]) -> Ints | None:
    """Which model each request of a replayed trace asks for, by the trace's own column.

    Args:
        workload: Replays a trace, or not.
        models: The scenario's models; traces may name them by their aliases, or as ``names`` says.

    Returns:
        Index of the model of each row, -1 where the row names none of them; None where no row does, or the
        workload does not go by the column.

    Raises:
        UnknownNameError: Rows name models that there are none of, though the workload goes by the column; or
            ``names`` has such a model.
    """
    replay = workload.replay
    if replay is None or replay.models not in (None, "column"):
        return None
    index = {name: i for i, model in enumerate(models) for name in (model.name, *model.aliases)}
    known = [model.name for model in models]
    for name in replay.names.values():
        if name not in index:
            raise UnknownNameError("workload.replay.names", name, known)
    column = read_replay(workload).frame["model"]
    found = {name: index.get(replay.names.get(name, name), -1) for name in column.unique()}
    if replay.models == "column":
        for name, i in found.items():
            if i < 0:
                raise UnknownNameError(f"{replay.file}: model", name, known)
    rows = column.map(found).to_numpy(np.int64)
    return rows if (rows >= 0).any() else None


def replay_notes(workload: Workload, replay: Replay, models: Sequence[Model]) -> list[str]:
    """A line each of what a replayed trace says that models cannot go by."""
    trace, notes = read_replay(workload), []
    frame = trace.frame
    if replay.models is None:
        rows = models_by_row(workload, models)
        named = frame["model"][frame["model"] != ""]
        strange = named if rows is None else named[rows[named.index] < 0]
        if len(strange):
            notes.append(
                f"{replay.file}: {len(strange)} of {len(frame)} requests name models that the scenario lacks "
                f"({_counted(strange)}): theirs are drawn by popularity (workload.replay.names says which "
                "models they are, workload.replay.models: zipf that all are drawn)"
            )
        if len(models) > 1 and (unnamed := len(frame) - len(named)):
            notes.append(
                f"{replay.file}: {unnamed} of {len(frame)} requests name no model: theirs are drawn by "
                "popularity (popularity_zipf or models' weights; workload.replay.models: zipf says so)"
            )
    if replay.models == "session" and (lacking := int((frame["session"] == "").sum())):
        notes.append(
            f"{replay.file}: {lacking} of {len(frame)} requests name no session: a model is drawn for each"
        )
    return [*trace.notes, *notes]


def _counted(names: pd.Series[str]) -> str:
    counts = names.value_counts()
    shown = [f"{name}: {count}" for name, count in counts.head(_MOST_NAMES).items()]
    return ", ".join(shown) + (", …" if len(counts) > _MOST_NAMES else "")


@lru_cache(64)
def _part(part: TracePart, needs_arrivals: bool, of: tuple[int, int] | None) -> Trace:
    whole = _whole(part.file, part.format, part.mend, part.time_unit, needs_arrivals, of)
    return slice_trace(whole, part.from_s, part.to_s, part.requests, field=str(part.file))


@lru_cache(64)
def _whole(
    file: Path,
    format: str | None,
    mend: bool,
    time_unit: TimeUnit | None,
    needs_arrivals: bool,
    _edition: tuple[int, int] | None,
) -> Trace:
    trace = read_trace(file, format=format, mend=mend, time_unit=time_unit, needs_arrivals=needs_arrivals)
    return replace(trace, unread=trace.unread[[]])  # prefix hashes may be larger than all else
