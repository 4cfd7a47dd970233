"""``shunter workload``: request traces shown, converted, and turned into synthetic twins."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import numpy as np
import pandas as pd
import typer
import yaml
from rich.console import Console

from shunter.cli.options import open_console, say
from shunter.envs.workload.fit import SCALES_S, Fit, dispersion, fit_arrivals
from shunter.envs.workload.formats.base import TimeUnit
from shunter.envs.workload.trace_formats import FORMATS, WRITTEN
from shunter.envs.workload.traces import Trace, convert_trace, read_trace
from shunter.errors import InputError
from shunter.files import write_text
from shunter.report.page import ReportTable

TraceArgument = Annotated[Path, typer.Argument(help="Trace, .gz or not.", show_default=False)]
Format = Annotated[
    str | None,
    typer.Option(
        "--format", help=f"{', '.join(FORMATS)}; by default as its columns show.", show_default=False
    ),
]
Mend = Annotated[bool, typer.Option("--mend", help="Leave broken rows out and say so, instead of refusing.")]
Unit = Annotated[
    TimeUnit | None,
    typer.Option("--time-unit", help="Of arrivals, where the format leaves it open.", show_default=False),
]

_QUANTILES = (0.05, 0.5, 0.95, 0.99, 1.0)


def workload_show(
    trace: TraceArgument, format: Format = None, mend: Mend = False, time_unit: Unit = None
) -> None:
    """Say what a trace holds: rate, burstiness, lengths and models.

    Examples:

    shunter workload show AzureLLMInferenceTrace_conv.csv

    shunter workload show BurstGPT_1.csv.gz --mend
    """
    console = open_console()
    read = _read(console, trace, format, mend, time_unit)
    frame, arrivals_s = read.frame, read.frame["arrival_s"].to_numpy()
    span_s = float(np.ptp(arrivals_s))
    rate = f", {(len(frame) - 1) / span_s:.3g} a second" if span_s else ""
    say(console, f"{trace}: {read.format}, {len(frame)} requests in {span_s:.0f} s{rate}")
    models = frame["model"].value_counts()
    named = {str(name): count for name, count in models.items() if name}
    if named:
        say(console, "models: " + ", ".join(f"{name} ({count})" for name, count in named.items()))
    sessions = frame["session"][frame["session"].ne("")]
    if len(sessions):
        say(console, f"sessions: {sessions.nunique()}, of {len(sessions)} requests")
    if len(read.unread.columns):
        say(console, f"not read: {', '.join(map(str, read.unread))}")
    console.print(_lengths_table(frame).to_rich())
    console.print(_dispersion_table(arrivals_s).to_rich())


def workload_convert(
    trace: TraceArgument,
    out: Annotated[Path, typer.Argument(help="File to write.", show_default=False)],
    to: Annotated[
        str | None,
        typer.Option(help=f"{', '.join(WRITTEN)}; by default as OUT's ending says.", show_default=False),
    ] = None,
    format: Format = None,
    mend: Mend = False,
    time_unit: Unit = None,
) -> None:
    """Write a trace in another format; what that cannot hold is named.

    Examples:

    shunter workload convert AzureLLMInferenceTrace_conv.csv trace.parquet

    shunter workload convert trace.parquet trace.csv --to vidur
    """
    console = open_console()
    if out.exists():
        raise InputError("OUT", "not exist yet", str(out))
    read = _read(console, trace, format, mend, time_unit)
    for note in convert_trace(read, out, format=to):
        say(console, f"note: {note}")
    say(console, f"{out}: {len(read.frame)} requests")


def workload_fit(
    trace: TraceArgument,
    out: Annotated[
        Path | None, typer.Option(help="YAML file for the workload section.", show_default=False)
    ] = None,
    format: Format = None,
    mend: Mend = False,
    time_unit: Unit = None,
    seed: Annotated[int, typer.Option(min=0, help="Of the twins drawn for the comparison.")] = 0,
) -> None:
    """Calibrate a synthetic twin of a trace's arrivals; lengths are drawn from the trace itself.

    The kind of process and its parameters come from the first half of the trace; the twin is then compared
    with the second half, beside what the first half reaches there.

    Examples:

    shunter workload fit AzureLLMInferenceTrace_conv.csv --out workload.yaml
    """
    console = open_console()
    if out is not None and out.exists():
        raise InputError("--out", "not exist yet", str(out))
    fit = fit_arrivals(_read(console, trace, format, mend, time_unit).frame, seed=seed)
    console.print(_fit_table(fit).to_rich())
    others = ", ".join(f"{name} {score:.2f}" for name, score in fit.others.items())
    say(console, f"{fit.name} looks most like the first half (score {fit.seen.score:.2f}; {others})")
    section = {
        "rate_per_s": round(fit.rate_per_s, 6),
        "arrivals": fit.arrivals.model_dump(mode="json", exclude_none=True),
        "lengths": str(trace.absolute()),
    }
    text = yaml.safe_dump({"workload": section}, sort_keys=False)
    if out is None:
        say(console, text)
    else:
        write_text(out, text)
        say(console, f"{out}: the workload section for a scenario")


def _read(console: Console, path: Path, format: str | None, mend: bool, time_unit: TimeUnit | None) -> Trace:
    trace = read_trace(path, format=format, mend=mend, time_unit=time_unit)
    for note in trace.notes:
        say(console, f"note: {note}")
    return trace


def _lengths_table(frame: pd.DataFrame) -> ReportTable:
    rows = [
        (
            name.replace("_", " "),
            f"{frame[name].mean():.0f}",
            *(f"{q:.0f}" for q in frame[name].quantile(list(_QUANTILES))),
        )
        for name in ("prompt_tokens", "decode_tokens")
    ]
    columns = ("", "mean", *(f"{q:.0%}" for q in _QUANTILES))
    return ReportTable("Lengths and their quantiles", columns, tuple(rows))


def _dispersion_table(arrivals_s: np.ndarray) -> ReportTable:
    values = [dispersion(arrivals_s, scale) if np.ptp(arrivals_s) else np.nan for scale in SCALES_S]
    row = ("index", *("-" if np.isnan(value) else f"{value:.2f}" for value in values))
    columns = ("", *(f"{scale:g} s" for scale in SCALES_S))
    note = "Variance over mean of the arrivals in windows of this length; 1 for Poisson."
    return ReportTable("Index of dispersion", columns, (row,), note)


def _fit_table(fit: Fit) -> ReportTable:
    found = {
        "twin, first half (chosen on it)": fit.seen,
        "twin, second half": fit.held_out,
        "first half, second half": fit.floor,
    }
    rows = [
        (
            name,
            f"{like.gaps_ks:.3f}",
            *(f"{like.dispersion[s]:.2f}" if s in like.dispersion else "-" for s in SCALES_S),
            f"{like.score:.2f}",
        )
        for name, like in found.items()
    ]
    note = (
        "KS: largest distance of the distributions of gaps over their mean. Then the ratio of the indices of "
        "dispersion by window length. Score: KS plus the mean absolute logarithm of the ratios."
    )
    columns = ("compared", "KS", *(f"{scale:g} s" for scale in SCALES_S), "score")
    return ReportTable("How alike the arrivals are", columns, tuple(rows), note)
