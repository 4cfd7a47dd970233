"""``shunter tune``: parameters of heuristics or of a training searched."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import pandas as pd
import typer
from rich.console import Console
from rich.table import Table

from shunter.agents.parameters import Heuristic
from shunter.agents.registry import HEURISTICS
from shunter.cli.options import (
    MOST_SEEDS,
    Json,
    Performance,
    Ray,
    Verbose,
    left_out,
    lost_words,
    open_console,
    place,
    progress,
    say,
    say_answer,
    seed_list,
)
from shunter.cli.policies.train import settings_given
from shunter.envs.scenario.library import performance_of
from shunter.envs.world.world import World, make_world
from shunter.errors import InputError, UnknownNameError
from shunter.files import finite, write_json
from shunter.jobs import Runner, open_runner
from shunter.outputs import hold
from shunter.tracking.lineage import where
from shunter.tracking.runs import check_store, now_ms, tracking
from shunter.tracking.tunings import log_tuning
from shunter.train.settings import TrainConfig, TrainSettings, load_config, plain, write_config
from shunter.train.train_and_save import worlds_of
from shunter.train.tune.heuristic import tune_all
from shunter.train.tune.search import OnTrial, Tuned
from shunter.train.tune.training import tune_training

TITLES = {
    "heuristics": ("Geometric mean of mean responses over worlds and seeds", ", s"),
    "training": ("Lowest validation response over the best heuristic's", ""),
}
"""What a score is, and its unit."""


_Scenarios = Annotated[
    list[Path] | None, typer.Option(help="Scenario file (YAML); repeatable.", show_default=False)
]
_Policies = Annotated[
    list[str] | None,
    typer.Option(help="Heuristic; repeatable. Default: all that are no oracles.", show_default=False),
]
_SEEDS = "10000-10011"
_Train = Annotated[
    Path | None,
    typer.Option(help="Training file (YAML) to search the settings of instead.", show_default=False),
]
_Minutes = Annotated[
    float | None, typer.Option(help="Of each trial of --train by evolution.", show_default="the file's")
]
_Generations = Annotated[
    int | None, typer.Option(help="Likewise, whatever their time.", show_default="the file's")
]
_Steps = Annotated[
    int | None,
    typer.Option(help="Decisions of each trial of --train by maskable-ppo.", show_default="the file's"),
]
_Out = Annotated[
    Path | None, typer.Option(help="Training file to write, with --train.", show_default="tuned.yaml")
]
_Trials = Annotated[int, typer.Option(min=1, max=MOST_SEEDS, help="For each policy, or of the training.")]
_Seeds = Annotated[
    str | None,
    typer.Option(
        help="Workload seeds of heuristics: a count, a range or a list; none that you evaluate on.",
        show_default=_SEEDS,
    ),
]
_Storage = Annotated[
    Path, typer.Option(help="Journal that a later call goes on from.", callback=place("--storage"))
]


def tune(
    scenario: _Scenarios = None,
    performance: Performance = None,
    policy: _Policies = None,
    train: _Train = None,
    minutes: _Minutes = None,
    generations: _Generations = None,
    steps: _Steps = None,
    out: _Out = None,
    trials: _Trials = 40,
    seeds: _Seeds = None,
    storage: _Storage = Path("tune.journal"),
    ray: Ray = None,
    json_path: Json = None,
    verbose: Verbose = False,
) -> None:
    """Search the parameters of heuristics, or with --train those of a training.

    Every policy gets the same number of trials on the same requests, its defaults first. What is printed last
    is what shunter eval --policy takes. A training is searched by training: trials that do worse than most at
    the same point are given up, and --out gets the file with the best settings for shunter train --config.
    A search that was interrupted goes on from the storage; with --ray it finds the same.

    Examples:

    shunter tune --scenario s.yaml --policy cost-greedy --trials 40

    shunter tune --scenario a.yaml --scenario b.yaml --storage runs/tune.journal --json tuned.json

    shunter tune --train generalist.yaml --generations 100 --trials 30 --ray auto --out tuned.yaml
    """
    console = open_console()
    if (train is None) == (scenario is None):
        raise InputError("--scenario", "be given, or --train instead", list(map(str, scenario or ())))
    lengths = {"minutes": minutes, "generations": generations, "steps": steps}
    if train is None:
        left_out("with --scenario: no training is searched", **lengths, out=out)
    else:
        left_out("with --train: its file says", performance=performance, policy=policy, seeds=seeds)
    seeds, out = seeds or _SEEDS, out or Path("tuned.yaml")
    if train is not None:
        hold("--out", out)
        if out.exists():
            raise InputError("--out", "not exist yet", str(out))
    config, begun_ms = None if train is None else load_config(train), now_ms()
    shorter = None if config is None else settings_given(config.settings, **lengths)
    asked: dict[str, Any] = {"trials": trials, "storage": str(storage)}
    worlds: list[World] = []
    check_store()
    try:
        with open_runner(ray) as runner, progress(console) as bar:
            if config is not None and shorter is not None:
                report, asked["settings"] = _reporter(bar, trials), plain(shorter)
                worlds = worlds_of(config, config.scenarios)
                results = {
                    "training": _search_training(worlds, config, shorter, trials, runner, storage, report)
                }
            else:
                asked["seeds"] = seeds
                worlds = [make_world(path, performance_of(path, performance)) for path in scenario or []]
                results = _search_heuristics(worlds, policy, seed_list(seeds), trials, runner, storage, bar)
    except KeyboardInterrupt:
        say(console, f"Interrupted: the same command goes on from {storage}.")
        if worlds:
            _track({}, worlds, asked, begun_ms, status="KILLED")
        raise typer.Exit(130) from None
    if config is not None:
        write_config(config.tuned(results["training"].parameters), out)
    if json_path is not None:
        write_json(json_path, finite({name: _plain(result) for name, result in results.items()}))
    kind = "heuristics" if config is None else "training"
    _show(console, kind, results, lost_words(runner.lost), verbose=verbose)
    _track(results, worlds, asked, begun_ms, status="FINISHED")


def _track(
    results: dict[str, Tuned], worlds: list[World], asked: dict[str, Any], begun_ms: int, *, status: str
) -> None:
    """Tells MLflow of a search, once all else is done."""
    with tracking("tune", f"tune {where(worlds)}: {asked['trials']} trials", begun_ms=begun_ms) as tracker:
        log_tuning(tracker, results, worlds, asked)
        tracker.status = status


def _show(console: Console, kind: str, results: dict[str, Tuned], lost: list[str], *, verbose: bool) -> None:
    """Prints the answer, and last what ``shunter eval --policy`` takes."""
    title, unit = TITLES[kind]
    ordered = sorted(results.values(), key=lambda one: one.score)
    best, policies = ordered[0], [one.policy for one in ordered]
    answer = (
        f"{title}: {best.score:.4g}{unit.replace(',', '')} at best, "
        f"{best.score / best.default_score - 1:+.1%} against the defaults, after {len(best.trials)} trials."
    )
    if not verbose:
        say_answer(console, [answer, *lost, *policies])
        return
    say_answer(console, [answer, *lost], verbose=True)
    console.print(tuned_table(results, title, unit))
    say_answer(console, policies, verbose=True)


def _search_heuristics(
    worlds: list[World],
    names: list[str] | None,
    seeds: list[int],
    trials: int,
    runner: Runner,
    storage: Path,
    bar: Callable[[str, int, int], None],
) -> dict[str, Tuned]:
    classes = [_known(name) for name in names or [n for n, cls in HEURISTICS.items() if not cls.oracle]]
    report = _reporter(bar, len(classes) * trials)
    return tune_all(classes, worlds, seeds, trials, storage=storage, runner=runner, on_trial=report)


def _reporter(bar: Callable[[str, int, int], None], total: int) -> OnTrial:
    done_by: dict[str, int] = {}

    def report(name: str, done: int, best: float) -> None:
        done_by[name] = done
        bar(f"{name}: {best:.3g}", sum(done_by.values()), total)

    return report


def _search_training(
    worlds: list[World],
    config: TrainConfig,
    settings: TrainSettings,
    trials: int,
    runner: Runner,
    storage: Path,
    report: OnTrial,
) -> Tuned:
    return tune_training(
        worlds,
        settings,
        trials,
        validation=worlds_of(config, config.validation),
        runner=runner,
        storage=storage,
        on_trial=report,
    )


def tuned_table(results: dict[str, Tuned], title: str, unit: str) -> Table:
    """A row for each search, the best first."""
    table = Table("policy", title=title)
    for text in (f"defaults{unit}", f"tuned{unit}", "change", "trials", "pruned"):
        table.add_column(text, justify="right")
    for name, result in sorted(results.items(), key=lambda item: item[1].score):
        change = result.score / result.default_score - 1
        pruned = int((result.trials.state == "pruned").sum())
        figures = (f"{result.default_score:.4g}", f"{result.score:.4g}", f"{change:+.1%}")
        table.add_row(name, *figures, str(len(result.trials)), str(pruned))
    return table


def _plain(result: Tuned) -> dict[str, object]:
    trials = result.trials.astype(object)
    trials = trials.where(pd.notna(trials), None)  # JSON knows no NaN
    return {**asdict(result), "trials": trials.to_dict("records")}


def _known(name: str) -> type[Heuristic]:
    if ":" in name:
        raise InputError("--policy", "be a name without parameters: these are searched", name)
    if name not in HEURISTICS:
        raise UnknownNameError("--policy", name, HEURISTICS)
    return HEURISTICS[name]
