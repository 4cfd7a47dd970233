"""Whole episodes in compiled code: one loop, whatever decides.

What decides is a compiled function, ``choose(p, candidates, context, mask, w)``: p are its numbers, w the
room it works in. It is known when the loop is compiled, and inlined like the rest. Loops that do more at a
decision than take it, as those of distillation, have only ``reach_decision`` in common with these.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from shunter.envs.observation.features import CONTEXT_FEATURES, FEATURES
from shunter.envs.observation.observe import observe
from shunter.envs.sim.compiled import merged
from shunter.envs.sim.kernel import environment
from shunter.envs.sim.simulation import STALLED, advance, begin
from shunter.envs.state.state import Bools, State
from shunter.envs.state.tables import Tables

if TYPE_CHECKING:
    from shunter.agents.learned.compiled import Scratch

__all__ = ["Observed", "empty_observed", "reach_decision"]

Floats = NDArray[np.float64]
Features = NDArray[np.float32]

ENDLESS = 1 << 62
"""More decisions than any episode has."""


class Observed(NamedTuple):
    """What a decision is based on, and room for it.

    Attributes:
        candidates: (A, F) float32, features of the candidates.
        context: (G,) float32, features of the context.
        mask: (A,) bool, which candidates are legal.
    """

    candidates: Features
    context: Features
    mask: Bools


def empty_observed(actions: int) -> Observed:
    """Room for what is seen of so many candidates."""
    return Observed(
        np.zeros((actions, len(FEATURES)), np.float32),
        np.zeros(len(CONTEXT_FEATURES), np.float32),
        np.zeros(actions, np.bool_),
    )


@merged
def reach_decision(t: Tables, s: State, w: Observed | Scratch) -> bool:
    """Lets time pass until a device asks, and observes into w; false if the episode cannot go on.

    ``clock.asking`` is then the device that asks as the episode is cut off, -1 at its end, or ``STALLED``.
    """
    clock = s.clock[0]
    clock.asking = advance(t, s)
    if clock.asking < 0 or clock.now_ns > t.limits[0].max_time_ns:
        return False
    observe(t, s, clock.asking, w.candidates, w.context, w.mask)
    return True


@merged
def play_on(
    choose: Any, t: Tables, s: State, p: NDArray[Any], w: Observed | Scratch, most: int = ENDLESS
) -> int:
    """Plays on until the episode is over, cut off, or lacks room for a request.

    Args:
        choose: Function that decides.
        t: Tables of the scenario.
        s: State of the episode.
        p: Numbers of the policy, passed to ``choose``.
        w: Room for the observation, overwritten.
        most: Stops after so many decisions.

    Returns:
        The device that asks as it is cut off, -1 at its end, or ``STALLED``: grow its slots and go on.
    """
    left = most
    while left > 0 and reach_decision(t, s, w):
        left -= 1
        begin(t, s, s.clock[0].asking, choose(p, w.candidates, w.context, w.mask, w))
    return int(s.clock[0].asking)


@merged
def play_all(choose: Any, t: Tables, batch: State, p: Floats, w: Scratch) -> int:
    """Plays every episode of a batch on as ``play_on`` does; returns how many lack room for a request."""
    stalled = 0
    for e in range(batch.clock.shape[0]):
        s = environment(batch, e)
        if s.clock[0].asking == STALLED and play_on(choose, t, s, p, w) == STALLED:
            stalled += 1
    return stalled
