import math

import numpy as np
import pytest

from shunter.engines.fake.engine import FakeEngine, LinearDurations
from shunter.profiling.dataset.table import read_dataset
from shunter.profiling.sweep.plan import SweepSettings
from shunter.profiling.sweep.repeats import ConfigurationTimes, median_interval
from shunter.profiling.sweep.sweep import run_sweep
from tests.profiling.test_sweep import plan

SETTINGS = SweepSettings(
    prompt_tokens=(16, 64), decode_tokens=(4,), batch=(1,), cut_tokens=(), repeats=3, precision=0.1
)


def row(repeat, duration_s, configuration="c"):
    facts = {"operation": "prefill", "model": "m", "gpu_layers": 2, "batch": 1, "tokens": 8}
    return {
        **facts,
        "context_tokens": 0,
        "cell_id": configuration,
        "repeat": repeat,
        "duration_s": duration_s,
    }


@pytest.mark.parametrize(("count", "low", "high"), [(6, 0, 5), (9, 1, 7), (20, 5, 14)])
def test_order_statistics_bound_the_median(count, low, high):
    # The ranks of the usual tables of distribution-free intervals of the median with at least 95 %.
    assert median_interval(list(range(count, 0, -1))) == (low + 1, high + 1)


@pytest.mark.parametrize("count", [3, 5, 8, 15])
def test_the_interval_holds_the_true_median_about_as_often_as_it_says(count):
    draws = np.exp(np.random.default_rng(0).normal(0.0, 0.3, (2000, count)))
    held = np.mean([low <= 1.0 <= high for low, high in map(median_interval, draws.tolist())])
    assert 0.935 <= held <= 0.997


def test_one_value_says_nothing():
    assert median_interval([2.0]) == (0.0, math.inf)


def test_rows_of_one_pass_count_as_one_value():
    times = ConfigurationTimes()
    for duration_s in (1.0, 1.0, 1.0, 1.0):
        times.add(row(0, duration_s))
    assert times.width("c") == math.inf
    times.add(row(1, 1.1))
    half = 12.706 * math.log(1.1) / 2  # Student's t of one degree of freedom
    assert times.width("c") == pytest.approx(2 * math.sinh(half) * math.sqrt(1.1) / 1.05, rel=1e-3)


def test_less_than_a_millisecond_is_narrow():
    times = ConfigurationTimes()
    for repeat in range(6):
        times.add(row(repeat, 1e-4 * (repeat + 1)))
    assert times.width("c") == 0.0
    assert times.precision(0.1, ["c"]).reached == 1


class Noisy(LinearDurations):
    """Prefills of 64 tokens differ from time to time."""

    rng = np.random.default_rng(0)

    def prefill_s(self, model, gpu_layers, tokens):
        return super().prefill_s(model, gpu_layers, tokens) * (
            self.rng.lognormal(0, 0.2) if tokens == 64 else 1
        )


def sweep(out, settings=SETTINGS, mode="new", models=("a",)):
    engine = FakeEngine(Noisy(), device="cpu:1-threads")
    return run_sweep(plan(settings, models), engine, out, mode=mode)


def test_only_units_with_a_wide_interval_are_repeated_up_to_the_cap(tmp_path):
    out = tmp_path / "d.parquet"
    result = sweep(out)
    prefills = read_dataset(out).query("operation == 'prefill'")
    assert prefills.groupby("prompt_tokens")["repeat"].agg(sorted).to_dict() == {
        16: [0, 1, 2],
        64: [0, 1, 2, 3, 4, 5],
    }
    assert set(read_dataset(out).query("operation == 'load'")["repeat"]) == {0, 1, 2}
    found = result.precision
    assert (found.configurations - found.reached, len(found.widest)) == (1, 1)
    assert found.widest[0][0] == "prefill of a, 9 layers, 64 tokens"
    assert found.widest[0][1] > 0.1


def test_repeats_are_resumed_with_a_higher_cap(tmp_path):
    out = tmp_path / "d.parquet"
    sweep(out)
    again = sweep(out, mode="resume")
    assert (again.rows, again.units_measured) == (0, 0)
    wider = SweepSettings(**{**vars(SETTINGS), "max_repeats": 8})
    more = sweep(out, wider, mode="resume")
    assert more.units_measured == 2
    data = read_dataset(out)
    assert data["row_id"].str.partition("/")[2].is_unique
    assert data.query("prompt_tokens == 64 and operation == 'prefill'")["repeat"].max() == 7


def test_without_a_precision_nothing_is_repeated_further(tmp_path):
    result = sweep(tmp_path / "d.parquet", SweepSettings(**{**vars(SETTINGS), "precision": None}))
    assert result.precision is None
    assert set(read_dataset(tmp_path / "d.parquet")["repeat"]) == {0, 1, 2}
