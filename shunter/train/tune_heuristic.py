"""Searches a heuristic's parameters: the same budget of trials and the same requests for every policy."""

from __future__ import annotations

import hashlib
import json
import math
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from shunter.agents.parameters import Choice, Heuristic, rounded
from shunter.envs.features import FEATURES_VERSION
from shunter.envs.world import World
from shunter.errors import BrokenFileError, InputError, ShunterError
from shunter.eval.batched import evaluate_batched

if TYPE_CHECKING:
    import optuna

__all__ = ["Tuned", "log_responses", "task_digest", "tune"]

LOOKS = 3
"""How often it is asked whether a trial is worth going on with: seeds in between run side by side."""

MANY_WORLDS = 12
"""From as many on, what lies between two looks is some worlds with all seeds, not all worlds with some."""

FEWEST_PAIRS = 4
"""Pairs of seed and world that a trial is judged on at least."""

PRUNE_P = 0.1
"""A trial is given up once a signed-rank test over pairs says that it is worse than the best so far."""

OnTrial = Callable[[int, float], None]
"""Called with the trials done and the best score so far."""


@dataclass(frozen=True)
class Tuned:
    """What came of a search.

    Attributes:
        policy: The best parameters, as ``make_policy`` reads them.
        score: Its geometric mean over worlds and seeds of the mean response, in seconds.
        default_score: That of the default parameters, on the same requests.
        trials: One row per trial: number, policy, score (missing if pruned), state, pairs.
    """

    policy: str
    score: float
    default_score: float
    trials: pd.DataFrame


def log_responses(policy: Heuristic, worlds: Sequence[World], seeds: Sequence[int]) -> list[float]:
    """Logarithm of the mean response for each seed and world, seeds outermost.

    A request that was not served counts with the time until its episode was cut off: at least that.
    """
    table = np.zeros((len(seeds), len(worlds)))
    for w, world in enumerate(worlds):
        result = evaluate_batched(world, policy, seeds)
        for s, (requests, end_s) in enumerate(zip(result.requests, result.makespan_s, strict=True)):
            response_s = requests.finish_s.fillna(max(end_s, requests.arrival_s.max())) - requests.arrival_s
            table[s, w] = math.log(max(1e-9, float(response_s.mean())))
    return [float(x) for x in table.ravel()]


def tune(
    policy: type[Heuristic],
    worlds: Sequence[World],
    seeds: Sequence[int],
    trials: int,
    *,
    storage: str | Path | None = None,
    on_trial: OnTrial | None = None,
) -> Tuned:
    """Searches a policy's parameters; the first trial is its defaults.

    Args:
        policy: The class; one without parameters is only scored.
        worlds: To be good in.
        seeds: Of the workloads, the same in every trial: none that is evaluated on later.
        trials: Finished and pruned ones, those found in the storage included.
        storage: A journal file that a search killed at any time goes on from; None: in memory.
        on_trial: See ``OnTrial``.

    Raises:
        InputError: The storage holds a search over other worlds, seeds or features.
        BrokenFileError: The storage is no journal.
        ShunterError: Optuna is not installed.
    """
    study = _open(policy, worlds, seeds, storage)
    default = {f.name: f.default for f in fields(policy)}
    budget = trials if policy.space() else 1
    left = budget - len(_done(study))
    if left > 0 and not any(trial.params == default for trial in _done(study)):
        study.enqueue_trial(default)

    def objective(trial: optuna.Trial) -> float:
        chosen = policy(**_suggest(trial, policy))
        trial.set_user_attr("policy", chosen.name)
        known = _known_score(study, chosen.name)
        return _score(trial, chosen, worlds, seeds) if known is None else known

    def report(study: optuna.Study, trial: optuna.trial.FrozenTrial) -> None:
        if on_trial is not None:
            on_trial(len(_done(study)), math.exp(study.best_value))

    study.optimize(objective, n_trials=max(0, left), callbacks=[report])
    scores = {trial.user_attrs["policy"]: trial.value for trial in _done(study) if trial.value is not None}
    best = study.best_trial
    return Tuned(
        policy=best.user_attrs["policy"],
        score=math.exp(study.best_value),
        default_score=math.exp(scores[policy.name]),
        trials=_table(study),
    )


