"""Searches a training's hyperparameters: every trial trains a policy; hopeless ones are given up early."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from shunter.agents.parameters import Number, Space
from shunter.envs.world.world import World, with_absolute_paths
from shunter.jobs import Report, Runner
from shunter.train.algorithms import check_installed, train_policy
from shunter.train.result import Curve
from shunter.train.settings import EvolutionSettings, PpoSettings, TrainSettings, plain
from shunter.train.tune.heuristic import task_digest
from shunter.train.tune.search import OnTrial, ParameterSearch, Tuned, search_all

__all__ = ["tune_training"]

TRAINING_SPACES: dict[type[TrainSettings], Space] = {
    EvolutionSettings: {
        "learning_rate": Number(0.01, 0.1, log=True),
        "sigma": Number(0.02, 0.2, log=True),
        "pairs": Number(6, 48, whole=True),
        "episodes": Number(2, 12, whole=True),
        "averaging": Number(0.8, 0.98),
    },
    PpoSettings: {
        "learning_rate": Number(1e-4, 3e-3, log=True),
        "time_constant": Number(100.0, 2000.0, log=True),
        "credit_constant": Number(5.0, 100.0, log=True),
        "entropy": Number(1e-4, 3e-2, log=True),
        "epochs": Number(2, 12, whole=True),
        "batch_size": Number(64, 1024, whole=True),
    },
}
"""What is searched of each algorithm's settings; none of it changes when validations are made."""

ROUND = 4
"""Trials that are drawn together."""

FEWEST_TRIALS = 4
"""Complete trials that a trial's validations are set beside at least."""

FEWEST_VALIDATIONS = 2
"""Validations, the untrained policy's apart, that every trial gets."""


class _GivenUpError(Exception):
    pass


@dataclass(frozen=True)
class Shared:
    """What all trainings of a search share.

    Attributes:
        worlds: Worlds to train in.
        validation: Worlds that they are scored in; if there are none, those to train in.
    """

    worlds: list[World]
    validation: list[World]


def tune_training(
    worlds: Sequence[World],
    settings: TrainSettings,
    trials: int,
    *,
    validation: Sequence[World] = (),
    runner: Runner | None = None,
    storage: str | Path | None = None,
    on_trial: OnTrial | None = None,
) -> Tuned:
    """Searches ``TRAINING_SPACES``; the score is the lowest validation ratio that a training reached.

    It is the lowest of many on the same validation requests, so it flatters: judge the winner on others.

    Args:
        worlds: Worlds to train in.
        settings: Everything that is not searched, and the first trial.
        trials: Number of trials, finished and pruned ones, those found in the storage included.
        validation: Worlds that trainings are scored in; by default those to train in.
        runner: Where trainings run; by default here.
        storage: A journal file that a search killed at any time goes on from; None: in memory.
        on_trial: Called with the search's name, its trials done and its best score so far.

    Raises:
        InputError: The storage holds a search over other worlds or settings.
        BrokenFileError: The storage is no journal.
        ShunterError: Optuna or torch is not installed.
    """
    check_installed(settings)
    space = TRAINING_SPACES[type(settings)]

    def make(parameters: Mapping[str, Any]) -> tuple[str, TrainSettings]:
        text = ",".join(f"{name}={value}" for name, value in parameters.items())
        return text, replace(settings, **parameters)

    shared = Shared(
        worlds=[with_absolute_paths(world) for world in worlds],
        validation=[with_absolute_paths(world) for world in validation],
    )
    others = {name: value for name, value in plain(settings).items() if name not in space}
    digest = task_digest([*worlds, *validation], ()) + json.dumps([len(worlds), others], sort_keys=True)
    search = ParameterSearch(
        name="training",
        space=space,
        defaults={name: getattr(settings, name) for name in space},
        make=make,
        digest=hashlib.sha256(digest.encode()).hexdigest(),
        pruner=_pruner,
        round=ROUND,
    )
    found = search_all(
        [search], trials, train_for_score, shared, runner=runner, storage=storage, on_trial=on_trial
    )
    return found[search.name]


def _pruner() -> Any:
    from optuna.pruners import MedianPruner

    return MedianPruner(n_startup_trials=FEWEST_TRIALS, n_warmup_steps=FEWEST_VALIDATIONS)


def train_for_score(shared: Shared, report: Report, settings: TrainSettings) -> float | None:
    """Trains for the logarithm of the lowest validation ratio; None where the training was given up.

    Each validation but the last, whose value is the result, is reported as (number, lowest so far).
    """
    known: list[Curve] = []

    def on_progress(share: float, point: Curve) -> None:
        if point.steps > 0 and point not in known:  # the untrained policy is alike in all trials
            known.append(point)
            if report([(len(known), math.log(min(p.ratio for p in known)))]):
                raise _GivenUpError

    try:
        result = train_policy(
            shared.worlds, settings, validation=shared.validation or None, on_progress=on_progress
        )
    except _GivenUpError:
        return None
    if result.interrupted:
        raise KeyboardInterrupt
    return math.log(min(point.ratio for point in result.curve))
