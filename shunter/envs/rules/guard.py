"""The guard: a bound on waiting that every policy obeys, as a rule of what is legal.

A request waits since its arrival or, once it has a token, since the end of the last quantum that advanced it.
A device that may choose freely, while a request that it could run has waited longer than the guard, must
serve the model whose such request has waited longest: run it where it is resident, load it at any level that
fits where it is not; of equals the one that arrived first. A model's priority makes its waits count so many
times more. Passed over are models that the device may not hold, and, until the request has waited twice the
guard, those that another device runs, loads or is promoted to; unless the request's KV ties it to this
device. While room is made for a load, the policy chooses who makes it, as ever.

A device that begins such a run or load is promoted to the model: until all that had arrived by then, as far
as the device could run them, have left, it serves nothing else. So whoever is loaded because of the guard
serves all that wait for it, and two models that are overdue at once do not evict each other before they
served.

How long a request then waits: the guard, the operation under way, an unload and a load, where it alone is
overdue; where several models are, the promotions before its own too. Where more arrives than can be served
(``Rotation.busy`` of 1 and more, ``World.guard_feasible``) no bound can be kept for everyone: then the guard
means that the longest waiting goes first, each load paid back by all who waited for it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import linprog

from shunter.envs.rules.claims import claimable, claimable_count
from shunter.envs.rules.copies import may_hold
from shunter.envs.sim.compiled import entry, inlined, internal
from shunter.envs.state.records import FAR_NS
from shunter.envs.state.state import LOAD, RUN, State
from shunter.envs.state.tables import Tables

__all__ = ["forced_model"]

ROTATIONS = 2.25
"""Rotations that the default guard lets pass where work is even and devices idle; see ``Rotation.guard_s``.

The least at which tuned cost-greedy's mean response hardly grows in the library's training scenarios.
"""

MOST_BUSY = 0.8
"""Share of time at work from which on the default guard no longer grows: it has to remain a bound."""

FLOOR_QUANTA = 4.0
"""Quanta that the default guard lets pass beside the longest load, however short a rotation is."""

Floats = NDArray[np.float64]


@internal
def note_waits(s: State, d: int, m: int) -> None:
    """Computes anew since when those of a model's requests wait that device d could run.

    Who has no token waits since arrival, so that the first such one in the queue waits longest of them; of
    the others all are looked at.
    """
    place = s.place[d, m]
    started = place.held + s.model[m].unassigned_started
    fresh = claimable_count(s, d, m) > started
    place.waiting_ns = FAR_NS
    place.tied_ns = FAR_NS
    is_first, i = True, s.model[m].head
    while i >= 0 and (started > 0 or fresh):
        r = s.slot[i]
        if claimable(s, i, d):
            if is_first:
                place.oldest_ns = r.arrival_ns
                is_first = False
            if r.home == d or r.generated > 0:
                started -= 1
            else:
                fresh = False
            place.waiting_ns = min(place.waiting_ns, r.progress_ns)
            if r.home == d:
                place.tied_ns = min(place.tied_ns, r.progress_ns)
        i = r.next


@inlined
def keeps_promotion(t: Tables, s: State, d: int) -> bool:
    """Whether device d still has to serve the model that it was promoted to."""
    device = s.device[d]
    m = device.promoted_model
    if m < 0 or claimable_count(s, d, m) == 0 or not may_hold(t, s, d, m):
        return False
    if s.place[d, m].stale != 0:
        note_waits(s, d, m)
    return bool(s.place[d, m].oldest_ns <= device.promoted_ns)


@inlined
def served_elsewhere(t: Tables, s: State, d: int, m: int) -> bool:
    """Whether another device than d runs or loads model m, is about to, or was promoted to it."""
    for e in range(s.device.shape[0]):
        other = s.device[e]
        works = (other.op_kind == RUN or other.op_kind == LOAD) and other.op_model == m
        works = works or (t.limits[0].drain != 0 and s.place[e, m].resident >= 0)
        if e != d and (works or other.pending_model == m or other.promoted_model == m):
            return True
    return False


@inlined
def fits_somehow(t: Tables, d: int, m: int) -> bool:
    """Whether model m fits device d at some level."""
    levels = 0
    for level in range(t.level.shape[2]):
        levels += t.level[d, m, level].level_ok
    return bool(levels > 0)


@internal
def first_waiting(s: State, d: int, m: int, since_ns: int) -> int:
    """The first request of the episode that waits since then, of a model's that device d could run."""
    i = s.model[m].head
    while not (claimable(s, i, d) and s.slot[i].progress_ns == since_ns):
        i = s.slot[i].next
    return int(s.slot[i].id)


@inlined
def counted_ns(t: Tables, s: State, m: int, waiting_ns: int) -> int:
    """Since when requests for model m count as waiting that have waited since then: priority adds to it."""
    now_ns = s.clock[0].now_ns
    if waiting_ns > now_ns:
        return waiting_ns
    return int(waiting_ns - t.model[m].priority * (now_ns - waiting_ns))


