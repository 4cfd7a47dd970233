"""What happened in the runs of an evaluation: timelines, and what failed."""

from __future__ import annotations

from typing import Any

from shunter.eval.evaluation import Evaluation
from shunter.eval.event_log import EVENT_COLUMNS
from shunter.eval.timeline import read_timeline
from shunter.eval.timeline_page import HOW_TO_READ, timeline_figure
from shunter.profiling.report_page import ReportTable, Section

__all__ = ["failures_section", "timelines_section"]

_MOST_TIMELINES = 6


def timelines_section(evaluation: Evaluation) -> Section:
    """The first run of each policy, real if there are real ones."""
    runs = evaluation.real or evaluation.simulated
    first = [runs[name][0] for name in evaluation.policies if runs.get(name)]
    figures = [timeline_figure(read_timeline(run.log.frame())) for run in first[:_MOST_TIMELINES]]
    notes = [HOW_TO_READ]
    if len(first) > _MOST_TIMELINES:
        notes.append(
            f"Drawn are {_MOST_TIMELINES} of {len(first)} policies; shunter timeline draws any run of the "
            "event log beside this page."
        )
    return Section("What the devices did, first request sequence", tuple(notes), tuple(figures))


def failures_section(evaluation: Evaluation) -> Section | None:
    """A row for each operation that an engine failed; None if event logs of this version record none."""
    if "fault" not in EVENT_COLUMNS:
        return None
    runs = [run for runs in (evaluation.real or evaluation.simulated).values() for run in runs]
    rows = [row for run in runs for row in run.log.rows if row.get("fault") is not None]
    if not rows:
        return Section("Failures", (f"No engine failed in {len(runs)} runs.",))
    texts = tuple(tuple(_text(row.get(name)) for name in _FAILURE) for row in rows)
    note = f"{len(rows)} operations failed in {len(runs)} runs; times are since the start of each run."
    table = ReportTable("", tuple(_FAILURE.values()), texts, prose=True)
    return Section("Failures", (note,), tables=(table,))


_FAILURE = {
    "run_id": "run",
    "end_s": "dealt with, s",
    "device": "device",
    "operation": "operation",
    "model": "model",
    "fault": "failure",
    "restart_s": "restart, s",
    "requeued_ids": "requeued",
    "failed_ids": "given up",
    "fault_reason": "the engine said",
}


def _text(value: Any) -> str:
    if value is None:
        return "-"
    if isinstance(value, float):
        return f"{value:.6g}"
    return ", ".join(map(str, value)) or "none" if isinstance(value, list | tuple) else str(value)
