"""``shunter predict``: predicts the configurations of a table."""

from __future__ import annotations

import difflib
import warnings
from pathlib import Path
from typing import Annotated

import pandas as pd
import typer

from shunter.cli.options import open_console, place, say
from shunter.errors import InputError
from shunter.files import replaced
from shunter.models.published.load_costs import LOAD_SOURCE_COLUMNS
from shunter.models.published.performance import PUBLISHED, open_performance
from shunter.models.tables import example_table, loads_by_source, predicted_table
from shunter.outputs import hold
from shunter.parquet import read_frame, write_frame
from shunter.profiling.dataset.schema import COLUMNS
from shunter.reading import reading
from shunter.sinks import csv_frame, from_csv_frame

_Configurations = Annotated[
    Path | None,
    typer.Argument(help="Configurations to predict (.csv or .parquet).", show_default=False),
]
_Performance = Annotated[
    Path,
    typer.Option(help=f"Performance model that shunter fit wrote, or {PUBLISHED}: needs no profile."),
]
_Template = Annotated[
    Path | None,
    typer.Option(
        help="Write a table of examples for the model here instead.",
        callback=place("--template", held=True),
        show_default=False,
    ),
]
_LoadSources = Annotated[
    bool,
    typer.Option("--load-sources", help="Print what each load takes by where its bytes come from, too."),
]
_Out = Annotated[Path, typer.Option(help="Table to write (.csv or .parquet).")]


def predict(
    configurations: _Configurations = None,
    performance: _Performance = Path("perf"),
    out: _Out = Path("predictions.csv"),
    template: _Template = None,
    load_sources: _LoadSources = False,
) -> None:
    """Predict times and memory of configurations: rows with engine, device, model and operation.

    Other columns are those of the dataset (gpu_layers, batch, tokens, context_tokens, …); what is left out,
    as a column or as a blank cell, is filled in: all layers on the device, one request, a warm page cache,
    the profiled limits. So loads and decodes can share a table.

    Times are in seconds, a decode's of one step: one token for each request of its batch. The column unit
    says so row by row, and why_out_of_range what of a configuration is beyond what was measured, or that it
    is not predicted to fit its GPU. gpu_layers are a count, a percentage (50%) or all.

    Models are named as they were profiled, or as in the catalogue with the quantisation: Qwen3-8B Q4_K_M, or
    Qwen3-8B with Q4_K_M in a column quantization.

    A load may say where its bytes come from in a column load_source: disk, page-cache, pinned, sleep-1 or
    sleep-2 (an engine wakes), or unknown; and what the disk reaches in disk_bytes_per_s. What was not
    measured is as others published it, which why_out_of_range then says; --load-sources prints all of them.

    Examples:

    shunter predict --template configurations.csv --performance published

    shunter predict configurations.csv --performance perf --out predictions.csv

    shunter predict configurations.csv --performance published --load-sources
    """
    for field, path in (("CONFIGURATIONS", configurations), ("--out", out), ("--template", template)):
        if path is not None and path.suffix not in (".csv", ".parquet"):
            raise InputError(field, "end in .csv or .parquet", str(path))
    if (configurations is None) == (template is None):
        raise InputError("CONFIGURATIONS", "be given, or --template instead", str(configurations))
    model = open_performance(performance)
    if template is not None:
        if template.exists():
            raise InputError("--template", "not exist yet", str(template))
        rows = example_table(model)
        _write(rows, template)
        text = f"{template}: {len(rows)} configurations to start from; blank cells are filled in"
    elif configurations is not None:
        hold("--out", out)
        asked = _read(configurations)
        predicted = predicted_table(model, asked)
        _write(predicted, out)
        outside = int(predicted["out_of_range"].sum())
        text = f"{out}: {len(predicted)} configurations, {outside} of them beyond what was profiled"
        _say_unused(asked, predicted)
        if load_sources:
            _say_sources(loads_by_source(model, asked))
    say(open_console(), text)


def _say_unused(asked: pd.DataFrame, predicted: pd.DataFrame) -> None:
    """Says which columns no dataset has, so that what is misspelled is not taken for what was left out."""
    known = [*(column.name for column in COLUMNS), *LOAD_SOURCE_COLUMNS]
    answers = set(predicted) - set(asked)
    for name in (str(name) for name in asked if name not in {*known, *answers, "unit"}):
        close = difflib.get_close_matches(name, known, n=1, cutoff=0.8)
        hint = f"; did you mean {close[0]}?" if close else ""
        say(open_console(), f"note: the column {name!r} was not used{hint}")


def _say_sources(loads: pd.DataFrame) -> None:
    for _, row in loads.iterrows():
        middle, low, high = (row[f"duration_s_{end}"] for end in ("predicted", "low", "high"))
        taken = f"{middle:.3g} s ({low:.3g} to {high:.3g})"
        why = f"; {row['why_out_of_range']}" if row["why_out_of_range"] else ""
        say(open_console(), f"{row['model']} on {row['device']} from {row['load_source']}: {taken}{why}")


def _read(path: Path) -> pd.DataFrame:
    if not path.is_file():
        raise InputError("CONFIGURATIONS", "be an existing table", str(path))
    with reading(path):
        return _read_csv(path) if path.suffix == ".csv" else read_frame(path)


def _read_csv(path: Path) -> pd.DataFrame:
    with warnings.catch_warnings():
        # Lines with more cells than the header: dropping what is over would move a value's meaning.
        warnings.simplefilter("error", pd.errors.ParserWarning)
        # Only an empty cell is blank: words such as nan are a mistake to be told.
        return from_csv_frame(pd.read_csv(path, index_col=False, keep_default_na=False, na_values=[""]))


def _write(frame: pd.DataFrame, path: Path) -> None:
    with replaced(path) as temporary:
        if path.suffix == ".csv":
            csv_frame(frame).to_csv(temporary, index=False)
        else:
            write_frame(frame, temporary)
