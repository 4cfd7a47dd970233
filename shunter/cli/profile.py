"""``shunter profile``: measures models on a real engine."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn
from rich.table import Table

from shunter.errors import InputError
from shunter.profiling.engines.base import EngineError
from shunter.profiling.pace import Pace
from shunter.profiling.plan import SweepPlan, SweepSettings
from shunter.profiling.sweep import SweepProgress, check_output, plan_models, run_sweep
from shunter.profiling.worker import start_engine

__all__ = ["profile"]

_LINE_EVERY_S = 10.0


def profile(
    model: Annotated[
        list[str] | None,
        typer.Option(help="GGUF file or Hugging Face folder; repeatable.", show_default=False),
    ] = None,
    out: Annotated[Path, typer.Option(help="Dataset to write (Parquet).")] = Path("profile.parquet"),
    engine: Annotated[str, typer.Option(help="transformers, llama-cpp or fake.")] = "transformers",
    device: Annotated[str, typer.Option(help="cpu:1-threads, cuda:0, loopback:2-threads-600MB, …")] = "cpu",
    gpu_layers: Annotated[str, typer.Option(help="Levels: counts, percentages or all.")] = "all",
    prompt: Annotated[str, typer.Option(help="Prompt lengths in tokens.")] = "16,64,256",
    decode: Annotated[str, typer.Option(help="Decode steps.")] = "32",
    batch: Annotated[str, typer.Option(help="Requests decoded together.")] = "1,2,4",
    cuts: Annotated[
        str, typer.Option(help="Tokens in the cache when a request is preempted; 'none': only reload.")
    ] = "32,128",
    page_cache: Annotated[str, typer.Option(help="Before a load the file is: warm, cold or both.")] = "warm",
    repeats: Annotated[int, typer.Option(min=1, help="Passes over everything.")] = 3,
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
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print the plan and end.")] = False,
) -> None:
    """Measure loads, prefills, decodes and preemptions of models on an engine.

    Every row is kept as soon as it was measured: after Ctrl-C or a crash, --resume goes on.

    Two more commands follow the word: `shunter profile preemption` takes the cost of a preemption apart, as
    the seed paper did, and `shunter profile offload` draws tokens per second against the offload ratio.

    Examples:

    shunter profile --model small-hf --model large-hf --out profile.parquet

    shunter profile --engine llama-cpp --device loopback:2-threads --model a.gguf --gpu-layers 0,50%,all

    shunter profile --model small-hf --batch 1,8 --page-cache both --resume
    """
    console = Console()
    if resume and append:
        raise InputError("--append", "not be given with --resume", "both")
    mode = "resume" if resume else "append" if append else "new"
    settings = SweepSettings(
        gpu_layers=_words(gpu_layers),
        prompt_tokens=_counts("--prompt", prompt),
        decode_tokens=_counts("--decode", decode),
        batch=_counts("--batch", batch),
        cut_tokens=() if cuts.strip() == "none" else _counts("--cuts", cuts),
        page_cache=("warm", "cold") if page_cache == "both" else (page_cache,),
        repeats=repeats,
        context_tokens=context,
        seed=seed,
    )
    plan = plan_models(model or [], engine=engine, device=device, settings=settings)
    if not dry_run:
        check_output(out, mode)
    console.print(_plan_table(plan))
    if not dry_run:
        _measure(console, plan, out, mode, python)


def _measure(console: Console, plan: SweepPlan, out: Path, mode: str, python: str | None) -> None:
    again = f"Rows measured until then are in {out}; --resume goes on from there."
    try:
        with (
            start_engine(plan.engine, plan.device.name, python=python) as engine,
            _progress(console) as report,
        ):
            result = run_sweep(plan, engine, out, mode=mode, progress=report)
    except KeyboardInterrupt:
        console.print(f"Interrupted. {again}", highlight=False, soft_wrap=True)
        raise typer.Exit(130) from None
    except EngineError:
        if out.exists():
            console.print(again, highlight=False, soft_wrap=True)
        raise
    for line in result.refused:
        console.print(f"not measured: {line}", highlight=False, soft_wrap=True)
    console.print(
        f"{out}: {result.rows} rows from {result.units_measured} units in {_time(result.duration_s)}; "
        f"{result.units_skipped} units were there already",
        highlight=False,
        soft_wrap=True,
    )


def _words(text: str) -> tuple[str, ...]:
    return tuple(word.strip() for word in text.split(",") if word.strip())


def _counts(field: str, text: str) -> tuple[int, ...]:
    words = _words(text)
    if not words or not all(word.isdigit() for word in words):
        raise InputError(field, "be whole numbers with commas between, like 16,64", text)
    return tuple(int(word) for word in words)


def _plan_table(plan: SweepPlan) -> Table:
    guess = f"about {_time(Pace(plan).eta_s())}, a rough guess before it starts"
    title = f"{plan.engine} on {plan.device.name}: {guess}"
    table = Table("model", title=title)
    for column in ("weights", "gpu_layers", "units", "loads"):
        table.add_column(column, justify="right")
    places = {(g.checkpoint.name, g.gpu_layers): g.checkpoint for g in plan.groups}
    for (name, level), checkpoint in sorted(places.items(), key=lambda item: item[0]):
        groups = [g for g in plan.groups if (g.checkpoint.name, g.gpu_layers) == (name, level)]
        table.add_row(
            name,
            f"{checkpoint.weight_bytes / 1e6:.1f} MB",
            f"{level} of {checkpoint.spec.total_layers}",
            str(sum(len(g.units) for g in groups)),
            str(sum(g.loads for g in groups)),
        )
    table.add_section()
    table.add_row("all", "", "", str(plan.units), str(plan.loads))
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
