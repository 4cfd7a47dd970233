"""A sweep that must end in time: rounds of the units that tell most per second."""

from __future__ import annotations

import copy
import random
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace

import numpy as np

from shunter.profiling.sweep.design import Design, observations
from shunter.profiling.sweep.pace import Pace
from shunter.profiling.sweep.plan import Group, SweepPlan, Unit, in_order

__all__ = ["expected_selection"]

_ROUND_SHARE = 0.5
_AXES = {
    "run": ("prompt_tokens", "decode_tokens", "batch"),
    "swap": ("cut_tokens", "page_cache", "max_batch"),
}


@dataclass(frozen=True)
class _Candidate:
    place: Group
    unit: Unit


class BudgetPlanner:
    """Chooses what to measure next.

    The first round is a pilot: the cheapest run and the cheapest swap of every model and level, which are
    thereby represented, and whose pace makes the next predictions good. Each further round spends half of
    the time that is left on the units that add most information per predicted second (``Design``), one row
    of a unit a round, so that repeats fall on different moments. Opening a group costs its load; whatever is
    opened measures its cheapest run once more, so that one piece of work is known at many moments.

    Args:
        plan: Its first pass is the grid.
        pace: Predicts; learns elsewhere.
        wants: Whether a unit, given with the number of the repeat that would be next, needs it.
        is_measured: Whether it is measured already.
    """

    def __init__(
        self,
        plan: SweepPlan,
        pace: Pace,
        *,
        wants: Callable[[Group, Unit], bool],
        is_measured: Callable[[Group, Unit], bool],
    ) -> None:
        self._pace, self._wants, self._max_batch = pace, wants, plan.max_batch
        self._rng = random.Random(plan.settings.seed)
        self._places = [replace(group, units=()) for group in plan.groups if group.units[0].repeat == 0]
        self._candidates = [
            _Candidate(place, replace(unit, repeat=0))
            for place, group in zip(self._places, plan.groups, strict=False)
            for unit in group.units
        ]
        self._index = {(c.place.key, c.unit): i for i, c in enumerate(self._candidates)}
        self._design = Design([observations(plan, c.place, c.unit) for c in self._candidates])
        self._rows: Counter[int] = Counter()
        self._refused: set[tuple[str, int]] = set()
        self._tried: set[tuple[tuple[str, int], Unit]] = set()
        for i, candidate in enumerate(self._candidates):
            while is_measured(candidate.place, self._next(i)):
                self._count(i)

    def pilot(self) -> list[Group]:
        """The cheapest run and swap of each model and level, a level of each model after the other."""
        groups = []
        for place in self._shuffled_places():
            found = [self._cheapest(place.key, kind, fewest_first=True) for kind in _AXES]
            groups += self._groups(i for i in found if i is not None)
        return groups

    def next_round(self, left_s: float) -> list[Group]:
        """The units of the next round, in random order; empty: nothing more fits, or is wanted."""
        open_to = [i for i in range(len(self._candidates)) if self._is_open(i)]
        whole_s = sum(self._unit_s(i) for i in open_to)
        whole_s += sum(self._pace.open_s(place) for place in self._places)
        # When half of the time does not hold two more loads, halving it again would waste it on loads.
        dearest_s = max((self._pace.open_s(p) + self._dearest_s(p) for p in self._places), default=0.0)
        spend_s = left_s if whole_s <= left_s or left_s < 4 * dearest_s else _ROUND_SHARE * left_s
        chosen = self._choose(open_to, spend_s)
        opened = dict.fromkeys(self._candidates[i].place.key for i in chosen)
        again = [i for key in opened if (i := self._cheapest(key, "run")) is not None]
        wanted = [i for i in again if self._wants(self._candidates[i].place, self._next(i, chosen.count(i)))]
        return self._groups([*chosen, *wanted])

    def measured(self, group: Group, unit: Unit) -> None:
        """A unit that was chosen is measured."""
        self._count(self._index[group.key, replace(unit, repeat=0)])

    def gave_up(self, group: Group, unit: Unit) -> None:
        """A unit that was chosen does not fit into what is left."""
        self._tried.add((group.key, replace(unit, repeat=0)))

    def refused(self, group: Group) -> None:
        """A model does not fit the memory at this level."""
        self._refused.add(group.key)

    def left_out(self) -> tuple[str, ...]:
        """What of the grid was never measured, in words; empty: nothing."""
        never = [c for i, c in enumerate(self._candidates) if not self._rows[i]]
        if not never:
            return ()
        lines = [f"left out {len(never)} of {len(self._candidates)} configurations of the grid"]
        for kind, axes in _AXES.items():
            mine = [c for c in never if c.unit.kind == kind]
            if mine:
                where: dict[str, list[object]] = {
                    "model": [c.place.checkpoint.name for c in mine],
                    "gpu_layers": [c.place.gpu_layers for c in mine],
                    **{axis: [getattr(c.unit, axis) for c in mine] for axis in axes},
                }
                counts = [_counts(axis, values) for axis, values in where.items()]
                lines.append(f"{kind}s: {len(mine)}; " + "; ".join(counts))
        return tuple(lines)

    def _choose(self, open_to: list[int], left_s: float) -> list[int]:
        design = copy.deepcopy(self._design)
        cost_s = np.array([self._unit_s(i) for i in range(len(self._candidates))])
        open_s = np.array([self._pace.open_s(c.place) for c in self._candidates])
        place_of = np.array([self._places.index(c.place) for c in self._candidates])
        is_open = np.isin(np.arange(len(cost_s)), open_to)
        chosen: list[int] = []
        while True:
            fits = is_open & (cost_s + open_s <= left_s)
            if not fits.any():
                return chosen
            rate = np.where(fits, design.gains() / np.maximum(cost_s + open_s, 1e-9), -np.inf)
            best = int(rate.argmax())
            chosen.append(best)
            design.add(best)
            left_s -= cost_s[best] + open_s[best]
            is_open[best] = False
            open_s[place_of == place_of[best]] = 0.0

    def _groups(self, chosen: Iterable[int]) -> list[Group]:
        by_place: dict[int, list[Unit]] = defaultdict(list)
        times: Counter[int] = Counter()
        for i in chosen:
            by_place[self._places.index(self._candidates[i].place)].append(self._next(i, times[i]))
            times[i] += 1
        order = self._rng.sample(sorted(by_place), len(by_place))
        return [
            replace(self._places[p], units=in_order(by_place[p], self._max_batch, self._rng)) for p in order
        ]

    def _shuffled_places(self) -> list[Group]:
        by_model: dict[str, list[Group]] = defaultdict(list)
        for place in self._rng.sample(self._places, len(self._places)):
            by_model[place.checkpoint.name].append(place)
        turns = max(map(len, by_model.values()))
        return [places[turn] for turn in range(turns) for places in by_model.values() if turn < len(places)]

    def _cheapest(self, place: tuple[str, int], kind: str, *, fewest_first: bool = False) -> int | None:
        """The quickest unit of a kind, of those measured least if that comes first; None: none is open."""
        open_to = [
            i
            for i, c in enumerate(self._candidates)
            if (c.place.key, c.unit.kind) == (place, kind) and self._is_open(i)
        ]
        return min(
            open_to, key=lambda i: (self._rows[i] if fewest_first else 0, self._unit_s(i)), default=None
        )

    def _is_open(self, i: int) -> bool:
        candidate = self._candidates[i]
        given_up = (candidate.place.key, candidate.unit) in self._tried
        return (
            not given_up
            and candidate.place.key not in self._refused
            and self._wants(candidate.place, self._next(i))
        )

    def _next(self, i: int, further: int = 0) -> Unit:
        return replace(self._candidates[i].unit, repeat=self._rows[i] + further)

    def _count(self, i: int) -> None:
        self._rows[i] += 1
        self._design.add(i)

    def _unit_s(self, i: int) -> float:
        return self._pace.unit_s(self._candidates[i].place, self._candidates[i].unit)

    def _dearest_s(self, place: Group) -> float:
        return max(self._unit_s(i) for i, c in enumerate(self._candidates) if c.place is place)


