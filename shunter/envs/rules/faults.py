"""What happens when an engine fails: the rule by which requests are requeued or given up.

The simulator's engines never fail; the real executor and the replay of its log call this instead of
``shunter.envs.rules.dynamics.complete``.

An engine that failed is started again, empty. What its residents held is gone: KV on the device, and KV
saved to the memory of its process; so is what the guard had promoted the device to. A request is not: its
prompt and the tokens of all quanta that came to their end are the scheduler's, so it is recomputed from
these, as after a KV cache that was dropped. Tokens of the quantum that failed never arrived, and are
generated again; as decoding is greedy they are the same.
"""

from __future__ import annotations

from shunter.envs.rules.claims import claimable
from shunter.envs.rules.dynamics import finish_evictions
from shunter.envs.rules.objectives import end_busy
from shunter.envs.sim.compiled import internal, jit
from shunter.envs.state.queues import give_up, touch
from shunter.envs.state.state import IDLE, KV_DROPPED, LOAD, RUN, Bools, State
from shunter.envs.state.tables import SLO, Tables

__all__ = ["fail"]


@internal
def blame(s: State, i: int) -> None:
    """Counts an attempt of the request in slot i that an engine's failure ended."""
    r = s.slot[i]
    if r.id < s.outcome.shape[0]:
        s.outcome[r.id].attempts += 1


@internal
def unclaim_batch(s: State, d: int) -> None:
    """Puts the requests of device d's quantum back where they were before it; undoes ``claim``."""
    c = s.clock[0]
    for b in range(s.device[d].op_batch):
        r = s.slot[s.entry[d, b].slot]
        r.owner = -1
        if r.home == d:
            s.place[d, r.model].held += 1
        else:
            s.model[r.model].unassigned += 1
            s.model[r.model].unassigned_started += 1 if r.generated > 0 else 0
        if c.objective == SLO and r.missed == 0:
            c.check_ns = min(c.check_ns, r.limit_ns)
        blame(s, s.entry[d, b].slot)


@internal
def blame_waiting(t: Tables, s: State, d: int, m: int) -> None:
    """Counts an attempt of those that device d would have run next had its load of model m not failed."""
    left, i = t.model[m].max_batch, s.model[m].head
    while left > 0 and i >= 0:
        if claimable(s, i, d):
            left -= 1
            blame(s, i)
        i = s.slot[i].next


@internal
def lose(s: State, d: int, m: int) -> None:
    """Model m is gone from device d, with the KV of its requests, live or saved."""
    place, model = s.place[d, m], s.model[m]
    place.resident = -1
    place.evicting = -1
    place.asleep = -1
    left, i = place.held, model.head
    while left > 0:
        r = s.slot[i]
        if r.home == d:
            left -= 1
            r.home = -1
            r.kv = KV_DROPPED
            model.unassigned += 1
            model.unassigned_started += 1 if r.generated > 0 else 0
        i = r.next
    place.held = 0


@internal
def give_up_worn(s: State, m: int, attempts: int) -> None:
    """Gives up the requests of model m that nobody runs and that failed so often."""
    i = s.model[m].head
    while i >= 0:
        r, behind = s.slot[i], s.slot[i].next
        if r.owner < 0 and r.id < s.outcome.shape[0] and s.outcome[r.id].attempts >= attempts:
            give_up(s, i)
        i = behind


@jit
def fail(t: Tables, s: State, d: int, lost: Bools, attempts: int) -> None:
    """Ends device d's operation, which its engine failed in; the clock stands at the end of the restart.

    It counts against the requests that it was for: the batch of a quantum, or who would have run after a
    load.

    Args:
        t: Tables of the scenario.
        s: State of the episode; the operation's start and end are filled in.
        d: The device.
        lost: (models,) those whose engine was started again; the model of the operation, and what it was
            evicting, are among them.
        attempts: A request that failed so often is given up.
    """
    device = s.device[d]
    kind, m = device.op_kind, device.op_model
    device.op_kind = IDLE
    device.promoted_model = -1
    device.promoted_ns = 0
    end_busy(s, d)
    if kind == RUN:
        unclaim_batch(s, d)
        s.counts[0].running_ns += device.op_end_ns - device.op_start_ns
    else:
        s.counts[0].loading_ns += device.op_end_ns - device.op_start_ns
        finish_evictions(s, d)
    for gone in range(s.model.shape[0]):
        if lost[gone]:
            lose(s, d, gone)
            touch(s, gone)
    if kind == LOAD:
        blame_waiting(t, s, d, m)
    give_up_worn(s, m, attempts)
    touch(s, m)
