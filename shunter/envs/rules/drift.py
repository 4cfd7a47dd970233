"""Machines that drift: for a while a device is slower than predicted, as where others use it too.

Time is cut into stretches. In each, each device by itself is as fast as predicted or slower by a factor
that is drawn; what begins in a stretch takes so many times as long to its end. A function of the
episode's key, the device and the stretch: nothing is kept, whatever the order of events. Policies are not
told.
"""

from __future__ import annotations

from shunter.envs.sim.compiled import internal
from shunter.envs.sim.randomness import key_of, uniform
from shunter.envs.state.state import State
from shunter.envs.state.tables import Tables

STRETCH_SCALES = 50.0
"""Length of a stretch in the scenario's time scales. Engineering choice: some dozens of operations."""

SLOW_SHARE = 0.5
"""Share of stretches that are slow. Engineering choice."""

MOST = 2.5
"""Factors of slow stretches lie between 1 and this, evenly in their logarithm. In the runs of users that were
recorded on busy machines operations took 1.6 to 1.8 times as long as when profiled."""


@internal
def draw_pace(t: Tables, s: State, d: int, at_ns: int) -> None:
    """Settles how much longer than predicted takes what device d begins at a time; nothing without drift."""
    c = s.clock[0]
    if c.drift == 0:
        return
    stretch = int(at_ns / (STRETCH_SCALES * t.limits[0].time_scale_s * 1e9))
    key = key_of(key_of(c.key, c.episode), stretch)
    slow = uniform(key, 2 * d) < SLOW_SHARE
    s.device[d].slower = MOST ** uniform(key, 2 * d + 1) - 1.0 if slow else 0.0
