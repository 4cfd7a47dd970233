"""``shunter fit --update``: a performance model recalibrated on event logs of real runs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import pandas as pd
from rich.console import Console
from rich.table import Table

from shunter.cli.options import percent, say_answer
from shunter.engines.caller.entries import engine_entry
from shunter.envs.scenario.scenario import load_scenario
from shunter.errors import InputError
from shunter.eval.execution.event_log import read_event_log
from shunter.eval.fidelity.recalibration import Recalibration, recalibrate
from shunter.eval.traffic.record import read_events
from shunter.models.published.performance import open_performance
from shunter.tracking.fits import log_fit
from shunter.tracking.lineage import file_input, performance_input
from shunter.tracking.runs import tracking

HELD_OUT = {
    "seeds": "Every other seed was held out in turn; what is written rests on all.",
    "time": "The earlier and the later half were held out in turn; what is written rests on both.",
    "": "There was too little to hold something out.",
}
"""By ``Recalibration.halves``."""


def update(
    console: Console,
    performance: Path,
    events: Sequence[Path],
    scenario: Path,
    *,
    engine: str | None,
    out: Path,
    verbose: bool,
) -> None:
    """Recalibrates a saved performance model, prints how far its times moved and writes it.

    Args:
        console: To print on.
        performance: Folder or file of the model.
        events: Event logs, or folders of gateways' records.
        scenario: Scenario of the runs.
        engine: Instead of the scenario's.
        out: Folder or file to write.
        verbose: Whether tables are printed too.

    Raises:
        InputError: Something is missing or broken, or a log does not fit the scenario.
    """
    loaded = load_scenario(scenario)
    if engine is not None:
        engine_entry(engine, field="--engine")
        loaded = loaded.model_copy(update={"engine": engine})
    model = open_performance(performance)
    logs = [read_log(path) for path in events]
    with tracking("fit", f"fit {out}: {performance} recalibrated on {len(logs)} logs") as tracker:
        found = recalibrate(model, loaded, logs)
        path = found.performance.save(out)
        made_of = [performance_input(model, performance), *(file_input(one, "update") for one in events)]
        asked = {"update": str(performance), "events": [str(e) for e in events], "scenario": loaded.name}
        log_fit(tracker, found.performance, made_of, [path], asked)
        tracker.metrics({"span_error": {e.target: asdict(e) for e in found.errors}})
    findings = [*error_words(found), HELD_OUT[found.halves]] if found.runs else []
    findings += [f"note: {note}" for note in found.notes]
    if (path.parent / "card.html").exists():
        shown = path.parent / "card.html"
        findings.append(f"note: {shown} shows the model as it was fitted, before updates")
    if verbose and found.runs:
        console.print(update_table(found))
        console.print(span_errors_table(found))
    say_answer(console, findings, [f"{path}: recalibrated on {len(found.runs)} runs"], verbose=verbose)


def read_log(path: Path) -> pd.DataFrame:
    """An event log, or all of a gateway's record.

    Raises:
        InputError: There is none.
    """
    if not path.is_dir():
        return read_event_log(path)
    log = read_events(path)
    if log.empty:
        raise InputError("--events", "be an event log or a folder of shunter serve --record", str(path))
    return log


def error_words(found: Recalibration) -> list[str]:
    """How far predicted spans are off before and after, a line for all together; none without errors."""
    return [
        f"Mean error of held-out spans: {percent(e.before, '')} before, {percent(e.after, '')} after; "
        f"of their sum {percent(e.sum_before, '+')} before, {percent(e.sum_after, '+')} after."
        for e in found.errors
        if e.target == "all"
    ]


def update_table(found: Recalibration) -> Table:
    """How far each time moved."""
    table = Table(title="What fitted times are multiplied by")
    for column in ("target", "engine", "device", "model"):
        table.add_column(column, overflow="fold")
    for column in ("before", "after", "rows"):
        table.add_column(column, justify="right", no_wrap=True)
    for m in found.moves:
        figures = (f"{m.before:.3f}", f"{m.after:.3f}", f"{m.rows:.1f}")
        table.add_row(m.target, m.engine, m.device, m.model, *figures)
    return table


def span_errors_table(found: Recalibration) -> Table:
    """Errors of held-out spans before and after."""
    table = Table(title="Errors of held-out spans: mean relative, and of their sum")
    table.add_column("mostly", no_wrap=True)
    for column in ("spans", "before", "after", "sum before", "sum after"):
        table.add_column(column, justify="right", no_wrap=True)
    for e in found.errors:
        mean = (percent(e.before), percent(e.after))
        table.add_row(e.target, str(e.spans), *mean, percent(e.sum_before, "+"), percent(e.sum_after, "+"))
    return table
