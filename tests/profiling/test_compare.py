import pandas as pd
import pytest

from shunter.errors import InputError
from shunter.profiling.dataset.compare import diff_datasets, merge_datasets
from shunter.profiling.dataset.schema import empty_frame, frame_of
from tests.profiling.test_dataset import row


def test_merging_keeps_each_row_once_in_order():
    a, b = frame_of([row("1"), row("2", kv_bytes=None)]), frame_of([row("2", kv_bytes=None), row("3")])
    merged = merge_datasets({"a": a, "b": b, "again": a})
    assert list(merged["row_id"]) == ["1", "2", "3"]
    pd.testing.assert_frame_equal(merged.head(2), a)


def test_an_empty_dataset_changes_nothing():
    a = frame_of([row("1")])
    pd.testing.assert_frame_equal(merge_datasets({"none": empty_frame(), "a": a}), a)
    pd.testing.assert_frame_equal(merge_datasets({"a": a, "none": empty_frame()}), a)


def test_rows_that_differ_under_one_id_are_refused():
    a, b = frame_of([row("1")]), frame_of([row("0"), row("1", duration_s=9.0, kv_bytes=None)])
    with pytest.raises(
        InputError, match=r"b must not have another row .* '1' \(1 clash\).*duration_s, kv_bytes"
    ):
        merge_datasets({"a": a, "b": b})


def test_a_diff_tells_configurations_of_one_side_and_medians_of_shared_ones():
    a = frame_of([row(str(i), cell_id="both", duration_s=d) for i, d in enumerate((1.0, 2.0, 9.0))])
    a = pd.concat([a, frame_of([row("3", cell_id="left")])], ignore_index=True)
    b = frame_of([row("4", cell_id="both", duration_s=3.0), row("5", cell_id="right")])
    diff = diff_datasets(a, b)
    assert (list(diff.only_a.index), list(diff.only_b.index)) == (["left"], ["right"])
    both = diff.shared.loc["both"]
    assert (both["rows_a"], both["rows_b"]) == (3, 1)
    assert (both["duration_a_s"], both["duration_b_s"], both["ratio"]) == (2.0, 3.0, 1.5)


def test_a_ratio_to_nothing_is_missing():
    a, b = frame_of([row("1", duration_s=0.0)]), frame_of([row("2", duration_s=1.0)])
    assert diff_datasets(a, b).shared["ratio"].isna().all()
    assert len(diff_datasets(a, empty_frame()).only_a) == 1
