"""What teachers decide, where teachers and a student go: decisions to learn from, collected in compiled code.

Source:
    Ross et al., A Reduction of Imitation Learning and Structured Prediction to No-Regret Online Learning,
    2011, https://arxiv.org/abs/1011.0686: labelled where the student goes.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from shunter.agents.episodes import reach_decision
from shunter.agents.learned.base_policy import MOST_CANDIDATES
from shunter.agents.learned.compiled import Scratch, choose
from shunter.agents.learned.policy import LearnedPolicy
from shunter.envs.observation.features import CONTEXT_FEATURES, FEATURES
from shunter.envs.sim.compiled import inlined, jit
from shunter.envs.sim.kernel import begin_episode, environment
from shunter.envs.sim.randomness import key_of
from shunter.envs.sim.simulation import begin
from shunter.envs.state.state import Bools, Records, State
from shunter.envs.state.tables import Tables
from shunter.envs.world.world import World
from shunter.train.search.trials import Trials, episodes_of, rewind

Floats = NDArray[np.float64]


class Shown(NamedTuple):
    """Decisions (n, ...) with the teacher's scores of up to ``MOST_CANDIDATES`` candidates.

    Attributes:
        candidates: (n, MOST_CANDIDATES, F) float32, features of the candidates.
        context: (n, G) float32, features of the context.
        listed: (n, MOST_CANDIDATES) which candidates there are.
        scores: (n, MOST_CANDIDATES) the teacher's scores; minus infinity where there is none.
        agrees: (n,) whether the student would decide as the teacher does.
    """

    candidates: NDArray[np.float32]
    context: NDArray[np.float32]
    listed: Bools
    scores: NDArray[np.float32]
    agrees: Bools


@inlined
def keep(w: Scratch, shown: Shown, count: int) -> bool:
    """Writes a decision behind those kept; false, and nothing that counts, where there is no choice."""
    place, listed = 0, 0
    for a in range(w.mask.shape[0]):
        listed += 0 if np.isnan(w.prior[a]) else 1
    if listed < 2:
        return False
    for a in range(w.mask.shape[0]):
        if not np.isnan(w.prior[a]) and place < shown.listed.shape[1]:
            for f in range(w.candidates.shape[1]):
                shown.candidates[count, place, f] = w.candidates[a, f]
            shown.listed[count, place] = True
            shown.scores[count, place] = w.prior[a]
            place += 1
    for g in range(w.context.shape[0]):
        shown.context[count, g] = w.context[g]
    return True


@jit
def show(
    t: Tables,
    batch: State,
    rings: Records,
    teacher: Floats,
    student: Floats,
    mine: Scratch,
    theirs: Scratch,
    followed: float,
    share: float,
    luck: Floats,
    shown: Shown,
) -> int:
    """Plays the episodes of a batch and keeps some of their decisions; returns how many.

    Args:
        t: Tables of the scenario.
        batch: States that hold the requests of E episodes; used up.
        rings: (E, N) the requests as drawn.
        teacher: Vector of the policy that labels.
        student: Vector of the policy that acts where the teacher does not.
        mine: Room for the teacher.
        theirs: Room for the student.
        followed: Probability that a decision is the student's.
        share: Share of decisions that are kept, 0 to 1.
        luck: Uniform random numbers in [0, 1), used in turn; each episode begins with another.
        shown: Arrays that decisions are written to.
    """
    count = 0
    for e in range(rings.shape[0]):
        s, own, at = environment(batch, e), luck[e % luck.shape[0] :], 0
        rewind(s, rings[e])
        begin_episode(t, s, False)
        while count < shown.context.shape[0] and reach_decision(t, s, mine):
            wanted = choose(teacher, mine.candidates, mine.context, mine.mask, mine)
            other = choose(student, mine.candidates, mine.context, mine.mask, theirs)
            acts, kept = own[at % own.shape[0]], own[(at + 1) % own.shape[0]]
            at += 2
            if kept < share and keep(mine, shown, count):
                shown.agrees[count] = wanted == other
                count += 1
            begin(t, s, s.clock[0].asking, other if acts < followed else wanted)
    return count


def collect(
    world: World,
    teacher: LearnedPolicy,
    student: LearnedPolicy | None,
    decisions: int,
    *,
    episodes: int,
    seed: int,
) -> Shown:
    """Decisions of one world, spread over episodes; half of them are the student's, if there is one.

    Args:
        world: World to play in.
        teacher: Policy that labels the decisions.
        student: Policy that acts in half of them, of any width; None: the teacher acts alone.
        decisions: Most decisions to keep.
        episodes: Number of request sequences to play, see ``episodes_of``.
        seed: Seed of the request sequences, and of who acts.
    """
    follower = teacher if student is None else student
    seeds = [int(key_of(seed, e)) for e in range(episodes_of(world, episodes))]
    trials = Trials(world, seeds, width=teacher.width)
    lane, shown = trials.lanes[0], _room(decisions)
    luck = np.random.default_rng(seed).random(4096)
    _, made = trials.costs(teacher.vector[None])
    count = show(
        trials.tables,
        lane.state,
        trials.rings,
        teacher.vector,
        follower.vector,
        lane.scratch,
        follower.scratch(world.actions),
        0.0 if student is None else 0.5,
        decisions / max(1, made),
        luck,
        shown,
    )
    return Shown(*(array[:count] for array in shown))  # type: ignore[arg-type]


def _room(decisions: int) -> Shown:
    shape = decisions, MOST_CANDIDATES
    return Shown(
        candidates=np.zeros((*shape, len(FEATURES)), np.float32),
        context=np.zeros((decisions, len(CONTEXT_FEATURES)), np.float32),
        listed=np.zeros(shape, np.bool_),
        scores=np.full(shape, -np.inf, np.float32),
        agrees=np.zeros(decisions, np.bool_),
    )
