"""``shunter workload``: request traces shown, converted, and turned into synthetic twins."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import numpy as np
import pandas as pd
import typer
import yaml
from rich.console import Console

from shunter.cli.options import open_console, say
from shunter.envs.workload.fit import SCALES_S, Fit, dispersion, fit_arrivals
from shunter.envs.workload.formats.base import TimeUnit
from shunter.envs.workload.rates import LEVEL, PARTS
from shunter.envs.workload.slices import slice_trace
from shunter.envs.workload.trace_formats import FORMATS, WRITTEN
from shunter.envs.workload.traces import Trace, convert_trace, read_trace
from shunter.errors import InputError
from shunter.files import write_text
from shunter.outputs import hold
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
From = Annotated[
    float | None,
    typer.Option("--from", help="Only from so many seconds after the first request on.", show_default=False),
]
To = Annotated[
    float | None,
    typer.Option("--to", help="Only up to so many seconds after the first request.", show_default=False),
]
Requests = Annotated[
    int | None, typer.Option(help="Only so many requests, the first of these.", show_default=False)
]

_QUANTILES = (0.05, 0.5, 0.95, 0.99, 1.0)


def workload_show(
    trace: TraceArgument,
    format: Format = None,
    mend: Mend = False,
    time_unit: Unit = None,
    from_s: From = None,
    to_s: To = None,
    requests: Requests = None,
) -> None:
    """Say what a trace holds: rate, burstiness, lengths and models.

    Examples:

    shunter workload show AzureLLMInferenceTrace_conv.csv

    shunter workload show BurstGPT_1.csv.gz --mend
    """
    console = open_console()
    read = _read(console, trace, format, mend, time_unit, from_s, to_s, requests)
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
        list[str] | None,
        typer.Option(
            help=f"Format: {', '.join(WRITTEN)}; by default as OUT's ending says. A number: only requests up "
            "to so many seconds after the first.",
            show_default=False,
        ),
    ] = None,
    format: Format = None,
    mend: Mend = False,
    time_unit: Unit = None,
    from_s: From = None,
    requests: Requests = None,
) -> None:
    """Write a trace, or a part of it, in another format; what that cannot hold is named.

    Examples:

    shunter workload convert AzureLLMInferenceTrace_conv.csv trace.parquet

    shunter workload convert trace.parquet trace.csv --to vidur

    shunter workload convert trace.parquet hour.csv --to vidur --from 3600 --to 7200
    """
    console = open_console()
    hold("OUT", out)
    if out.exists():
        raise InputError("OUT", "not exist yet", str(out))
    target, to_s = _target_and_end(to or [])
    read = _read(console, trace, format, mend, time_unit, from_s, to_s, requests)
    for note in convert_trace(read, out, format=target):
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
    from_s: From = None,
    to_s: To = None,
    requests: Requests = None,
    seed: Annotated[int, typer.Option(min=0, help="Of the twins drawn for the comparison.")] = 0,
) -> None:
    """Calibrate a synthetic twin of a trace's arrivals; lengths are drawn from the trace itself.

    The kind of process and its parameters come from the first half of the trace; the twin is then compared
    with the second half, beside what the first half reaches there. A trace whose rate changes gets steps or a
    diurnal swing, whichever explains the requests better that it was not fitted to.

    Examples:

    shunter workload fit AzureLLMInferenceTrace_conv.csv --out workload.yaml

    shunter workload fit trace.parquet --from 3600 --to 7200
    """
    console = open_console()
    hold("--out", out)
    if out is not None and out.exists():
        raise InputError("--out", "not exist yet", str(out))
    read = _read(console, trace, format, mend, time_unit, from_s, to_s, requests)
    fit = fit_arrivals(read.frame, seed=seed)
    for line in _change_lines(fit):
        say(console, line)
    console.print(_fit_table(fit).to_rich())
    others = ", ".join(f"{name} {score:.2f}" for name, score in fit.others.items())
    say(console, f"{fit.name} looks most like the first half (score {fit.seen.score:.2f}; {others})")
    part = {"from_s": from_s, "to_s": to_s, "requests": requests}
    reading = {"format": format, "mend": mend or None, "time_unit": time_unit, **part}
    section = {
        "rate_per_s": float(f"{fit.rate_per_s:.6g}"),
        "arrivals": fit.arrivals.model_dump(mode="json", exclude_none=True),
        "lengths": _lengths_section(trace, {k: v for k, v in reading.items() if v is not None}),
    }
    if fit.arrivals.steps is not None:
        section = {"requests": len(read.frame), **section}  # fewer would not see the last step
    text = yaml.safe_dump({"workload": section}, sort_keys=False)
    if out is None:
        say(console, text)
    else:
        write_text(out, text)
        say(console, f"{out}: the workload section for a scenario")


def _target_and_end(given: list[str]) -> tuple[str | None, float | None]:
    """The format and the time among what ``--to`` was given."""
    formats = [text for text in given if _seconds(text) is None]
    times_s = [end_s for text in given if (end_s := _seconds(text)) is not None]
    if max(len(formats), len(times_s)) > 1:
        raise InputError("--to", "be given once as a format, and once as a time at most", " ".join(given))
    return next(iter(formats), None), next(iter(times_s), None)


def _seconds(text: str) -> float | None:
    """The number that a text is; None: it is none."""
    try:
        return float(text)
    except ValueError:
        return None


def _lengths_section(trace: Path, reading: dict[str, Any]) -> str | dict[str, Any]:
    """``workload.lengths`` of what was read of a trace: the file alone where nothing else was asked."""
    file = str(trace.absolute())
    return {"file": file, **reading} if reading else file


def _change_lines(fit: Fit) -> list[str]:
    """Whether one rate is true of the trace, in words."""
    change = fit.change
    if not change.refuted:
        return [f"a steady rate is not refuted (p = {change.p_value:.2g})"]
    if change.p_value < LEVEL:
        why = f"arrivals of one rate are spread so unequally with p < {LEVEL:g}"
    else:
        why = "a sine fitted to the first half foretells the second"
    lines = [
        f"its rate is not steady, a stationary fit is wrong: {why}; of {PARTS} parts of equally many "
        f"requests the slowest has {change.slowest_per_s:.3g} a second and the fastest "
        f"{change.fastest_per_s:.3g}, where one rate says {fit.rate_per_s:.3g}"
    ]
    gains = ", ".join(f"{kind} {gain:.3f}" for kind, gain in change.gains.items())
    taken = f"{change.kind} taken" if change.kind else "none of them helps, the twin keeps one rate"
    lines.append(
        f"explained of every second request, fitted to the others, in nats a request: {gains}, a steady rate "
        f"0: {taken}"
    )
    return lines


def _read(
    console: Console,
    path: Path,
    format: str | None,
    mend: bool,
    time_unit: TimeUnit | None,
    from_s: float | None,
    to_s: float | None,
    requests: int | None,
) -> Trace:
    """A trace, or the part of it that is asked for; says what was mended."""
    trace = read_trace(path, format=format, mend=mend, time_unit=time_unit)
    for note in trace.notes:
        say(console, f"note: {note}")
    return slice_trace(trace, from_s, to_s, requests, field=str(path))


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
    if fit.change.kind:
        note = f"All with the changes of the rate taken out. {note}"
    columns = ("compared", "KS", *(f"{scale:g} s" for scale in SCALES_S), "score")
    return ReportTable("How alike the arrivals are", columns, tuple(rows), note)
