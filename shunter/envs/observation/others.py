"""What a device's decision may know of the other devices."""

from __future__ import annotations

import numpy as np

from shunter.envs.rules.asleep import expected_load_s
from shunter.envs.sim.compiled import inlined
from shunter.envs.state.state import LOAD, RUN, State
from shunter.envs.state.tables import Tables


@inlined
def busy_s(s: State, d: int) -> float:
    """Predicted seconds until device d is free."""
    device = s.device[d]
    if device.op_kind < RUN:
        return 0.0
    return float(max(0.0, (device.op_end_ns - s.clock[0].now_ns) * 1e-9))


@inlined
def highest_level(t: Tables, d: int, m: int) -> int:
    """The level with most layers on device d that fits it; -1 if none does."""
    for level in range(t.level.shape[2]):
        if t.level[d, m, level].level_ok != 0:
            return level
    return -1


@inlined
def elsewhere(t: Tables, s: State, d: int, m: int, tokens: float) -> tuple[float, float, float, float, float]:
    """What the devices other than d do for model m.

    Returns:
        The largest share of it that one holds, whether one runs or loads it, whether one holds or loads it;
        the seconds until the first of them could run it: until it is free, and then a load if need be; and
        the seconds until the first of them could have decoded so many tokens for one request.
    """
    share, running, held, startup_s, serve_s = 0.0, 0.0, 0.0, np.inf, np.inf
    for other in range(s.device.shape[0]):
        if other == d:
            continue
        resident, device = s.place[other, m].resident, s.device[other]
        at_work = device.op_model == m and (device.op_kind == RUN or device.op_kind == LOAD)
        wait_s = busy_s(s, other)
        if t.limits[0].drain != 0 and resident >= 0:  # its server answers whatever the device does
            at_work = True
            wait_s = 0.0
        if at_work:
            running = 1.0
        if resident >= 0:
            share = max(share, t.level[other, m, resident].gpu_share)
        if resident >= 0 or at_work:
            held = 1.0
            level = resident if resident >= 0 else device.op_level
        else:
            asleep = s.place[other, m].asleep
            level = asleep if asleep >= 0 else highest_level(t, other, m)
            if level < 0:
                continue
            wait_s += expected_load_s(t, s, other, m, level)
        startup_s = min(startup_s, wait_s)
        serve_s = min(serve_s, wait_s + tokens * t.step_s[other, m, level, 0, 0])
    return share, running, held, startup_s, serve_s


@inlined
def next_completion(s: State, d: int) -> tuple[float, float]:
    """Share of the devices other than d that are busy, and seconds until the first of them is free."""
    busy, soonest_s = 0, np.inf
    for other in range(s.device.shape[0]):
        if other != d and s.device[other].op_kind >= RUN:
            soonest_s = min(soonest_s, busy_s(s, other))
            busy += 1
    return busy / (s.device.shape[0] - 1), soonest_s if busy > 0 else 0.0
