"""What a device may do: room that it has, and which actions are legal.

Actions of a device, in order: model m at level l for every (m, l) - run a quantum where it is resident at l,
load it otherwise, or wake it - then evict m for every m, or end it where it sleeps, then wait.
"""

from __future__ import annotations

from shunter.envs.rules.asleep import kept_bytes
from shunter.envs.rules.claims import claimable_count
from shunter.envs.rules.copies import may_hold
from shunter.envs.rules.expiry import expired_model
from shunter.envs.rules.guard import forced_model
from shunter.envs.sim.compiled import entry, inlined, internal, jit
from shunter.envs.state.state import Bools, State
from shunter.envs.state.tables import Tables

__all__ = ["legal_action", "mask_actions", "used_bytes"]


@entry
def used_bytes(t: Tables, s: State, d: int) -> float:
    """Device memory that the residents of a device take, and its sleepers keep."""
    total = 0.0
    for m in range(s.model.shape[0]):
        resident = s.place[d, m].resident
        if resident >= 0:
            total += t.level[d, m, resident].footprint_bytes
        elif t.limits[0].sleep != 0:
            total += kept_bytes(t, s, d, m)
    return total


@inlined
def short_bytes(t: Tables, s: State, d: int, m: int, level: int, used: float) -> float:
    """Bytes that others must give up before model m fits on device d at this level; 0 if it fits.

    ``used`` are the device's ``used_bytes``.
    """
    resident = s.place[d, m].resident
    own = t.level[d, m, resident].footprint_bytes if resident >= 0 else kept_bytes(t, s, d, m)
    need = used - own + t.level[d, m, level].footprint_bytes
    return float(max(0.0, need - t.device[d].capacity_bytes))


@inlined
def fits_beside(t: Tables, s: State, d: int, m: int, level: int, used: float) -> bool:
    """Whether somebody waits for model m and device d could load it beside its residents, at its top level.

    A lower one would hold those who wait to a slow server to their end. ``used`` are the device's
    ``used_bytes``.
    """
    if t.level[d, m, level].level_ok == 0 or s.place[d, m].resident >= 0 or claimable_count(s, d, m) == 0:
        return False
    if not may_hold(t, s, d, m):
        return False
    for higher in range(level):
        if t.level[d, m, higher].level_ok != 0:
            return False
    return short_bytes(t, s, d, m, level, used) == 0.0


@entry
def anything_fits(t: Tables, s: State, d: int) -> bool:
    """Whether device d could load a model that somebody waits for beside its residents."""
    used = used_bytes(t, s, d)
    for m in range(t.level.shape[1]):
        for level in range(t.level.shape[2]):
            if fits_beside(t, s, d, m, level, used):
                return True
    return False


@inlined
def may_serve(t: Tables, s: State, d: int, m: int, level: int) -> bool:
    """Whether device d may run model m, resident at this level, or load it there, if the guard leaves it."""
    if s.device[d].kept != 0:
        return fits_beside(t, s, d, m, level, used_bytes(t, s, d))
    if s.device[d].pending_model >= 0 or t.level[d, m, level].level_ok == 0:
        return False
    if s.place[d, m].resident == level:
        return bool(claimable_count(s, d, m) > 0)
    return may_hold(t, s, d, m)


@internal
def spares_sleepers(t: Tables, s: State, d: int) -> bool:
    """Whether device d, which makes room for a load, may end no sleeper yet.

    As long as residents can go and ending every sleeper would not do: a resident must go in any case, and
    may leave enough.
    """
    device = s.device[d]
    if t.limits[0].sleep == 0 or device.pending_model < 0:
        return False
    awake, asleep_bytes = 0, 0.0
    for m in range(s.model.shape[0]):
        if s.place[d, m].resident < 0 and m != device.pending_model:
            asleep_bytes += kept_bytes(t, s, d, m)
        elif s.place[d, m].resident >= 0 and t.model[m].pinned != d:
            awake += 1
    short = short_bytes(t, s, d, device.pending_model, device.pending_level, used_bytes(t, s, d))
    return bool(awake > 0 and asleep_bytes < short)


