import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from shunter.errors import BrokenFileError, InputError, VersionError
from shunter.profiling.dataset.schema import COLUMNS, SCHEMA_VERSION, empty_frame, frame_of, validate
from shunter.profiling.dataset.table import append_rows, read_dataset, write_dataset

_EXAMPLES = {"str": "x", "int64": 2, "float64": 2.5, "bool": False}


def row(row_id="s/u/decode0", **values):
    base = {c.name: c.choices[0] if c.choices else _EXAMPLES[c.dtype] for c in COLUMNS}
    base |= {c.name: 2.0 for c in COLUMNS if c.counts and c.dtype == "float64"}
    base |= {c.name: c.minimum for c in COLUMNS if c.minimum and c.minimum > base[c.name]}
    return {**base, "schema_version": SCHEMA_VERSION, "row_id": row_id, **values}


def test_every_row_comes_back_as_it_was_written(tmp_path):
    frame = frame_of([row("a", kv_bytes=None, duration_s=1 / 3), row("b", device_threads=None)])
    write_dataset(frame, tmp_path / "d.parquet")
    pd.testing.assert_frame_equal(read_dataset(tmp_path / "d.parquet"), frame)


def test_an_empty_frame_has_every_column_in_its_type():
    assert [(name, str(kind)) for name, kind in empty_frame().dtypes.items() if str(kind) != "str"] == [
        (c.name, c.dtype) for c in COLUMNS if c.dtype != "str"
    ]


def test_rows_are_added_once(tmp_path):
    path = tmp_path / "new" / "d.parquet"
    append_rows(path, [row("a"), row("b")])
    whole = append_rows(path, [row("b", duration_s=9.0), row("c")])
    assert list(whole["row_id"]) == ["a", "b", "c"]
    assert read_dataset(path)["duration_s"].max() == 2.5


@pytest.mark.parametrize("kept", [0, 4, 1000, -20])
def test_a_truncated_file_is_named(tmp_path, kept):
    path = tmp_path / "d.parquet"
    write_dataset(frame_of([row()]), path)
    path.write_bytes(path.read_bytes()[:kept])
    with pytest.raises(BrokenFileError, match=r"d\.parquet: cannot be read"):
        read_dataset(path)


def test_another_schema_version_is_refused(tmp_path):
    path = tmp_path / "d.parquet"
    write_dataset(frame_of([row()]), path)
    table = pq.read_table(path)
    pq.write_table(table.replace_schema_metadata({b"shunter_profile_schema": b"7"}), path)
    with pytest.raises(VersionError, match=rf"must be version {SCHEMA_VERSION} for this shunter\. Got '7'"):
        read_dataset(path)


def test_a_parquet_of_another_kind_is_no_dataset(tmp_path):
    pd.DataFrame({"x": [1]}).to_parquet(tmp_path / "d.parquet")
    with pytest.raises(BrokenFileError, match="no profile dataset"):
        read_dataset(tmp_path / "d.parquet")


def test_a_missing_file_is_an_input_error(tmp_path):
    with pytest.raises(InputError, match=r"existing Parquet file or \.csv file"):
        read_dataset(tmp_path / "none.parquet")


@pytest.mark.parametrize(
    ("column", "value", "rule"),
    [
        ("duration_s", -1.0, "row 1, column duration_s must be at least 0"),
        ("duration_s", np.nan, "row 1, column duration_s must not be missing"),
        ("operation", "sleep", "row 1, column operation must be one of load, unload"),
        ("weight_bytes", 0, "row 1, column weight_bytes must be at least 1"),
        ("schema_version", 0, f"row 1, column schema_version must be at least {SCHEMA_VERSION}"),
    ],
)
def test_a_bad_value_is_named_and_nothing_is_written(tmp_path, column, value, rule):
    frame = frame_of([row("a"), row("b")]).astype({column: object})
    frame.loc[1, column] = value
    if column != "operation":
        frame[column] = pd.to_numeric(frame[column])
    with pytest.raises(InputError, match=rule):
        write_dataset(frame, tmp_path / "d.parquet")
    assert list(tmp_path.iterdir()) == []


def test_missing_and_unknown_columns_are_named():
    frame = frame_of([row()]).drop(columns="batch").assign(extra=1)
    with pytest.raises(InputError, match=r"missing: \['batch'\], unknown: \['extra'\]"):
        validate(frame, "d.parquet")


def test_text_where_numbers_belong_is_refused():
    frame = frame_of([row()]).astype({"batch": "str"})
    with pytest.raises(InputError, match="column batch must hold numbers"):
        validate(frame, "d.parquet")


