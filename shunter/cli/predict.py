"""``shunter predict``: predicts the configurations of a table."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Annotated

import pandas as pd
import pyarrow as pa
import typer

from shunter.cli.options import open_console
from shunter.errors import BrokenFileError, InputError
from shunter.files import replaced
from shunter.models.performance import PerformanceModel


def predict(
    configurations: Annotated[
        Path, typer.Argument(help="Configurations to predict (.csv or .parquet).", show_default=False)
    ],
    performance: Annotated[Path, typer.Option(help="Performance model that shunter fit wrote.")] = Path(
        "perf"
    ),
    out: Annotated[Path, typer.Option(help="Table to write (.csv or .parquet).")] = Path("predictions.csv"),
) -> None:
    """Predict times and memory of configurations: rows with engine, device, model and operation.

    Other columns are those of the dataset (gpu_layers, batch, tokens, context_tokens, …); what is left out is
    filled in: all layers on the device, one request, a warm page cache, the profiled limits.

    Examples:

    shunter predict configurations.csv --performance perf --out predictions.csv
    """
    for field, path in (("CONFIGURATIONS", configurations), ("--out", out)):
        if path.suffix not in (".csv", ".parquet"):
            raise InputError(field, "end in .csv or .parquet", str(path))
    predicted = PerformanceModel.load(performance).predict(_read(configurations))
    _write(predicted, out)
    outside = int(predicted["out_of_range"].sum())
    text = f"{out}: {len(predicted)} configurations, {outside} of them beyond what was profiled"
    open_console().print(text, highlight=False, soft_wrap=True)


def _read(path: Path) -> pd.DataFrame:
    if not path.is_file():
        raise InputError("CONFIGURATIONS", "be an existing table", str(path))
    try:
        return _read_csv(path) if path.suffix == ".csv" else pd.read_parquet(path)
    except (ValueError, pa.ArrowException, OSError, pd.errors.ParserWarning) as error:
        raise BrokenFileError(path, str(error).splitlines()[0]) from error


def _read_csv(path: Path) -> pd.DataFrame:
    with warnings.catch_warnings():
        # Lines with more cells than the header: dropping what is over would move a value's meaning.
        warnings.simplefilter("error", pd.errors.ParserWarning)
        return pd.read_csv(path, index_col=False)


def _write(frame: pd.DataFrame, path: Path) -> None:
    with replaced(path) as temporary:
        if path.suffix == ".csv":
            frame.to_csv(temporary, index=False)
        else:
            frame.to_parquet(temporary, index=False)
