"""Does preemption pay? Load, reload cost and job length on the seed paper's two machines.

``python -m benchmarks.preemption_phase [--quick] --json PATH``. In every cell the best known rule of each way
to share a device (``benchmarks.phase_worlds``) is chosen on some requests and judged on others. Load is a
share of the capacity that is measured anew for each reload cost and job length. Beside the JSON: a picture.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from benchmarks.form import Row, main, reported
from benchmarks.paired import Paired, holm, paired
from benchmarks.phase_page import write_diagram
from benchmarks.phase_worlds import WAYS, Rule, Setting, phase_world, rules
from benchmarks.policy_cells import DRAIN, cut_off
from benchmarks.policy_runs import Figures, figures_of
from benchmarks.policy_tuning import read_tuned
from shunter.agents.registry import make_policy
from shunter.envs.workload.seed_ranges import SEED_RANGES
from shunter.envs.world.world import World
from shunter.eval.execution.batched import evaluate_batched
from shunter.eval.metrics.capacity import capacity

__all__ = ["Outcome", "Verdict", "judge", "run"]

MACHINES = ("paper-a6000", "paper-5000ada")
RELOADS = (0.1, 0.3, 1.0, 3.0, 10.0)
LENGTHS = (0.25, 1.0, 3.0)
LOADS = (0.3, 0.6, 0.9)

CAPACITY_SEEDS, CAPACITY_REQUESTS = 8, 600
"""Seeds and requests of each measurement of a capacity, of which there are dozens."""

CAPACITY_RULES = ("cost-greedy", "pressure-greedy", "never-preempt")

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Outcome:
    """One cell.

    Attributes:
        setting: Machine and factors.
        load: Share of the capacity.
        capacity_per_s: Measured capacity, requests per second.
        chosen: For each way the rule that stands for it.
        figures: Figures of each way on the seeds that judge.
    """

    setting: Setting
    load: float
    capacity_per_s: float
    chosen: dict[str, str]
    figures: dict[str, Figures]

    @property
    def name(self) -> str:
        """In tables."""
        at = f"load {self.load:g}, reloads × {self.setting.reload:g}, answers × {self.setting.length:g}"
        return f"{self.setting.machine}, {at}"

    def change(self, mine: str, theirs: str) -> Paired | None:
        """One way against another; None if one of them does not drain."""
        both = [self.figures[way] for way in (mine, theirs)]
        if not all(figures.drained for figures in both):
            return None
        responses_s = [np.array([figures.response_s]) for figures in both]
        return paired(responses_s[0], responses_s[1])


@dataclass(frozen=True)
class Verdict:
    """Who wins a cell.

    Attributes:
        best: The way with the lowest mean response; None if none drains.
        tied: Ways, itself included, that are not significantly worse (Holm at 5 % within the cell) and did
            something else.
    """

    best: str | None
    tied: tuple[str, ...]

    @property
    def text(self) -> str:
        """Who wins, or that it is undecided."""
        if self.best is None:
            return "none drains"
        return self.best if len(self.tied) == 1 else "undecided"


def judge(outcome: Outcome) -> Verdict:
    """Compares the ways of a cell with its best."""
    stable = [way for way in WAYS if outcome.figures[way].drained]
    if not stable:
        return Verdict(None, ())
    best = min(stable, key=lambda way: outcome.figures[way].mean_s)
    # A way that did the very same things has used nothing that it may do more.
    same = outcome.figures[best].response_s
    others = [way for way in stable if way != best and outcome.figures[way].response_s != same]
    changes = [outcome.change(best, way) for way in others]
    p = holm([1.0 if change is None else change.p for change in changes])
    return Verdict(best, (best, *(way for way, value in zip(others, p, strict=True) if value >= 0.05)))


def measure(setting: Setting, loads: Sequence[float], seeds: Sequence[int]) -> list[Outcome]:
    """All loads of a setting."""
    world, tuned = phase_world(setting), read_tuned().policies
    contenders = [make_policy(tuned[name]) for name in CAPACITY_RULES]
    sequences = SEED_RANGES["capacity"][:CAPACITY_SEEDS]
    rate_per_s = capacity(world, contenders, sequences, requests=CAPACITY_REQUESTS).rate_per_s
    outcomes = []
    for load in loads:
        at = world.at_rate(load * rate_per_s)
        chosen = {way: choose(at, [rule for rule in rules(tuned) if rule.way == way]) for way in WAYS}
        figures = {way: outcome_of(at, rule, seeds) for way, rule in chosen.items()}
        names = {way: rule.name for way, rule in chosen.items()}
        outcomes.append(Outcome(setting, load, rate_per_s, names, figures))
    return outcomes


def choose(world: World, some: Sequence[Rule]) -> Rule:
    """The rule with the lowest mean response on seeds that judge nothing; those that drain first."""

    def rank(rule: Rule) -> tuple[bool, float]:
        figures = outcome_of(world, rule, SEED_RANGES["phase choice"])
        return not figures.drained, float(np.mean(figures.response_s))

    return min(some, key=rank)


def outcome_of(world: World, rule: Rule, seeds: Sequence[int]) -> Figures:
    """What a rule does in a world."""
    last_s = max(float(world.draw(seed).arrival_ns[-1]) for seed in seeds) * 1e-9
    world = rule.world(cut_off(world, DRAIN * last_s))
    return figures_of(evaluate_batched(world, rule.policy, seeds), world)


def run(quick: bool, workers: int, json: Path | None) -> list[Row]:
    """Measures all cells."""
    reloads, lengths = (RELOADS[1:4:2], LENGTHS[:2]) if quick else (RELOADS, LENGTHS)
    loads = LOADS[1:] if quick else LOADS
    settings = [Setting(m, r, n) for m in MACHINES for n in lengths for r in reloads]
    seeds = SEED_RANGES["phase"]
    jobs = [(setting, loads, seeds) for setting in settings]
    with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool:
        outcomes = [outcome for found in pool.map(measure, *zip(*jobs, strict=True)) for outcome in found]
    verdicts = [judge(outcome) for outcome in outcomes]
    rows = [
        *_count_rows(outcomes, verdicts),
        *_margin_rows(outcomes),
        *(_cell_row(outcome, verdict) for outcome, verdict in zip(outcomes, verdicts, strict=True)),
    ]
    if json is not None:
        write_diagram(json.with_suffix(".html"), rows)
    return rows


def _count_rows(outcomes: Sequence[Outcome], verdicts: Sequence[Verdict]) -> list[Row]:
    rows = []
    for machine in dict.fromkeys(outcome.setting.machine for outcome in outcomes):
        texts = [v.text for o, v in zip(outcomes, verdicts, strict=True) if o.setting.machine == machine]
        for text in dict.fromkeys([*WAYS, "undecided", *texts]):
            note = f"of {len(texts)}"
            rows.append(
                reported(f"{machine}: cells won by {text}", float(texts.count(text)), "cells", note=note)
            )
    return rows


def _margin_rows(outcomes: Sequence[Outcome]) -> list[Row]:
    """Each way against waiting, over all cells of a machine that share a load, a reload cost or a length."""
    by: dict[str, Callable[[Outcome], float]] = {
        "load": lambda outcome: outcome.load,
        "reloads ×": lambda outcome: outcome.setting.reload,
        "answers ×": lambda outcome: outcome.setting.length,
    }
    rows = []
    for machine in dict.fromkeys(outcome.setting.machine for outcome in outcomes):
        mine = [outcome for outcome in outcomes if outcome.setting.machine == machine]
        for way in WAYS[1:]:
            rows.append(_margin_row(f"{machine}: {way} against waiting", way, mine))
            for what, key in by.items():
                for value in sorted({key(outcome) for outcome in mine}):
                    some = [outcome for outcome in mine if key(outcome) == value]
                    rows.append(_margin_row(f"{machine}, {what} {value:g}: {way} against waiting", way, some))
    return rows


def _margin_row(metric: str, way: str, outcomes: Iterable[Outcome]) -> Row:
    asked = list(outcomes)
    some = [o for o in asked if o.figures[way].drained and o.figures["wait"].drained]
    note = f"change of mean response, geometric mean over {len(some)} cells"
    if len(some) < len(asked):
        note += f"; {len(asked) - len(some)} kept out, one of the two unstable"
    if not some:
        return reported(metric, None, note=note)
    mine, waiting = (np.array([o.figures[name].response_s for o in some]) for name in (way, "wait"))
    found = paired(mine, waiting)
    return reported(metric, found.change, interval=found.interval(), note=note)


def _cell_row(outcome: Outcome, verdict: Verdict) -> Row:
    metric = f"{outcome.name}: preempt against waiting"
    means = ", ".join(f"{way} {outcome.figures[way].mean_s:.4g} s ({outcome.chosen[way]})" for way in WAYS)
    note = f"{verdict.text}{_tied(verdict)}; {means}; capacity {outcome.capacity_per_s:.3g}/s"
    change = outcome.change("preempt", "wait")
    if change is None:
        return reported(metric, None, note=f"unstable; {note}")
    return reported(metric, change.change, interval=change.interval(), note=note)


def _tied(verdict: Verdict) -> str:
    return f" ({', '.join(verdict.tied)})" if len(verdict.tied) > 1 else ""


_MORE = {"--workers": {"type": int, "default": 1, "help": "processes"}}


if __name__ == "__main__":
    sys.exit(main("preemption_phase", run, "Does preemption pay?", more=_MORE))
