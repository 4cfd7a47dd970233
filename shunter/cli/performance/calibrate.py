"""``shunter calibrate``: the performance model learns from real runs, and the gap is measured again."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from shunter.agents.base import Policy
from shunter.agents.registry import make_policy
from shunter.cli.options import Json, Verbose, open_console, say_answer
from shunter.cli.performance.fit_update import error_words, span_errors_table, update_table
from shunter.envs.scenario.scenario import Scenario
from shunter.errors import BrokenFileError, InputError, ShunterError
from shunter.eval.execution.event_log import read_event_log
from shunter.eval.fidelity.calibration import Calibration, calibrate_on
from shunter.eval.read_back import read_results
from shunter.files import finite, write_json
from shunter.models.published.performance import open_performance
from shunter.models.state import performance_file
from shunter.outputs import hold
from shunter.report.page import ReportTable
from shunter.tracking.fits import log_fit
from shunter.tracking.lineage import file_input, performance_input
from shunter.tracking.runs import now_ms, tracking

HELD_OUT = {
    "seeds": "After: simulated with a model calibrated on the other half of the seeds.",
    "policies": "After: simulated with a model calibrated on the other half of the policies, since there is "
    "one seed only.",
    "": "After: there was too little to hold something out, so the model had seen these very runs.",
}
"""By ``Calibration.held_out``."""


def calibrate(
    run: Annotated[Path, typer.Argument(help="Folder of shunter eval --real.", show_default=False)],
    performance: Annotated[
        Path | None,
        typer.Option(
            help="Performance model to move. Default: the one that RUN was predicted with.",
            show_default=False,
        ),
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help="Folder to write. Default: RUN/calibrated.", show_default=False)
    ] = None,
    json_path: Json = None,
    verbose: Verbose = False,
) -> None:
    """Update a performance model from a real evaluation, and show the gap before and after.

    Every policy is simulated anew on the same requests, with a model that was calibrated on the other half of
    the runs; the model that is written rests on all of them.

    Examples:

    shunter calibrate runs/eval

    shunter calibrate runs/eval --out perf-calibrated --json gap.json
    """
    console, begun_ms = open_console(), now_ms()
    if out is not None:
        hold("--out", performance_file(out))
    results = _results(run)
    if out is None:
        out = run / "calibrated"
        hold("--out", performance_file(out))
    model = open_performance(performance or run / "performance.json")
    found = calibrate_on(
        model,
        Scenario.parse(results["scenario"], source=f"{run}/results.json: scenario"),
        read_event_log(run / "events.parquet"),
        _policies(results.get("sources", {})),
        budgets=results["budgets"],
    )
    path = found.recalibration.performance.save(out)
    figures = {
        "held_out": found.held_out,
        "median_before": found.median_before,
        "median_after": found.median_after,
        "gaps": {gap.policy: asdict(gap) for gap in found.gaps},
    }
    if json_path is not None:
        write_json(json_path, finite(figures))
    recalibrated, name = found.recalibration.performance, str(results["scenario"]["name"])
    with tracking("calibrate", f"calibrate {name}: {run} into {path}", begun_ms=begun_ms) as tracker:
        made_of = [
            performance_input(model, performance or run / "performance.json"),
            file_input(run / "events.parquet", "update"),
        ]
        log_fit(tracker, recalibrated, made_of, [path], {"run": str(run), "held_out": found.held_out})
        tracker.metrics(figures)
    if verbose:
        show_tables(console, found)
    written = f"{path}: calibrated on {len(found.recalibration.runs)} runs"
    say_answer(console, gap_words(found), [written], verbose=verbose)


def show_tables(console: Console, found: Calibration) -> None:
    """Prints how far times moved, and the gap before and after."""
    console.print(update_table(found.recalibration))
    console.print(span_errors_table(found.recalibration))
    if found.gaps:
        console.print(gap_table(found).to_rich())


def gap_words(found: Calibration) -> list[str]:
    """The gap before and after, and what was noted on the way."""
    gap = [
        f"Mean response: simulation was {found.median_before:.1%} off at the median policy, and is "
        f"{found.median_after:.1%} off after calibration.",
        HELD_OUT[found.held_out],
    ]
    return [*(gap if found.gaps else error_words(found.recalibration)), *(f"note: {n}" for n in found.notes)]


def gap_table(found: Calibration) -> ReportTable:
    """By policy."""
    rows = tuple(
        (
            gap.policy,
            str(gap.runs),
            f"{gap.real_s:.3f} s",
            f"{gap.before_s:.3f} s",
            f"{gap.after_s:.3f} s",
            f"{gap.before:+.1%}",
            f"{gap.after:+.1%}",
        )
        for gap in found.gaps
    )
    columns = ("policy", "runs", "real", "before", "after", "error before", "error after")
    return ReportTable("Mean response, simulated anew", columns, rows, HELD_OUT[found.held_out])


def _results(run: Path) -> dict[str, Any]:
    path = run / "results.json"
    if not path.is_file():
        raise InputError("RUN", "be a folder that shunter eval --real wrote", str(run))
    results = read_results(path)
    for name in ("scenario", "budgets"):
        if name not in results:
            raise BrokenFileError(path, f"it holds no {name}; run shunter eval --real again")
    return results


def _policies(sources: dict[str, str]) -> dict[str, Policy]:
    """Policies by the names that the logs have; what is not there any more is left out."""
    found = {}
    for name, text in sources.items():
        try:
            found[name] = make_policy(text)
        except ShunterError:
            continue
    return found
