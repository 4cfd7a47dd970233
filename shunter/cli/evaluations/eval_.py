"""``shunter eval``: policies compared, in simulation and on real engines."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from shunter.agents.registry import DEFAULT_POLICIES
from shunter.cli.options import (
    MOST_SEEDS,
    Performance,
    QuietMachine,
    Ray,
    Verbose,
    free_folder,
    lost_words,
    open_console,
    place,
    progress,
    say_answer,
    seconds,
    seed_list,
)
from shunter.engines.registry import ENGINES
from shunter.envs.world.world import load_note, sleep_note
from shunter.errors import InputError
from shunter.eval.asked import prepare
from shunter.eval.evaluate_and_save import RealRuns, SavedEvaluations, evaluate_and_save
from shunter.eval.evaluation import Evaluation
from shunter.eval.execution.device_executor import Deadline
from shunter.eval.execution.faults.chaos import parse_chaos
from shunter.eval.execution.faults.failure_log import execution_lines
from shunter.eval.fidelity.machine_words import machine_lines
from shunter.eval.fidelity.tables import fidelity_tables, fidelity_verdict
from shunter.eval.metrics.changes import RESOLUTION
from shunter.eval.planning import plan_runs
from shunter.report.compare import load_words
from shunter.report.words import change_text, format_metric, verdict

_Scenario = Annotated[Path, typer.Option(help="Scenario file (YAML), or a name of the library.")]
_Policies = Annotated[
    list[str] | None,
    typer.Option(
        help="Name, policy file, shipped, module:Class or model of Stable-Baselines3 (.zip), as NAME=POLICY "
        "under a name of your own; repeatable. Default: three common heuristics.",
        show_default=False,
    ),
]
_Unpickle = Annotated[
    bool,
    typer.Option("--unpickle", help="Load policies that are pickles: they run what their author wrote."),
]
_Seeds = Annotated[str, typer.Option(help="Workload seeds: a count, a range or a list.")]
_Real = Annotated[bool, typer.Option("--real", help="Run on the real engine too.")]
_Loads = Annotated[
    list[float] | None,
    typer.Option(
        min=0.01, help="Instead of the scenario's; repeatable, for load curves.", show_default=False
    ),
]
_Repeats = Annotated[
    int,
    typer.Option(
        min=1,
        max=MOST_SEEDS,
        help="Real runs of each policy and seed: two or more say how far reality is from itself.",
    ),
]
_Plan = Annotated[
    bool,
    typer.Option("--plan", help="With --real: say how many runs tell policies apart, and make none."),
]
_Resolution = Annotated[
    float | None,
    typer.Option(
        min=0.01,
        max=1.0,
        help="With --plan: the difference of mean responses to find. Default: 0.1, 10 %.",
        show_default=False,
    ),
]
_Follow = Annotated[
    bool,
    typer.Option(
        "--follow",
        help="With --real or --slowdowns: predicted durations follow how fast the machine is, also those "
        "that policies see.",
    ),
]
_Slowdowns = Annotated[
    Path | None,
    typer.Option(
        help="Folder or results.json of an evaluation with --real: simulate a machine that is as slow, when, "
        "as that one was.",
        show_default=False,
    ),
]
_Engine = Annotated[
    str | None,
    typer.Option(help="Instead of the scenario's: " + ", ".join(ENGINES) + ".", show_default=False),
]
_Python = Annotated[
    list[str] | None,
    typer.Option(
        help="Interpreter that has the engine, or ENGINE=INTERPRETER; repeatable.", show_default=False
    ),
]
_Duration = Annotated[
    str | None,
    typer.Option(
        help="Time that one run may take, like 10m: requests that arrive for longer are refused, what is "
        "still going then is cut off.",
        show_default=False,
    ),
]
_HangAfter = Annotated[
    str,
    typer.Option(
        help="With --real: a call that takes longer than this, and than 20 times what was predicted, is "
        "taken for hung; its engine is started again."
    ),
]
_Chaos = Annotated[
    str | None,
    typer.Option(
        help="With --real: kill or stop engines on purpose, with these probabilities per operation: "
        "kill=0.05,hang=0.01.",
        show_default=False,
    ),
]
_Out = Annotated[
    Path | None,
    typer.Option(
        help="Folder for the report and the event log. Default: runs/eval, with a number if it is there.",
        show_default=False,
    ),
]
_Overwrite = Annotated[bool, typer.Option("--overwrite", help="Write over what is in --out.")]
_Json = Annotated[
    Path | None,
    typer.Option(
        "--json",
        callback=place("--json", make=False, held=True),
        help="Also write the results here.",
        show_default=False,
    ),
]


def eval_(
    scenario: _Scenario,
    performance: Performance = None,
    policy: _Policies = None,
    unpickle: _Unpickle = False,
    seeds: _Seeds = "20",
    real: _Real = False,
    load: _Loads = None,
    repeats: _Repeats = 1,
    plan: _Plan = False,
    resolution: _Resolution = None,
    follow: _Follow = False,
    slowdowns: _Slowdowns = None,
    quiet_machine: QuietMachine = None,
    engine: _Engine = None,
    python: _Python = None,
    ray: Ray = None,
    duration: _Duration = None,
    hang_after: _HangAfter = "30s",
    chaos: _Chaos = None,
    out: _Out = None,
    overwrite: _Overwrite = False,
    json_path: _Json = None,
    verbose: Verbose = False,
) -> None:
    """Compare policies on the same requests.

    Every policy serves the same requests; changes are paired, relative to the first policy. With --real the
    simulated figure, the real one and the error stand beside each other. Several loads get a folder each,
    and a page that compares them. With --ray simulations run on a cluster and give the same figures; real
    runs stay here.

    Examples:

    shunter eval --scenario s.yaml --performance perf

    shunter eval --scenario s.yaml --load 0.5 --load 0.7 --load 0.9 --out runs/loads

    shunter eval --scenario s.yaml --policy cost-greedy --policy mine=runs/demo/policy.safetensors

    shunter eval --scenario s.yaml --real --engine llama-cpp --seeds 2 --repeats 2 --json result.json

    shunter eval --scenario s.yaml --real --plan --resolution 0.05

    shunter eval --scenario s.yaml --real --seeds 6 --quiet-machine wait --follow

    shunter eval --scenario s.yaml --slowdowns runs/eval --follow

    shunter eval --scenario s.yaml --real --duration 10m --chaos kill=0.05,hang=0.01 --hang-after 5s
    """
    console = open_console()
    how = _real_runs(real, repeats, python or (), hang_after, chaos, quiet_machine)
    asked: dict[str, Any] = {
        "policies": policy or tuple(DEFAULT_POLICIES),
        "seeds": seed_list(seeds),
        "performance": performance,
        "engine": engine,
        "loads": load or (),
        "duration_s": None if duration is None else seconds("--duration", duration),
        "unpickle": unpickle,
    }
    machine: dict[str, Any] = {"real": how, "slowdowns": slowdowns, "follow": follow}
    if plan or resolution is not None:
        _say_plan(console, scenario, asked, out, resolution, plan=plan, real=real)
        return
    with progress(console) as report:
        folder = free_folder(out, overwrite=overwrite)
        more: dict[str, Any] = {"ray": ray, "json_path": json_path, "on_progress": report}
        done = evaluate_and_save(scenario, out=folder, **asked, **machine, **more)
    _show(console, done, verbose=verbose)


def _say_plan(
    console: Console,
    scenario: Path,
    asked: dict[str, Any],
    out: Path | None,
    resolution: float | None,
    *,
    plan: bool,
    real: bool,
) -> None:
    if not plan:
        raise InputError("--resolution", "come with --plan", resolution)
    if not real:
        raise InputError("--plan", "come with --real: simulation repeats itself exactly", plan)
    made = prepare(scenario, **asked)
    reports = Path("runs") if out is None else out.parent
    for world in made.worlds:
        at = f"At {world.rate_per_s:.4g} requests/s. " if len(made.worlds) > 1 else ""
        first, *others = plan_runs(
            world, made.policies, reports, resolution=RESOLUTION if resolution is None else resolution
        ).words()
        say_answer(console, [at + first, *others], [])


def _real_runs(
    real: bool,
    repeats: int,
    python: Sequence[str],
    hang_after: str,
    chaos: str | None,
    quiet: str | None,
) -> RealRuns | None:
    if chaos is not None and not real:
        raise InputError("--chaos", "be given with --real: the simulator's engines never fail", chaos)
    if repeats > 1 and not real:
        raise InputError("--repeats", "come with --real: simulation repeats itself exactly", repeats)
    if quiet is not None and not real:
        raise InputError("--quiet-machine", "come with --real: simulation does not mind", quiet)
    deadline = Deadline(least_s=seconds("--hang-after", hang_after))
    strikes = None if chaos is None else parse_chaos(chaos)
    return RealRuns(tuple(python), deadline, strikes, repeats, quiet) if real else None


def _show(console: Console, done: SavedEvaluations, *, verbose: bool) -> None:
    """Prints the answer and where the page is; ends as the evaluation ended."""
    if done.comparison is not None:
        found, pages = load_words(done.comparison), [f"loads beside each other: {done.page}"]
        pages += [] if done.tracker is None else [done.tracker.words]
    else:
        last = done.saved[-1]
        found = findings(last.evaluation.to_dict())
        pages = [f"report: {last.files['report']}", last.tracker.words]
    warnings = [f"warning: {line}" for line in done.warnings]
    world = done.saved[0].evaluation.world  # of several loads they hold for all
    notes = [f"note: {said}" for said in (load_note(world), sleep_note(world)) if said is not None]
    say_answer(console, [*found, *lost_words(done.lost), *warnings, *notes], pages, verbose=verbose)
    for one in done.saved if verbose else ():
        show_tables(console, one.evaluation)
        say_answer(console, [f"{name}: {path}" for name, path in one.files.items()], verbose=True)
    if done.interrupted:
        raise typer.Exit(130)
    if done.saved[-1].evaluation.broken is not None:
        raise done.saved[-1].evaluation.broken


def findings(result: dict[str, Any]) -> list[str]:
    """What came of an evaluation in words, the answer first and details last.

    Args:
        result: From ``Evaluation.to_dict``.
    """
    lines = [*machine_lines(result), *verdict(result), *fidelity_verdict(result), *execution_lines(result)]
    return sorted(lines, key=lambda line: line.startswith(("Note: ", "Given up: ")))


def show_tables(console: Console, evaluation: Evaluation) -> None:
    """Prints the figures of an evaluation, and how far simulation is from reality."""
    result = evaluation.to_dict()
    console.print(results_table(result, "simulated", f"Simulated, {len(evaluation.seeds)} workload seeds"))
    if evaluation.real:
        console.print(results_table(result, "real", "Real"))
        for table in fidelity_tables(result, statistics=("mean", "p90", "p99")):
            console.print(table.to_rich())


def results_table(result: dict[str, Any], kind: str, title: str) -> Table:
    """A column for each policy: its metrics in one mode, and the paired change against the first."""
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
