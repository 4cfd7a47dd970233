"""Scores of many policies on the same request sequences, in compiled code: what a search is made of.

All policies of a call see the very same requests and the same luck of durations, so that what differs
between their scores is what they decide (common random numbers).
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from concurrent.futures import Executor
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from shunter.agents.learned.compiled import Scratch, make_scratch, play
from shunter.envs.rules.objectives import charge_unserved
from shunter.envs.sim.batch import Noise
from shunter.envs.sim.compiled import inlined, internal, jit, merged
from shunter.envs.sim.kernel import begin_episode, environment
from shunter.envs.state.state import Records, State
from shunter.envs.state.tables import MEAN_RESPONSE, SLO, Tables
from shunter.envs.world.world import World

__all__ = ["Trials"]

Floats = NDArray[np.float64]

CUT_OFF = 10.0
"""An episode that was cut off costs so much more than it had accrued."""

ENOUGH = 400
"""Requests that an episode should have; of worlds with fewer, so many more episodes are played."""

FEW_MISSES = 0.02
"""Added to the share of requests that miss an SLO: the logarithm of none would be infinite."""


class EpisodeScore(NamedTuple):
    """What of an episode is made small, besides what the scenario's objective accrues per request.

    Attributes:
        tail_share: Share of requests, those of the longest responses, whose mean response is ``tail``.
        tail_weight: Weight of it, the rest being that of the mean; 0 to 1.
        by_model: Whether means are those over models of each model's mean response, not over requests.
    """

    tail_share: float = 0.01
    tail_weight: float = 0.0
    by_model: bool = False

    @property
    def plain(self) -> bool:
        """Whether single responses do not matter."""
        return self.tail_weight == 0 and not self.by_model


def score_of(world: World) -> EpisodeScore:
    """What a scenario's objective wants to be made small."""
    objective = world.scenario.objective
    share, weight = (
        (0.01, 0.0) if objective.tail is None else (1 - objective.tail.quantile, objective.tail.weight)
    )
    return EpisodeScore(share, weight, objective.fairness == "models")