def test_csv_brings_every_number_back_to_the_last_bit(tmp_path):
    odd = 0.1 + 0.2
    frame = frame_of(
        [
            row(
                "a",
                kv_bytes=None,
                duration_s=odd,
                model='a "quoted", name\r\nin two lines',
                device="NA",
                engine="\u2028",
            ),
            row("b", device_threads=None, duration_s=5e-324, weight_bytes=2**62, includes_process_start=True),
        ]
    )
    write_dataset(frame, tmp_path / "d.csv")
    pd.testing.assert_frame_equal(read_dataset(tmp_path / "d.csv"), frame, check_exact=True)


def test_csv_that_a_spreadsheet_saved_again_is_read(tmp_path):
    path = tmp_path / "d.csv"
    write_dataset(frame_of([row("a")]), path)
    text = path.read_text().replace("\n", "\r\n").replace("False", "FALSE")
    path.write_bytes(b"\xef\xbb\xbf" + text.encode())
    pd.testing.assert_frame_equal(read_dataset(path), frame_of([row("a")]))


def test_rows_are_added_to_a_csv(tmp_path):
    path = tmp_path / "d.csv"
    append_rows(path, [row("a")])
    append_rows(path, [row("a"), row("b")])
    assert list(read_dataset(path)["row_id"]) == ["a", "b"]


@pytest.mark.parametrize(
    ("cut", "error"),
    [
        (1, "last line has no end"),
        (3, "last line has no end"),
        (200, "last line has no end"),
    ],
)
def test_a_csv_cut_short_is_named(tmp_path, cut, error):
    path = tmp_path / "d.csv"
    write_dataset(frame_of([row("a"), row("b")]), path)
    path.write_bytes(path.read_bytes()[:-cut])
    with pytest.raises(BrokenFileError, match=error):
        read_dataset(path)


@pytest.mark.parametrize(
    ("old", "new", "error"),
    [
        ("x,", "", r"row 2 has \d+ cells, the first"),
        ("2.5", "fast", "row 0, column .* must be a number. Got 'fast'"),
        (",2,", ",2.5,", "row 0, column .* must be a whole number. Got '2.5'"),
        (",False,", ",maybe,", "column includes_process_start must be True or False. Got 'maybe'"),
        ("schema_version", "version", "has no column schema_version"),
        (f"\n{SCHEMA_VERSION},", "\n8,", f"must be version {SCHEMA_VERSION} for this shunter. Got '8'"),
        ("batch", "batches", r"missing: \['batch'\], unknown: \['batches'\]"),
    ],
)
def test_a_bad_cell_of_a_csv_is_named(tmp_path, old, new, error):
    path = tmp_path / "d.csv"
    write_dataset(frame_of([row("a")]), path)
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))
    with pytest.raises(InputError, match=error):
        read_dataset(path)


@pytest.mark.parametrize(("content", "error"), [(b"", "it is empty"), (b"\xff\xfe\x00", "utf-8")])
def test_a_file_that_is_no_csv_is_named(tmp_path, content, error):
    (tmp_path / "d.csv").write_bytes(content)
    with pytest.raises(BrokenFileError, match=error):
        read_dataset(tmp_path / "d.csv")


def version_1(frame):
    return frame.drop(columns=[c.name for c in COLUMNS if c.since > 1]).assign(schema_version=1)


def test_a_parquet_file_of_version_1_is_read_with_missing_conditions_and_flags(tmp_path):
    path = tmp_path / "d.parquet"
    times = [1.0, 1.01, 0.99, 1.0, 1.02, 3.0]
    old = version_1(frame_of([row(str(i), duration_s=s) for i, s in enumerate(times)]))
    table = pa.Table.from_pandas(old, preserve_index=False)
    pq.write_table(table.replace_schema_metadata({b"shunter_profile_schema": b"1"}), path)
    data = read_dataset(path)
    assert set(data["schema_version"]) == {SCHEMA_VERSION}
    assert data["background_cores"].isna().all()
    assert data["is_outlier"].tolist() == [False] * 5 + [True]
    append_rows(path, [row("new")])
    again = read_dataset(path)
    assert again["duration_s"].tolist() == [*times, 2.5]
    assert again["background_cores"].notna().tolist() == [False] * 6 + [True]


def test_a_csv_file_of_version_1_is_read(tmp_path):
    path = tmp_path / "d.csv"
    version_1(frame_of([row("a")])).to_csv(path, index=False)
    data = read_dataset(path)
    assert (data["schema_version"].tolist(), data["device_energy_j"].isna().tolist()) == (
        [SCHEMA_VERSION],
        [True],
    )


def test_outliers_are_flagged_anew_on_every_write(tmp_path):
    path = tmp_path / "d.parquet"
    append_rows(path, [row(str(i), duration_s=s) for i, s in enumerate([3.0, 1.0, 1.01, 0.99])])
    assert not read_dataset(path)["is_outlier"].any()
    append_rows(path, [row(str(i), duration_s=1.0, is_outlier=True) for i in (4, 5)])
    assert read_dataset(path)["is_outlier"].tolist() == [True, False, False, False, False, False]
