"""Searches heuristics' parameters: the same budget of trials and the same requests for every policy."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np

from shunter.agents.parameters import Heuristic
from shunter.envs.observation.features import FEATURES_VERSION
from shunter.envs.world.world import World, with_absolute_paths
from shunter.eval.execution.batched import evaluate_batched
from shunter.jobs import Report, Runner
from shunter.train.tune.search import OnTrial, ParameterSearch, Tuned, search_all

__all__ = ["Tuned", "task_digest", "tune", "tune_all"]

LOOKS = 3
"""How often it is asked whether a trial is worth going on with: seeds in between run side by side."""

MANY_WORLDS = 12
"""From as many on, what lies between two looks is some worlds with all seeds, not all worlds with some."""

ROUND = 8
"""Trials of one policy that are drawn together."""

FEWEST_PAIRS = 4
"""Pairs of seed and world that a trial is judged on at least."""

PRUNE_P = 0.1
"""A trial is given up once a signed-rank test over pairs says that it is worse than the best so far."""


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
    on_trial: Callable[[int, float], None] | None = None,
) -> Tuned:
    """Searches one policy's parameters; see ``tune_all``."""

    def report(name: str, done: int, best: float) -> None:
        if on_trial is not None:
            on_trial(done, best)

    return tune_all([policy], worlds, seeds, trials, storage=storage, on_trial=report)[policy.name]


def tune_all(
    policies: Sequence[type[Heuristic]],
    worlds: Sequence[World],
    seeds: Sequence[int],
    trials: int,
    *,
    storage: str | Path | None = None,
    runner: Runner | None = None,
    on_trial: OnTrial | None = None,
) -> dict[str, Tuned]:
    """Searches policies' parameters for the lowest geometric mean over worlds and seeds of the mean response.

    Args:
        policies: Classes of heuristics; one without parameters is only scored.
        worlds: Worlds to be good in.
        seeds: Seeds of the workloads, the same in every trial: none that is evaluated on later.
        trials: Number of trials of each policy, finished and pruned ones, those found in the storage
            included.
        storage: A journal file that a search killed at any time goes on from; None: in memory.
        runner: Where trials run; by default here.
        on_trial: Called with the search's name, its trials done and its best score so far.

    Raises:
        InputError: The storage holds a search over other worlds, seeds or features.
        BrokenFileError: The storage is no journal.
        ShunterError: Optuna is not installed.
    """
    digest = task_digest(worlds, seeds)
    searches = [_search(policy, digest) for policy in policies]
    shared = ([with_absolute_paths(world) for world in worlds], list(seeds))
    return search_all(searches, trials, _score, shared, runner=runner, storage=storage, on_trial=on_trial)


def _search(policy: type[Heuristic], digest: str) -> ParameterSearch:
    def make(parameters: Any) -> tuple[str, Heuristic]:
        made = policy(**parameters)
        return made.name, made

    defaults = {f.name: f.default for f in fields(policy) if f.name in policy.space()}
    return ParameterSearch(policy.name, policy.space(), defaults, make, digest, _pruner, ROUND)


def _pruner() -> Any:
    from optuna.pruners import WilcoxonPruner

    return WilcoxonPruner(p_threshold=PRUNE_P, n_startup_steps=FEWEST_PAIRS)


def _score(shared: tuple[list[World], list[int]], report: Report, policy: Heuristic) -> float | None:
    """Mean of the pairs' logarithms; None where the pairs so far are clearly worse than the best's."""
    values: list[float] = []
    looks = _looks(*shared)
    for number, (worlds, seeds) in enumerate(looks):
        new = log_responses(policy, worlds, seeds)
        hopeless = report(list(enumerate(new, start=len(values))))
        values += new
        if hopeless and number < len(looks) - 1:
            return None
    return float(np.mean(values))


def _looks(worlds: Sequence[World], seeds: Sequence[int]) -> list[tuple[Sequence[World], Sequence[int]]]:
    """What is run between looks: seeds side by side cost little more than one, so many worlds are split."""
    if len(worlds) < MANY_WORLDS:
        block = -(-len(seeds) // LOOKS)
        return [(worlds, seeds[first : first + block]) for first in range(0, len(seeds), block)]
    order = np.random.default_rng(0).permutation(len(worlds))
    return [([worlds[i] for i in part], seeds) for part in np.array_split(order, LOOKS)]


def task_digest(worlds: Sequence[World], seeds: Sequence[int]) -> str:
    """What a search is over: two with the same digest can go on from each other."""
    digest = hashlib.sha256(json.dumps([FEATURES_VERSION, list(seeds)]).encode())
    for world in worlds:
        digest.update(world.content())
    return digest.hexdigest()
