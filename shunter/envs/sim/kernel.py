"""Many environments at once: one compiled call takes each to its next decision and writes what it sees."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from shunter.envs.observation.features import CONTEXT_FEATURES, FEATURES
from shunter.envs.observation.observe import observe
from shunter.envs.rules.candidates import legal_action
from shunter.envs.rules.dynamics import open_episode
from shunter.envs.rules.objectives import charge_unserved, reward
from shunter.envs.sim.compiled import inlined, internal, jit
from shunter.envs.sim.randomness import key_of, normal
from shunter.envs.sim.simulation import STALLED, advance, begin
from shunter.envs.state.records import COUNTS, record
from shunter.envs.state.state import IDLE, Bools, Ints, Records, State
from shunter.envs.state.tables import Tables

__all__ = ["Outputs", "begin_batch", "begin_episode", "environment", "make_outputs", "step_batch"]

RESULT = np.dtype(
    [
        ("reward", np.float64),  # minus what the step accrued of the objective
        ("elapsed", np.float64),  # duration of the step, in time scales
        ("request_s", np.float64),  # request-seconds of the step
        ("terminated", np.bool_),
        ("truncated", np.bool_),
        ("device", np.int64),  # that asks now, -1 if the episode is over
        ("now_ns", np.int64),  # the clock at the end of the step
        ("served", np.int64),  # requests finished in the episode
        ("response_ns", np.int64),  # sum of their response times
        ("charged", np.float64),  # of the reward, for requests that were there as the episode was cut off
        ("from_cost_ns", np.int64),  # the state's costs and clock before the step
        ("from_cost", np.float64),
        ("from_ns", np.int64),
        ("from_served", np.int64),
    ],
    align=True,
)
"""What came of an environment's step."""

FINISHED = record(
    "model",
    "prompt_tokens",
    "decode_tokens",
    "preemptions",
    floats=("arrival_s", "ttft_s", "response_s"),
)
"""A request that finished in a step; where there is none, the model is -1 and all else 0."""


class Outputs(NamedTuple):
    """Where a step writes. E environments, A actions, F features, G context features, K requests at once.

    Attributes:
        candidates: (E, A, F) float32, a row of features per action.
        context: (E, G) float32, features of the context.
        mask: (E, A) bool, which actions are legal.
        result: (E,) records of ``RESULT``.
        final_candidates: (E, A, F) float32, the candidates that ended an episode, where one did.
        final_context: (E, G) float32, the context that ended an episode, where one did.
        final_mask: (E, A) bool, the mask that ended an episode, where one did.
        finished: (E, K) records of ``FINISHED``, the requests that finished in the step first.
        final_counts: (E,) counts of an episode that ended, where one did.
    """

    candidates: NDArray[np.float32]
    context: NDArray[np.float32]
    mask: Bools
    result: Records
    final_candidates: NDArray[np.float32]
    final_context: NDArray[np.float32]
    final_mask: Bools
    finished: Records
    final_counts: Records


def make_outputs(environments: int, actions: int, at_once: int = 0) -> Outputs:
    """Room for the steps of environments.

    Args:
        environments: How many.
        actions: Number of candidates.
        at_once: Most requests that finish in one step; 0: which do is not written.
    """
    e, f, g = environments, len(FEATURES), len(CONTEXT_FEATURES)
    return Outputs(
        candidates=np.zeros((e, actions, f), np.float32),
        context=np.zeros((e, g), np.float32),
        mask=np.zeros((e, actions), np.bool_),
        result=np.zeros(e, RESULT),
        final_candidates=np.zeros((e, actions, f), np.float32),
        final_context=np.zeros((e, g), np.float32),
        final_mask=np.zeros((e, actions), np.bool_),
        finished=nothing_finished((e, at_once)),
        final_counts=np.zeros(e, record(*COUNTS)),
    )


def nothing_finished(shape: tuple[int, ...]) -> Records:
    """Records of ``FINISHED`` that say that no request did."""
    finished = np.zeros(shape, FINISHED)
    finished["model"] = -1
    return finished


@inlined
def environment(batch: State, e: int) -> State:
    """The state of environment e, as a view."""
    return State(
        batch.clock[e],
        batch.ring[e],
        batch.slot[e],
        batch.model[e],
        batch.place[e],
        batch.work[e],
        batch.device[e],
        batch.entry[e],
        batch.outcome[e],
        batch.counts[e],
        batch.user[e],
        batch.row[e],
        batch.done[e],
    )


