"""What happened in the runs of an evaluation: timelines, and what failed."""

from __future__ import annotations

from typing import Any

from shunter.eval.evaluation import Evaluation
from shunter.eval.timeline import read_timeline
from shunter.report.page import ReportTable, Section
from shunter.report.timeline import HOW_TO_READ, timeline_figure

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


def failures_section(result: dict[str, Any]) -> Section | None:
    """A row for each operation that an engine failed; None if the evaluation records no failures."""
    failures = result.get("failures")
    if failures is None:
        return None
    if not failures:
        return Section("Failures", ("No engine failed.",))
    names = tuple(dict.fromkeys(name for failure in failures for name in failure))
    rows = tuple(tuple(_text(failure.get(name)) for name in names) for failure in failures)
    headings = tuple(f"{n.removesuffix('_s')}, s" if n.endswith("_s") else n.replace("_", " ") for n in names)
    notes = (
        f"{len(failures)} operations failed; times are since the start of their run. Requests given "
        "up count as unserved.",
    )
    return Section("Failures", notes, tables=(ReportTable("", headings, rows, prose=True),))


def _text(value: Any) -> str:
    if value is None:
        return "-"
    if isinstance(value, float):
        return f"{value:.6g}"
    return ", ".join(map(str, value)) or "none" if isinstance(value, list | tuple) else str(value)
