"""``shunter dataset show|validate|merge|diff|convert``: what was measured, looked at and carried about."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import pandas as pd
import typer
from rich.console import Console
from rich.table import Table

from shunter.cli.options import open_console, say
from shunter.errors import InputError, UnknownNameError
from shunter.outputs import hold
from shunter.profiling.dataset.busy import busy_words
from shunter.profiling.dataset.compare import diff_datasets, merge_datasets
from shunter.profiling.dataset.journal import journal_path
from shunter.profiling.dataset.reference import PAPER, read_reference
from shunter.profiling.dataset.schema import SCHEMA_VERSION
from shunter.profiling.dataset.table import read_dataset, write_dataset
from shunter.profiling.dataset.throttled import throttled_words

REFERENCE = "reference"
SUFFIXES = (".parquet", ".csv")
DataPath = Annotated[Path, typer.Argument(help="Dataset (Parquet, or .csv).", show_default=False)]
Limit = Annotated[int, typer.Option(min=1, help="Most rows to print.")]


def dataset_show(
    path: Annotated[
        str, typer.Argument(help=f"Dataset, or {REFERENCE}: what others published.", show_default=False)
    ],
    model: Annotated[str | None, typer.Option(help="Only this model.", show_default=False)] = None,
    operation: Annotated[
        str | None,
        typer.Option(help="Only this operation; of the reference also a metric.", show_default=False),
    ] = None,
    limit: Limit = 20,
) -> None:
    """Print rows of a dataset, or of the published measurements that come with shunter.

    Examples:

    shunter dataset show profile.parquet --operation load

    shunter dataset show reference --model Qwen3-8B

    shunter dataset show reference --operation total_preemption_overhead
    """
    console = open_console()
    published = path == REFERENCE
    data = read_reference() if published else read_dataset(path)
    data = _only(data, "--model", model, ["model"])
    data = _only(data, "--operation", operation, ["operation", "metric"] if published else ["operation"])
    shown = data.head(limit)
    if published:
        _show_reference(console, shown)
    else:
        console.print(_table(Path(path).name, [_measured(row) for row in _records(shown)]))
    rest = len(data) - len(shown)
    say(console, f"{len(shown)} of {len(data)} rows" + (" (--limit shows more)" if rest else ""))


def dataset_validate(path: DataPath) -> None:
    """Check every row of a dataset against the schema, and say what it holds.

    Examples:

    shunter dataset validate profile.parquet
    """
    data = read_dataset(path)
    twice = data.loc[data["row_id"].duplicated(), "row_id"]
    if len(twice):
        raise InputError(f"{path}: column row_id", "name each row once", twice.iloc[0])
    above = data[data["gpu_layers"] > data["total_layers"]]
    if len(above):
        field = f"{path}: row {above.index[0]}, column gpu_layers"
        rule = f"be at most total_layers ({above['total_layers'].iloc[0]})"
        raise InputError(field, rule, int(above["gpu_layers"].iloc[0]))
    console = open_console()
    configurations = data["cell_id"].nunique()
    say(
        console,
        f"{path}: valid, schema version {SCHEMA_VERSION}, {len(data)} rows, {configurations} configurations",
    )
    for column in ("engine", "device", "model", "operation"):
        counts = data[column].value_counts().sort_index()
        say(console, f"{column}: " + ", ".join(f"{name} ({count})" for name, count in counts.items()))
    far = int(data["is_outlier"].sum())
    say(console, f"outliers: {far} rows far from their configuration's median, kept and flagged (is_outlier)")
    held_back = throttled_words(data)
    if held_back:
        say(console, f"throttled: {held_back}, measured while their GPU was held back; fits leave them out")
    busy = busy_words(data)
    if busy:
        say(console, f"busy: {busy}, so that predictions are of a machine like that")
    imported = data.loc[data["source"] != "", "source"].value_counts().sort_index()
    if len(imported):
        say(console, "imported: " + ", ".join(f"{name} ({count})" for name, count in imported.items()))
    if journal_path(path).exists():
        say(console, f"note: {journal_path(path).name} holds rows of an unfinished sweep; --resume adds them")


def dataset_merge(
    paths: Annotated[list[Path], typer.Argument(help="Two datasets or more.", show_default=False)],
    out: Annotated[Path, typer.Option(help="Dataset to write; must not exist.", show_default=False)],
) -> None:
    """Put datasets together; a row that several of them have is written once.

    Rows that share an id and differ otherwise are refused, and nothing is written.

    Examples:

    shunter dataset merge monday.parquet tuesday.parquet --out both.parquet
    """
    if len(paths) < 2:
        raise InputError("PATHS", "be two datasets or more", [str(path) for path in paths])
    _check_new("--out", out)
    datasets = {str(path): read_dataset(path) for path in paths}
    merged = merge_datasets(datasets)
    write_dataset(merged, out)
    twice = sum(map(len, datasets.values())) - len(merged)
    say(open_console(), f"{out}: {len(merged)} rows" + (f"; {twice} were there already" if twice else ""))


def dataset_diff(a: DataPath, b: DataPath, limit: Limit = 20) -> None:
    """Compare two datasets: configurations that one of them lacks, and medians of the configurations of both.

    Shared configurations come with the largest change first; the ratio is B's median duration over A's.

    Examples:

    shunter dataset diff before.parquet after.parquet
    """
    console = open_console()
    diff = diff_datasets(read_dataset(a), read_dataset(b))
    shared = diff.shared.iloc[(diff.shared["ratio"] - 1).abs().argsort()[::-1]]
    if len(shared):
        rows = [_compared(row) for row in _records(shared.head(limit))]
        console.print(_table(f"Configurations of both: median durations, A {a.name}, B {b.name}", rows))
    for name, only in ((a.name, diff.only_a), (b.name, diff.only_b)):
        if len(only):
            rows = [{**_configuration(row), "rows": str(row["rows"])} for row in _records(only.head(limit))]
            console.print(_table(f"Configurations of {name} only", rows))
    counts = (
        f"{len(shared)} configurations in both, "
        f"{len(diff.only_a)} only in {a}, {len(diff.only_b)} only in {b}"
    )
    ratio = diff.shared["ratio"].median()
    say(console, counts + ("" if pd.isna(ratio) else f"; median ratio of durations {ratio:.3f}"))


def dataset_convert(
    path: DataPath,
    out: Annotated[Path, typer.Argument(help="File to write (.parquet or .csv).", show_default=False)],
) -> None:
    """Write a dataset in the other format; not a bit of a number changes.

    Examples:

    shunter dataset convert profile.parquet profile.csv

    shunter dataset convert edited.csv profile.parquet
    """
    _check_new("OUT", out)
    data = read_dataset(path)
    write_dataset(data, out)
    say(open_console(), f"{out}: {len(data)} rows")


def _check_new(field: str, out: Path) -> None:
    if out.suffix not in SUFFIXES:
        raise InputError(field, f"end in {' or '.join(SUFFIXES)}", str(out))
    hold(field, out)
    if out.exists():
        raise InputError(field, "not exist yet", str(out))


def _only(data: pd.DataFrame, option: str, wanted: str | None, columns: list[str]) -> pd.DataFrame:
    if wanted is None:
        return data
    known = {str(name) for column in columns for name in data[column].dropna()}
    if not known:
        raise InputError(option, "be left out: the dataset has no rows to choose from", wanted)
    if wanted not in known:
        raise UnknownNameError(option, wanted, known)
    return data[(data[columns] == wanted).any(axis=1)]


def _records(frame: pd.DataFrame) -> list[dict[str, Any]]:
    return [dict(zip(frame.columns, values, strict=True)) for values in frame.itertuples(index=False)]


def _configuration(row: dict[str, Any]) -> dict[str, str]:
    tokens = {"prefill": "tokens", "kv_save": "tokens", "kv_restore": "tokens"}.get(row["operation"])
    lengths = f"{row['prompt_tokens']}+{row['decode_tokens']}" if tokens is None else str(row[tokens])
    loads = row["operation"] in ("load", "unload")
    return {
        "model": f"{row['model']} {row['quantization']}",
        "on": f"{row['engine']} {row['device']}",
        "gpu_layers": str(row["gpu_layers"]),
        "operation": row["operation"],
        "batch": str(row["max_batch"] if loads else row["batch"]),
        "tokens": row["page_cache"] if loads else lengths,
    }


def _measured(row: dict[str, Any]) -> dict[str, str]:
    return {**_configuration(row), "time": _time(row["duration_s"]), "tokens/s": _number(row["tokens_per_s"])}


def _compared(row: dict[str, Any]) -> dict[str, str]:
    medians = {"A": _time(row["duration_a_s"]), "B": _time(row["duration_b_s"])}
    return {**_configuration(row), **medians, "B/A": "" if pd.isna(row["ratio"]) else f"{row['ratio']:.2f}"}


def _show_reference(console: Console, data: pd.DataFrame) -> None:
    sources = {source: i for i, source in enumerate(data["source"].unique(), 1)}
    console.print(_table("Published measurements", [_published(row, sources) for row in _records(data)]))
    for source, number in sources.items():
        say(console, f"[{number}] {source}")
    say(console, "The figures are their sources', not shunter's.")
    if data["system"].str.startswith(PAPER, na=False).any():
        say(
            console,
            f"Those of {PAPER} are as summarised: from machine-written summaries, not from the paper.",
        )


def _published(row: dict[str, Any], sources: dict[str, int]) -> dict[str, str]:
    levels = (row["gpu_layers"], row["total_layers"])
    device = row["device"] or row["source_device"] or "not stated"
    gpus = row["gpu_count"]
    return {
        "row": row["row_id"],
        "model": f"{row['model'] or ''} {row['source_quantization'] or ''}".split("(")[0].strip(),
        "device": f"{int(gpus)} × {device}" if gpus > 1 else device,
        "layers": "/".join(f"{int(n)}" for n in levels) if not any(map(pd.isna, levels)) else "",
        "what": row["operation"] if row["metric"] == "tokens_per_s" else row["metric"].replace("_", " "),
        "tokens": "" if pd.isna(row["prompt_tokens"]) else _lengths(row),
        "figure": f"{row['value']} {row['unit']}",
        "source": f"[{sources[row['source']]}]",
    }


def _lengths(row: dict[str, Any]) -> str:
    decode = "" if pd.isna(row["decode_tokens"]) else f"+{int(row['decode_tokens'])}"
    return f"{int(row['prompt_tokens'])}{decode}"


def _table(title: str, rows: list[dict[str, str]]) -> Table:
    table = Table(title=title, title_justify="left")
    said = [name for name in rows[0] if any(row[name] for row in rows)] if rows else ["no rows"]
    for name in said:
        text = name in ("model", "on", "operation", "row", "device", "what", "source")
        table.add_column(name, justify="left" if text else "right", overflow="fold")
    for row in rows:
        table.add_row(*(row[name] for name in said))
    return table


def _time(seconds: float) -> str:
    return f"{1e3 * seconds:.4g} ms" if seconds < 1 else f"{seconds:.4g} s"


def _number(value: float) -> str:
    return "" if pd.isna(value) else f"{value:.4g}"
