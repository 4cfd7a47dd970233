"""The record of a gateway: its requests, and the event log of what its policy did."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from shunter.envs.scenario.scenario import Scenario
from shunter.envs.state.state import Requests
from shunter.envs.workload.gateway_record import TRACE_NAME, counts, read_gateway_requests
from shunter.envs.workload.traces import read_trace
from shunter.errors import InputError, UnknownNameError
from shunter.eval.execution.event_log import EVENT_COLUMNS, read_event_log

__all__ = ["Record", "read_events", "read_record", "requests_of"]


@dataclass(frozen=True)
class Record:
    """What a gateway wrote down.

    Attributes:
        folder: Where it is; of a trace the file itself.
        requests: A row per request that counts as traffic, in order of arrival: see
            ``read_gateway_requests``, and ``run``, the number of the gateway's run, from 0.
        events: The event log of all runs; empty if there is none.
        run_ids: The runs' names in the event log, in order; none where there is no event log.
        notes: What was left out, a line each.
    """

    folder: Path
    requests: pd.DataFrame
    events: pd.DataFrame
    run_ids: tuple[str, ...]
    notes: tuple[str, ...] = ()

    @property
    def policy(self) -> str | None:
        """The name of the policy that decided most; None if the event log does not say."""
        names = self.events["policy"].value_counts()
        return str(names.index[0]) if len(names) else None


def good_loads(events: pd.DataFrame) -> pd.DataFrame:
    """The rows of an event log of loads that ended well."""
    loads = events[(events["operation"] == "load") & events["fault"].isna()]
    return loads.dropna(subset=["start_s", "end_s"])


def read_record(path: Path) -> Record:
    """Reads the folder that ``shunter serve --record`` wrote, its file of requests, or a trace made of it.

    A trace (Parquet, ``shunter workload convert``) says what was asked for and when, and nothing of what the
    gateway did: all of its requests were answered, nobody knows how soon.

    Raises:
        InputError: There is no record, none of its requests was answered, or a trace's row breaks a rule.
        BrokenFileError: A file is damaged.
        VersionError: An event log was written in another version of the schema.
    """
    file = path / TRACE_NAME if path.is_dir() else path
    if file.suffix == ".parquet" and file.is_file():
        return _of_trace(file)
    if not file.is_file():
        raise InputError("RECORD", f"be a folder with {TRACE_NAME} (shunter serve --record)", str(path))
    requests, notes = read_gateway_requests(file)
    kept = counts(requests)
    if not kept.any():
        raise InputError("RECORD", "hold a request that was answered", f"{len(requests)} that were not")
    if not kept.all():
        notes.append(f"{int((~kept).sum())} of {len(requests)} requests were not answered and are left out")
    events = read_events(file.parent)
    starts = run_starts(events)
    requests = requests[kept].reset_index(drop=True)
    run = np.searchsorted(list(starts.values()), requests["arrival_s"].to_numpy(), side="right") - 1
    return Record(file.parent, requests.assign(run=np.maximum(run, 0)), events, tuple(starts), tuple(notes))


def _of_trace(file: Path) -> Record:
    trace = read_trace(file)
    requests = trace.frame.assign(status="done", finish_s=np.nan, run=0)
    note = f"{file} is a trace: which policy ran and what loads took it does not say"
    return Record(file, requests, _no_events(), (), (*trace.notes, note))


def _no_events() -> pd.DataFrame:
    return pd.DataFrame(columns=list(EVENT_COLUMNS))


def read_events(folder: Path) -> pd.DataFrame:
    """The event log of a record, all runs one after another; empty if there is none.

    Of decisions that led to nothing while a gateway idled, each file's last stands for all, unless a shadow
    was asked too: how often it differs is counted over all. Gateways no longer write what only repeats.

    Raises:
        BrokenFileError: A file is damaged.
        VersionError: One was written in another version of the schema.
    """
    logs = []
    for path in sorted(folder.glob("events-*.parquet")):
        log = read_event_log(path)
        idle = log["operation"].isin(["wait", "keep", "make-room"]) & (log["arrived_ids"].map(len) == 0)
        idle &= log["shadow_choice_name"].isna()
        logs.append(log[~idle | (log.index == len(log) - 1)])
    return pd.concat(logs, ignore_index=True) if logs else _no_events()


def run_start(run_id: str) -> float | None:
    """When a gateway's run began, in seconds since 1970; None: it is no gateway's.

    What follows a point in its id counts the scenarios of one run, whose times go on. Older ids are of whole
    seconds.
    """
    name = run_id.partition(".")[0]
    try:
        began = datetime.strptime(name, "%Y%m%dT%H%M%S-%f" if "-" in name else "%Y%m%dT%H%M%S")
    except ValueError:
        return None
    return began.replace(tzinfo=UTC).timestamp()


def run_starts(events: pd.DataFrame) -> dict[str, float]:
    """When each run of a gateway began, in seconds since 1970, by its name, in order.

    Raises:
        InputError: One is no gateway's.
    """
    starts = {}
    for name in events["run_id"].unique():
        start = run_start(str(name))
        if start is None:
            raise InputError("RECORD", "hold event logs of shunter serve only", name)
        starts[str(name).partition(".")[0]] = start
    return dict(sorted(starts.items(), key=lambda item: item[1]))


def requests_of(frame: pd.DataFrame, scenario: Scenario, *, lead_s: float = 0.0) -> Requests:
    """Recorded requests as an episode has them; the first arrives after ``lead_s``.

    Args:
        frame: Rows of ``Record.requests``, in order.
        scenario: Names the models; lengths are cut to their contexts.
        lead_s: Seconds before the first arrival.

    Raises:
        UnknownNameError: The scenario has no such model.
    """
    index = {name: m for m, model in enumerate(scenario.models) for name in (model.name, *model.aliases)}
    for name in frame["model"].unique():
        if name not in index:
            raise UnknownNameError("RECORD: model", str(name), [model.name for model in scenario.models])
    model = np.array([index[name] for name in frame["model"]], np.int64)
    context = np.array([scenario.context_of(one) for one in scenario.models], np.int64)[model]
    prompt, decode = (_tokens(frame[name]) for name in ("prompt_tokens", "decode_tokens"))
    decode = np.minimum(decode, context - 1)
    arrival_s = frame["arrival_s"].to_numpy(np.float64)
    return Requests(
        arrival_ns=np.rint((arrival_s - arrival_s[0] + lead_s) * 1e9).astype(np.int64),
        model=model,
        prompt_tokens=np.minimum(prompt, context - decode),
        decode_tokens=decode,
    )


def _tokens(column: pd.Series[float]) -> NDArray[np.int64]:
    return np.maximum(1, column.fillna(1).to_numpy()).astype(np.int64)