def episodes_of(world: World, episodes: int) -> int:
    """How many request sequences to play where so many of ``ENOUGH`` requests are asked for."""
    return episodes * max(1, ENOUGH // world.scenario.workload.requests)


class _Sums(NamedTuple):
    """Room for an episode's statistics: of each model, and of the longest responses in ascending order."""

    total_s: Floats
    served: Floats
    longest_s: Floats


@inlined
def rewind(s: State, ring: Records) -> None:
    """Takes an episode's requests back to where they were before it began."""
    c = s.clock[0]
    for k in range(ring.shape[0]):
        s.ring[k].arrival_ns = ring[k].arrival_ns
    for k in range(s.outcome.shape[0]):
        s.outcome[k].finish_ns = -1
    c.last = 0
    c.episode -= 1


@internal
def mean_and_tail(s: State, tail_weight: float, by_model: bool, sums: _Sums) -> float:
    """The mean response and that of the longest ones, weighted, in seconds.

    Unserved requests do not count.
    """
    size = sums.longest_s.shape[0]
    sums.total_s[:] = 0.0
    sums.served[:] = 0.0
    sums.longest_s[:] = 0.0
    for k in range(s.outcome.shape[0]):
        if s.outcome[k].finish_ns < 0:
            continue
        took_s = (s.outcome[k].finish_ns - s.ring[k].arrival_ns) * 1e-9
        m = s.ring[k].model
        sums.total_s[m] += took_s
        sums.served[m] += 1.0
        if took_s > sums.longest_s[0]:
            at = 0
            while at + 1 < size and sums.longest_s[at + 1] < took_s:
                sums.longest_s[at] = sums.longest_s[at + 1]
                at += 1
            sums.longest_s[at] = took_s
    total, models = 0.0, 0
    for m in range(sums.served.shape[0]):
        if by_model and sums.served[m] > 0:
            total += sums.total_s[m] / sums.served[m]
            models += 1
    mean = total / max(1, models) if by_model else sums.total_s.sum() / max(1.0, sums.served.sum())
    return float((1.0 - tail_weight) * mean + tail_weight * sums.longest_s.mean())


@merged
def episode_score(
    t: Tables, s: State, p: Floats, w: Scratch, weight: float, by_model: bool, sums: _Sums
) -> float:
    """Plays an episode to its end and gives what it cost per request, in the objective's own unit."""
    c = s.clock[0]
    device = play(t, s, p, w)
    if device >= 0:
        charge_unserved(s)
    count = float(c.length)
    if c.objective != MEAN_RESPONSE:
        cost = c.cost / count + (FEW_MISSES if c.objective == SLO else 0.0)
    elif s.outcome.shape[0] > 0 and device < 0:
        cost = mean_and_tail(s, weight, by_model, sums)
    else:
        cost = c.cost_ns * 1e-9 / count
    if device >= 0:
        cost *= CUT_OFF
    return float(max(cost, 1e-9))


@jit
def score_many(
    t: Tables,
    batch: State,
    rings: Records,
    vectors: Floats,
    w: Scratch,
    noise: bool,
    weight: float,
    by_model: bool,
    sums: _Sums,
    out: Floats,
) -> int:
    """Plays every episode with every policy; returns how many decisions that took.

    Args:
        t: Tables of the scenario.
        batch: States that hold the requests of S episodes; used up.
        rings: (S, N) the requests as drawn.
        vectors: (P, size) policies.
        w: Room for a decision, overwritten.
        noise: Whether durations differ from the predicted ones, by luck drawn for each episode and model.
        weight: ``EpisodeScore.tail_weight``.
        by_model: ``EpisodeScore.by_model``.
        sums: Room for sums of response times, overwritten.
        out: (P, S), overwritten with costs per request.
    """
    decisions = 0
    for e in range(rings.shape[0]):
        s = environment(batch, e)
        for i in range(vectors.shape[0]):
            rewind(s, rings[e])
            begin_episode(t, s, noise)
            out[i, e] = episode_score(t, s, vectors[i], w, weight, by_model, sums)
            decisions += s.counts[0].decisions
    return decisions


class Lane(NamedTuple):
    """What one thread needs."""

    state: State
    scratch: Scratch
    sums: _Sums


class Trials:
    """Request sequences of one world, drawn once, on which policies are tried.

    Args:
        world: The compiled scenario.
        seeds: Seeds of the workloads; with noise, of the luck of durations too.
        width: Width of the policies' networks; 0 without one.
        score: What is made small.
        noise: Whether durations differ from the predicted ones; see ``shunter.envs.sim.batch.Batch``.
        lanes: Number of parts in which policies are tried side by side.
    """

    def __init__(
        self,
        world: World,
        seeds: Sequence[int],
        *,
        width: int = 0,
        score: EpisodeScore = EpisodeScore(),  # noqa: B008 - immutable
        noise: Noise = False,
        lanes: int = 1,
    ) -> None:
        self.tables, self.score, self.noise = world.tables, score, bool(noise)
        drawn = [world.draw(seed) for seed in seeds]
        state = world.states_of(drawn, outcomes=not score.plain, luck=seeds)
        state.clock["drift"] = int(noise == "drift")
        self.rings = state.ring.copy()
        longest = max(1, round(score.tail_share * state.ring.shape[1]))
        self.lanes = [
            Lane(
                state.copy(),
                make_scratch(world.actions, width),
                _Sums(np.zeros(world.models), np.zeros(world.models), np.zeros(longest)),
            )
            for _ in range(lanes)
        ]

    def costs(self, vectors: Floats, pool: Executor | None = None) -> tuple[Floats, int]:
        """What each policy cost per request, (policies, sequences), and decisions made.

        Args:
            vectors: (policies, size), see ``shunter.agents.learned.weights.to_vector``.
            pool: Threads for more lanes than one.
        """
        out = np.zeros((len(vectors), len(self.rings)))
        cuts = np.linspace(0, len(vectors), len(self.lanes) + 1).astype(int)
        parts = [slice(first, end) for first, end in itertools.pairwise(cuts.tolist())]

        def try_part(lane: Lane, part: slice) -> int:
            return score_many(
                self.tables,
                lane.state,
                self.rings,
                np.ascontiguousarray(vectors[part]),
                lane.scratch,
                self.noise,
                self.score.tail_weight,
                self.score.by_model,
                lane.sums,
                out[part],
            )

        run = map if pool is None else pool.map
        return out, sum(run(try_part, self.lanes, parts))
