from dataclasses import replace

import numpy as np
import pytest

from shunter.engines.fake.engine import FakeEngine
from shunter.models.fit.profiled import profiled_work
from shunter.profiling.dataset.table import read_dataset
from shunter.profiling.sweep.budget import expected_selection
from shunter.profiling.sweep.design import Design
from shunter.profiling.sweep.plan import SweepSettings
from shunter.profiling.sweep.sweep import run_sweep
from tests.profiling.test_sweep import plan

GRID = SweepSettings(
    gpu_layers=("0", "50%", "all"),
    prompt_tokens=(16, 64, 256, 512),
    decode_tokens=(16,),
    batch=(1, 2, 4, 8),
    cut_tokens=(32, 128),
    repeats=2,
)


def sweep(out, budget_s, mode="new", **changes):
    engine = FakeEngine(device="cpu:1-threads")
    made = plan(replace(GRID, budget_s=budget_s, **changes))
    begun_s = engine.clock.now_s
    result = run_sweep(made, engine, out, mode=mode, begun_s=begun_s, clock=lambda: engine.clock.now_s)
    return result, read_dataset(out), made


def test_a_budget_is_held_and_every_model_and_level_measured(tmp_path):
    result, data, made = sweep(tmp_path / "d.parquet", 60.0)
    # 512 tokens for 8 requests and 16 steps is the longest unit of all.
    longest_s = 8 * (0.005 + 512 * 5e-4) + 16 * (27e-3 + 8 * 2e-4 + 8 * 528e-7)
    assert 60.0 - 2 * longest_s <= result.duration_s <= 60.0 + longest_s
    assert data.groupby(["model", "gpu_layers"]).ngroups == 6
    assert set(data["operation"]) == {"prefill", "decode", "load", "unload", "kv_save", "kv_restore"}
    assert result.engine_s <= result.duration_s
    first = {(g.checkpoint.name, g.gpu_layers, u) for g in made.groups for u in g.units if u.repeat == 0}
    assert result.left_out[0].startswith("left out ")
    assert f" of {len(first)} configurations of the grid" in result.left_out[0]
    assert any("prompt_tokens" in line for line in result.left_out[1:])


def test_time_that_is_left_goes_to_repeats_up_to_the_cap(tmp_path):
    result, data, made = sweep(tmp_path / "d.parquet", 1e6, max_repeats=3)
    assert result.left_out == ()
    assert result.duration_s < 1e6
    assert data["repeat"].max() == 2
    assert result.units_measured == made.units // 2 * 3


def test_a_budget_is_resumed_where_it_ended(tmp_path):
    out = tmp_path / "d.parquet"
    first, _, _ = sweep(out, 30.0)
    again, data, _ = sweep(out, 30.0, mode="resume")
    assert again.rows > 0
    assert len(data) == first.rows + again.rows
    assert data["row_id"].str.partition("/")[2].is_unique


def test_one_small_piece_of_work_is_measured_at_many_moments(tmp_path):
    _, data, _ = sweep(tmp_path / "d.parquet", 60.0, max_repeats=20)
    smallest = data.query("operation == 'decode' and batch == 1 and prompt_tokens == 16")
    times = smallest.groupby(["model", "gpu_layers"]).size()
    others = data.query("operation == 'decode'").groupby("cell_id").size()
    assert times.median() >= 3 > others.median()
    assert {(w.prompt_tokens, w.steps) for w in profiled_work(data)} == {(16, 16)}


def test_a_budget_that_holds_nothing_measures_nothing_and_says_so(tmp_path):
    engine = FakeEngine(device="cpu:1-threads")
    made = plan(replace(GRID, budget_s=1e-6))
    result = run_sweep(made, engine, tmp_path / "d.parquet", clock=lambda: engine.clock.now_s)
    assert (result.rows, len(result.left_out)) == (0, 3)


def test_what_a_budget_is_expected_to_hold_is_predicted_without_an_engine():
    some, left_out = expected_selection(plan(replace(GRID, budget_s=10.0)))
    more, _ = expected_selection(plan(replace(GRID, budget_s=20.0)))
    assert 0 < sum(len(g.units) for g in some) < sum(len(g.units) for g in more)
    assert left_out


def design_of(points):
    return Design([{"f": (1.0, x)} for x in points])


def test_the_ends_of_a_line_tell_more_than_its_middle():
    design = design_of([1.0, 2.0, 3.0, 9.0])
    design.add(0)
    assert design.gains().argmax() == 3


def test_a_repeat_tells_less_than_a_first_row():
    design = design_of([1.0, 1.05, 9.0])
    before = design.gains()
    design.add(0)
    after = design.gains()
    assert (after < before).all()
    assert after[0] < after[1]


def test_a_gain_is_the_growth_of_the_log_determinant():
    design = design_of([1.0, 4.0, 9.0])
    x = design._shares["f"]

    def log_det(rows):
        weights = rows / (rows + 1)
        return np.linalg.slogdet(0.01 * np.eye(2) + (x * weights[:, None]).T @ x)[1]

    rows = np.zeros(3)
    for choice in (0, 2, 0, 1):
        more = rows + np.eye(3)[choice]
        assert design.gains()[choice] == pytest.approx(log_det(more) - log_det(rows))
        design.add(choice)
        rows = more
