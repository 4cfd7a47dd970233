"""``shunter profile preemption``: the seed paper's preemption protocol on this hardware."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import pandas as pd
import typer
from rich.console import Console

from shunter.catalog.checkpoints import Checkpoint, read_checkpoint
from shunter.catalog.devices import parse_device
from shunter.cli.options import progress, say
from shunter.errors import InputError, UnknownNameError
from shunter.models.features import FACT_COLUMNS
from shunter.models.performance import PerformanceModel
from shunter.profiling.engines.registry import ENGINES
from shunter.profiling.fingerprint import hardware
from shunter.profiling.plan import model_facts
from shunter.profiling.preemption import Prediction, measure_preemption
from shunter.profiling.preemption_plan import (
    PreemptionPlan,
    PreemptionSettings,
    cut_points,
    make_preemption_plan,
)
from shunter.profiling.preemption_report import (
    findings,
    preemption_results,
    preemption_tables,
    write_preemption_page,
)
from shunter.profiling.preemption_rows import PreemptionRow, read_rows, write_rows
from shunter.profiling.report_page import report_folder, write_json
from shunter.profiling.worker import start_engine

__all__ = ["profile_preemption"]

Predictions = dict[tuple[str, int], Prediction]


def profile_preemption(
    model: Annotated[
        list[str] | None,
        typer.Option(
            help="Model of job A: GGUF file or Hugging Face folder; repeatable.", show_default=False
        ),
    ] = None,
    out: Annotated[Path, typer.Option(help="Folder to write.")] = Path("preemption"),
    engine: Annotated[str, typer.Option(help="transformers, llama-cpp, …")] = "transformers",
    device: Annotated[str, typer.Option(help="cpu:1-threads, cuda:0, loopback:1-threads, …")] = "cpu",
    other: Annotated[
        str | None, typer.Option(help="Model of job B; by default the smallest --model.", show_default=False)
    ] = None,
    job_tokens: Annotated[int, typer.Option(min=4, help="Tokens that job A generates.")] = 200,
    other_tokens: Annotated[int, typer.Option(min=2, help="Tokens that job B generates.")] = 50,
    prompt: Annotated[int, typer.Option(min=1, help="Prompt of both, in tokens.")] = 16,
    cuts: Annotated[
        str, typer.Option(help="How many cut points, or the points in generated tokens: 9 or 10,50,90.")
    ] = "9",
    repeats: Annotated[int, typer.Option(min=1, help="Cycles per model and cut.")] = 3,
    gpu_layers: Annotated[str, typer.Option(help="Of both models: a count, a percentage or all.")] = "all",
    page_cache: Annotated[str, typer.Option(help="Before each load the files are: warm or cold.")] = "warm",
    context: Annotated[
        int | None,
        typer.Option(help="Most tokens per request; by default what is needed.", show_default=False),
    ] = None,
    performance: Annotated[
        Path | None,
        typer.Option(help="Performance model whose prediction is kept beforehand.", show_default=False),
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="Of the order and the tokens.")] = 0,
    python: Annotated[
        str | None, typer.Option(help="Interpreter that has the engine.", show_default=False)
    ] = None,
) -> None:
    """Measure what preempting a model costs, part by part, as the seed paper did.

    Job A is cut, its KV saved and its model unloaded; job B's model is loaded, run and unloaded; A's model
    is loaded, its KV restored and the job finished. OUT gets preemption.parquet, preemption.html and
    results.json; after Ctrl-C they hold every finished cycle.

    Examples:

    shunter profile preemption --model small-hf --model large-hf --out preemption

    shunter profile preemption --engine llama-cpp --device loopback:1-threads --model a.gguf --cuts 10,50,90

    shunter profile preemption --model small-hf --performance perf --page-cache cold
    """
    console = Console()
    device_spec = parse_device(device, field="--device")
    settings = PreemptionSettings(
        job_tokens=job_tokens,
        other_tokens=other_tokens,
        prompt_tokens=prompt,
        cuts=_cuts(cuts, job_tokens),
        repeats=repeats,
        gpu_layers=gpu_layers,
        page_cache=page_cache,
        context_tokens=context,
        seed=seed,
    )
    b = None if other is None else _checkpoint(engine, other, "--other")
    plan = make_preemption_plan([_checkpoint(engine, m, "--model") for m in model or []], b, settings)
    if (out / "preemption.parquet").exists():
        raise InputError("--out", "be a folder without an earlier measurement", str(out))
    predictions = _predict(performance, plan, engine, device_spec.name)
    report_folder(out)
    if predictions:
        # Written before anything is measured: a prediction, not a fit.
        kept = [{"model": m, "cut_tokens": c, **asdict(p)} for (m, c), p in predictions.items()]
        write_json(out / "predictions.json", kept)
    try:
        _measure(console, plan, engine, device, out, predictions, python)
    except KeyboardInterrupt:
        say(console, "Interrupted.")
        _show(console, plan, out)
        raise typer.Exit(130) from None
    _show(console, plan, out)


def _measure(
    console: Console,
    plan: PreemptionPlan,
    engine: str,
    device: str,
    out: Path,
    predictions: Predictions,
    python: str | None,
) -> None:
    with start_engine(engine, device, python=python) as running, progress(console) as report:
        measure_preemption(
            plan,
            running,
            device=device,
            keep=_keeper(out / "preemption.parquet"),
            predictions=predictions,
            progress=report,
        )


def _keeper(path: Path) -> Callable[[PreemptionRow], None]:
    rows: list[PreemptionRow] = []

    def keep(row: PreemptionRow) -> None:
        rows.append(row)
        write_rows(rows, path)

    return keep


def _show(console: Console, plan: PreemptionPlan, out: Path) -> None:
    path = out / "preemption.parquet"
    if not path.exists():
        say(console, f"{out}: no cycle was finished")
        return
    rows = read_rows(path)
    results = preemption_results(rows)
    setting = _setting(rows, plan)
    write_json(
        out / "results.json",
        {
            "setting": setting,
            "settings": asdict(plan.settings),
            "hardware": hardware(),
            "load_average": _spread(rows["load_average"]),
            **results,
        },
    )
    write_preemption_page(rows, results, out / "preemption.html", setting=setting)
    for table in preemption_tables(results):
        console.print(table.to_rich())
    for line in findings(results):
        say(console, line)
    say(console, setting)
    say(console, f"{out}: {len(rows)} cycles in preemption.parquet, preemption.html and results.json")


def _setting(rows: pd.DataFrame, plan: PreemptionPlan) -> str:
    first, s, load = rows.iloc[0], plan.settings, _spread(rows["load_average"])
    return (
        f"{first['engine']} {first['engine_version']} on {first['device']}, {s.page_cache} page cache, "
        f"{len(rows)} cycles: job A of {s.job_tokens} tokens cut at {len(s.cuts)} points from {min(s.cuts)} "
        f"to {max(s.cuts)}, job B of {s.other_tokens} tokens on {plan.other.name}, prompts of "
        f"{s.prompt_tokens}. System load over one minute: {load['min']:.1f} to {load['max']:.1f} on "
        f"{hardware()['logical_cores']} cores."
    )


def _spread(values: pd.Series[Any]) -> dict[str, float]:
    return {"min": float(values.min()), "median": float(values.median()), "max": float(values.max())}


def _cuts(text: str, job_tokens: int) -> tuple[int, ...]:
    words = [word.strip() for word in text.split(",") if word.strip()]
    if not words or not all(word.isdigit() for word in words):
        raise InputError("--cuts", "be a count of points, like 9, or points, like 10,50,90", text)
    if len(words) == 1 and "," not in text:
        return cut_points(int(words[0]), job_tokens)
    return tuple(sorted({int(word) for word in words}))


def _checkpoint(engine: str, path: str, field: str) -> Checkpoint:
    if engine not in ENGINES:
        raise UnknownNameError("--engine", engine, ENGINES)
    checkpoint = read_checkpoint(Path(path), field=field)
    formats = ENGINES[engine].checkpoint_formats
    if checkpoint.format not in formats:
        raise InputError(f"{field} {path}", f"be {' or '.join(formats)} for {engine}", checkpoint.format)
    return checkpoint


def _predict(path: Path | None, plan: PreemptionPlan, engine: str, device: str) -> Predictions:
    """Predicts A's own part of each cycle, with the model's facts, so that it need not have been profiled."""
    if path is None:
        return {}
    performance = PerformanceModel.load(path)
    predictions = {}
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
            predictions[checkpoint.name, cut] = Prediction(
                cost.total_s, cost.low_s, cost.high_s, cost.out_of_range
            )
    return predictions
