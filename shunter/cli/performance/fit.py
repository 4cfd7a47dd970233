"""``shunter fit``: turns a profile dataset into a performance model."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import pandas as pd
import typer
from rich.console import Console
from rich.table import Table

from shunter.cli.options import Verbose, left_out, open_console, percent, progress, say_answer
from shunter.errors import InputError
from shunter.models.fit.regressors import TargetFit
from shunter.models.performance import PerformanceModel
from shunter.models.published.performance import PUBLISHED, open_performance
from shunter.models.state import CorrectionErrors, performance_file
from shunter.outputs import hold, replaced_folder
from shunter.profiling.dataset.compare import merge_datasets
from shunter.profiling.dataset.journal import journal_path
from shunter.profiling.dataset.table import read_dataset
from shunter.profiling.dataset.throttled import throttled
from shunter.tracking.fits import log_fit
from shunter.tracking.lineage import dataset_input, performance_input
from shunter.tracking.runs import now_ms, tracking

_Data = Annotated[
    list[Path] | None, typer.Argument(help="Datasets that shunter profile wrote.", show_default=False)
]
_Out = Annotated[
    Path | None,
    typer.Option(
        help="Folder of the performance model, or a .json file; by default perf, or what is updated.",
        show_default=False,
    ),
]
_Quick = Annotated[
    bool, typer.Option("--quick", help="Skip the validation against baselines and the model card.")
]
_Update = Annotated[
    Path | None,
    typer.Option(help="Performance model to recalibrate instead of fitting one.", show_default=False),
]
_Events = Annotated[
    list[Path] | None,
    typer.Option(
        help="With --update: event log of real runs, or folder of shunter serve --record; repeatable.",
        show_default=False,
    ),
]
_Scenario = Annotated[
    Path | None, typer.Option(help="With --update: the runs' scenario.", show_default=False)
]
_Engine = Annotated[
    str | None,
    typer.Option(help="With --update: the runs' engine, if not the scenario's.", show_default=False),
]


_Performance = Annotated[
    Path | None,
    typer.Option(
        help=f"Correct this performance model by the datasets, or {PUBLISHED}: a few rows of a GPU suffice.",
        show_default=False,
    ),
]
_KeepThrottled = Annotated[
    bool, typer.Option("--keep-throttled", help="Fit rows too that were measured on a GPU held back.")
]


def fit(
    data: _Data = None,
    out: _Out = None,
    quick: _Quick = False,
    update: _Update = None,
    events: _Events = None,
    scenario: _Scenario = None,
    engine: _Engine = None,
    performance: _Performance = None,
    keep_throttled: _KeepThrottled = False,
    verbose: Verbose = False,
) -> None:
    """Fit a performance model to datasets, print its cross-validated errors and write its model card.

    Errors are mean absolute errors relative to what was measured, of fits that had not seen it: for held-out
    configurations (other configurations of the same model were seen) and for held-out models (none were).
    "Repeats differ" is the noise of the measurement itself.

    The card (card.html, card.md, validation.json, beside the model) holds errors by split against baselines,
    coverage of the intervals, offload curves and preemption costs.

    Rows that were measured while their GPU was held back (heat, power cap, low clock) are counted and left
    out.

    With --performance the rows correct a performance model, such as the published one, on the GPUs that they
    are of: a few suffice. Its errors on these rows are printed before and after, after on configurations held
    out; a correction that makes them worse is not used. What the rows lack is as the model has it. There is
    no card then.

    With --update a fitted model is recalibrated: the event log of shunter eval --real moves its times towards
    what they really were, few rows little and many far. How far is printed, with errors on what was held out.
    A run that was used before does not count again.

    Examples:

    shunter fit profile.parquet --out perf

    shunter fit monday.parquet tuesday.parquet --out perf --quick

    shunter fit imported.parquet --performance published --out perf

    shunter fit --update perf --events runs/eval/events.parquet --scenario s.yaml --out perf-recalibrated
    """
    console = open_console()
    if update is not None:
        left_out("with --update", performance=performance, keep_throttled=keep_throttled)
        _update(console, update, data, events, scenario, engine, out, verbose=verbose)
        return
    for name, given in (("--events", events), ("--scenario", scenario), ("--engine", engine)):
        if given:
            raise InputError(name, "come with --update", str(given))
    if not data:
        raise InputError("DATA", "name datasets that shunter profile wrote", [])
    out = out or Path("perf")
    hold("--out", performance_file(out))
    _fit(console, data, out, performance, quick=quick, keep_throttled=keep_throttled, verbose=verbose)


def _fit(
    console: Console,
    data: list[Path],
    out: Path,
    performance: Path | None,
    *,
    quick: bool,
    keep_throttled: bool,
    verbose: bool,
) -> None:
    frames = {path: read_dataset(path) for path in data}
    frame = merge_datasets({str(path): rows for path, rows in frames.items()})
    others = open_performance(performance) if performance else None
    begun_ms = now_ms()
    model = PerformanceModel(keep_throttled=keep_throttled).fit(frame, others)
    # The card's held-out errors are of fits to these rows alone, which a corrected model is not.
    fitted = None if quick or others else frame if keep_throttled else frame[~throttled(frame)]
    path, card = _write(console, model, fitted, out)
    name = f"fit {out}: {len(frame)} rows of {len(model.models)} models"
    with tracking("fit", name, begun_ms=begun_ms) as tracker:
        made_of = [dataset_input(file, rows, "fit") for file, rows in frames.items()]
        made_of += [performance_input(others, performance)] if others and performance else []
        asked = {"datasets": ", ".join(map(str, data)), "keep_throttled": keep_throttled, "quick": quick}
        log_fit(tracker, model, made_of, [path, *card], asked)
    notes = [f"note: {note}" for note in model.notes]
    for journal in filter(Path.exists, map(journal_path, data)):
        notes.append(f"note: {journal} holds rows of an unfinished sweep, not fitted: --resume adds them")
    places = [f"card: {page}" for page in card[1:2]]
    written = f"{path}: {len(model.models)} models, {len(model.cv)} targets"
    if verbose:
        console.print(errors_table(model))
    errors = [correction_words(c) for c in model.state_.corrected] or _errors_words(model)
    if not card and (path.parent / "card.html").exists():
        notes.append(f"note: {path.parent / 'card.html'} shows a model that was fitted before")
    say_answer(console, [*errors, *notes], [*places, written], verbose=verbose)


def correction_words(errors: CorrectionErrors) -> str:
    """What own rows of a GPU did to what others measured."""
    e = errors
    text = f"{e.target} on {e.device} ({e.engine}): mean relative error {percent(e.before.mape)} before"
    rows = f"{e.rows} rows of {e.before.cells} configuration{'s' if e.before.cells > 1 else ''}"
    if e.after is None:
        return f"{text}; corrected by {rows}, so that none was left to judge it by"
    kept = "" if e.used else ": not corrected"
    return f"{text}, {percent(e.after.mape)} after, on configurations held out ({rows}){kept}"


def _errors_words(model: PerformanceModel) -> list[str]:
    """The errors of held-out configurations and of held-out models, a line each."""
    lines = []
    for what, name in (("configurations", "held_out_cells"), ("models", "held_out_models")):
        errors = {target: getattr(of, name) for target, of in model.cv.items()}
        figures = ", ".join(f"{target} {percent(e.mape if e else None)}" for target, e in errors.items())
        lines.append(f"Mean relative error of held-out {what}: {figures}.")
    return lines


def _update(
    console: Console,
    performance: Path,
    data: list[Path] | None,
    events: list[Path] | None,
    scenario: Path | None,
    engine: str | None,
    out: Path | None,
    *,
    verbose: bool,
) -> None:
    from shunter.cli.performance.fit_update import update

    if data:
        rule = "be left out with --update, which takes event logs (--events)"
        raise InputError("DATA", rule, [str(path) for path in data])
    if not events:
        raise InputError("--events", "be given with --update", None)
    if scenario is None:
        raise InputError("--scenario", "be given with --update", None)
    if out is None and str(performance) == PUBLISHED and not performance.exists():
        raise InputError("--out", f"be given: {PUBLISHED} itself is not changed", None)
    out = out or performance
    hold("--out", performance_file(out))
    update(console, performance, events, scenario, engine=engine, out=out, verbose=verbose)


def _write(
    console: Console, model: PerformanceModel, fitted: pd.DataFrame | None, out: Path
) -> tuple[Path, list[Path]]:
    """Writes the model and, if it is known what it was fitted to, its card, the model last."""
    from shunter.models.card.card import write_card
    from shunter.models.validation.assessment import assess
    from shunter.models.validation.baselines import PREDICTORS

    path = performance_file(out)
    validation = None
    if fitted is not None:
        with progress(console) as report:
            validation = assess(fitted, PREDICTORS, report=report)
    with replaced_folder(path.parent, last=path.name) as staged:
        if fitted is None or validation is None:
            model.save(staged / path.name)
            return path, []
        card = write_card(model, fitted, validation, staged / path.name)
        model.save(staged / path.name)
    return path, [path.parent / page.name for page in card]


def errors_table(model: PerformanceModel) -> Table:
    """The model's cross-validated errors, a row for each target."""
    table = Table(title="Errors on what was held out (mean relative)")
    table.add_column("target", no_wrap=True)
    for column in ("rows", "configurations", "held-out configurations", "held-out models", "repeats differ"):
        table.add_column(column, justify="right")
    table.add_column("90 % interval", justify="right", no_wrap=True)
    for target, errors in model.cv.items():
        own, state = [f for f in model.state_.own if f.target == target], model.state_
        fits: Sequence[TargetFit] = own or [f for f in (*state.fits, *state.shared) if f.target == target]
        configurations, models = errors.held_out_cells, errors.held_out_models
        table.add_row(
            target,
            str(sum(f.rows for f in fits)),
            str(sum(f.cells for f in fits)),
            percent(configurations.mape if configurations else None),
            percent(models.mape if models else None),
            percent(errors.noise),
            f"{100 * errors.interval[0]:+.0f} to {100 * errors.interval[1]:+.0f} %",
        )
    return table
