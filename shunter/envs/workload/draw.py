"""Requests of an episode: when they arrive, which model each asks for, how long it is."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pandas as pd
from numpy.random.bit_generator import ISeedSequence
from numpy.typing import NDArray

from shunter.envs.scenario.limits import Limits
from shunter.envs.scenario.model import Model
from shunter.envs.scenario.workload import ClosedLoop, Sessions, Workload
from shunter.envs.state.state import Requests
from shunter.envs.workload.arrivals import arrival_times
from shunter.envs.workload.lengths import Pairs, pairs_by_model, pairs_of_workload
from shunter.envs.workload.replay import models_by_row, read_replay, replay_rate_per_s
from shunter.envs.workload.shares import check_sessions, drawn_shares

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

_LOOP_CHUNK = 4096
_ARRIVALS, _MODELS, _LENGTHS, _DRIFT, _TURNS = range(5)
"""Each kind of draw has random numbers of its own: changing one leaves the others as they were."""


def draw_requests(
    workload: Workload, limits: Limits, models: Sequence[Model], rate_per_s: float, seed: int
) -> Requests:
    """Draws the requests of one episode; the same seed gives the same requests everywhere.

    Args:
        workload: What to draw.
        limits: Lengths are cut to its context, or to their model's.
        models: The models, in the order of popularity unless they have weights.
        rate_per_s: Mean arrivals per second.
        seed: Seed of everything that is drawn.

    Returns:
        ``workload.requests`` requests.
    """
    chunks = episode_chunks(workload, limits, models, rate_per_s, seed)
    return Requests(*map(np.concatenate, zip(*chunks, strict=True)))


def episode_chunks(
    workload: Workload, limits: Limits, models: Sequence[Model], rate_per_s: float, seed: int
) -> Iterator[Requests]:
    """The requests of ``draw_requests`` in pieces, drawn as they are asked for."""
    left = workload.requests
    for chunk in request_chunks(workload, limits, models, rate_per_s, seed):
        yield Requests(*(values[:left] for values in chunk))
        left -= len(chunk.arrival_ns)
        if left <= 0:
            return


def request_chunks(
    workload: Workload, limits: Limits, models: Sequence[Model], rate_per_s: float, seed: int
) -> Iterator[Requests]:
    """Draws requests without end, in chunks of a few thousand, in order of arrival.

    In a closed loop ``arrival_ns`` is the pause of its sender after the answer to each: who sends it, and
    when, is known only once it happens.

    Args:
        workload: What to draw.
        limits: Lengths are cut to its context, or to their model's.
        models: The models, in the order of popularity unless they have weights.
        rate_per_s: Mean arrivals per second.
        seed: Seed of everything that is drawn.

    Raises:
        InputError: A trace is missing or broken, or sessions want more models than there are.
        UnknownNameError: A trace asks for a model that the scenario lacks.
    """
    if workload.replay:
        yield from _replayed(workload, limits, models, rate_per_s, seed)
        return
    pairs = pairs_by_model(workload, limits, models)
    choose = _Popularity(workload, models, seed)
    rng = _stream(seed, _LENGTHS)
    source = _in_sessions if workload.sessions else _in_a_loop if workload.closed_loop else _alone
    for times_s, model in source(workload, choose, rate_per_s, seed):
        yield _requests(times_s, model, _lengths(pairs, model, rng.random(len(times_s))))


def _lengths(pairs: Sequence[Pairs], model: Ints, quantile: Floats) -> Pairs:
    """For each request the pair at a quantile, 0 to below 1, of its model's, in their order."""
    if all(own is pairs[0] for own in pairs):
        return pairs[0][(quantile * len(pairs[0])).astype(np.int64)]
    chosen = np.empty((len(model), 2), np.int64)
    for m, own in enumerate(pairs):
        asked = model == m
        chosen[asked] = own[(quantile[asked] * len(own)).astype(np.int64)]
    return chosen


