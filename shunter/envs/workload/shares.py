"""Which share of a scenario's requests asks for each of its models: what everything else goes by."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from shunter.envs.scenario.model import Model
from shunter.envs.scenario.scenario import Scenario
from shunter.envs.scenario.workload import Sessions, Workload
from shunter.envs.workload.replay import models_by_row
from shunter.errors import InputError

__all__ = ["popularity", "shares_of"]

Floats = NDArray[np.float64]

_GRID = np.linspace(-45.0, 45.0, 1801)
"""Logarithms of the times that ``_by_place`` sums over: exact to some 1e-13 for shares down to 1e-15."""


@lru_cache(256)
def popularity(models: int, zipf: float) -> Floats:
    """Share of requests of each model, shape (models,): the k-th in proportion to k to the minus zipf."""
    weights = np.arange(1, models + 1, dtype=np.float64) ** -zipf
    shares = np.asarray(weights / weights.sum())
    shares.setflags(write=False)  # the same array for everybody who asks
    return shares


def shares_of(scenario: Scenario) -> Floats:
    """The share of a scenario's requests that ask for each of its models.

    Where a replayed trace names models, their shares of its requests; those that name none are drawn, as all
    are of other workloads: by the models' weights, else by popularity. Sessions draw so which models they
    alternate between, so that a popular one is not asked for more often than any session can. With drift, as
    an episode begins; of sessions, as many as end.

    Returns:
        Shape (models,), the sum is 1; 0 for a model that a trace never asks for.

    Raises:
        InputError: A trace is missing or broken, or sessions want more models than there are.
        UnknownNameError: A trace asks for a model that the scenario lacks.
    """
    workload = scenario.workload
    drawn = drawn_shares(scenario.models, workload)
    if workload.sessions is not None:
        check_sessions(workload.sessions, len(drawn))
        return _of_sessions(tuple(drawn.tolist()), workload.sessions.models, workload.sessions.turns)
    rows = models_by_row(workload, scenario.models)
    if rows is None:
        return drawn
    named = np.bincount(rows[rows >= 0], minlength=len(drawn))
    return np.asarray((named + (rows < 0).sum() * drawn) / len(rows))


def drawn_shares(models: Sequence[Model], workload: Workload) -> Floats:
    """By the models' weights, else by popularity: how models are drawn that no trace names."""
    weights = [model.weight for model in models if model.weight is not None]
    if not weights:
        return popularity(len(models), workload.popularity_zipf)
    return np.array(weights) / sum(weights)


def check_sessions(sessions: Sessions, models: int) -> None:
    """Checks that there are as many models as a session alternates between.

    Raises:
        InputError: There are not.
    """
    if sessions.models > models:
        raise InputError("workload.sessions.models", f"be at most {models} models", sessions.models)


@lru_cache(256)
def _of_sessions(drawn: tuple[float, ...], models: int, turns: int) -> Floats:
    """Shares where each session draws different models, one after another, and takes turns with them."""
    turns_by_place = np.bincount(np.arange(turns) % models)
    shares = np.asarray(_by_place(np.array(drawn), len(turns_by_place)) @ turns_by_place / turns)
    shares.setflags(write=False)
    return shares


def _by_place(shares: Floats, places: int) -> Floats:
    """Probability of each model at each place of a draw without replacement, shape (models, places).

    Drawing so is a race of exponential clocks, each as fast as its share: a model is at place k if k others
    were faster. That is summed over the model's time, on a logarithmic grid, where the sum of a smooth
    function that vanishes at both ends is its integral to many digits.

    Source: Yellott, 1977, The relationship between Luce's choice axiom, Thurstone's theory of comparative
    judgment, and the double exponential distribution.
    """
    times = np.exp(_GRID)
    faster = -np.expm1(-np.outer(shares, times))
    found = np.empty((len(shares), places))
    for m, share in enumerate(shares):
        density = share * np.exp(-share * times) * times * (_GRID[1] - _GRID[0])
        ahead = np.zeros((places, len(times)))
        ahead[0] = 1.0
        for other in np.delete(faster, m, axis=0):
            ahead[1:] += other * (ahead[:-1] - ahead[1:])
            ahead[0] *= 1 - other
        found[m] = ahead @ density
    return found
