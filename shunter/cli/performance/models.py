"""``shunter models``: performance models side by side."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from shunter.cli.options import open_console, say
from shunter.models.published.performance import open_performance
from shunter.models.validation.compare import error_table, in_sample, parameter_table, prediction_table
from shunter.profiling.dataset.table import read_dataset


def models_compare(
    a: Annotated[
        Path,
        typer.Argument(help="Performance model that shunter fit wrote, or published.", show_default=False),
    ],
    b: Annotated[Path, typer.Argument(help="Another one.", show_default=False)],
    dataset: Annotated[
        Path | None,
        typer.Option(help="Rows to judge both on; best ones that neither was fitted to.", show_default=False),
    ] = None,
) -> None:
    """Compare two performance models: their parameters and, on a dataset, errors and predictions.

    Examples:

    shunter models compare perf-monday perf-tuesday

    shunter models compare perf-old perf-new --dataset wednesday.parquet
    """
    console = open_console()
    models = {"A": open_performance(a), "B": open_performance(b)}
    say(console, f"A: {a}, B: {b}")
    if dataset is not None:
        frame = read_dataset(dataset)
        console.print(error_table(models, frame).to_rich())
        for name in in_sample(models, frame):
            say(console, f"note: {name} was fitted to exactly these rows, so its errors here are no test")
        console.print(prediction_table(models, frame).to_rich())
    console.print(parameter_table(models).to_rich())
