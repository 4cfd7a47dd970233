"""``shunter profile``: measures models on a real engine."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn
from rich.table import Table

from shunter.cli.options import aside, open_console, say, seconds, share
from shunter.engines.base import EngineError
from shunter.errors import InputError
from shunter.files import check_place
from shunter.profiling.dataset.busy import busy_words
from shunter.profiling.dataset.table import read_dataset
from shunter.profiling.profile import profile_models
from shunter.profiling.sweep.budget import expected_selection
from shunter.profiling.sweep.pace import Pace
from shunter.profiling.sweep.plan import Group, SweepPlan, SweepSettings
from shunter.profiling.sweep.run import SweepProgress, indented, time_words
from shunter.profiling.sweep.sweep import plan_models
from shunter.tracking.runs import check_store, now_ms, tracking

GRID = {"prompt": "15,61,250", "decode": "32", "batch": "1,2,4", "cuts": "32,128", "page_cache": "warm"}
RICH_GRID = {
    "prompt": "15,30,60,121,250,510",
    "decode": "16,64",
    "batch": "1,2,4,8",
    "cuts": "32,128,512",
    "page_cache": "both",
}
"""From which a budget picks if no grid is given. What lengths that are no multiples of 4 cost more shows only
beside one that is."""

_LINE_EVERY_S = 10.0


def _grid(text: str, name: str) -> Any:
    default = f"{GRID[name]}; with --budget alone {RICH_GRID[name]}"
    return typer.Option(help=f"{text}.  [default: {default}]", show_default=False)


_Models = Annotated[
    list[str] | None,
    typer.Option(help="GGUF file or Hugging Face folder; repeatable.", show_default=False),
]
Names = Annotated[
    list[str] | None,
    typer.Option(
        "--name",
        help="What to call a model, in the order of --model. Default: as its file or folder is called.",
        show_default=False,
    ),
]
_Out = Annotated[Path, typer.Option(help="Dataset to write (Parquet).")]
_Engine = Annotated[str, typer.Option(help="transformers, llama-cpp, vllm or fake.")]
_Device = Annotated[str, typer.Option(help="cpu:1-threads, cuda:0, loopback:2-threads-600MB, …")]
_GpuLayers = Annotated[str, typer.Option(help="Levels: counts, percentages or all.")]
_Prompt = Annotated[str | None, _grid("Prompt lengths in tokens", "prompt")]
_Decode = Annotated[str | None, _grid("Decode steps", "decode")]
_Batch = Annotated[str | None, _grid("Requests decoded together", "batch")]
_Cuts = Annotated[
    str | None, _grid("Tokens in the cache when a request is preempted; 'none': only reload", "cuts")
]
_PageCache = Annotated[str | None, _grid("Before a load the file is: warm, cold or both", "page_cache")]
_Repeats = Annotated[int, typer.Option(min=1, help="Least passes over everything.")]
_Precision = Annotated[
    str,
    typer.Option(
        help="Repeat what is known worse: width of the median's 95 % interval over the median, or none."
    ),
]
_MaxRepeats = Annotated[int, typer.Option(min=1, help="Most passes over anything.")]
_Budget = Annotated[
    str | None,
    typer.Option(
        help="Time in all, like 10m: measure what tells most, and say what is left out.",
        show_default=False,
    ),
]
AllowOvercommit = Annotated[
    bool,
    typer.Option(
        "--allow-overcommit", help="Load what is predicted not to fit; keep rows measured while swapping."
    ),
]
Context = Annotated[
    int | None,
    typer.Option(help="Most tokens per request; by default what is needed.", show_default=False),
]
Seed = Annotated[int, typer.Option(min=0, help="Of the order and the tokens.")]
_Resume = Annotated[bool, typer.Option("--resume", help="Measure only what the dataset lacks.")]
_Append = Annotated[bool, typer.Option("--append", help="Measure all, and add it to the dataset.")]
Python = Annotated[str | None, typer.Option(help="Interpreter that has the engine.", show_default=False)]
_Ray = Annotated[
    str | None,
    typer.Option(
        help="Share the sweep among the devices of a Ray cluster: auto, host:port, ray://… or local.",
        show_default=False,
    ),
]
_DryRun = Annotated[bool, typer.Option("--dry-run", help="Print the plan and end.")]


def profile(
    model: _Models = None,
    name: Names = None,
    out: _Out = Path("profile.parquet"),
    engine: _Engine = "transformers",
    device: _Device = "cpu",
    gpu_layers: _GpuLayers = "all",
    prompt: _Prompt = None,
    decode: _Decode = None,
    batch: _Batch = None,
    cuts: _Cuts = None,
    page_cache: _PageCache = None,
    repeats: _Repeats = 3,
    precision: _Precision = "20%",
    max_repeats: _MaxRepeats = 6,
    budget: _Budget = None,
    allow_overcommit: AllowOvercommit = False,
    context: Context = None,
    seed: Seed = 0,
    resume: _Resume = False,
    append: _Append = False,
    python: Python = None,
    ray: _Ray = None,
    dry_run: _DryRun = False,
) -> None:
    """Measure loads, prefills, decodes and preemptions of models on an engine.

    Every row is kept as soon as it was measured: after Ctrl-C or a crash, --resume goes on.

    Everything is measured in --repeats passes in random order; further passes, up to --max-repeats, hold only
    what is known worse than --precision. With --budget the grid is what may be measured: a pilot of every
    model and level, then whatever adds most information per second, repeats included.

    Two more commands follow the word: `shunter profile preemption` takes the cost of a preemption apart, as
    the seed paper did, and `shunter profile offload` draws tokens per second against the offload ratio.

    Examples:

    shunter profile --model small-hf --model large-hf --out profile.parquet

    shunter profile --engine llama-cpp --device loopback:2-threads --model a.gguf --gpu-layers 0,50%,all

    shunter profile --model small-hf --batch 1,8 --page-cache both --resume

    shunter profile --model small-hf --model large-hf --budget 10m --dry-run

    shunter profile --model small-hf --repeats 5 --precision 5% --max-repeats 20
    """
    console = open_console()
    if resume and append:
        raise InputError("--append", "not be given with --resume", "both")
    lengths = {"prompt": prompt, "decode": decode, "batch": batch, "cuts": cuts, "page_cache": page_cache}
    passes = {"repeats": repeats, "max_repeats": max_repeats, "context_tokens": context, "seed": seed}
    limits = {"precision": share("--precision", precision), "allow_overcommit": allow_overcommit}
    settings = _settings(_words(gpu_layers), lengths, budget, **passes, **limits)
    sweep: dict[str, Any] = {"engine": engine, "device": device, "settings": settings, "names": name or ()}
    if dry_run:
        _show_plan(console, plan_models(model or [], **sweep))
        return
    check_place("--out", out, make=True)
    mode = "resume" if resume else "append" if append else "new"
    _measure(console, model or [], out, mode=mode, python=python, ray=ray, **sweep)


def _settings(
    gpu_layers: tuple[str, ...], asked: dict[str, str | None], budget: str | None, **more: Any
) -> SweepSettings:
    given = {name: text for name, text in asked.items() if text is not None}
    grid = {**(RICH_GRID if budget is not None and not given else GRID), **given}
    return SweepSettings(
        gpu_layers,
        prompt_tokens=_counts("--prompt", grid["prompt"]),
        decode_tokens=_counts("--decode", grid["decode"]),
        batch=_counts("--batch", grid["batch"]),
        cut_tokens=() if grid["cuts"].strip() == "none" else _counts("--cuts", grid["cuts"]),
        page_cache=("warm", "cold") if grid["page_cache"] == "both" else (grid["page_cache"],),
        budget_s=None if budget is None else seconds("--budget", budget),
        **more,
    )


def _measure(console: Console, models: list[str], out: Path, **how: Any) -> None:
    again = f"Rows measured until then are in {out}; --resume goes on from there."
    begun_ms = now_ms()
    check_store()
    try:
        with _progress(console) as report:
            result = profile_models(
                models, out=out, on_plan=lambda plan: _show_plan(aside(console), plan), progress=report, **how
            )
    except KeyboardInterrupt:
        say(console, f"Interrupted. {again}")
        if out.exists():
            _track(out, models, how, begun_ms, {}, status="KILLED")
        raise typer.Exit(130) from None
    except EngineError:
        if out.exists():
            say(console, again)
        raise
    busy = busy_words(read_dataset(out))
    if busy:
        say(console, f"The machine was busy: {busy}. Predictions are of a machine like that.")
    for line in result.lines():
        say(console, line)
    measured = {"new_rows": result.rows, "duration_s": result.duration_s}
    _track(out, models, how, begun_ms, measured, status="FINISHED")


def _track(
    out: Path,
    models: list[str],
    how: dict[str, Any],
    begun_ms: int,
    measured: dict[str, float],
    *,
    status: str,
) -> None:
    """Tells MLflow of the dataset, once that is on the disk."""
    from shunter.tracking.fits import log_dataset

    asked = {name: how[name] for name in ("engine", "device", "mode")}
    name = f"profile {how['engine']} on {how['device']}: {len(models)} models"
    with tracking("profile", name, begun_ms=begun_ms) as tracker:
        log_dataset(
            tracker,
            out,
            read_dataset(out),
            {**asked, "files": ", ".join(models), "sweep": asdict(how["settings"])},
            measured=measured,
        )
        tracker.status = status


def _words(text: str) -> tuple[str, ...]:
    return tuple(word.strip() for word in text.split(",") if word.strip())


def _counts(field: str, text: str) -> tuple[int, ...]:
    words = _words(text)
    if not words or not all(word.isdigit() for word in words):
        raise InputError(field, "be whole numbers with commas between, like 16,64", text)
    return tuple(int(word) for word in words)


def _show_plan(console: Console, plan: SweepPlan) -> None:
    if plan.settings.budget_s is None:
        console.print(_plan_table(plan, plan.groups, f"about {time_words(Pace(plan).eta_s())}"))
        return
    chosen, left_out = expected_selection(plan)
    console.print(_plan_table(plan, chosen, f"expected within {time_words(plan.settings.budget_s)}"))
    for line in indented(left_out):
        say(console, line)


def _plan_table(plan: SweepPlan, groups: Sequence[Group], guess: str) -> Table:
    title = f"{plan.engine} on {plan.device.name}: {guess}, a rough guess before it starts"
    table = Table("model", title=title)
    for column in ("weights", "gpu_layers", "units", "loads"):
        table.add_column(column, justify="right")
    places = {(g.checkpoint.name, g.gpu_layers): g.checkpoint for g in groups}
    for (name, level), checkpoint in sorted(places.items(), key=lambda item: item[0]):
        mine = [g for g in groups if (g.checkpoint.name, g.gpu_layers) == (name, level)]
        table.add_row(
            name,
            f"{checkpoint.weight_bytes / 1e6:.1f} MB",
            f"{level} of {checkpoint.spec.total_layers}",
            str(sum(len(g.units) for g in mine)),
            str(sum(g.loads for g in mine)),
        )
    table.add_section()
    table.add_row("all", "", "", str(sum(len(g.units) for g in groups)), str(sum(g.loads for g in groups)))
    return table


@contextmanager
def _progress(console: Console) -> Iterator[Callable[[SweepProgress], None]]:
    if not console.is_terminal:
        yield _plain_lines(console)
        return
    columns = (BarColumn(), MofNCompleteColumn(), TextColumn("{task.description}"))
    with Progress(*columns, console=console, transient=True) as bar:
        task = bar.add_task("starting the engine", total=None)
        yield lambda p: bar.update(
            task, completed=p.units_done, total=p.units, description=f"{time_words(p.eta_s)} to go; {p.text}"
        )


def _plain_lines(console: Console) -> Callable[[SweepProgress], None]:
    last_s = time.monotonic()

    def line(p: SweepProgress) -> None:
        nonlocal last_s
        if time.monotonic() - last_s >= _LINE_EVERY_S or p.units_done == p.units:
            last_s = time.monotonic()
            text = f"{p.units_done}/{p.units} units, {p.rows} rows, {time_words(p.eta_s)} to go; {p.text}"
            say(aside(console), text)

    return line
