"""``shunter profile preemption``: the seed paper's preemption protocol on this hardware."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from shunter.catalog.devices import parse_device
from shunter.catalog.work import FACT_COLUMNS, FAMILY_COLUMNS
from shunter.cli.options import Verbose, open_console, place, progress, say, say_answer
from shunter.cli.profiles.profile import AllowOvercommit, Context, Names, Python, Seed
from shunter.engines.base import EngineError
from shunter.engines.caller.entries import start_engine
from shunter.errors import InputError
from shunter.models.published.performance import open_performance
from shunter.profiling.dataset.table import read_dataset
from shunter.profiling.preemption.folder import (
    DATASET,
    Prediction,
    is_old,
    open_measurement,
    read_measurement,
    run_measurement,
)
from shunter.profiling.preemption.plan import (
    PreemptionPlan,
    PreemptionSettings,
    cut_points,
    make_preemption_plan,
)
from shunter.profiling.preemption.report import write_preemption_report
from shunter.profiling.sweep.plan import model_facts
from shunter.profiling.sweep.run import SweepResult
from shunter.profiling.sweep.sweep import read_models
from shunter.tracking.runs import check_store, now_ms, tracking

_DEFAULTS = PreemptionSettings()

_Models = Annotated[
    list[str] | None,
    typer.Option(help="Model of job A: GGUF file or Hugging Face folder; repeatable.", show_default=False),
]
_Out = Annotated[Path, typer.Option(help="Folder to write.", callback=place("--out", folder=True, held=True))]
_Engine = Annotated[str, typer.Option(help="transformers, llama-cpp, …")]
_Device = Annotated[str, typer.Option(help="cpu:1-threads, cuda:0, loopback:1-threads, …")]
_Other = Annotated[
    str | None, typer.Option(help="Model of job B; by default the smallest --model.", show_default=False)
]
_JobTokens = Annotated[int, typer.Option(min=4, help="Tokens that job A generates.")]
_OtherTokens = Annotated[int, typer.Option(min=2, help="Tokens that job B generates.")]
_Prompt = Annotated[int, typer.Option(min=1, help="Prompt of both, in tokens.")]
_Cuts = Annotated[
    str, typer.Option(help="How many cut points, or the points in generated tokens: 9 or 10,50,90.")
]
_Repeats = Annotated[int, typer.Option(min=1, help="Cycles per model and cut.")]
_GpuLayers = Annotated[str, typer.Option(help="Of both models: a count, a percentage or all.")]
_PageCache = Annotated[str, typer.Option(help="Before each load the files are: warm or cold.")]
_Performance = Annotated[
    Path | None,
    typer.Option(help="Performance model whose prediction is kept beforehand.", show_default=False),
]
_Resume = Annotated[bool, typer.Option("--resume", help="Measure only the cycles that OUT lacks.")]


def profile_preemption(
    model: _Models = None,
    name: Names = None,
    out: _Out = Path("preemption"),
    engine: _Engine = "transformers",
    device: _Device = "cpu",
    other: _Other = None,
    job_tokens: _JobTokens = _DEFAULTS.job_tokens,
    other_tokens: _OtherTokens = _DEFAULTS.other_tokens,
    prompt: _Prompt = _DEFAULTS.prompt_tokens,
    cuts: _Cuts = "9",
    repeats: _Repeats = _DEFAULTS.repeats,
    gpu_layers: _GpuLayers = _DEFAULTS.gpu_layers,
    page_cache: _PageCache = _DEFAULTS.page_cache,
    context: Context = None,
    performance: _Performance = None,
    seed: Seed = _DEFAULTS.seed,
    allow_overcommit: AllowOvercommit = False,
    resume: _Resume = False,
    python: Python = None,
    verbose: Verbose = False,
) -> None:
    """Measure what preempting a model costs, part by part, as the seed paper did.

    Job A is cut, its KV saved and its model unloaded; job B's model is loaded, run and unloaded; A's model
    is loaded, its KV restored and the job finished. OUT gets preemption.parquet, preemption.html,
    results.json, and beforehand plan.json and predictions.json. Every cycle is kept as soon as it is over:
    after Ctrl-C or a crash, --resume goes on.

    Examples:

    shunter profile preemption --model small-hf --model large-hf --out preemption

    shunter profile preemption --engine llama-cpp --device loopback:1-threads --model a.gguf --cuts 10,50,90

    shunter profile preemption --model small-hf --performance perf --page-cache cold --resume
    """
    settings = PreemptionSettings(
        job_tokens,
        other_tokens,
        prompt,
        _cut_list(cuts, job_tokens),
        repeats=repeats,
        gpu_layers=gpu_layers,
        page_cache=page_cache,
        context_tokens=context,
        seed=seed,
    )
    b = None if other is None else read_models([other], engine, field="--other")[0]
    place = parse_device(device, field="--device")
    models = read_models(model or [], engine, names=name or ())
    plan = make_preemption_plan(models, b, settings, engine=engine, device=place)
    open_measurement(out, plan, predict=lambda: _predict(performance, plan), resume=resume)
    console, begun_ms = open_console(), now_ms()
    if is_old(out):
        _show(console, out, plan, verbose)
        return
    check_store()
    done = _measure(console, out, plan, python, allow_overcommit)
    if _show(console, out, plan, verbose):
        _track(out, plan, done, begun_ms)
    if done is None:
        raise typer.Exit(130)


def _measure(
    console: Console, out: Path, plan: PreemptionPlan, python: str | None, overcommit: bool
) -> SweepResult | None:
    """Measures what is missing; None if Ctrl-C cut it short."""
    try:
        with (
            start_engine(plan.engine, plan.device.name, python=python) as engine,
            progress(console) as report,
        ):
            done = run_measurement(
                out,
                plan,
                engine,
                allow_overcommit=overcommit,
                progress=lambda at: report(at.text, at.units_done, at.units),
            )
    except KeyboardInterrupt:
        say(console, "Interrupted; --resume goes on.")
        return None
    except EngineError:
        if kept := len(read_measurement(out, plan)):
            say(console, f"{out} keeps {kept} cycles; --resume goes on from there.")
        raise
    for line in done.refused:
        say(console, f"not measured: {line}")
    return done


def _track(out: Path, plan: PreemptionPlan, done: SweepResult | None, begun_ms: int) -> None:
    """Tells MLflow of a measurement, once all else is done."""
    from shunter.tracking.fits import log_preemption

    settings = plan.settings
    name = (
        f"profile preemption {plan.engine} on {plan.device.name}: {len(plan.models)} models, "
        f"{len(settings.cuts)} cuts"
    )
    asked = {"engine": plan.engine, "device": plan.device.name, "other": plan.other.name, **asdict(settings)}
    measured = {} if done is None else {"new_rows": done.rows, "duration_s": done.duration_s}
    with tracking("preemption", name, begun_ms=begun_ms) as tracker:
        log_preemption(tracker, out, read_dataset(out / DATASET), asked, measured)
        tracker.status = "KILLED" if done is None else "FINISHED"


def _show(console: Console, out: Path, plan: PreemptionPlan, verbose: bool) -> bool:
    """Prints and writes what the cycles say; whether there are any."""
    rows = read_measurement(out, plan)
    if rows.empty:
        say(console, f"{out}: no cycle was finished")
        return False
    tables, lines = write_preemption_report(rows, plan, out)
    kept = f"{len(rows)} cycles in preemption.parquet"
    kept += ", to which this version adds none" if is_old(out) else ""
    place = f"page: {out / 'preemption.html'}; {kept}, figures in results.json"
    say_answer(console, lines, (place,), verbose=verbose)
    if verbose:
        for table in tables:
            console.print(table.to_rich())
    return True


def _cut_list(text: str, job_tokens: int) -> tuple[int, ...]:
    words = [word.strip() for word in text.split(",") if word.strip()]
    if not words or not all(word.isdigit() for word in words):
        raise InputError("--cuts", "be a count of points, like 9, or points, like 10,50,90", text)
    if len(words) == 1 and "," not in text:
        return cut_points(int(words[0]), job_tokens)
    return tuple(sorted({int(word) for word in words}))


def _predict(path: Path | None, plan: PreemptionPlan) -> list[Prediction]:
    """Predicts A's own part of each cycle, with the model's facts, so that it need not have been profiled."""
    if path is None:
        return []
    performance = open_performance(path)
    predictions = []
    for checkpoint in plan.models:
        facts = model_facts(checkpoint)
        for cut in plan.settings.cuts:
            cost = performance.preemption_cost_s(
                plan.engine,
                plan.device.name,
                checkpoint.name,
                plan.settings.prompt_tokens + cut - 1,
                gpu_layers=plan.level(checkpoint),
                page_cache=plan.settings.page_cache,
                max_batch=1,
                max_context_tokens=plan.context_tokens,
                **{name: facts[name] for name in (*FACT_COLUMNS, *FAMILY_COLUMNS) if name in facts},
            )
            predictions.append(
                Prediction(checkpoint.name, cut, cost.total_s, cost.low_s, cost.high_s, cost.out_of_range)
            )
    return predictions
