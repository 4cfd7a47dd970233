"""``shunter profile``: measures models on a real engine."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from math import isfinite
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn
from rich.table import Table

from shunter.cli.options import open_console, say, seconds, share
from shunter.engines.base import EngineError
from shunter.engines.caller.entries import start_engine
from shunter.errors import InputError
from shunter.profiling.cluster.sweep import run_cluster_sweep
from shunter.profiling.sweep.budget import expected_selection
from shunter.profiling.sweep.pace import Pace
from shunter.profiling.sweep.plan import Group, SweepPlan, SweepSettings
from shunter.profiling.sweep.repeats import Precision
from shunter.profiling.sweep.sweep import SweepProgress, check_output, plan_models, run_sweep

__all__ = ["profile"]

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


def profile(
    model: Annotated[
        list[str] | None,
        typer.Option(help="GGUF file or Hugging Face folder; repeatable.", show_default=False),
    ] = None,
    out: Annotated[Path, typer.Option(help="Dataset to write (Parquet).")] = Path("profile.parquet"),
    engine: Annotated[str, typer.Option(help="transformers, llama-cpp, vllm or fake.")] = "transformers",
    device: Annotated[str, typer.Option(help="cpu:1-threads, cuda:0, loopback:2-threads-600MB, …")] = "cpu",
    gpu_layers: Annotated[str, typer.Option(help="Levels: counts, percentages or all.")] = "all",
    prompt: Annotated[str | None, _grid("Prompt lengths in tokens", "prompt")] = None,
    decode: Annotated[str | None, _grid("Decode steps", "decode")] = None,
    batch: Annotated[str | None, _grid("Requests decoded together", "batch")] = None,
    cuts: Annotated[
        str | None, _grid("Tokens in the cache when a request is preempted; 'none': only reload", "cuts")
    ] = None,
    page_cache: Annotated[
        str | None, _grid("Before a load the file is: warm, cold or both", "page_cache")
    ] = None,
    repeats: Annotated[int, typer.Option(min=1, help="Least passes over everything.")] = 3,
    precision: Annotated[
        str,
        typer.Option(
            help="Repeat what is known worse: width of the median's 95 % interval over the median, or none."
        ),
    ] = "20%",
    max_repeats: Annotated[int, typer.Option(min=1, help="Most passes over anything.")] = 6,
    budget: Annotated[
        str | None,
        typer.Option(
            help="Time in all, like 10m: measure what tells most, and say what is left out.",
            show_default=False,
        ),
    ] = None,
    allow_overcommit: Annotated[
        bool,
        typer.Option(
            "--allow-overcommit", help="Load what is predicted not to fit; keep rows measured while swapping."
        ),
    ] = False,
    context: Annotated[
        int | None,
        typer.Option(help="Most tokens per request; by default what is needed.", show_default=False),
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="Of the order and the tokens.")] = 0,
    resume: Annotated[bool, typer.Option("--resume", help="Measure only what the dataset lacks.")] = False,
    append: Annotated[bool, typer.Option("--append", help="Measure all, and add it to the dataset.")] = False,
    python: Annotated[
        str | None, typer.Option(help="Interpreter that has the engine.", show_default=False)
    ] = None,
    ray: Annotated[
        str | None,
        typer.Option(
            help="Share the sweep among the devices of a Ray cluster: auto, host:port, ray://… or local.",
            show_default=False,
        ),
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print the plan and end.")] = False,
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
    mode = "resume" if resume else "append" if append else "new"
    asked = {"prompt": prompt, "decode": decode, "batch": batch, "cuts": cuts, "page_cache": page_cache}
    given = {name: text for name, text in asked.items() if text is not None}
    grid = {**(RICH_GRID if budget is not None and not given else GRID), **given}
    settings = SweepSettings(
        gpu_layers=_words(gpu_layers),
        prompt_tokens=_counts("--prompt", grid["prompt"]),
        decode_tokens=_counts("--decode", grid["decode"]),
        batch=_counts("--batch", grid["batch"]),
        cut_tokens=() if grid["cuts"].strip() == "none" else _counts("--cuts", grid["cuts"]),
        page_cache=("warm", "cold") if grid["page_cache"] == "both" else (grid["page_cache"],),
        repeats=repeats,
        context_tokens=context,
        seed=seed,
        precision=share("--precision", precision),
        max_repeats=max_repeats,
        budget_s=None if budget is None else seconds("--budget", budget),
        allow_overcommit=allow_overcommit,
    )
    plan = plan_models(model or [], engine=engine, device=device, settings=settings)
    if not dry_run:
        check_output(out, mode)
    if plan.settings.budget_s is None:
        console.print(_plan_table(plan, plan.groups, f"about {_time(Pace(plan).eta_s())}"))
    else:
        chosen, left_out = expected_selection(plan)
        console.print(_plan_table(plan, chosen, f"expected within {_time(plan.settings.budget_s)}"))
        _say_left_out(console, left_out)
    if not dry_run:
        _measure(console, plan, out, mode, python, ray)


def _measure(
    console: Console, plan: SweepPlan, out: Path, mode: str, python: str | None, ray: str | None
) -> None:
    again = f"Rows measured until then are in {out}; --resume goes on from there."
    begun_s = time.monotonic()
    try:
        if ray is not None:
            _measure_shared(console, plan, ray, out, mode, python)
            return
        with (
            start_engine(plan.engine, plan.device.name, python=python) as engine,
            _progress(console) as report,
        ):
            result = run_sweep(plan, engine, out, mode=mode, progress=report, begun_s=begun_s)
    except KeyboardInterrupt:
        console.print(f"Interrupted. {again}", highlight=False, soft_wrap=True)
        raise typer.Exit(130) from None
    except EngineError:
        if out.exists():
            console.print(again, highlight=False, soft_wrap=True)
        raise
    for line in result.refused:
        console.print(f"not measured: {line}", highlight=False, soft_wrap=True)
    _say_left_out(console, result.left_out)
    if result.precision is not None:
        _say_precision(console, result.precision)
    console.print(
        f"{out}: {result.rows} rows from {result.units_measured} units in {_time(result.duration_s)}; "
        f"{result.units_skipped} units were there already",
        highlight=False,
        soft_wrap=True,
    )


def _measure_shared(
    console: Console, plan: SweepPlan, ray: str, out: Path, mode: str, python: str | None
) -> None:
    with _progress(console) as report:
        result = run_cluster_sweep(plan, ray, out, mode=mode, python=python, progress=report)
    for line in result.lines():
        say(console, line)


def _words(text: str) -> tuple[str, ...]:
    return tuple(word.strip() for word in text.split(",") if word.strip())


def _counts(field: str, text: str) -> tuple[int, ...]:
    words = _words(text)
    if not words or not all(word.isdigit() for word in words):
        raise InputError(field, "be whole numbers with commas between, like 16,64", text)
    return tuple(int(word) for word in words)


def _say_left_out(console: Console, lines: tuple[str, ...]) -> None:
    for index, line in enumerate(lines):
        say(console, f"  {line}" if index else line)


def _say_precision(console: Console, precision: Precision) -> None:
    reached = f"{precision.reached} of {precision.cells} cells"
    say(console, f"median known within {precision.wanted:.0%} (95 % interval): {reached}")
    for name, width in precision.widest:
        say(console, f"  still wide: {name}: {f'{width:.0%}' if isfinite(width) else 'measured once'}")


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


def _time(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest:02d} s" if minutes else f"{rest} s"


@contextmanager
def _progress(console: Console) -> Iterator[Callable[[SweepProgress], None]]:
    if not console.is_terminal:
        yield _plain_lines(console)
        return
    columns = (BarColumn(), MofNCompleteColumn(), TextColumn("{task.description}"))
    with Progress(*columns, console=console, transient=True) as bar:
        task = bar.add_task("starting the engine", total=None)
        yield lambda p: bar.update(
            task, completed=p.units_done, total=p.units, description=f"{_time(p.eta_s)} to go; {p.text}"
        )


def _plain_lines(console: Console) -> Callable[[SweepProgress], None]:
    last_s = time.monotonic()

    def line(p: SweepProgress) -> None:
        nonlocal last_s
        if time.monotonic() - last_s >= _LINE_EVERY_S or p.units_done == p.units:
            last_s = time.monotonic()
            text = f"{p.units_done}/{p.units} units, {p.rows} rows, {_time(p.eta_s)} to go; {p.text}"
            console.print(text, highlight=False, soft_wrap=True)

    return line
