"""``shunter train``: a policy trained in simulation."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from shunter.agents.learned.policy import LearnedPolicy
from shunter.cli.options import PERFORMANCE, RAY, performance_of, say, say_lost, share
from shunter.cli.train_run import Run, are_complete, checkpoint_of, say_added, train_and_save
from shunter.cli.train_specialists import train_specialists
from shunter.envs.scenario.scenario import load_scenario
from shunter.envs.world.world import World, make_world
from shunter.errors import InputError, UnknownNameError
from shunter.jobs import Runner, open_runner
from shunter.train.random_scenarios import random_worlds
from shunter.train.settings import (
    ALGORITHMS,
    DEFAULT_ALGORITHM,
    DistillSettings,
    TrainConfig,
    TrainSettings,
    algorithm_of,
    load_config,
    shortened,
)

__all__ = ["told", "train", "worlds_of"]


def train(
    scenario: Annotated[
        list[str] | None,
        typer.Option(help="Scenario file or name; repeatable: one policy for all.", show_default=False),
    ] = None,
    config: Annotated[
        Path | None, typer.Option(help="Training file (YAML); see docs/training.md.", show_default=False)
    ] = None,
    performance: Annotated[Path | None, typer.Option(help=PERFORMANCE, show_default=False)] = None,
    loads: Annotated[
        str | None,
        typer.Option(help="Shares of capacity to train at, like 0.5,0.7,0.9.", show_default="the scenario's"),
    ] = None,
    out: Annotated[Path, typer.Option(help="Policy file to write.")] = Path("policy.safetensors"),
    algorithm: Annotated[
        str | None, typer.Option(help=" or ".join(ALGORITHMS) + ".", show_default=DEFAULT_ALGORITHM)
    ] = None,
    minutes: Annotated[
        float | None,
        typer.Option(help="evolution: about how long to search each.", show_default="3"),
    ] = None,
    generations: Annotated[
        int | None,
        typer.Option(help="evolution: how many, whatever their time.", show_default="by --minutes"),
    ] = None,
    steps: Annotated[
        int | None,
        typer.Option(help="maskable-ppo: decisions to train for.", show_default="150000"),
    ] = None,
    seed: Annotated[
        int | None, typer.Option(help="Of weights, exploration and workloads.", show_default="0")
    ] = None,
    seeds: Annotated[
        int, typer.Option(min=1, help="Trainings, with seeds from --seed on; the best is kept.")
    ] = 1,
    start: Annotated[
        Path | None, typer.Option("--from", help="Policy file to start from.", show_default=False)
    ] = None,
    specialists: Annotated[
        bool,
        typer.Option(
            "--specialists", help="A training for each scenario, then one network that does as they all do."
        ),
    ] = False,
    ray: Annotated[str | None, typer.Option(help=RAY, show_default=False)] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on from the last checkpoints.")] = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace the policy file.")] = False,
) -> None:
    """Train a policy for scenarios: in three minutes one for your own box.

    By default its numbers are searched directly (evolution strategies): variants play whole episodes on the
    same requests, so that only what they decide tells. maskable-ppo learns from single decisions instead.
    Progress shows what it costs over what the best heuristic does, on validation requests that it does not
    train on; the numbers with the lowest ratio are kept, also after Ctrl-C. A checkpoint is written at every
    validation: --resume goes on from it as if nothing had happened, and trains nothing again that is
    finished. With --ray the trainings of --seeds and --specialists run side by side on a cluster.

    Many scenarios at once are learned better with --specialists: each has a policy of its own in a folder
    beside the one network that is taught what they decide.

    Examples:

    shunter train --scenario s.yaml --performance perf --out policy.safetensors

    shunter train --scenario paper-a6000 --scenario two-gpu-unequal --loads 0.5,0.7,0.9 --minutes 20

    shunter train --config generalist.yaml --out generalist.safetensors --specialists --ray local

    shunter train --scenario s.yaml --from generalist.safetensors --algorithm maskable-ppo --steps 200000
    """
    console = Console()
    asked = _config(config, scenario, performance, loads, algorithm)
    settings = told(asked.settings, minutes=minutes, generations=generations, steps=steps, seed=seed)
    begun = None if start is None else LearnedPolicy.load(start)
    if specialists or asked.distill is not None:
        if seeds > 1:
            raise InputError("--seeds", "be 1 with specialists", seeds)
        _refuse_leftovers(out, [out, out.with_suffix("")], resume, overwrite)
        runs, taught = _specialists(asked, settings, out.with_suffix("")), asked.distill or DistillSettings()
        with open_runner(ray) as runner:
            complete = train_specialists(
                console, runs, taught, out, start=begun, resume=resume, runner=runner
            )
        _end(console, runner, complete=complete, kept=False)
        return
    worlds, validation = worlds_of(asked, asked.scenarios), worlds_of(asked, asked.validation)
    if asked.random:
        validation = validation or worlds
        loads_drawn = asked.loads or [0.7]
        for number in range(asked.random):
            worlds = worlds + random_worlds(number, [loads_drawn[number % len(loads_drawn)]])
    runs = []
    for number in range(seeds):
        one = out if seeds == 1 else out.with_name(f"{out.stem}-{settings.seed + number}{out.suffix}")
        runs.append(Run(one, replace(settings, seed=settings.seed + number), worlds, validation))
    _refuse_leftovers(out, [run.out for run in runs], resume, overwrite)
    with open_runner(ray) as runner:
        trained = train_and_save(console, runs, start=begun, resume=resume, runner=runner)
    if seeds > 1 and trained:
        best = min(trained, key=lambda one: one.ratio)
        best.policy.save(out)
        ratios = ", ".join(f"{one.ratio:.3f}" for one in trained)
        say_added(console, best.policy)
        say(console, f"{out}: the best of {len(trained)} seeds ({ratios})")
    _end(console, runner, complete=are_complete(trained, runs), kept=bool(trained))


def _end(console: Console, runner: Runner, *, complete: bool, kept: bool) -> None:
    say_lost(console, runner)
    if not complete:
        say(console, f"Interrupted: {'the best policy so far was kept; ' if kept else ''}--resume goes on.")
        raise typer.Exit(130)


def _specialists(config: TrainConfig, settings: TrainSettings, folder: Path) -> list[Run]:
    """A training for each scenario.

    Raises:
        InputError: Two have one name, or there are scenarios for validation alone.
    """
    if config.validation:
        raise InputError("validation", "be empty with specialists", config.validation)
    scenarios = [worlds_of(config, [name]) for name in config.scenarios]
    drawn = [random_worlds(number, config.loads or [0.7]) for number in range(config.random)]
    shorter = shortened(settings, config.random_share)
    asked = [(worlds, settings) for worlds in scenarios] + [(worlds, shorter) for worlds in drawn]
    names = Counter(worlds[0].scenario.name for worlds, _ in asked)
    if max(names.values()) > 1:
        raise InputError("scenarios", "differ in their names", names.most_common(1)[0][0])
    return [Run(folder / f"{worlds[0].scenario.name}.safetensors", own, worlds) for worlds, own in asked]


def told(settings: TrainSettings, **options: float | None) -> TrainSettings:
    """The settings with what was given on the command line.

    Raises:
        InputError: The algorithm has no such setting, or it breaks its rule.
    """
    given = {name: value for name, value in options.items() if value is not None}
    for name, value in given.items():
        if not hasattr(settings, name):
            raise InputError(f"--{name}", f"be left out for {algorithm_of(settings)}, which has none", value)
        if name != "seed" and not value > 0:
            raise InputError(f"--{name}", "be greater than 0", value)
    if "minutes" in given and "generations" in given:
        raise InputError("--minutes", "be left out where --generations is given", given["minutes"])
    if "minutes" in given:
        given["generations"] = 0
    changed: TrainSettings = replace(settings, **given)  # type: ignore[arg-type]
    return changed


def _config(
    file: Path | None,
    scenarios: list[str] | None,
    performance: Path | None,
    loads: str | None,
    algorithm: str | None,
) -> TrainConfig:
    if (file is None) == (scenarios is None):
        raise InputError("--scenario", "be given, or --config instead", scenarios)
    if algorithm is not None and algorithm not in ALGORITHMS:
        raise UnknownNameError("--algorithm", algorithm, ALGORITHMS)
    named = {"scenarios": scenarios, "algorithm": algorithm or DEFAULT_ALGORITHM}
    config = TrainConfig.model_validate(named) if file is None else load_config(file)
    if algorithm not in (None, config.algorithm):
        raise InputError("--algorithm", f"be that of the file, {config.algorithm}, or left out", algorithm)
    changes: dict[str, object] = {}
    if performance is not None:
        changes["performance"] = str(performance)
    if loads is not None:
        changes["loads"] = [share("--loads", part) for part in loads.split(",")]
    return config.model_copy(update=changes)


def worlds_of(config: TrainConfig, names: list[str]) -> list[World]:
    """The worlds of some of a training file's scenarios, at each of its loads."""
    worlds = []
    for name in names:
        given = None if config.performance is None else Path(config.performance)
        scenario = load_scenario(name)
        if config.objective is not None:
            objective = scenario.objective.model_copy(update={"metric": config.objective})
            scenario = scenario.model_copy(update={"objective": objective})
        world = make_world(scenario, performance_of(Path(name), given))
        rates = [world.rate_per_s] if not config.loads else [world.rate_at(load) for load in config.loads]
        worlds += [world.at_rate(rate) for rate in rates]
    return worlds


def _refuse_leftovers(out: Path, paths: Sequence[Path], resume: bool, overwrite: bool) -> None:
    if resume:
        return
    for path in dict.fromkeys((out, *paths)):
        if path.exists() and not overwrite:
            raise InputError("--out", "not exist yet (or give --overwrite)", str(path))
        checkpoint = checkpoint_of(path)
        if checkpoint.exists():
            rule = f"be given where an unfinished training left {checkpoint} (or delete that)"
            raise InputError("--resume", rule, resume)
