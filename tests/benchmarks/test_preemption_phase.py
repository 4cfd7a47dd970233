from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from benchmarks.form import Row
from benchmarks.phase_page import conclusions, phase_cells
from benchmarks.phase_worlds import WAYS, KeepStarted, Rule, Setting, one_level, phase_world, rules
from benchmarks.policy_runs import Figures, Waits
from benchmarks.policy_tuning import read_tuned
from benchmarks.preemption_phase import Outcome, _cell_row, judge
from shunter.agents.heuristics.cost_greedy import CostGreedy
from shunter.envs.observation.features import FEATURES, feature
from shunter.envs.world.world import World

SEEDS = 12
NOISE = np.random.default_rng(0).normal(1.0, 0.02, (len(WAYS), SEEDS))


@pytest.fixture(scope="module")
def world() -> World:
    return phase_world(Setting("paper-5000ada", 1.0, 1.0))


def outcome(means: tuple[float, ...], *, unstable: tuple[str, ...] = (), same: bool = False) -> Outcome:
    noise = NOISE[[0, 1, 2, 1]] if same else NOISE
    figures = {
        way: Figures(
            response_s=tuple((mean * row).tolist()),
            stable=(way not in unstable,) * SEEDS,
            requests=(300,) * SEEDS,
            top_waits_s=(),
            waits=Waits(0.0, 0.0, 0.0),
            model_waits={},
            allowed_waits_s={},
            guard_s=np.inf,
            slo_attainment=(),
            swaps=0.0,
            preemptions=0.0,
            time_scale_s=1.0,
        )
        for way, mean, row in zip(WAYS, means, noise, strict=True)
    }
    return Outcome(Setting("m", 1.0, 1.0), 0.5, 1.0, dict.fromkeys(WAYS, "rule"), figures)


def test_who_is_clearly_lowest_wins() -> None:
    assert judge(outcome((10, 8, 12, 11))).text == "preempt"
    assert judge(outcome((7, 8, 12, 11))).text == "wait"


def test_who_hardly_differs_shares_the_win() -> None:
    verdict = judge(outcome((10, 10.01, 12, 11)))
    assert verdict.text == "undecided"
    assert set(verdict.tied) == {"wait", "preempt"}


def test_a_way_that_does_not_drain_cannot_win() -> None:
    assert judge(outcome((7, 8, 12, 11), unstable=("wait",))).text == "preempt"
    assert judge(outcome((7, 8, 12, 11), unstable=WAYS)).text == "none drains"


def test_a_way_that_did_the_very_same_does_not_share_the_win() -> None:
    assert judge(outcome((10, 8, 12, 8), same=True)).text == "preempt"


def test_factors_lengthen_loads_answers_and_the_unit_of_time(world: World) -> None:
    other = phase_world(Setting("paper-5000ada", 3.0, 0.25))
    assert other.tables.load_s == pytest.approx(3 * world.tables.load_s)
    assert other.draw(1).decode_tokens.mean() == pytest.approx(
        0.25 * world.draw(1).decode_tokens.mean(), rel=0.1
    )
    longer = phase_world(Setting("paper-5000ada", 3.0, 1.0))
    mean_s = float(world.tables.load_s[world.tables.level_ok].mean())
    assert longer.time_scale_s == pytest.approx(world.time_scale_s + 2 * mean_s)


def test_one_level_is_the_highest_or_the_least_that_fits(world: World) -> None:
    ok = world.tables.level_ok
    for least in (False, True):
        kept = one_level(world, least=least).tables.level_ok
        assert (kept.sum(axis=-1) == 1).all()
        assert (kept <= ok).all()
        first = ok.shape[-1] - 1 - ok[..., ::-1].argmax(-1) if least else ok.argmax(-1)
        assert (kept.argmax(-1) == first).all()


def test_every_way_has_rules_and_only_two_evict_what_is_started() -> None:
    found = rules(read_tuned().policies)
    assert {rule.way for rule in found} == set(WAYS)
    keeps = {rule.way for rule in found if isinstance(rule.policy, KeepStarted)}
    assert keeps == {"wait", "offload"}