@internal
def longest_overdue(t: Tables, s: State, d: int) -> int:
    """The model whose request has waited longest of those that are device d's to serve now, or -1."""
    guard_ns = t.limits[0].guard_ns
    chosen, chosen_ns, since_ns = -1, FAR_NS, s.clock[0].now_ns - guard_ns
    for m in range(s.model.shape[0]):
        own_ns = s.place[d, m].waiting_ns
        if counted_ns(t, s, m, own_ns) >= s.clock[0].now_ns - 2 * guard_ns and served_elsewhere(t, s, d, m):
            own_ns = s.place[d, m].tied_ns
        waiting_ns = counted_ns(t, s, m, own_ns)
        if waiting_ns > since_ns or not fits_somehow(t, d, m) or not may_hold(t, s, d, m):
            continue
        equal = waiting_ns == since_ns
        if equal and (chosen < 0 or first_waiting(s, d, m, own_ns) > first_waiting(s, d, chosen, chosen_ns)):
            continue
        chosen, chosen_ns, since_ns = m, own_ns, waiting_ns
    return chosen


@entry
def forced_model(t: Tables, s: State, d: int) -> int:
    """The one model that device d may serve now, or -1 where the guard leaves it a choice."""
    if t.limits[0].guard_ns == FAR_NS or s.device[d].pending_model >= 0:
        return -1
    if keeps_promotion(t, s, d):
        return int(s.device[d].promoted_model)
    late_ns = s.clock[0].now_ns - t.limits[0].guard_ns
    for m in range(s.model.shape[0]):
        if s.place[d, m].stale != 0:
            note_waits(s, d, m)
        if counted_ns(t, s, m, s.place[d, m].waiting_ns) < late_ns:
            # Waits of the models behind it may be out of date.
            for k in range(m + 1, s.model.shape[0]):
                if s.place[d, k].stale != 0:
                    note_waits(s, d, k)
            return int(longest_overdue(t, s, d))
    return -1


@inlined
def renew_promotion(t: Tables, s: State, d: int) -> None:
    """Before a decision of device d is carried out: ends a fulfilled promotion, begins one if forced."""
    device = s.device[d]
    if t.limits[0].guard_ns == FAR_NS or device.pending_model >= 0 or keeps_promotion(t, s, d):
        return
    device.promoted_model = -1
    device.promoted_model = forced_model(t, s, d)
    device.promoted_ns = s.clock[0].now_ns


@dataclass(frozen=True)
class Rotation:
    """Serving all models in turn, each until nobody waits for it: what can be sustained.

    Attributes:
        busy: Share of time that devices are at work, at full batches and without loads.
        rotation_s: Time from one turn of a model to its next.
        floor_s: Less than this bounds nothing: some quanta and the longest load.
        uneven: Mean square over squared mean of the models' work, times that of the arrival rate; 1: even.
    """

    busy: float
    rotation_s: float
    floor_s: float
    uneven: float = 1.0

    @property
    def guard_s(self) -> float:
        """The default guard: ``ROTATIONS`` x uneven x rotation_s / (1 - busy), at least ``floor_s``.

        In a queue with priorities, which is what a good policy makes of its models, the last class waits by
        the mean square of the work, and by 1 / (1 - busy) once for those before it and once for itself.

        Source: Cobham, Priority assignment in waiting line problems, Operations Research 2(1), 1954.
        """
        patience = ROTATIONS * self.uneven / (1.0 - min(MOST_BUSY, self.busy))
        return max(self.floor_s, patience * self.rotation_s)

    def sustains(self, guard_s: float) -> bool:
        """Whether every model has its turn within this time: nobody has to wait much longer."""
        return self.busy < 1.0 and self.rotation_s <= guard_s