def expected_selection(plan: SweepPlan) -> tuple[tuple[Group, ...], tuple[str, ...]]:
    """What a budget is expected to hold at the assumed pace, without measuring anything.

    Returns:
        The groups in order, and what is left out, as ``BudgetPlanner.left_out``.
    """
    settings, pace = plan.settings, Pace(plan)
    left_s = settings.budget_s or 0.0
    planner = BudgetPlanner(
        plan,
        pace,
        wants=lambda _, unit: unit.repeat < settings.repeats,
        is_measured=lambda *_: False,
    )
    groups: list[Group] = []
    now = planner.pilot()
    while now:
        for group in now:
            cheapest_s = min(pace.unit_s(group, unit) for unit in group.units)
            left_s -= pace.open_s(group) if pace.open_s(group) + cheapest_s <= left_s else left_s
            kept = []
            for unit in group.units:
                if pace.unit_s(group, unit) > left_s:
                    planner.gave_up(group, unit)
                    continue
                left_s -= pace.unit_s(group, unit)
                planner.measured(group, unit)
                kept.append(unit)
            groups += [replace(group, units=tuple(kept))] if kept else []
        now = planner.next_round(left_s) if left_s > 0 else []
    return tuple(groups), planner.left_out()


def _counts(axis: str, values: list[object]) -> str:
    counts = sorted(Counter(values).items(), key=lambda item: -item[1])
    return f"{axis} " + ", ".join(f"{value} ({count})" for value, count in counts)
