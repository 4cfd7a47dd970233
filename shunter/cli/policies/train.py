"""``shunter train``: a policy trained in simulation."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from shunter.agents.learned.policy import LearnedPolicy
from shunter.cli.options import (
    MOST_SEEDS,
    Performance,
    Ray,
    Verbose,
    lost_words,
    open_console,
    place,
    progress,
    say,
    say_answer,
    share,
)
from shunter.errors import InputError, UnknownNameError
from shunter.train.runs import Listener
from shunter.train.settings import (
    ALGORITHMS,
    DEFAULT_ALGORITHM,
    TrainConfig,
    TrainSettings,
    algorithm_of,
    load_config,
)
from shunter.train.train_and_save import TrainOutcome, train_and_save

_Scenarios = Annotated[
    list[str] | None,
    typer.Option(help="Scenario file or name; repeatable: one policy for all.", show_default=False),
]
_Config = Annotated[
    Path | None, typer.Option(help="Training file (YAML); see docs/training.md.", show_default=False)
]
_Loads = Annotated[
    str | None,
    typer.Option(help="Shares of capacity to train at, like 0.5,0.7,0.9.", show_default="the scenario's"),
]
_Out = Annotated[Path, typer.Option(help="Policy file to write.", callback=place("--out"))]
_Algorithm = Annotated[
    str | None, typer.Option(help=" or ".join(ALGORITHMS) + ".", show_default=DEFAULT_ALGORITHM)
]
_Minutes = Annotated[
    float | None,
    typer.Option(
        help="evolution: about how long to search each, but 20 generations at least; baselines are played "
        "before, and the comparison that is printed after, in time of their own.",
        show_default="3",
    ),
]
_Generations = Annotated[
    int | None,
    typer.Option(help="evolution: how many, whatever their time.", show_default="by --minutes"),
]
_Steps = Annotated[
    int | None,
    typer.Option(help="maskable-ppo: decisions to train for.", show_default="150000"),
]
_Seed = Annotated[int | None, typer.Option(help="Of weights, exploration and workloads.", show_default="0")]
_Seeds = Annotated[
    int,
    typer.Option(min=1, max=MOST_SEEDS, help="Trainings, with seeds from --seed on; the best is kept."),
]
_Start = Annotated[Path | None, typer.Option("--from", help="Policy file to start from.", show_default=False)]
_Specialists = Annotated[
    bool,
    typer.Option(
        "--specialists", help="A training for each scenario, then one network that does as they all do."
    ),
]
_Resume = Annotated[bool, typer.Option("--resume", help="Go on from the last checkpoints.")]
_Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace the policy file.")]


def train(
    scenario: _Scenarios = None,
    config: _Config = None,
    performance: Performance = None,
    loads: _Loads = None,
    out: _Out = Path("policy.safetensors"),
    algorithm: _Algorithm = None,
    minutes: _Minutes = None,
    generations: _Generations = None,
    steps: _Steps = None,
    seed: _Seed = None,
    seeds: _Seeds = 1,
    start: _Start = None,
    specialists: _Specialists = False,
    ray: Ray = None,
    resume: _Resume = False,
    overwrite: _Overwrite = False,
    verbose: Verbose = False,
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
    console = open_console()
    asked = _config(config, scenario, performance, loads, algorithm)
    settings = settings_given(
        asked.settings, minutes=minutes, generations=generations, steps=steps, seed=seed
    )
    begun = None if start is None else LearnedPolicy.load(start)
    with progress(console) as bar:
        outcome = train_and_save(
            asked.model_copy(update={"settings": settings}),
            out,
            seeds=seeds,
            start=begun,
            specialists=specialists,
            ray=ray,
            resume=resume,
            overwrite=overwrite,
            listener=Listener(lambda text: say(console, text), bar),
        )
    _show(console, outcome, verbose=verbose)


def _show(console: Console, outcome: TrainOutcome, *, verbose: bool) -> None:
    """Prints the answer; ends as the training ended."""
    words = list(outcome.words)
    if not outcome.complete:
        kept = "the best policy so far was kept; " if outcome.policy is not None else ""
        words.append(f"Interrupted: {kept}--resume goes on.")
    say_answer(console, [*words, *lost_words(outcome.lost)], verbose=verbose)
    for one in outcome.trained if verbose and len(outcome.trained) > 1 else ():
        say_answer(console, one.words, verbose=True)
    if not outcome.complete:
        raise typer.Exit(130)


def settings_given(settings: TrainSettings, **options: float | None) -> TrainSettings:
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
