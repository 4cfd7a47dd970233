"""A gateway's run over time: what its devices did by the event log, its requests as clients saw them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd

from shunter.envs.workload.gateway_record import TRACE_NAME, read_gateway_requests
from shunter.errors import InputError
from shunter.eval.timeline import Timeline, pick_run, read_timeline
from shunter.eval.traffic.record import read_events, run_starts

__all__ = ["record_timeline"]


def record_timeline(folder: Path, run_id: str | None = None) -> Timeline:
    """Reads one run of a gateway's record.

    Args:
        folder: What ``shunter serve --record`` wrote.
        run_id: The run's name, with all scenarios that it served; None: the newest.

    Raises:
        InputError: There is no event log.
        UnknownNameError: It holds no such run.
    """
    events = read_events(folder)
    if events.empty:
        raise InputError("EVENTS", "be an event log or a folder that holds some", str(folder))
    starts = run_starts(events)
    run = events["run_id"].str.partition(".")[0]
    wanted = run_id or run.iloc[-1]
    rows = events[run == wanted].reset_index(drop=True) if wanted in set(run) else pick_run(events, wanted)
    seen, file = read_timeline(rows), folder / TRACE_NAME
    title = f"{rows['policy'].iloc[0]}, gateway, run {seen.run_id}"
    if not file.is_file():
        return replace(seen, title=title)
    requests = _requests(file, starts, seen.run_id.partition(".")[0])
    ends = [seen.end_s, *requests["finish_s"].dropna()]
    return replace(
        seen,
        title=title,
        models=tuple(sorted({*seen.models, *requests["model"]})),
        requests=requests,
        end_s=float(np.max(ends)),
    )


def _requests(file: Path, starts: dict[str, float], run: str) -> pd.DataFrame:
    """The requests of a run as a timeline of a gateway has them; those that failed too, until they ended."""
    frame, _ = read_gateway_requests(file)
    number = np.searchsorted(list(starts.values()), frame["arrival_s"].to_numpy(), side="right") - 1
    mine = frame[np.maximum(number, 0) == list(starts).index(run)].reset_index(drop=True)
    arrival_s = mine["arrival_s"] - starts[run]
    return pd.DataFrame(
        {
            "request_id": np.arange(len(mine)),
            "model": mine["model"],
            "arrival_s": arrival_s,
            "first_token_s": arrival_s + mine["first_token_s"],
            "finish_s": arrival_s + mine["finish_s"],
            # Who lost a server and never got another waited to the end.
            "sent_s": (arrival_s + mine["sent_s"]).where(pd.to_numeric(mine["device"]) >= 0),
            "device": mine["device_name"],
            "status": mine["status"],
        }
    )