@internal
def clear(s: State) -> None:
    """Empties a state: nothing resident, nobody in the system, all slots free, the clock at 0."""
    c = s.clock[0]
    c.now_ns = 0
    c.cost_ns = 0
    c.in_system = 0
    c.arrived = 0
    c.served = 0
    c.response_ns = 0
    c.stalled = 0
    c.free = 0
    slots = s.slot.shape[0]
    for i in range(slots):
        s.slot[i].next = i + 1 if i + 1 < slots else -1
    for m in range(s.model.shape[0]):
        model = s.model[m]
        model.head = -1
        model.tail = -1
        model.queue_length = 0
        model.unassigned = 0
        model.unassigned_started = 0
        model.last_arrival_ns = -1
        model.rate_per_s = 0.0
        for d in range(s.device.shape[0]):
            place = s.place[d, m]
            place.resident = -1
            place.evicting = -1
            place.asleep = -1
            place.last_used_ns = 0
            place.held = 0
            place.changed = 1
            place.stale = 1
            place.batch = 0
            place.partial_s = 0.0
    for d in range(s.device.shape[0]):
        device = s.device[d]
        device.pending_model = -1
        device.pending_level = -1
        device.promoted_model = -1
        device.promoted_ns = 0
        device.last_model = -1
        device.op_kind = IDLE
        device.op_batch = 0
        device.serving_end_ns = -1
        device.kept = 0
        device.slower = 0.0


@internal
def begin_episode(t: Tables, s: State, noise: bool) -> None:
    """Starts the next episode; requests of the last one that never arrived are skipped.

    Args:
        t: Tables of the scenario.
        s: State; its first decision is yet to be found.
        noise: Whether durations differ from the predicted ones, by luck drawn for the episode and model.
    """
    clear(s)
    open_episode(t, s)
    c, counts = s.clock[0], s.counts[0]
    counts.decisions = 0
    counts.swaps = 0
    counts.preemptions = 0
    counts.illegal_actions = 0
    counts.loading_ns = 0
    counts.running_ns = 0
    counts.recomputed_tokens = 0
    counts.evictions = 0
    c.taken = c.last
    c.last = c.taken + c.length
    c.episode += 1
    key = key_of(c.key, c.episode)
    for m in range(s.model.shape[0]):
        model = s.model[m]
        model.load_noise = normal(key, 3 * m) if noise else 0.0
        model.prefill_noise = normal(key, 3 * m + 1) if noise else 0.0
        model.step_noise = normal(key, 3 * m + 2) if noise else 0.0
    c.starting = 1
    c.asking = STALLED


@inlined
def look(
    t: Tables,
    s: State,
    candidates: NDArray[np.float32],
    context: NDArray[np.float32],
    mask: Bools,
) -> None:
    """Writes the observation of the asking device, or an empty one with only waiting legal if none asks."""
    if s.clock[0].asking >= 0:
        observe(t, s, s.clock[0].asking, candidates, context, mask)
        return
    candidates[:] = 0.0
    context[:] = 0.0
    mask[:] = False
    mask[mask.shape[0] - 1] = True


@inlined
def judge(t: Tables, s: State, result: Records, e: int) -> bool:
    """Writes what came of a step; returns whether the episode is over."""
    c, r, scale_s = s.clock[0], result[e], t.limits[0].time_scale_s
    terminated = c.asking < 0
    is_late = not terminated and c.now_ns > t.limits[0].max_time_ns
    kept = c.cost
    if is_late:
        charge_unserved(s)
    r.charged = c.cost - kept
    truncated = is_late or (not terminated and c.most > 0 and s.counts[0].decisions >= c.most)
    r.request_s = (c.cost_ns - r.from_cost_ns) * 1e-9
    r.reward = reward(s, r.from_cost_ns, r.from_cost, scale_s)
    r.elapsed = (c.now_ns - r.from_ns) * 1e-9 / scale_s
    r.terminated = terminated
    r.truncated = truncated
    r.device = c.asking
    r.now_ns = c.now_ns
    r.served = c.served
    r.response_ns = c.response_ns
    return bool(terminated or truncated)


