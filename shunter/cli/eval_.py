"""``shunter eval``: policies compared, in simulation and on real engines."""

from __future__ import annotations

import shutil
from contextlib import ExitStack
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from shunter.agents.learned.file import distance_from_training
from shunter.agents.registry import POLICIES, make_policy
from shunter.cli.options import (
    PERFORMANCE,
    RAY,
    free_folder,
    performance_of,
    progress,
    say,
    say_lost,
    seconds,
    seed_list,
)
from shunter.cli.real_options import check_duration, real_options, with_duration
from shunter.engines.caller.entries import engine_entry
from shunter.engines.registry import ENGINES
from shunter.envs.scenario.scenario import load_scenario
from shunter.envs.world.world import load_performance, make_world
from shunter.errors import InputError
from shunter.eval.compare import compare
from shunter.eval.evaluation import Evaluation, evaluate
from shunter.eval.execution.failure_log import execution_lines
from shunter.eval.execution.real import bind_footprints, check_binding, open_engines
from shunter.eval.fidelity.tables import fidelity_tables, fidelity_verdict
from shunter.eval.provenance import capabilities_of, provenance
from shunter.eval.read_back import read_evaluation
from shunter.eval.saved import log_evaluation, save_evaluation
from shunter.files import finite, write_json
from shunter.jobs import open_runner
from shunter.report.compare import load_words, write_comparison
from shunter.report.words import change_text, format_metric, verdict
from shunter.tracking.runs import tracking

__all__ = ["eval_", "results_table", "show"]


def eval_(
    scenario: Annotated[Path, typer.Option(help="Scenario file (YAML), or a name of the library.")],
    performance: Annotated[Path | None, typer.Option(help=PERFORMANCE, show_default=False)] = None,
    policy: Annotated[
        list[str] | None,
        typer.Option(
            help="Name or policy file; repeatable. Default: three common heuristics.", show_default=False
        ),
    ] = None,
    seeds: Annotated[str, typer.Option(help="Workload seeds: a count, a range or a list.")] = "20",
    real: Annotated[bool, typer.Option("--real", help="Run on the real engine too.")] = False,
    load: Annotated[
        list[float] | None,
        typer.Option(
            min=0.01, help="Instead of the scenario's; repeatable, for load curves.", show_default=False
        ),
    ] = None,
    repeats: Annotated[
        int,
        typer.Option(
            min=1, help="Real runs of each policy and seed: two or more say how far reality is from itself."
        ),
    ] = 1,
    engine: Annotated[
        str | None,
        typer.Option(help="Instead of the scenario's: " + ", ".join(ENGINES) + ".", show_default=False),
    ] = None,
    python: Annotated[
        list[str] | None,
        typer.Option(
            help="Interpreter that has the engine, or ENGINE=INTERPRETER; repeatable.", show_default=False
        ),
    ] = None,
    ray: Annotated[str | None, typer.Option(help=RAY, show_default=False)] = None,
    duration: Annotated[
        str | None,
        typer.Option(
            help="Time that one run may take, like 10m: requests that arrive for longer are refused, what is "
            "still going then is cut off.",
            show_default=False,
        ),
    ] = None,
    hang_after: Annotated[
        str,
        typer.Option(
            help="With --real: a call that takes longer than this, and than 20 times what was predicted, is "
            "taken for hung; its engine is started again."
        ),
    ] = "30s",
    chaos: Annotated[
        str | None,
        typer.Option(
            help="With --real: kill or stop engines on purpose, with these probabilities per operation: "
            "kill=0.05,hang=0.01.",
            show_default=False,
        ),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(
            help="Folder for the report and the event log. Default: runs/eval, with a number if it is there.",
            show_default=False,
        ),
    ] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Write over what is in --out.")] = False,
    json_path: Annotated[
        Path | None, typer.Option("--json", help="Also write the results here.", show_default=False)
    ] = None,
) -> None:
    """Compare policies on the same requests.

    Every policy serves the same requests; changes are paired, relative to the first policy. With --real the
    simulated figure, the real one and the error stand beside each other. Several loads get a folder each,
    and a page that compares them. With --ray simulations run on a cluster and give the same figures; real
    runs stay here.

    Examples:

    shunter eval --scenario s.yaml --performance perf

    shunter eval --scenario s.yaml --load 0.5 --load 0.7 --load 0.9 --out runs/loads

    shunter eval --scenario s.yaml --policy cost-greedy --policy runs/demo/policy.safetensors --seeds 100-139

    shunter eval --scenario s.yaml --real --engine llama-cpp --seeds 2 --repeats 2 --json result.json

    shunter eval --scenario s.yaml --real --duration 10m --chaos kill=0.05,hang=0.01 --hang-after 5s
    """
    console = Console()
    loaded = load_scenario(scenario)
    if engine is not None:
        engine_entry(engine, field="--engine")
        loaded = loaded.model_copy(update={"engine": engine})
    given = policy or list(POLICIES)
    policies = [make_policy(name) for name in given]
    names = [p.name for p in policies]
    if len(set(names)) < len(names):
        raise InputError("--policy", "name each policy once", names)
    chosen = seed_list(seeds)
    folder = free_folder(out, overwrite=overwrite)
    limit_s = None if duration is None else seconds("--duration", duration)
    if limit_s is not None:
        loaded = with_duration(loaded, limit_s)
    how = real_options(loaded, real=real, python=python, hang_after=hang_after, chaos=chaos)
    predicts = load_performance(loaded, performance_of(scenario, performance))
    world = make_world(loaded, predicts)
    for one in policies:
        for line in distance_from_training(one, world):
            say(console, f"warning: {one.name} is beyond its training: {line}")
    worlds = [world.at_load(one) for one in dict.fromkeys(load or ())] or [world]
    if repeats > 1 and not real:
        raise InputError("--repeats", "come with --real: simulation repeats itself exactly", repeats)
    if real:
        check_binding(world)
    if limit_s is not None:
        for at in worlds:
            check_duration(at, chosen, limit_s)
    folders = [folder if len(worlds) == 1 else folder / f"load-{w.scenario.workload.load:g}" for w in worlds]
    for at, place in zip(worlds, folders, strict=True):
        with ExitStack() as stack:
            engines = stack.enter_context(open_engines(at, **how)) if real else None
            if engines is not None:
                bind_footprints(at, engines)  # before anything is written: a device may be too small
            made = provenance(predicts, capabilities_of(at, engines or ()))
            runner = stack.enter_context(open_runner(ray))
            report = stack.enter_context(progress(console))
            evaluation = evaluate(
                at, policies, chosen, engines=engines, repeats=repeats, on_progress=report, runner=runner
            )
        if not evaluation.simulated:
            raise KeyboardInterrupt
        sources = dict(zip(names, given, strict=True))
        results = _keep(console, evaluation, place, performance=predicts, provenance=made, sources=sources)
        say_lost(console, runner)
        if evaluation.interrupted:
            say(console, "Interrupted: only complete runs are counted.")
            raise typer.Exit(130)
        if evaluation.broken is not None:
            raise evaluation.broken
    if len(worlds) > 1:
        results = _keep_loads(console, folders, folder)
    if json_path is not None:
        shutil.copyfile(results, json_path)