class _Popularity:
    """Draws models by their shares; with drift, a random one gets the largest share every so often."""

    def __init__(self, workload: Workload, models: Sequence[Model], seed: int) -> None:
        self.models = len(models)
        shares = drawn_shares(models, workload)
        by_rank = np.argsort(-shares, kind="stable")
        self._shares = shares[by_rank]
        self._drift_s = workload.popularity_drift_s
        self._drift: np.random.Generator | None = None
        self._orders = [by_rank.tolist()]
        self._seed = seed
        self._rng = _stream(seed, _MODELS)

    def one(self, times_s: Floats) -> Ints:
        """A model for each time."""
        ranks = np.searchsorted(np.cumsum(self._shares)[:-1], self._rng.random(len(times_s)), side="right")
        return self._named(times_s, ranks)

    def several(self, times_s: Floats, count: int) -> Ints:
        """Different models for each time, shape (times, count): Gumbel's way to draw without replacement."""
        keys = np.log(self._shares) + self._rng.gumbel(size=(len(times_s), self.models))
        ranks = np.argsort(-keys, axis=1)[:, :count]
        return np.column_stack([self._named(times_s, ranks[:, k]) for k in range(count)])

    def _named(self, times_s: Floats, ranks: Ints) -> Ints:
        if self._drift_s is None:
            return np.array(self._orders[0], dtype=np.int64)[ranks]
        if self._drift is None:
            self._drift = _stream(self._seed, _DRIFT)
        epochs = (times_s // self._drift_s).astype(np.int64)
        while len(self._orders) <= epochs.max(initial=0):
            risen = int(self._drift.integers(self.models))
            self._orders.append([risen, *(m for m in self._orders[-1] if m != risen)])
        return np.array(self._orders, dtype=np.int64)[epochs, ranks]


def _alone(
    workload: Workload, choose: _Popularity, rate_per_s: float, seed: int
) -> Iterator[tuple[Floats, Ints]]:
    for times_s in arrival_times(workload.arrivals, rate_per_s, _stream(seed, _ARRIVALS), workload.requests):
        yield times_s, choose.one(times_s)


def _in_a_loop(
    workload: Workload, choose: _Popularity, rate_per_s: float, seed: int
) -> Iterator[tuple[Floats, Ints]]:
    loop = workload.closed_loop or ClosedLoop(users=1, think_s=1.0)
    rng, count = _stream(seed, _ARRIVALS), min(_LOOP_CHUNK, workload.requests)
    while True:
        pauses_s = rng.standard_exponential(count) * loop.think_s
        yield pauses_s, choose.one(pauses_s)


def _in_sessions(
    workload: Workload, choose: _Popularity, rate_per_s: float, seed: int
) -> Iterator[tuple[Floats, Ints]]:
    sessions = workload.sessions or Sessions(turns=2, gap_s=1.0)
    check_sessions(sessions, choose.models)
    rng = _stream(seed, _TURNS)
    waiting_s, waiting = np.empty(0), np.empty(0, np.int64)
    starts = arrival_times(
        workload.arrivals, rate_per_s / sessions.turns, _stream(seed, _ARRIVALS), workload.requests
    )
    for starts_s in starts:
        gaps_s = rng.exponential(sessions.gap_s, (len(starts_s), sessions.turns))
        gaps_s[:, 0] = 0.0
        models = choose.several(starts_s, sessions.models)[:, np.arange(sessions.turns) % sessions.models]
        times_s = np.concatenate([waiting_s, (starts_s[:, None] + np.cumsum(gaps_s, axis=1)).ravel()])
        model = np.concatenate([waiting, models.ravel()])
        order = np.argsort(times_s, kind="stable")
        times_s, model = times_s[order], model[order]
        # Sessions that begin later may still slip in after this chunk's last start.
        ready = int(np.searchsorted(times_s, starts_s[-1]))
        waiting_s, waiting = times_s[ready:], model[ready:]
        yield times_s[:ready], model[:ready]


def _replayed(
    workload: Workload, limits: Limits, models: Sequence[Model], rate_per_s: float, seed: int
) -> Iterator[Requests]:
    frame = read_replay(workload).frame
    scale = replay_rate_per_s(workload) / rate_per_s
    pairs = pairs_of_workload(workload, limits, models)
    gaps_s = np.diff(frame["arrival_s"].to_numpy(), prepend=0.0) * scale
    gaps_s[0] = 1.0 / rate_per_s  # from the trace's end to its beginning
    order = np.roll(np.arange(len(frame)), -int(_stream(seed, _ARRIVALS).integers(len(frame))))
    choose = _Popularity(workload, models, seed)
    given = _given_models(workload, models, choose)[order]
    drawn = given < 0
    now_s = 0.0
    while True:
        times_s = now_s + np.cumsum(gaps_s[order])
        now_s = float(times_s[-1])
        model = given.copy()
        if drawn.any():
            model[drawn] = choose.one(times_s[drawn])
        yield _requests(times_s, model, _lengths(pairs, model, (order + 0.5) / len(order)))


def _given_models(workload: Workload, models: Sequence[Model], choose: _Popularity) -> Ints:
    """The model of each row of a trace, -1: drawn whenever the row is played."""
    rows, sessions = models_by_row(workload, models), read_replay(workload).frame["session"]
    if rows is not None:
        return rows
    if workload.replay is None or workload.replay.models != "session":
        return np.full(len(sessions), -1)
    of_session, known = pd.factorize(sessions.where(sessions != ""))  # rows without one: -1, the last
    return np.append(choose.one(np.zeros(len(known))), -1)[of_session]


def _requests(times_s: Floats, model: Ints, pairs: Ints) -> Requests:
    return Requests(
        arrival_ns=np.rint(times_s * 1e9).astype(np.int64),
        model=np.asarray(model, np.int64),
        prompt_tokens=pairs[:, 0].copy(),
        decode_tokens=pairs[:, 1].copy(),
    )


class _Key(ISeedSequence):
    """Philox's key as it is: its own seeding takes several times as long as a short episode's draws."""

    def __init__(self, seed: int, kind: int) -> None:
        self._words = np.array([seed, kind], np.uint64)

    def generate_state(self, n_words: int, dtype: Any = np.uint32) -> NDArray[Any]:
        """The two words."""
        return self._words


def _stream(seed: int, kind: int) -> np.random.Generator:
    key = _Key(seed, kind)
    return np.random.Generator(np.random.Philox(key))  # type: ignore[arg-type] # any ISeedSequence will do
