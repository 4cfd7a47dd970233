"""What may come: arrivals and lengths drawn from what a server knows, never from what the state hides."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from shunter.envs.rules.durations import fill_times
from shunter.envs.sim.compiled import internal, jit
from shunter.envs.sim.randomness import uniform
from shunter.envs.state.state import EVICT, LOAD, RUN, Floats, Ints, State
from shunter.envs.state.tables import Tables

Pairs = NDArray[np.int64]

FUTURE = 1 << 40
"""Numbers of a key from here on are for requests on their way, below for those in the system."""


@jit
def estimate_rates(s: State, rates: Floats) -> float:
    """Estimates each model's arrivals per second from the past.

    Shares follow the models' recent gaps, the current one included; the total is that of the whole past.

    Args:
        s: State of one environment.
        rates: (M,) arrivals per second of each model, overwritten.

    Returns:
        Their sum.
    """
    c, total = s.clock[0], 0.0
    for m in range(s.model.shape[0]):
        model = s.model[m]
        rates[m] = 0.0
        if model.last_arrival_ns >= 0:
            silent_s = (c.now_ns - model.last_arrival_ns) * 1e-9
            known_s = 1.0 / model.rate_per_s if model.rate_per_s > 0.0 else c.now_ns * 1e-9
            rates[m] = 1.0 / max(1e-9, silent_s, known_s)
        total += rates[m]
    past = c.arrived / (c.now_ns * 1e-9) if c.now_ns > 0 else total
    if total > 0.0 and c.arrived > 1:
        for m in range(s.model.shape[0]):
            rates[m] *= past / total
        total = past
    return total


@internal
def longer_than(lengths: Ints, generated: int, u: float) -> int:
    """A decode length drawn from those of ``lengths`` (ascending) above ``generated``, at quantile u."""
    low, high = 0, lengths.shape[0]
    while low < high:
        middle = (low + high) // 2
        if lengths[middle] > generated:
            high = middle
        else:
            low = middle + 1
    left = lengths.shape[0] - low
    if left == 0:
        return generated + 1
    return int(lengths[low + int(u * left)])


@jit
def redraw_hidden(t: Tables, s: State, lengths: Ints, key: int) -> None:
    """Draws anew what a server cannot know of the requests in the system and of operations under way.

    Args:
        t: Tables of the scenario.
        s: A copy of a state; decode lengths, ends of operations and luck are overwritten.
        lengths: (M, N) decode lengths of each model, ascending, or (1, N) of all; a request's is drawn from
            those longer than what it generated.
        key: Key of the random numbers; a request's depends on the key and its number in the episode only.
    """
    s.clock[0].drift = 0
    for m in range(s.model.shape[0]):
        model = s.model[m]
        model.load_noise = 0.0
        model.prefill_noise = 0.0
        model.step_noise = 0.0
        i = model.head
        while i >= 0:
            r = s.slot[i]
            r.decode_tokens = longer_than(
                lengths[min(m, lengths.shape[0] - 1)], r.generated, uniform(key, r.id)
            )
            i = r.next
    for d in range(s.device.shape[0]):
        device = s.device[d]
        device.slower = 0.0
        if device.op_kind == RUN:
            for b in range(device.op_batch):
                entry = s.entry[d, b]
                entry.tokens = 0
                entry.first_ns = -1
                entry.finish_ns = -1
        if device.op_kind == RUN or device.op_kind == LOAD or device.op_kind == EVICT:
            fill_times(t, s, d)


@jit
def draw_future(s: State, rates: Floats, total: float, pairs: Pairs, horizon_s: float, key: int) -> None:
    """Draws the requests that arrive within the horizon: Poisson, at the estimated rates.

    Args:
        s: A copy of a state; its ring is overwritten and bounds how many there are.
        rates: (M,) estimated arrivals per second of each model.
        total: Sum of the rates.
        pairs: (M, N, 2) prompt and decode lengths of each model, or (1, N, 2) of all.
        horizon_s: No arrival is later than this from now.
        key: Key of the random numbers.
    """
    c = s.clock[0]
    count, after_s, index = 0, 0.0, FUTURE
    while total > 0.0 and count < s.ring.shape[0]:
        after_s -= np.log(uniform(key, index)) / total
        if after_s > horizon_s:
            break
        left, m = uniform(key, index + 1) * total, 0
        while m < rates.shape[0] - 1 and left >= rates[m]:
            left -= rates[m]
            m += 1
        pair = pairs[min(m, pairs.shape[0] - 1), int(uniform(key, index + 2) * pairs.shape[1])]
        new = s.ring[count]
        new.arrival_ns = c.now_ns + int(after_s * 1e9)
        new.model = m
        new.prompt_tokens = pair[0]
        new.decode_tokens = pair[1]
        count += 1
        index += 3
    c.taken = 0
    c.filled = count
    c.last = count


@jit
def keep_future(s: State, to: State, horizon_s: float) -> None:
    """Copies the true requests that arrive within the horizon, for an oracle.

    Args:
        s: State of one environment.
        to: A copy of it; its ring is overwritten and bounds how many there are.
        horizon_s: No arrival is later than this from now.
    """
    c, count = s.clock[0], 0
    end = min(c.filled, c.last)
    while count < to.ring.shape[0] and c.taken + count < end:
        new = s.ring[(c.taken + count) % s.ring.shape[0]]
        if new.arrival_ns - c.now_ns > horizon_s * 1e9:
            break
        to.ring[count] = new
        count += 1
    to.clock[0].taken = 0
    to.clock[0].filled = count
    to.clock[0].last = count
