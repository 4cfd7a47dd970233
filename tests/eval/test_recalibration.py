from __future__ import annotations

import math
from collections.abc import Callable
from functools import cache
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from shunter.agents.registry import make_policy
from shunter.envs.world.world import World, make_world
from shunter.errors import InputError
from shunter.eval.fidelity.recalibration import Recalibration, recalibrate
from shunter.eval.fidelity.scale_fit import Observation, fit_scales
from shunter.eval.fidelity.spans import run_spans
from shunter.models.performance import PerformanceModel
from shunter.models.state import write_state
from tests.eval.test_modes_agree import TableDurations, execute

Log = Callable[[int], pd.DataFrame]
DEFAULT_POLICIES = ("cost-greedy", "fifo-swap", "random")


class OtherMachine(TableDurations):
    """Decodes 1.3 times as long and loads twice as long as the tables say, the large model three times."""

    def decode_step_s(self, model: str, gpu_layers: int, batch: int, context_tokens: float) -> float:
        return 1.3 * super().decode_step_s(model, gpu_layers, batch, context_tokens)

    def load_s(self, model: str, checkpoint: str, gpu_layers: int) -> float:
        slower = 3.0 if model == "large" else 2.0
        return slower * super().load_s(model, checkpoint, gpu_layers)


@pytest.fixture(scope="module")
def log(fake_world: World) -> Log:
    unguarded = fake_world.with_guard(None)

    @cache
    def of(seed: int) -> pd.DataFrame:
        return pd.concat(
            [execute(unguarded, make_policy(p), seed, OtherMachine).log.frame() for p in DEFAULT_POLICIES]
        )

    return of


@pytest.fixture(scope="module")
def found(fake_world: World, fake_performance: PerformanceModel, log: Log) -> Recalibration:
    return recalibrate(fake_performance, fake_world.scenario, [log(seed) for seed in range(4)])


def after(found: Recalibration) -> dict[tuple[str, str], float]:
    return {(move.target, move.model): move.after for move in found.moves}


def test_factors_are_found_where_only_sums_were_measured(found: Recalibration) -> None:
    factors = after(found)
    for model in ("small", "medium", "large"):
        assert factors["decode_step_s", model] == pytest.approx(1.3, rel=0.02)
        assert factors["prefill_s", model] == pytest.approx(1.0, rel=0.02)
        assert factors["load_s", model] == pytest.approx(3.0 if model == "large" else 2.0, rel=0.1)
        assert factors["kv_save_s", model] == pytest.approx(1.0, rel=0.2)
    assert {move.before for move in found.moves} == {1.0}
    assert {(move.engine, move.device) for move in found.moves} == {("fake", "cpu:1-threads")}


def test_unseen_seeds_are_predicted_better(found: Recalibration, fake_world: World, log: Log) -> None:
    rows = log(7)
    world = make_world(fake_world.scenario, found.performance)

    def error(judged: World) -> float:
        spans = [s for _, run in rows.groupby("run_id") for s in run_spans(judged, fake_world.draw(7), run)]
        return float(np.mean([abs(s.predicted_s / s.measured_s - 1) for s in spans]))

    assert error(fake_world) > 0.1
    assert error(world) < 0.03


def test_errors_are_those_of_what_was_held_out(
    found: Recalibration, fake_world: World, fake_performance: PerformanceModel, log: Log
) -> None:
    assert found.halves == "seeds"
    errors = {e.target: e for e in found.errors}
    assert errors["decode_step_s"].before == pytest.approx(1 - 1 / 1.3, abs=0.01)
    assert errors["decode_step_s"].after is not None
    assert errors["decode_step_s"].after < 0.03
    assert errors["all"].sum_before < -0.2
    assert errors["all"].sum_after == pytest.approx(0.0, abs=0.05)
    assert errors["all"].spans == sum(e.spans for e in found.errors) - errors["all"].spans

    fast, slow = (execute(fake_world, make_policy("fifo-swap"), seed, d).log.frame() for seed, d in DIFFERENT)
    torn = recalibrate(fake_performance, fake_world.scenario, [fast, slow])
    decode = next(e for e in torn.errors if e.target == "decode_step_s")
    assert decode.after is not None
    assert decode.after > decode.before
    assert any("decode_step_s: held-out spans are predicted worse" in note for note in torn.notes)


