"""``shunter compare``: evaluations side by side, from report folders or MLflow."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from shunter.cli.options import open_console, say
from shunter.errors import InputError, UnknownNameError
from shunter.eval.compare import Comparison
from shunter.eval.compare import compare as set_side_by_side
from shunter.eval.read_back import read_evaluation
from shunter.files import finite, write_json
from shunter.report.compare import (
    changes_table,
    comparison_words,
    marks_table,
    metric_table,
    run_words,
    write_comparison,
)

__all__ = ["compare"]


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
        typer.Option(
            help="Metric to print; repeatable. Default: mean response. Pages show all.", show_default=False
        ),
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
    json_path: Annotated[
        Path | None, typer.Option("--json", help="Also write the results here.", show_default=False)
    ] = None,
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
    _check(runs, out, json_path)
    comparison = set_side_by_side([read_evaluation(run, store=store) for run in runs])
    chosen = metric or ["response_mean_s"]
    for name in chosen:
        if name not in comparison.metrics:
            raise UnknownNameError("--metric", name, comparison.metrics)
    _show(console, comparison, chosen)
    if json_path is not None:
        write_json(json_path, finite(comparison.to_dict()))
    if out is not None:
        write_comparison(comparison, out, title="shunter compare")
        say(console, f"report: {out}")


def _check(runs: list[str], out: Path | None, json_path: Path | None) -> None:
    if len(runs) < 2:
        raise InputError("RUN", "be given at least twice", runs)
    if len(set(runs)) < len(runs):
        raise InputError("RUN", "be another each time", runs)
    for option, path in (("--out", out), ("--json", json_path)):
        if path is not None and (path.is_dir() or not path.parent.is_dir()):
            raise InputError(option, "be a file in an existing folder", str(path))


def _show(console: Console, comparison: Comparison, metrics: list[str]) -> None:
    for line in run_words(comparison):
        say(console, line)
    tables = [
        marks_table(comparison),
        *(metric_table(comparison, name) for name in metrics),
        changes_table(comparison),
    ]
    for table in tables:
        if table is not None:
            console.print(table.to_rich())
    for line in comparison_words(comparison):
        say(console, line)