def rotation(
    tables: Tables,
    lengths: Floats,
    share: Floats,
    rate_per_s: float,
    *,
    unsteady: float = 1.0,
    users: int | None = None,
) -> Rotation:
    """How long a rotation takes.

    As in a polling system with exhaustive service, C = S / D / (1 - busy) + a quantum, where S are the loads
    and unloads of all models that are not pinned, 0 if all fit at once, and D the devices; busy, at most
    ``MOST_BUSY`` here, is rate x work / D, where work is that of a mean request in a full batch with the
    models spread over the devices as well as can be. In a closed loop no more wait than there are users, and
    C = (S + users x work) / D + a quantum. Each figure of a model is that of the level where its work is
    least, and in S the mean over the devices that it fits.

    Args:
        tables: Tables of the scenario.
        lengths: (M, 2) mean prompt and decode tokens of each model's requests.
        share: (M,) share of the requests that ask for each model.
        rate_per_s: Mean arrivals per second.
        unsteady: How unsteady the arrivals are, ``Arrivals.unsteady``; 1 is a steady Poisson process.
        users: Number of users of a closed loop; None: an open one.

    Source: Takagi, Queuing analysis of polling models, ACM Computing Surveys 20(1), 1988.
    """
    work_s, quantum_s = _work_and_quantum_s(tables, lengths)
    fits = tables.level_ok.any(axis=2)
    best = np.where(tables.level_ok, work_s, np.inf).argmin(axis=2)[..., None]
    is_warm = bool(np.isinf(tables.host_bytes[0]))
    loads_s = tables.load_s if is_warm else np.maximum(tables.load_s, tables.cold_load_s)

    def at_best(values: Floats) -> Floats:
        return np.asarray(np.take_along_axis(values, best, axis=2)[..., 0])

    swap_s = _mean_where(at_best(loads_s + tables.unload_s), fits) * (tables.pinned < 0)
    turn_s = float(_mean_where(at_best(quantum_s), fits).max())
    all_fit = _all_fit(at_best(tables.footprint_bytes), tables.capacity_bytes, fits)
    swaps_s = 0.0 if all_fit else float(swap_s.sum()) / len(fits)
    floor_s = FLOOR_QUANTA * turn_s + float(swap_s.max())
    busy_s = _least_busy_s(at_best(work_s), fits, share)
    uneven = unsteady * _unevenness(np.where(fits, at_best(work_s), np.inf).min(axis=0), share)
    if users is not None:
        return Rotation(0.0, swaps_s + users * busy_s + turn_s, floor_s, uneven)
    busy = rate_per_s * busy_s
    return Rotation(busy, swaps_s / (1.0 - min(MOST_BUSY, busy)) + turn_s, floor_s, uneven)


def _unevenness(work_s: Floats, share: Floats) -> float:
    """Mean square over squared mean of the models' work where it is least, of those that fit somewhere."""
    known, weight = np.where(np.isfinite(work_s), work_s, 0.0), np.where(np.isfinite(work_s), share, 0.0)
    return float(weight.sum() * (weight @ known**2) / (weight @ known) ** 2)


def _mean_where(values: Floats, fits: NDArray[np.bool_]) -> Floats:
    """Means over the devices that a model fits, (models,)."""
    return np.asarray(np.where(fits, values, 0.0).sum(axis=0) / np.maximum(1, fits.sum(axis=0)))


def _least_busy_s(work_s: Floats, fits: NDArray[np.bool_], share: Floats) -> float:
    """Seconds for which the busiest device works for a request, on average: the least of any assignment.

    A linear programme over how much of each model each device serves.

    Args:
        work_s: (devices, models) seconds of work for a mean request.
        fits: (devices, models) bool, whether the model fits the device.
        share: (models,) share of the requests that ask for each model.
    """
    devices, models = fits.shape
    served = np.hstack([np.tile(np.eye(models), devices), np.zeros((models, 1))])
    works = np.hstack([np.kron(np.eye(devices), np.ones(models)) * work_s.ravel(), -np.ones((devices, 1))])
    bounds = [(0.0, None if fit else 0.0) for fit in fits.ravel()] + [(0.0, None)]
    cost = np.append(np.zeros(devices * models), 1.0)
    asked = np.where(fits.any(axis=0), share, 0.0)
    return float(linprog(cost, works, np.zeros(devices), served, asked, bounds).fun)


def _work_and_quantum_s(tables: Tables, lengths: Floats) -> tuple[Floats, Floats]:
    """Seconds of a mean request in a full batch, and of a quantum; (devices, models, levels) each."""
    limits, (prompt, decode) = tables.limits[0], lengths.T
    batch = np.minimum(tables.max_batch, tables.step_s.shape[3])
    prefill_s = at_lengths(prompt, tables.prefill_tokens, tables.prefill_s)
    full_s = np.stack([tables.step_s[:, m, :, b - 1] for m, b in enumerate(batch)], axis=1)
    step_s = at_lengths(prompt + decode / 2, tables.context_tokens, full_s)
    decoding_s = np.minimum(limits["quantum_ns"] * 1e-9 + step_s, limits["quantum_steps"] * step_s)
    return prefill_s + decode[:, None] * step_s / batch[:, None], prefill_s + decoding_s


def at_lengths(tokens: Floats, grid: Floats, values: Floats) -> Floats:
    """Interpolates along the last axis.

    Args:
        tokens: (M,) where to, for each model.
        grid: (C,) grid of tokens, ascending.
        values: (D, M, L, C) values on the grid.

    Returns:
        (D, M, L).
    """

    def at(along: Floats, x: float) -> Any:
        return np.interp(x, grid, along)

    of_models = [np.apply_along_axis(at, -1, values[:, m], x) for m, x in enumerate(tokens)]
    return np.stack(of_models, axis=1)


def _all_fit(footprint: Floats, capacity: Floats, fits: NDArray[np.bool_]) -> bool:
    """Whether all models are held at once if the largest goes first, each to the first device with room."""
    room = capacity.astype(np.float64).copy()
    for m in np.argsort(-np.where(fits, footprint, 0.0).max(axis=0)):
        places = np.flatnonzero(fits[:, m] & (footprint[:, m] <= room))
        if not len(places):
            return False
        room[places[0]] -= footprint[places[0], m]
    return True
