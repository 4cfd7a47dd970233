from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict

import pandas as pd
import pytest

from shunter.agents.registry import make_policy
from shunter.envs.world.world import World
from shunter.errors import InputError
from shunter.eval.budgets import budgets
from shunter.eval.execution.recorded import real_runs, recorded_run
from shunter.eval.execution.runs import as_repeat
from shunter.eval.fidelity.calibration import Calibration, calibrate_on
from shunter.models.performance import PerformanceModel
from tests.eval.test_recalibration import OtherMachine
from tests.fake_executor import execute

EVENTS = ["arrival_s", "first_token_s", "finish_s", "preemptions"]


def log_of(world: World, names: Sequence[str], seeds: Sequence[int]) -> pd.DataFrame:
    runs = [execute(world, make_policy(name), seed, OtherMachine) for name in names for seed in seeds]
    return pd.concat([run.log.frame() for run in runs], ignore_index=True)


@pytest.fixture(scope="module")
def found(fake_world: World, fake_performance: PerformanceModel) -> Calibration:
    log = log_of(fake_world, ["fifo-swap", "lru-keepalive"], [0, 1])
    policies = {"fifo-swap": make_policy("fifo-swap")}
    counted = [asdict(budget) for budget in budgets(fake_world, fake_world)]
    return calibrate_on(fake_performance, fake_world.scenario, log, policies, budgets=counted)


def test_the_gap_narrows_on_seeds_that_the_model_had_not_seen(found: Calibration) -> None:
    assert found.held_out == "seeds"
    assert [(gap.policy, gap.runs) for gap in found.gaps] == [("fifo-swap", 2)]
    gap = found.gaps[0]
    assert gap.before == pytest.approx(gap.before_s / gap.real_s - 1)
    assert abs(gap.after) < 0.8 * abs(gap.before)
    assert (found.median_before, found.median_after) == (abs(gap.before), abs(gap.after))


def test_who_cannot_be_loaded_is_calibrated_on_and_named(found: Calibration) -> None:
    assert found.notes[-1] == "not simulated anew, since they cannot be loaded: lru-keepalive"
    assert len(found.recalibration.runs) == 4


def test_with_one_seed_policies_are_held_out_and_with_one_run_nothing(
    fake_world: World, fake_performance: PerformanceModel
) -> None:
    names = ["fifo-swap", "cost-greedy"]
    policies = {name: make_policy(name) for name in names}
    for count, expected in ((2, "policies"), (1, "")):
        log = log_of(fake_world, names[:count], [0])
        done = calibrate_on(fake_performance, fake_world.scenario, log, policies)
        assert done.held_out == expected
        assert len(done.gaps) == count
    assert done.median_after < done.median_before


def test_runs_count_once(found: Calibration, fake_world: World, fake_performance: PerformanceModel) -> None:
    log = log_of(fake_world, ["fifo-swap"], [0])
    once = calibrate_on(fake_performance, fake_world.scenario, log, {}).recalibration.performance
    with pytest.raises(InputError, match="1 known runs"):
        calibrate_on(once, fake_world.scenario, log, {})


def test_a_recorded_run_is_the_run(fake_world: World) -> None:
    run = as_repeat(execute(fake_world, make_policy("cost-greedy"), 3, OtherMachine), 2)
    (rows,) = real_runs(run.log.frame())
    again = recorded_run(fake_world, rows)
    assert (again.policy, again.seed, again.mode) == ("cost-greedy", 3, "real")
    assert again.decision_s == pytest.approx(run.decision_s)
    pd.testing.assert_frame_equal(again.requests[EVENTS], run.requests[EVENTS], check_exact=True)
    same = [column for column in rows if column != "decision_s"]
    pd.testing.assert_frame_equal(again.log.frame()[same], rows[same].reset_index(drop=True))
