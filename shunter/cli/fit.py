"""``shunter fit``: turns a profile dataset into a performance model."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from shunter.models.performance import PerformanceModel
from shunter.profiling.dataset import read_dataset

__all__ = ["errors_table", "fit"]


def fit(
    data: Annotated[Path, typer.Argument(help="Dataset that shunter profile wrote (Parquet).")],
    out: Annotated[Path, typer.Option(help="Folder of the performance model, or a .json file.")] = Path(
        "perf"
    ),
) -> None:
    """Fit a performance model to a dataset and print its cross-validated errors.

    Errors are mean absolute errors relative to what was measured, of fits that had not seen it: for held-out
    cells (other cells of the same model were seen) and for held-out models (none were). "Repeats differ" is
    the noise of the measurement itself.

    Examples:

    shunter fit profile.parquet --out perf
    """
    console = Console()
    model = PerformanceModel().fit(read_dataset(data))
    path = model.save(out)
    console.print(errors_table(model))
    for note in model.notes:
        console.print(f"note: {note}", highlight=False, soft_wrap=True)
    console.print(
        f"{path}: {len(model.models)} models, {len(model.cv)} targets", highlight=False, soft_wrap=True
    )


def errors_table(model: PerformanceModel) -> Table:
    """The model's cross-validated errors, a row for each target."""
    table = Table(title="Errors on what was held out (mean relative)")
    table.add_column("target", no_wrap=True)
    for column in ("rows", "cells", "held-out cells", "held-out models", "repeats differ"):
        table.add_column(column, justify="right")
    table.add_column("90 % interval", justify="right", no_wrap=True)
    for target, errors in model.cv.items():
        fits = [f for f in model.state_.fits if f.target == target]
        cells, models = errors.held_out_cells, errors.held_out_models
        table.add_row(
            target,
            str(sum(f.rows for f in fits)),
            str(sum(f.cells for f in fits)),
            _percent(cells.mape if cells else None),
            _percent(models.mape if models else None),
            _percent(errors.noise),
            f"{100 * errors.interval[0]:+.0f} to {100 * errors.interval[1]:+.0f} %",
        )
    return table


def _percent(share: float | None) -> str:
    return "unknown" if share is None else f"{100 * share:.1f} %"
