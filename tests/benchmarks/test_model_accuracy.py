from dataclasses import asdict

import pandas as pd
import pytest

from benchmarks.model_accuracy import held_out_predictions, preemption_cells
from benchmarks.model_rivals import RIVALS
from benchmarks.model_splits import FOLDER, AccuracySplit, make_accuracy_splits, read_split
from shunter.models.published.rows import published_frame

NAMES = sorted(path.stem for path in FOLDER.glob("*.json"))


@pytest.fixture(scope="module")
def frame():
    rows = published_frame()
    return rows[(rows["operation"] == "decode") & (rows["engine"] == "llama-cpp")]


def test_the_committed_splits_are_what_the_data_give():
    made = {split.name: asdict(split) for split in make_accuracy_splits()}
    assert {name: asdict(read_split(name)) for name in NAMES} == made


@pytest.mark.parametrize("name", NAMES)
def test_every_scored_row_is_held_out_once_and_folds_share_no_row(name, frame):
    split = read_split(name)
    held = [row for ids in split.folds.values() for row in ids]
    assert len(held) == len(set(held))
    assert set(split.scored) <= set(held) <= set(frame["row_id"])


def test_no_gpu_or_shape_is_on_both_sides(frame):
    shape = frame["model"].str.rpartition(" ")[0]
    for name, label in (
        ("leave_gpu_out", frame["device"]),
        ("leave_size_out", shape),
        ("leave_sweep_model_out", shape),
    ):
        for ids in read_split(name).folds.values():
            out = frame["row_id"].isin(ids)
            assert not set(label[out]) & set(label[~out])


def test_scored_rows_of_one_gpu_are_wholly_on_it(frame):
    scored = frame[frame["row_id"].isin(read_split("leave_gpu_out").scored)]
    assert (scored["gpu_count"] == 1).all()
    assert (scored["gpu_layers"] == scored["total_layers"]).all()
    assert (scored["kv_on_host"] == 0).all()
    assert scored["device"].nunique() >= 12


def test_a_fold_is_predicted_without_its_rows(frame):
    some = frame[frame["device"].isin(["RTX 4090", "RTX A6000", "RTX 5000 Ada"]) & (frame["gpu_count"] == 1)]
    ids = some.loc[some["device"] == "RTX 4090", "row_id"].tolist()
    split = AccuracySplit("one", "", {"RTX 4090": ids}, ids)
    wrong = some.assign(duration_s=some["duration_s"].where(some["device"] != "RTX 4090", 99.0))
    for make in RIVALS.values():
        right = held_out_predictions(some, split, make)["duration_s_predicted"]
        pd.testing.assert_series_equal(
            held_out_predictions(wrong, split, make)["duration_s_predicted"], right
        )
        assert right.between(0.001, 0.1).all()


def test_the_parts_of_a_preemption_add_up_to_the_paper_s_totals():
    cells = preemption_cells()
    totals = cells.groupby("cell")["duration_s"].sum()
    assert sorted(totals.round(2)) == [2.62, 2.98, 4.06, 5.16, 5.73, 7.31]
    loads = cells[cells["operation"] == "load"].set_index("cell")["duration_s"]
    assert (loads / totals).between(0.98, 1.0).all()
