"""``shunter profile preemption``: the seed paper's preemption protocol on this hardware."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from shunter.catalog.checkpoints import Checkpoint, read_checkpoint
from shunter.catalog.devices import parse_device
from shunter.catalog.work import FACT_COLUMNS
from shunter.cli.options import Verbose, open_console, progress, say, say_answer
from shunter.engines.base import EngineError
from shunter.engines.caller.entries import engine_entry, start_engine
from shunter.errors import InputError
from shunter.models.performance import PerformanceModel
from shunter.profiling.preemption.folder import Measurement, Prediction, open_measurement
from shunter.profiling.preemption.plan import (
    PreemptionPlan,
    PreemptionSettings,
    cut_points,
    make_preemption_plan,
)
from shunter.profiling.preemption.protocol import measure_preemption
from shunter.profiling.preemption.report import write_preemption_report
from shunter.profiling.sweep.plan import model_facts

_DEFAULTS = PreemptionSettings()

_Models = Annotated[
    list[str] | None,
    typer.Option(help="Model of job A: GGUF file or Hugging Face folder; repeatable.", show_default=False),
]
_Out = Annotated[Path, typer.Option(help="Folder to write.")]
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
_Context = Annotated[
    int | None, typer.Option(help="Most tokens per request; by default what is needed.", show_default=False)
]
_Performance = Annotated[
    Path | None,
    typer.Option(help="Performance model whose prediction is kept beforehand.", show_default=False),
]
_Seed = Annotated[int, typer.Option(min=0, help="Of the order and the tokens.")]
_Resume = Annotated[bool, typer.Option("--resume", help="Measure only the cycles that OUT lacks.")]
_Python = Annotated[str | None, typer.Option(help="Interpreter that has the engine.", show_default=False)]


def profile_preemption(
    model: _Models = None,
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
    context: _Context = None,
    performance: _Performance = None,
    seed: _Seed = _DEFAULTS.seed,
    resume: _Resume = False,
    python: _Python = None,
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
        job_tokens=job_tokens,
        other_tokens=other_tokens,
        prompt_tokens=prompt,
        cuts=_cut_list(cuts, job_tokens),
        repeats=repeats,
        gpu_layers=gpu_layers,
        page_cache=page_cache,
        context_tokens=context,
        seed=seed,
    )
    b = None if other is None else _checkpoint(engine, other, "--other")
    plan = make_preemption_plan([_checkpoint(engine, m, "--model") for m in model or []], b, settings)
    measurement = open_measurement(
        out,
        plan,
        engine=engine,
        device=device,
        predict=lambda: _predict(performance, plan, engine, parse_device(device, field="--device").name),
        resume=resume,
    )
    _measure(open_console(), measurement, out, python, verbose)


def _measure(
    console: Console, measurement: Measurement, out: Path, python: str | None, verbose: bool
) -> None:
    try:
        with (
            start_engine(measurement.engine, measurement.device, python=python) as running,
            progress(console) as report,
        ):
            measure_preemption(measurement, running, progress=report)
    except KeyboardInterrupt:
        say(console, "Interrupted; --resume goes on.")
        _show(console, measurement, out, verbose)
        raise typer.Exit(130) from None
    except EngineError:
        if len(measurement.file.rows):
            say(console, f"{out} keeps {len(measurement.file.rows)} cycles; --resume goes on from there.")
        raise
    _show(console, measurement, out, verbose)


def _show(console: Console, measurement: Measurement, out: Path, verbose: bool) -> None:
    rows = measurement.file.rows
    if rows.empty:
        say(console, f"{out}: no cycle was finished")
        return
    shown = write_preemption_report(rows, measurement.plan, out)
    place = (
        f"page: {out / 'preemption.html'}; {len(rows)} cycles in preemption.parquet, figures in results.json"
    )
    say_answer(console, shown.lines, (place,), verbose=verbose)
    if verbose:
        for table in shown.tables:
            console.print(table.to_rich())


def _cut_list(text: str, job_tokens: int) -> tuple[int, ...]:
    words = [word.strip() for word in text.split(",") if word.strip()]
    if not words or not all(word.isdigit() for word in words):
        raise InputError("--cuts", "be a count of points, like 9, or points, like 10,50,90", text)
    if len(words) == 1 and "," not in text:
        return cut_points(int(words[0]), job_tokens)
    return tuple(sorted({int(word) for word in words}))


def _checkpoint(engine: str, path: str, field: str) -> Checkpoint:
    formats = engine_entry(engine, field="--engine").checkpoint_formats
    checkpoint = read_checkpoint(Path(path), field=field)
    if checkpoint.format not in formats:
        raise InputError(f"{field} {path}", f"be {' or '.join(formats)} for {engine}", checkpoint.format)
    return checkpoint


def _predict(path: Path | None, plan: PreemptionPlan, engine: str, device: str) -> list[Prediction]:
    """Predicts A's own part of each cycle, with the model's facts, so that it need not have been profiled."""
    if path is None:
        return []
    performance = PerformanceModel.load(path)
    predictions = []
    for checkpoint in plan.models:
        facts = model_facts(checkpoint)
        for cut in plan.settings.cuts:
            cost = performance.preemption_cost_s(
                engine,
                device,
                checkpoint.name,
                plan.settings.prompt_tokens + cut - 1,
                gpu_layers=plan.level(checkpoint),
                page_cache=plan.settings.page_cache,
                max_batch=1,
                max_context_tokens=plan.context_tokens,
                **{name: facts[name] for name in FACT_COLUMNS},
            )
            predictions.append(
                Prediction(checkpoint.name, cut, cost.total_s, cost.low_s, cost.high_s, cost.out_of_range)
            )
    return predictions