def _score(trial: optuna.Trial, policy: Heuristic, worlds: Sequence[World], seeds: Sequence[int]) -> float:
    """Mean of the pairs' logarithms, given up where the pairs so far are clearly worse than the best's."""
    import optuna

    values: list[float] = []
    looks = _looks(worlds, seeds)
    for number, (some, drawn) in enumerate(looks):
        for value in log_responses(policy, some, drawn):
            trial.report(value, len(values))
            values.append(value)
        if number < len(looks) - 1 and trial.should_prune():
            raise optuna.TrialPruned
    return float(np.mean(values))


def _known_score(study: optuna.Study, policy: str) -> float | None:
    """The score of an earlier trial of the same parameters: spaces of a few words are soon exhausted.

    Raises:
        optuna.TrialPruned: It was given up.
    """
    import optuna

    for trial in _done(study):
        if trial.user_attrs["policy"] == policy:
            if trial.value is None:
                raise optuna.TrialPruned
            return float(trial.value)
    return None


def _looks(worlds: Sequence[World], seeds: Sequence[int]) -> list[tuple[Sequence[World], Sequence[int]]]:
    """What is run between looks: many seeds cost little more than one, so worlds are split if many."""
    if len(worlds) < MANY_WORLDS:
        block = -(-len(seeds) // LOOKS)
        return [(worlds, seeds[first : first + block]) for first in range(0, len(seeds), block)]
    order = np.random.default_rng(0).permutation(len(worlds))
    return [([worlds[i] for i in part], seeds) for part in np.array_split(order, LOOKS)]


def _suggest(trial: optuna.Trial, policy: type[Heuristic]) -> dict[str, Any]:
    values: dict[str, Any] = {}
    for name, space in policy.space().items():
        if isinstance(space, Choice):
            values[name] = trial.suggest_categorical(name, space.options)
        elif space.whole:
            values[name] = trial.suggest_int(name, int(space.low), int(space.high))
        else:
            values[name] = rounded(trial.suggest_float(name, space.low, space.high, log=space.log))
    return values


def _open(
    policy: type[Heuristic], worlds: Sequence[World], seeds: Sequence[int], storage: str | Path | None
) -> optuna.Study:
    """The study of that policy in the storage, begun or gone on with."""
    try:
        import optuna
    except ImportError as error:
        raise ShunterError(f"tuning needs the extra: pip install 'shunter[tune]' ({error})") from None
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        pruner = optuna.pruners.WilcoxonPruner(p_threshold=PRUNE_P, n_startup_steps=FEWEST_PAIRS)
        try:
            study = optuna.create_study(
                storage=_journal(storage), study_name=policy.name, pruner=pruner, load_if_exists=True
            )
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise BrokenFileError(storage, f"no Optuna journal: {error}") from None
    # Sampled from what is known so far: a search that goes on draws other parameters than before.
    study.sampler = optuna.samplers.TPESampler(seed=len(study.trials))
    task = task_digest(worlds, seeds)
    if study.user_attrs.get("task", task) != task:
        rule = "hold a search over the same worlds, seeds and features (or be a new file)"
        raise InputError("--storage", rule, str(storage))
    study.set_user_attr("task", task)
    return study


def _journal(storage: str | Path | None) -> Any:
    if storage is None:
        return None
    from optuna.storages import JournalStorage
    from optuna.storages.journal import JournalFileBackend

    path = Path(storage)
    path.parent.mkdir(parents=True, exist_ok=True)
    return JournalStorage(JournalFileBackend(str(path)))


def _done(study: optuna.Study) -> list[Any]:
    """Trials that count: finished and pruned ones, not those that were killed."""
    return [trial for trial in study.trials if trial.state.name in ("COMPLETE", "PRUNED")]


def _table(study: optuna.Study) -> pd.DataFrame:
    rows = [
        {
            "number": trial.number,
            "policy": trial.user_attrs["policy"],
            "score": math.exp(trial.value) if trial.state.name == "COMPLETE" else math.nan,
            "state": trial.state.name.lower(),
            "pairs": len(trial.intermediate_values),
        }
        for trial in _done(study)
    ]
    return pd.DataFrame(rows)


def task_digest(worlds: Sequence[World], seeds: Sequence[int]) -> str:
    """What a search is over: two with the same digest can go on from each other."""
    digest = hashlib.sha256(json.dumps([FEATURES_VERSION, list(seeds)]).encode())
    for world in worlds:
        digest.update(world.scenario.model_dump_json().encode())
        digest.update(repr(world.rate_per_s).encode())
        for table in world.tables:
            digest.update(np.ascontiguousarray(table).tobytes())
    return digest.hexdigest()
