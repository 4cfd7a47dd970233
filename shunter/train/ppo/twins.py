"""What a fixed heuristic does with the same requests at the same time: a training's control variate.

Most of what an episode costs is decided by its arrivals. Cost relative to a twin that gets the same ones
says what decisions did. The twin does not depend on them, so that no gradient is biased by it.

Source:
    Mao et al., Variance Reduction for Reinforcement Learning in Input-Driven Environments, 2019,
    https://arxiv.org/abs/1807.02264; the twin in place of their learned, input-dependent baseline.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from shunter.agents.heuristics.cost_greedy import greedy_choice
from shunter.agents.learned.prior import PRIOR
from shunter.envs.observation.features import CONTEXT_FEATURES
from shunter.envs.sim.batch import Batch
from shunter.envs.sim.compiled import jit
from shunter.envs.sim.kernel import Outputs, step_batch
from shunter.envs.state.state import Ints, State
from shunter.envs.state.tables import Tables
from shunter.envs.world.world import World

__all__ = ["Trace", "play_twin"]

TIME, COST = 0, 1
DECISIONS = 4096
"""Room to begin with."""


@jit
def _play(
    t: Tables,
    state: State,
    actions: Ints,
    out: Outputs,
    noise: bool,
    load_weight: float,
    reload_weight: float,
    copy_share: float,
    trace: NDArray[np.float64],
    count: int,
) -> int:
    """Plays on until the episode is over, the environment lacks something, or the trace is full.

    Args:
        t: Tables.
        state: Of one environment, which has been reset.
        actions: (1,), overwritten.
        out: Of its last step or reset, overwritten.
        noise: See ``begin_episode``.
        load_weight: Of the cost-greedy that decides.
        reload_weight: Likewise.
        copy_share: Likewise.
        trace: (T, 2 + G), a row for each decision and for the end.
        count: Rows that are there.

    Returns:
        Rows that are there now, negative if the last is the episode's end.
    """
    while count < trace.shape[0]:
        r, row = out.result[0], trace[count]
        if count > 0:
            row[TIME] = trace[count - 1, TIME] + r.elapsed
            row[COST] = trace[count - 1, COST] - r.reward
        else:
            row[TIME], row[COST] = 0.0, 0.0
        for g in range(out.context.shape[1]):
            row[2 + g] = out.context[0, g]
        count += 1
        if count > 1 and (r.terminated or r.truncated):
            return -count
        actions[0] = greedy_choice(out.candidates[0], out.mask[0], load_weight, reload_weight, copy_share)
        if step_batch(t, state, actions, out, False, False, noise, 0, 1) > 0:
            break
    return count


@dataclass(frozen=True)
class Trace:
    """An episode of the twin.

    Attributes:
        times: (T,) since the first decision, in time scales, ascending.
        costs: (T,) accrued until then, as rewards count it.
        contexts: (T, G).
    """

    times: NDArray[np.float64]
    costs: NDArray[np.float64]
    contexts: NDArray[np.float32]

    def cost(self, time: float) -> float:
        """Accrued until some time; between decisions evenly, after the end nothing more."""
        return float(np.interp(time, self.times, self.costs))

    def context(self, time: float) -> NDArray[np.float32]:
        """Of the last decision until some time, (G,); zeros after the end."""
        at = int(np.searchsorted(self.times, time, side="right")) - 1
        return self.contexts[at] if at < len(self.times) - 1 else np.zeros_like(self.contexts[0])


def play_twin(world: World, key: int, episode: int, *, noise: bool = False) -> Trace:
    """Plays an episode of an environment as ``PRIOR`` would.

    Args:
        world: The compiled scenario.
        key: Of the environment.
        episode: Its number.
        noise: Whether durations differ from the predicted ones, as they do in that episode.
    """
    batch = Batch(world, 1, autoreset=False, noise=noise)
    batch.reset([key], episode=episode)
    weights = PRIOR.load_weight, PRIOR.reload_weight, PRIOR.copy_share
    actions, count = np.zeros(1, np.int64), 0
    trace = np.zeros((DECISIONS, 2 + len(CONTEXT_FEATURES)))
    while True:
        count = _play(batch.tables, batch.state, actions, batch.out, noise, *weights, trace, count)
        if count < 0:
            break
        if count == len(trace):
            trace = np.concatenate([trace, np.zeros_like(trace)])
        batch.go_on()
    rows = trace[:-count]
    return Trace(rows[:, TIME].copy(), rows[:, COST].copy(), rows[:, 2:].astype(np.float32))
