"""What a device may do: requests that it could run, room that it has, and which actions are legal.

Actions of a device, in order: model m at level l for every (m, l) - run a quantum where it is resident at l,
load it otherwise - then evict m for every m, then wait.
"""

from __future__ import annotations

import numpy as np

from shunter.envs.compiled import jit
from shunter.envs.state import ILLEGAL, Bools, State, Tables

__all__ = ["claimable", "claimable_count", "legal_action", "mask_actions", "short_bytes", "used_bytes"]


@jit
def claimable(owner: int, home: int, d: int) -> bool:
    """Whether device d may run a request now: nobody runs it and its KV is here or nowhere."""
    return owner < 0 and (home < 0 or home == d)


@jit
def claimable_count(s: State, d: int, m: int) -> int:
    """How many requests of a model a device may run now."""
    count = 0
    queue, owner, home = s.queue[m], s.owner, s.home
    for k in range(s.queue_length[m]):
        if claimable(owner[queue[k]], home[queue[k]], d):
            count += 1
    return count


@jit
def used_bytes(t: Tables, s: State, d: int) -> float:
    """Device memory that the residents of a device take."""
    total = 0.0
    for m in range(s.resident.shape[1]):
        if s.resident[d, m] >= 0:
            total += t.footprint_bytes[d, m, s.resident[d, m]]
    return total


@jit
def short_bytes(t: Tables, s: State, d: int, m: int, level: int) -> float:
    """Bytes that others must give up before model m fits on device d at this level; 0 if it fits."""
    own = t.footprint_bytes[d, m, s.resident[d, m]] if s.resident[d, m] >= 0 else 0.0
    need = used_bytes(t, s, d) - own + t.footprint_bytes[d, m, level]
    return float(max(0.0, need - t.capacity_bytes[d]))


@jit
def mask_actions(t: Tables, s: State, d: int, mask: Bools) -> None:
    """Writes which actions device d may take now into mask (A,); at least one is legal.

    Illegal are levels that do not exist or do not fit, quanta without requests, evictions of what is not
    resident and, while room must be made for a load, everything but evictions.
    """
    models, levels = t.level_ok.shape[1], t.level_ok.shape[2]
    mask[:] = False
    if s.pending[d, 0] >= 0:
        for m in range(models):
            mask[models * levels + m] = s.resident[d, m] >= 0
        return
    for m in range(models):
        runnable = claimable_count(s, d, m) > 0
        for level in range(levels):
            legal = t.level_ok[d, m, level]
            if s.resident[d, m] == level:
                legal = runnable
            mask[m * levels + level] = legal
        mask[models * levels + m] = s.resident[d, m] >= 0
    mask[models * levels + models] = True


@jit
def legal_action(s: State, action: int, mask: Bools) -> int:
    """Returns the action if legal; otherwise counts it and waits, or takes the first legal one."""
    if 0 <= action < mask.shape[0] and mask[action]:
        return action
    s.counts[ILLEGAL] += 1
    wait = int(mask.shape[0] - 1)
    return wait if mask[wait] else int(np.argmax(mask))
