"""The heuristics in compiled code: whole episodes of one in one call, decided as its ``scores`` decides.

A heuristic is a vector: which one, then its parameters in order, a word as its number among the options.
``shunter.eval.execution.batched`` plays what has one; whatever has none, a third party's say, is asked in
Python.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from shunter.agents.base import Policy
from shunter.agents.episodes import play_all
from shunter.agents.heuristics.cost_greedy import CostGreedy, greedy_score_of
from shunter.agents.heuristics.fifo.collated import FifoCollated
from shunter.agents.heuristics.fifo.cost_table import CostTable
from shunter.agents.heuristics.fifo.exhaustive import Exhaustive
from shunter.agents.heuristics.fifo.never_preempt import NeverPreempt
from shunter.agents.heuristics.fifo.swap import FifoSwap
from shunter.agents.heuristics.greedy.pressure import PressureGreedy
from shunter.agents.heuristics.greedy.sjf import Sjf, SjfOracle
from shunter.agents.heuristics.greedy.startup import StartupGreedy
from shunter.agents.heuristics.lru.count import CountLru
from shunter.agents.heuristics.lru.keepalive import LruKeepalive
from shunter.agents.heuristics.lru.size import SizeLru
from shunter.agents.heuristics.random_choice import Random
from shunter.agents.heuristics.rules import EVICTIONS, NEVER, is_copy
from shunter.agents.learned.compiled import Scratch
from shunter.agents.parameters import Choice, Heuristic
from shunter.envs.observation.features import feature
from shunter.envs.sim.compiled import inlined, jit
from shunter.envs.sim.randomness import GOLDEN
from shunter.envs.sim.randomness import inlined_spread as spread
from shunter.envs.state.state import Bools, State
from shunter.envs.state.tables import Tables

__all__ = ["play_rules", "rule_vector"]

Floats = NDArray[np.float64]
Features = NDArray[np.float32]

_RULES: tuple[tuple[type[Heuristic], ...], ...] = (
    (FifoSwap,),
    (FifoCollated,),
    (CostTable,),
    (CountLru,),
    (SizeLru,),
    (LruKeepalive,),
    (StartupGreedy,),
    (PressureGreedy,),
    (Sjf, SjfOracle),
    (CostGreedy,),
    (Exhaustive,),
    (NeverPreempt,),
    (Random,),
)
FIFO, COLLATED, TABLE, COUNT, SIZE, KEEPALIVE, STARTUP, PRESSURE, SHORTEST, GREEDY = range(10)
STAYING, FINISHING, LUCK = range(10, 13)
"""Places of the heuristics in ``_RULES``."""

IS_RUN, IS_LOAD, IS_EVICT, IS_WAIT = (feature(f"is_{kind}") for kind in ("run", "load", "evict", "wait"))
REQUESTS, STARTED, AGE, ARRIVALS = (feature(n) for n in ("requests", "started", "oldest_age", "arrivals"))
SWAP, JOIN, FIRST, PREEMPT = (feature(f"{name}_time") for name in ("swap", "join", "first", "preempt"))
UNUSED, FOOTPRINT, SHORTAGE = feature("unused_time"), feature("footprint"), feature("shortage")
TOP_LEVEL, RESIDENT_HERE, GPU_SHARE = feature("top_level"), feature("resident_here"), feature("gpu_share")
LAST, STARTUP_ELSEWHERE = feature("turned_to_last"), feature("startup_elsewhere")


class Seen(NamedTuple):
    """What a score takes from all candidates together.

    Attributes:
        residents: Number of residents that could be evicted.
        goes: Highest ``eviction_order`` of the residents that could be evicted.
        newcomer: Score of serving the model that would be loaded first; minus infinity without one.
        pressure: Highest pressure of residents that are waited for, at least 0.
        busy: Whether a resident has started requests.
    """

    residents: int
    goes: float
    newcomer: float
    pressure: float
    busy: bool


def rule_vector(policy: Policy) -> Floats | None:
    """A heuristic as compiled code takes it; None for what is no heuristic of ours, or derived from one."""
    for place, kinds in enumerate(_RULES):
        if isinstance(policy, Heuristic) and type(policy) in kinds:
            values = ((getattr(policy, name), of) for name, of in policy.space().items())
            numbers = (of.options.index(v) if isinstance(of, Choice) else v for v, of in values)
            return np.array([place, *numbers], np.float64)
    return None


@inlined
def is_new(c: Features) -> bool:
    """``shunter.agents.heuristics.rules.joins`` of a legal candidate."""
    wanted = c[IS_LOAD] > 0 and c[REQUESTS] > 0 and c[RESIDENT_HERE] == 0 and c[TOP_LEVEL] > 0
    return bool(wanted and not is_copy(c))


@inlined
def is_served(c: Features) -> bool:
    """A resident that somebody waits for, or ``is_new``."""
    return bool((c[IS_RUN] > 0 and c[REQUESTS] > 0) or is_new(c))


@inlined
def fifo_of(c: Features) -> float:
    """``shunter.agents.heuristics.rules.fifo``."""
    return float(np.float64(c[AGE]) + 1e-6 * (1.0 if c[IS_RUN] > 0 else 0.0))


@inlined
def idle_of(c: Features) -> float:
    """``shunter.agents.heuristics.rules.idle_first``."""
    unwanted = 1.0 if c[REQUESTS] == 0 else 0.0
    return 1e7 * unwanted + 1e7 * (1.0 if c[STARTED] == 0 else 0.0)


@inlined
def pressure_of(r: Floats, c: Features) -> float:
    """Pressure of a candidate as ``pressure-greedy`` has it: demand over footprint."""
    demand = np.float64(c[ARRIVALS]) + np.float64(c[REQUESTS]) / max(r[1], 1e-3)
    return float(min(demand / (np.float64(c[FOOTPRINT]) + 1e-3), 1e6))


@inlined
def hash_of(c: Features) -> np.uint64:
    """``shunter.agents.heuristics.random_choice.hashed``."""
    bits, found = c.view(np.uint32), np.uint64(0)
    for f in range(bits.shape[0]):
        found ^= spread(np.uint64(bits[f]) + np.uint64(f + 1) * GOLDEN)
    return found


@inlined
def random_score(r: Floats, c: Features, context: Features) -> float:
    """Score of a candidate as ``random`` has it: a hash of what is seen, 0 to 1."""
    seen = hash_of(c) ^ hash_of(context)
    return float(np.float64(spread(seen ^ spread(np.uint64(r[1])))) / 2.0**64)


@inlined
def eviction_order(r: Floats, c: Features, context: Features) -> float:
    """Which resident goes first, the highest."""
    rule, unused = int(r[0]), np.float64(c[UNUSED])
    if rule == TABLE:
        cost = np.float64(c[PREEMPT]) * (1.0 + np.float64(c[ARRIVALS])) ** r[2]
        if r[3] == 1:
            cost = cost / (np.float64(c[FOOTPRINT]) + 1e-3)
        return float(-min(cost, 1e8))
    if rule in (COUNT, FINISHING):
        return float(idle_of(c) + unused)
    if rule == SIZE:
        return float(idle_of(c) + 4e6 * min(np.float64(c[FOOTPRINT]), 1.0) + unused)
    if rule in (STARTUP, SHORTEST):
        return float(idle_of(c) - np.float64(c[PREEMPT]))
    if rule == PRESSURE:
        return float(idle_of(c) - pressure_of(r, c) + 1e-3 * min(unused, 1e3))
    return random_score(r, c, context) if rule == LUCK else float(unused)


@inlined
def serving(r: Floats, c: Features, context: Features, seen: Seen) -> float:
    """What serving a candidate counts, at least 0; -1 for one that is not served."""
    rule, runs = int(r[0]), c[IS_RUN] > 0 and c[REQUESTS] > 0
    loads = c[IS_LOAD] > 0 and c[REQUESTS] > 0
    if rule == LUCK:
        return random_score(r, c, context) if runs or loads else -1.0
    if rule == STARTUP:
        swap = np.float64(c[SWAP])
        new = loads and c[TOP_LEVEL] > 0 and c[RESIDENT_HERE] == 0
        new = new and (not is_copy(c) or swap < r[2] * np.float64(c[STARTUP_ELSEWHERE]))
        gain = r[1] * np.float64(c[AGE]) - (swap + np.float64(c[JOIN]))
        return float(1e7 + min(max(gain, -1e7), 1e7)) if runs or new else -1.0
    if rule == SHORTEST:
        time = r[1] * np.float64(c[SWAP]) + np.float64(c[JOIN]) + np.float64(c[FIRST])
        return float(2e7 - min(time, 2e7)) if runs or (loads and not is_copy(c)) else -1.0
    if not is_served(c):
        return -1.0
    if rule in (COLLATED, TABLE):
        overdue = np.float64(c[AGE]) > r[1]
        return fifo_of(c) + (4e7 if overdue else 2e7 if runs else 0.0)
    if rule in (COUNT, SIZE):
        return -1.0 if not runs and seen.residents >= r[1] else fifo_of(c)
    if rule == PRESSURE:
        if runs:
            return fifo_of(c)
        pressure = pressure_of(r, c)
        return 2e7 + pressure if c[SHORTAGE] <= 0 or pressure > r[2] * seen.pressure else -1.0
    last = runs and c[LAST] > 0
    if rule == STAYING:
        counted = fifo_of(c)
        if r[1] == 1:
            counted = np.float64(c[REQUESTS]) + 1e-7 * min(counted, 1e6)
        return float(counted + (2e7 if last else 0.0))
    if rule == FINISHING:
        started = runs and c[STARTED] > 0
        return fifo_of(c) + (2e7 if started else 0.0) + (2e7 if started and last else 0.0)
    return fifo_of(c)


@inlined
def keepalive_score(r: Floats, c: Features, busy: bool) -> float:
    """Score of a candidate as ``lru-keepalive`` has it."""
    run, age, fits = c[IS_RUN] > 0, np.float64(c[AGE]), c[SHORTAGE] <= 0
    if c[IS_WAIT] > 0:
        return 0.0
    if c[IS_EVICT] > 0:
        return float(-1e9 - 1e8 * (1.0 if c[STARTED] > 0 else 0.0) + np.float64(c[UNUSED]))
    new = c[IS_LOAD] > 0 and c[REQUESTS] > 0 and c[RESIDENT_HERE] == 0 and not is_copy(c)
    new = new and (r[2] == 1 or c[TOP_LEVEL] > 0) and (fits or not busy or age > r[1])
    if run or new:
        serve = 1e3 + age + 1e-3 * (3.0 if run else 1.0 if fits else 0.0)
        return float(serve + 1e-4 * np.float64(c[GPU_SHARE]))
    return NEVER


@inlined
def rule_score(r: Floats, c: Features, context: Features, seen: Seen) -> float:
    """What a heuristic gives a legal candidate."""
    rule = int(r[0])
    if rule == GREEDY:
        return greedy_score_of(c, r[1], r[2], r[3])
    if rule == KEEPALIVE:
        return keepalive_score(r, c, seen.busy)
    if c[IS_WAIT] > 0:
        return 0.0
    if c[IS_EVICT] > 0:
        order = eviction_order(r, c, context)
        full = rule in (COUNT, SIZE) and seen.residents >= r[1] and c[RESIDENT_HERE] > 0
        if full and order >= seen.goes:
            return max(EVICTIONS + order, 1.0 + seen.newcomer)
        return EVICTIONS + order
    serve = serving(r, c, context, seen)
    return 1.0 + serve if serve >= 0 else NEVER


@inlined
def look(r: Floats, candidates: Features, context: Features, mask: Bools) -> Seen:
    """What the scores of this decision take from all candidates."""
    rule, residents, goes, newcomer, pressure, busy = int(r[0]), 0, -np.inf, -np.inf, 0.0, False
    if rule in (COUNT, SIZE, PRESSURE, KEEPALIVE):
        for a in range(mask.shape[0]):
            if not mask[a]:
                continue
            c = candidates[a]
            if c[IS_EVICT] > 0 and c[RESIDENT_HERE] > 0:
                residents += 1
                goes = max(goes, eviction_order(r, c, context))
            elif c[IS_RUN] > 0:
                busy = busy or c[STARTED] > 0
                if c[REQUESTS] > 0:
                    pressure = max(pressure, pressure_of(r, c))
            elif is_new(c):
                newcomer = max(newcomer, fifo_of(c))
    return Seen(residents, goes, newcomer, pressure, busy)


@jit
def rule_choice(r: Floats, candidates: Features, context: Features, mask: Bools) -> int:
    """The candidate that a heuristic takes; of equals the first.

    Args:
        r: Vector of the heuristic.
        candidates: (A, F) features of the candidates.
        context: (G,) features of the context.
        mask: (A,) which candidates are legal, at least one of them.
    """
    seen = look(r, candidates, context, mask)
    best, top = 0, -np.inf
    for a in range(mask.shape[0]):
        if mask[a]:
            score = rule_score(r, candidates[a], context, seen)
            if score > top:
                best, top = a, score
    return best


@inlined
def choose_by_rule(r: Floats, candidates: Features, context: Features, mask: Bools, w: Scratch) -> int:
    """``rule_choice`` for ``shunter.agents.episodes``; needs no room."""
    return rule_choice(r, candidates, context, mask)


@jit
def play_rules(t: Tables, batch: State, r: Floats, w: Scratch) -> int:
    """Plays every episode of a batch on with one heuristic; returns how many lack room for a request."""
    return play_all(choose_by_rule, t, batch, r, w)