def test_what_is_started_is_not_evicted(world: World) -> None:
    # Model 0 is resident and started; model 1 is wanted more, and needs its room.
    levels = world.levels[2]
    models = world.models
    candidates = np.zeros((models * levels + models + 1, len(FEATURES)), np.float32)
    mask = np.zeros(len(candidates), np.int8)

    def write(row: int, **values: float) -> None:
        mask[row] = 1
        for name, number in values.items():
            candidates[row, feature(name)] = number

    resident = {"resident_here": 1, "started": 1, "requests": 1, "footprint": 0.8}
    write(0, is_run=1, first_time=5, **resident)
    write(levels, is_load=1, requests=50, footprint=0.8, shortage=0.6, swap_time=0.1)
    write(models * levels, is_evict=1, **resident)
    write(len(candidates) - 1, is_wait=1)
    seen: dict[str, NDArray[Any]] = {
        "candidates": candidates,
        "context": np.zeros(8, np.float32),
        "action_mask": mask,
    }

    assert CostGreedy().act(seen) == levels
    assert KeepStarted(CostGreedy()).act(seen) == 0
    candidates[[0, models * levels], feature("started")] = 0
    assert KeepStarted(CostGreedy()).act(seen) == levels


def test_waiting_holds_whole_models() -> None:
    assert all(rule.levels == "whole" for rule in rules(read_tuned().policies) if rule.way == "wait")
    assert Rule("wait", "never-preempt", "whole").name == "never-preempt, whole levels"


@pytest.mark.parametrize("means", [(10, 8, 12, 11), (10, 10.01, 12, 11)])
def test_the_page_reads_what_the_rows_say(means: tuple[float, ...]) -> None:
    done = outcome(means)
    verdict = judge(done)
    (cell,) = phase_cells([_cell_row(done, verdict)])
    assert (cell.machine, cell.load, cell.reload, cell.length) == ("m", 0.5, 1.0, 1.0)
    assert (cell.verdict, cell.tied) == (verdict.text, verdict.tied)
    change = done.change("preempt", "wait")
    assert change is not None
    low, high = change.interval()
    assert (cell.preempt_change, cell.clear) == (change.change, low > 0 or high < 0)
    best = done.change(verdict.tied[0], "wait")
    assert best is not None
    assert cell.best_change == pytest.approx(best.change, abs=2e-3)


def test_a_cell_that_does_not_drain_has_no_change() -> None:
    done = outcome((10, 8, 12, 11), unstable=("wait",))
    (cell,) = phase_cells([_cell_row(done, judge(done))])
    assert (cell.verdict, cell.preempt_change, cell.best_change) == ("preempt", None, None)
    done = outcome((10, 8, 12, 11), unstable=WAYS)
    (cell,) = phase_cells([_cell_row(done, judge(done))])
    assert cell.verdict == "none drains"


@pytest.mark.parametrize(
    ("interval", "answer"),
    [((-0.1, -0.01), "yes"), ((-0.1, 0.01), "undecided"), ((0.01, 0.1), "no"), (None, "not measured")],
)
def test_the_title_answers_at_the_gpus_own_reload_cost(
    interval: tuple[float, float] | None, answer: str
) -> None:
    at = "paper-a6000, load 0.3, reloads × 1, answers × 1: preempt against waiting"
    rows = [
        Row("paper-a6000: preempt against waiting", -0.5, interval=(-0.6, -0.4)),
        Row("paper-a6000, reloads × 1: preempt against waiting", 0.0, interval=interval),
        Row(at, 0.0, interval=(-0.1, 0.1), note="wait; wait 3 s (r, l), preempt 3 s (r, l); capacity 1/s"),
    ]
    title, lines = conclusions(rows)
    assert title.endswith(f"At its own reload cost: RTX A6000 {answer}")
    assert ("undecided" in lines[0]) == (answer == "undecided")
    assert "a mix that no GPU has: -50.0% [-60.0%, -40.0%]" in lines[1]