def _keep(console: Console, evaluation: Evaluation, out: Path, **more: Any) -> Path:
    """Writes, logs and prints one evaluation; returns its results."""
    name = evaluation.world.scenario.name
    files = save_evaluation(evaluation, out, title=f"shunter eval: {name}", **more)
    with tracking("eval", name) as tracker:
        log_evaluation(tracker, files)
    show(console, evaluation)
    paths = f"report: {files['report']}\nevents: {files['events']}"
    say(console, f"{paths}\nMLflow: {tracker.uri} run {tracker.run_id}")
    return files["results"]


def _keep_loads(console: Console, folders: list[Path], out: Path) -> Path:
    """Sets the evaluations of several loads beside each other; returns the results."""
    comparison = compare([read_evaluation(str(folder)) for folder in folders])
    lines = load_words(comparison)
    page = write_comparison(comparison, out / "report.html", title="shunter eval: several loads", lines=lines)
    say(console, f"loads beside each other: {page}")
    return write_json(out / "results.json", finite(comparison.to_dict()))


def show(console: Console, evaluation: Evaluation) -> None:
    """Prints the tables and the verdict."""
    result = evaluation.to_dict()
    console.print(results_table(result, "simulated", f"Simulated, {len(evaluation.seeds)} workload seeds"))
    if evaluation.real:
        console.print(results_table(result, "real", "Real"))
        for table in fidelity_tables(result, statistics=("mean", "p90", "p99")):
            console.print(table.to_rich())
    for line in (*verdict(result), *fidelity_verdict(result), *execution_lines(result)):
        say(console, line)


def results_table(result: dict[str, Any], kind: str, title: str) -> Table:
    """A column for each policy: its metrics in one world, and the paired change against the first."""
    rows = {name: policy[kind] for name, policy in result["policies"].items() if kind in policy}
    table = Table(title=title)
    table.add_column("")
    for name in rows:
        table.add_column(name, justify="right")
    for metric, text in result["metrics"].items():
        table.add_row(text, *(format_metric(metric, row[metric]) for row in rows.values()))
    table.add_section()
    changes = [change_text(row["response_change"]).replace(" ", "\n", 1) for row in rows.values()]
    table.add_row(f"mean response against\n{result['changes_against']}, 95 % interval", *changes)
    return table
