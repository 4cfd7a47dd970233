import pytest

from benchmarks.model_sweeps import sweep_rows
from shunter.profiling.dataset.table import read_dataset
from tests.worlds import fit_fake


@pytest.fixture(scope="module")
def rows(fake_checkpoints, tmp_path_factory):
    folder = tmp_path_factory.mktemp("fit")
    fit_fake(fake_checkpoints, folder)
    frame = read_dataset(folder / "fake.parquet").assign(load_average=500.0)
    return {row.metric: row for row in sweep_rows("fake", frame)}


def test_held_out_configurations_have_bars_and_other_splits_are_reported_apart(rows):
    assert rows["held-out cells' mean error, fake, decode"].ok
    for split in ("leave one model out", "longer context", "larger batch"):
        row = rows[f"fake: decode_step_s MAPE, {split}"]
        assert row.bar == ""
        assert row.value >= 0
    assert not any("random cells" in metric and "MAPE" in metric for metric in rows)


def test_what_cannot_be_held_out_says_why(rows):
    assert rows["fake: leave one device out"].value is None
    assert "one device only" in rows["fake: leave one device out"].note


def test_coverage_is_judged_from_fifty_rows_on_and_has_a_width_beside_it(rows):
    judged = [row for metric, row in rows.items() if "p of coverage" in metric]
    assert judged
    assert all(row.bar == ">= 0.05" for row in judged)
    assert len(judged) == sum("mean width over prediction" in metric for metric in rows)


def test_a_busy_machine_is_named(rows):
    assert "busy machine" in rows["fake: median load average while measuring"].note