@inlined
def tell_finished(s: State, from_served: int, finished: Records) -> None:
    """Writes which requests finished since so many had, in order; whoever stood there before is gone."""
    kept, room = s.done.shape[0], finished.shape[0]
    count = min(s.clock[0].served - from_served, room)
    for i in range(count):
        r, to = s.done[(from_served + i) % kept], finished[i]
        to.model = r.model
        to.prompt_tokens = r.prompt_tokens
        to.decode_tokens = r.decode_tokens
        to.preemptions = r.preemptions
        to.arrival_s = r.arrival_ns * 1e-9
        to.ttft_s = (r.first_token_ns - r.arrival_ns) * 1e-9
        to.response_s = (r.finish_ns - r.arrival_ns) * 1e-9
    for i in range(count, room):
        to = finished[i]
        if to.model < 0:
            break
        to.model = -1
        to.prompt_tokens = 0
        to.decode_tokens = 0
        to.preemptions = 0
        to.arrival_s = 0.0
        to.ttft_s = 0.0
        to.response_s = 0.0


@inlined
def reach(t: Tables, s: State, out: Outputs, e: int, autoreset: bool, noise: bool) -> int:
    """Takes environment e to its next decision, in the next episode if need be; returns 1 if it stalled."""
    c = s.clock[0]
    while True:
        c.asking = advance(t, s)
        if c.asking == STALLED:
            return 1
        over = c.starting == 0 and judge(t, s, out.result, e)
        if c.starting == 0:
            tell_finished(s, out.result[e].from_served, out.finished[e])
        c.starting = 0
        ends = over and autoreset
        look(
            t,
            s,
            out.final_candidates[e] if ends else out.candidates[e],
            out.final_context[e] if ends else out.context[e],
            out.final_mask[e] if ends else out.mask[e],
        )
        if not ends:
            if over:
                c.asking = -1
                out.result[e].device = -1
            return 0
        out.final_counts[e] = s.counts[0]
        begin_episode(t, s, noise)


@inlined
def stand_still(s: State, out: Outputs, e: int) -> None:
    """Writes that nothing came of a step, for no episode is under way."""
    result = out.result[e]
    tell_finished(s, s.clock[0].served, out.finished[e])
    result.device = -1
    result.reward = 0.0
    result.charged = 0.0
    result.elapsed = 0.0
    result.request_s = 0.0
    result.terminated = False
    result.truncated = False


@jit
def step_batch(
    t: Tables,
    batch: State,
    actions: Ints,
    out: Outputs,
    again: bool,
    autoreset: bool,
    noise: bool,
    first: int,
    end: int,
) -> int:
    """Carries out an action in each environment from first to end and takes it to its next decision.

    Nothing happens in those whose episode is over, or has not begun.

    Args:
        t: Tables of the scenario.
        batch: States with a leading axis over environments.
        actions: (E,) indices of candidates; illegal ones are counted and replaced, see ``legal_action``.
        out: Arrays that the observation and the result are written to.
        again: Only environments that stalled go on; actions are not read.
        autoreset: Whether an episode's end starts the next at once, its last observation put aside.
        noise: Whether durations differ from the predicted ones, by luck drawn for each episode and model.
        first: Environments from here
        end: up to, but without, here.

    Returns:
        How many stalled: fill their rings, grow their slots, and call again.
    """
    stalled = 0
    for e in range(first, end):
        s = environment(batch, e)
        c = s.clock[0]
        if again and c.asking != STALLED:
            continue
        if not again and c.asking < 0:
            stand_still(s, out, e)
            continue
        if not again:
            out.result[e].from_served = c.served
            out.result[e].from_cost_ns = c.cost_ns
            out.result[e].from_cost = c.cost
            out.result[e].from_ns = c.now_ns
            begin(t, s, c.asking, legal_action(t, s, c.asking, actions[e]))
        stalled += reach(t, s, out, e, autoreset, noise)
    return stalled


@jit
def begin_batch(t: Tables, batch: State, chosen: Bools, noise: bool) -> None:
    """Starts the next episode in the chosen (E,) environments; they are then stalled."""
    for e in range(chosen.shape[0]):
        if chosen[e]:
            begin_episode(t, environment(batch, e), noise)