@inlined
def may_evict(t: Tables, s: State, d: int, m: int, spares: bool) -> bool:
    """Whether device d may evict model m, if the guard and its time leave it the choice.

    A sleeper can be ended, unless ``spares`` (``spares_sleepers``); but not to make room for itself: it would
    be loaded from nothing.
    """
    place = s.place[d, m]
    ends = place.asleep >= 0 and s.device[d].pending_model != m and not spares
    return bool((place.resident >= 0 or ends) and t.model[m].pinned != d)


@inlined
def must_serve(t: Tables, s: State, d: int, m: int, level: int) -> bool:
    """Whether device d may run model m, resident at this level, or load it there, where it must serve m."""
    resident = s.place[d, m].resident
    return bool(t.level[d, m, level].level_ok != 0 and (resident < 0 or resident == level))


@entry
def is_legal(t: Tables, s: State, d: int, action: int) -> bool:
    """Whether device d may take an action now: what ``mask_actions`` says of all."""
    models, levels = t.level.shape[1], t.level.shape[2]
    if action < 0 or action > models * levels + models:
        return False
    if s.device[d].kept == 0:
        forced = forced_model(t, s, d)
        if forced >= 0:
            return bool(action // levels == forced and must_serve(t, s, d, forced, action % levels))
        expired = expired_model(t, s, d)
        if expired >= 0:
            return bool(action == models * levels + expired)
    if action < models * levels:
        return bool(may_serve(t, s, d, action // levels, action % levels))
    if action < models * levels + models:
        if s.device[d].kept != 0:
            return False
        return bool(may_evict(t, s, d, action - models * levels, spares_sleepers(t, s, d)))
    return bool(s.device[d].pending_model < 0)


@inlined
def mask_actions(t: Tables, s: State, d: int, mask: Bools) -> None:
    """Writes which actions device d may take now into mask (A,); at least one is legal.

    Illegal are levels that do not exist or do not fit, quanta without requests, more copies of a model than
    it may have, evictions of what is neither resident nor asleep, is pinned, or sleeps and is spared, and,
    while room must be made for a load, everything but evictions. Where the guard says which model the device
    serves, all else is illegal, another level of a resident too; where a resident lay idle for too long,
    everything but its eviction. A device of servers that keeps its residents may load what fits beside them.
    """
    models, levels = t.level.shape[1], t.level.shape[2]
    if s.device[d].kept != 0:
        used = used_bytes(t, s, d)
        for action in range(mask.shape[0]):
            is_load = action < models * levels
            mask[action] = is_load and fits_beside(t, s, d, action // levels, action % levels, used)
        mask[models * levels + models] = s.device[d].pending_model < 0
        return
    forced = forced_model(t, s, d)
    if forced >= 0:
        for action in range(mask.shape[0]):
            mask[action] = False
        for level in range(levels):
            mask[forced * levels + level] = must_serve(t, s, d, forced, level)
        return
    expired = expired_model(t, s, d)
    if expired >= 0:
        for action in range(mask.shape[0]):
            mask[action] = action == models * levels + expired
        return
    asked, spares = s.device[d].pending_model < 0, spares_sleepers(t, s, d)
    for m in range(models):
        resident, has_work = s.place[d, m].resident, claimable_count(s, d, m) > 0
        holds = asked and may_hold(t, s, d, m)
        for level in range(levels):
            serves = holds and t.level[d, m, level].level_ok != 0
            mask[m * levels + level] = serves and (resident != level or has_work)
        mask[models * levels + m] = may_evict(t, s, d, m, spares)
    mask[models * levels + models] = asked


@jit
def legal_action(t: Tables, s: State, d: int, action: int) -> int:
    """Returns the action if legal; otherwise counts it and waits, or takes the first legal one."""
    if is_legal(t, s, d, action):
        return action
    s.counts[0].illegal_actions += 1
    chosen = t.level.shape[1] * t.level.shape[2] + t.level.shape[1]
    if not is_legal(t, s, d, chosen):
        chosen = 0
        while not is_legal(t, s, d, chosen):
            chosen += 1
    return int(chosen)
