"""``shunter eval``: policies compared, in simulation and on real engines."""

from __future__ import annotations

import json
from contextlib import ExitStack
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from shunter.agents.policy_file import distance_from_training
from shunter.agents.registry import POLICIES, make_policy
from shunter.cli.options import PERFORMANCE, performance_of, progress, say, seed_list
from shunter.envs.scenario import load_scenario
from shunter.envs.world import load_performance, make_world
from shunter.errors import InputError, UnknownNameError
from shunter.eval.evaluation import Evaluation, evaluate
from shunter.eval.event_log import write_event_logs
from shunter.eval.fidelity_tables import (
    fidelity_markdown,
    fidelity_tables,
    fidelity_verdict,
    statistics_table,
)
from shunter.eval.real import check_binding, open_engines
from shunter.eval.report import change_text, format_metric, verdict, write_report
from shunter.eval.tracking import Tracker, tracking
from shunter.profiling.engines.registry import ENGINES

__all__ = ["eval_", "results_table", "save_evaluation"]


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
        str | None, typer.Option(help="Interpreter that has the engine.", show_default=False)
    ] = None,
    out: Annotated[Path, typer.Option(help="Folder for the report and the event log.")] = Path("runs/eval"),
    json_path: Annotated[
        Path | None, typer.Option("--json", help="Also write the results here.", show_default=False)
    ] = None,
) -> None:
    """Compare policies on the same requests.

    Every policy serves the same requests; changes are paired, relative to the first policy. With --real the
    simulated figure, the real one and the error stand beside each other.

    Examples:

    shunter eval --scenario s.yaml --performance perf

    shunter eval --scenario s.yaml --policy cost-greedy --policy runs/demo/policy.safetensors --seeds 100-139

    shunter eval --scenario s.yaml --real --engine llama-cpp --seeds 2 --repeats 2 --json result.json
    """
    console = Console()
    loaded = load_scenario(scenario)
    if engine is not None:
        if engine not in ENGINES:
            raise UnknownNameError("--engine", engine, ENGINES)
        loaded = loaded.model_copy(update={"engine": engine})
    given = policy or list(POLICIES)
    policies = [make_policy(text) for text in given]
    names = [p.name for p in policies]
    if len(set(names)) < len(names):
        raise InputError("--policy", "name each policy once", names)
    chosen = seed_list(seeds)
    model = load_performance(loaded, performance_of(scenario, performance))
    world = make_world(loaded, model)
    for one in policies:
        for line in distance_from_training(one, world):
            say(console, f"warning: {one.name} is beyond its training: {line}")
    if repeats > 1 and not real:
        raise InputError("--repeats", "come with --real: simulation repeats itself exactly", repeats)
    if real:
        check_binding(world)
    with tracking("eval", loaded.name) as tracker, ExitStack() as stack:
        engines = stack.enter_context(open_engines(world, python=python)) if real else None
        report = stack.enter_context(progress(console))
        evaluation = evaluate(world, policies, chosen, engines=engines, repeats=repeats, on_progress=report)
        if evaluation.simulated:
            sources = dict(zip(names, given, strict=True))
            title = f"shunter eval: {loaded.name}"
            files = save_evaluation(evaluation, out, tracker, title=title, sources=sources)
            if evaluation.real:
                model.save(out / "performance.json")  # what shunter calibrate goes on from
    if not evaluation.simulated:
        raise KeyboardInterrupt
    if json_path is not None:
        json_path.write_text(json.dumps(evaluation.to_dict(), indent=1), encoding="utf-8")
    show(console, evaluation)
    say(
        console,
        f"report: {files['report']}\nevents: {files['events']}\nMLflow: {tracker.uri} run {tracker.run_id}",
    )
    if evaluation.interrupted:
        say(console, "Interrupted: only complete runs are counted.")
        raise typer.Exit(130)


def show(console: Console, evaluation: Evaluation) -> None:
    """Prints the tables and the verdict."""
    result = evaluation.to_dict()
    console.print(results_table(result, "simulated", f"Simulated, {len(evaluation.seeds)} workload seeds"))
    if evaluation.real:
        console.print(results_table(result, "real", "Real"))
        for table in fidelity_tables(result, statistics=("mean", "p90", "p99")):
            console.print(table.to_rich())
    console.print(statistics_table(result).to_rich())
    for line in (*verdict(result), *fidelity_verdict(result)):
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


def save_evaluation(
    evaluation: Evaluation,
    out: Path,
    tracker: Tracker,
    *,
    title: str,
    extra: list[tuple[str, str]] | None = None,
    sources: dict[str, str] | None = None,
) -> dict[str, Path]:
    """Writes report, event log and results into a folder, and logs them to MLflow.

    Args:
        evaluation: To write.
        out: The folder; made if need be.
        tracker: Of MLflow.
        title: Of the report.
        extra: Further sections of it.
        sources: What each policy was made of, as the user wrote it, by name.

    Returns:
        ``report``, ``events``, ``results`` and, of real runs, ``fidelity`` as paths.
    """
    out.mkdir(parents=True, exist_ok=True)
    files = {name: out / f"{name}.{end}" for name, end in _FILES.items()}
    result = {**evaluation.to_dict(), "sources": sources or {}}
    write_event_logs(evaluation.logs(), files["events"])
    if evaluation.real:
        files["fidelity"] = out / "fidelity.md"
        files["fidelity"].write_text(fidelity_markdown(result, title), encoding="utf-8")
    files["results"].write_text(json.dumps(result, indent=1), encoding="utf-8")
    write_report(evaluation, files["report"], title=title, extra=extra or ())
    tracker.params(
        {"scenario": result["scenario"], "seeds": result["seeds"], "policies": evaluation.policies}
    )
    tracker.metrics(result["policies"])
    if evaluation.real:
        tracker.metrics({"fidelity": evaluation.fidelity().summary()})
    for path in files.values():
        tracker.artifact(path)
    return files


_FILES = {"report": "html", "events": "parquet", "results": "json"}
