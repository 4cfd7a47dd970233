"""``shunter compare``: evaluations side by side, from report folders or MLflow."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from shunter.cli.options import Json, Verbose, open_console, say_answer
from shunter.errors import InputError, UnknownNameError
from shunter.eval.compare import Comparison
from shunter.eval.compare import compare as set_side_by_side
from shunter.eval.read_back import read_evaluation
from shunter.files import finite, write_json
from shunter.outputs import hold
from shunter.report.compare import (
    changes_table,
    comparison_words,
    figures_words,
    marks_table,
    metric_table,
    run_words,
    write_comparison,
)
from shunter.report.page import ReportTable


def compare(
    runs: Annotated[
        list[str],
        typer.Argument(
            metavar="RUN RUN...",
            help="Folders that shunter eval wrote, or MLflow run ids.",
            show_default=False,
        ),
    ],
    metric: Annotated[
        list[str] | None,
        typer.Option(help="Metric to print a table of; repeatable. Pages show all.", show_default=False),
    ] = None,
    store: Annotated[
        str | None,
        typer.Option(
            help="MLflow's store: a URI, or the folder of mlflow.db. Default: MLFLOW_TRACKING_URI, or here.",
            show_default=False,
        ),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(help="Also write a page here, and Markdown beside it.", show_default=False),
    ] = None,
    json_path: Json = None,
    verbose: Verbose = False,
) -> None:
    """Set evaluations beside each other.

    The first run is what the others are set against. Where a policy served the very same requests in both,
    its mean responses are paired; what is unlike besides (scenario, performance model, engine version,
    machine) is said, and other requests are refused.

    Examples:

    shunter compare runs/monday runs/tuesday

    shunter compare 0f8a3c54c1f14a0bb2d6cb1d9a3e0c55 runs/tuesday --metric response_p95_s --out compare.html
    """
    console = open_console()
    _check(runs)
    if out is not None:
        hold("--out", out, make=False)
        hold("--out, its Markdown,", out.with_suffix(".md"), make=False)
    comparison = set_side_by_side([read_evaluation(run, store=store) for run in runs])
    for name in metric or ():
        if name not in comparison.metrics:
            raise UnknownNameError("--metric", name, comparison.metrics)
    if json_path is not None:
        write_json(json_path, finite(comparison.to_dict()))
    pages = [] if out is None else [f"report: {out}"]
    if out is not None:
        write_comparison(comparison, out, title="shunter compare")
    found = [*comparison_words(comparison), *figures_words(comparison), *run_words(comparison)]
    say_answer(console, found, pages, verbose=verbose)
    for table in _tables(comparison, metric or [], verbose=verbose):
        if table is not None:
            console.print(table.to_rich())


def _check(runs: list[str]) -> None:
    if len(runs) < 2:
        raise InputError("RUN", "be given at least twice", runs)
    if len(set(runs)) < len(runs):
        raise InputError("RUN", "be another each time", runs)


def _tables(comparison: Comparison, metrics: list[str], *, verbose: bool) -> list[ReportTable | None]:
    if not verbose:
        return [metric_table(comparison, name) for name in metrics]
    shown = metrics or ["response_mean_s"]
    tables = [metric_table(comparison, name) for name in shown]
    return [marks_table(comparison), *tables, changes_table(comparison)]