DIFFERENT = ((0, TableDurations), (1, OtherMachine))


def test_a_run_counts_once(found: Recalibration, fake_world: World, log: Log) -> None:
    again = recalibrate(found.performance, fake_world.scenario, [log(seed) for seed in range(4)])
    assert again.performance.state_ == found.performance.state_
    assert (again.runs, again.moves, again.known) == ((), (), len(found.runs))
    assert "12 runs were counted in an earlier update" in again.notes[0]
    twice = recalibrate(found.performance, fake_world.scenario, [log(4), log(4)])
    assert len(twice.runs) == len(DEFAULT_POLICIES)


def test_one_log_after_another_is_as_both_at_once(
    found: Recalibration, fake_world: World, fake_performance: PerformanceModel, log: Log
) -> None:
    performance = fake_performance
    for seeds in ((0, 1), (2, 3)):
        step = recalibrate(performance, fake_world.scenario, [log(seed) for seed in seeds])
        performance = step.performance
    both, in_turn = after(found), after(step)
    for target in ("decode_step_s", "prefill_s", "load_s"):
        assert in_turn[target, "small"] == pytest.approx(both[target, "small"], rel=0.03)
    assert performance.state_.recalibrated_on == found.performance.state_.recalibrated_on
    assert performance.state_.data_fingerprint == fake_performance.state_.data_fingerprint


def test_few_rows_move_little(fake_world: World, fake_performance: PerformanceModel, log: Log) -> None:
    rows = log(0)
    first = rows[rows["run_id"] == rows["run_id"].iloc[0]].iloc[:3]
    few = recalibrate(fake_performance, fake_world.scenario, [first])
    loads = [move for move in few.moves if move.target == "load_s"]
    assert loads
    for move in loads:
        assert 0.0 < math.log(move.after) < 0.6 * math.log(2.0)
        assert move.rows <= 3
    assert recalibrate(fake_performance, fake_world.scenario, [log(0)]).halves == "time"


def test_a_hiccup_does_not_count_as_much_as_it_is_long() -> None:
    key = ("load_s", "fake", "cpu:1-threads", "warm", "m")
    spans = [Observation(1.0 if i % 10 else 20.0, {key: 1.0}) for i in range(100)]
    scales = fit_scales(spans, {})
    assert math.prod(scale.factor for scale in scales.values()) < 1.15


def test_loads_are_left_out_where_the_log_cannot_say_where_from(
    fake_world: World, fake_performance: PerformanceModel, log: Log, tmp_path: Path
) -> None:
    state, scenario = fake_performance.state_, fake_world.scenario
    cold = [f.model_copy(update={"page_cache": "cold"}) for f in state.fits if f.target == "load_s"]
    write_state(state.model_copy(update={"fits": (*state.fits, *cold)}), tmp_path)
    limits = scenario.limits.model_copy(update={"host_memory_gb": 1.0})

    limited = recalibrate(
        PerformanceModel.load(tmp_path), scenario.model_copy(update={"limits": limits}), [log(0)]
    )

    assert {"decode_step_s", "prefill_s"} <= {move.target for move in limited.moves}
    assert "load_s" not in {move.target for move in limited.moves}
    assert any("loads were left out" in note for note in limited.notes)


def test_logs_without_a_real_run_of_the_scenario_are_refused(
    fake_world: World, fake_performance: PerformanceModel, log: Log
) -> None:
    scenario, rows = fake_world.scenario, log(0)
    with pytest.raises(InputError, match=r"hold a real run .* Got 'simulated runs only'"):
        recalibrate(fake_performance, scenario, [rows.assign(mode="simulated")])
    with pytest.raises(InputError, match="Got 'no rows'"):
        recalibrate(fake_performance, scenario, [rows.iloc[:0]])
    with pytest.raises(InputError, match="hold operations that ended"):
        recalibrate(fake_performance, scenario, [rows.assign(end_s=np.nan)])
    longer = scenario.model_copy(
        update={"workload": scenario.workload.model_copy(update={"decode_scale": 0.2})}
    )
    with pytest.raises(InputError, match=r"run cost-greedy/0/real must fit scenario fake"):
        recalibrate(fake_performance, longer, [rows])
