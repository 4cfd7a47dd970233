import pytest

from shunter.cli.main import main
from shunter.engines.fake.engine import FakeEngine
from shunter.profiling.dataset.journal import Journal
from shunter.profiling.dataset.schema import SCHEMA_VERSION, frame_of
from shunter.profiling.dataset.table import read_dataset, write_dataset
from shunter.profiling.sweep.sweep import run_sweep
from tests.profiling.test_dataset import row
from tests.profiling.test_sweep import ROWS_PER_GROUP, plan


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "200")
    return tmp_path


@pytest.fixture
def measured(folder):
    run_sweep(plan(), FakeEngine(device="cpu:1-threads"), "d.parquet")
    return read_dataset("d.parquet")


def run(capsys, *arguments, code=0):
    with pytest.raises(SystemExit) as caught:
        main(["dataset", *map(str, arguments)])
    out = capsys.readouterr()
    assert caught.value.code == code, out.err
    if code:
        assert out.err.startswith("shunter: ")
        assert out.err.count("\n") == 1
    return out.err if code else out.out


def test_show_prints_the_rows_asked_for(measured, capsys):
    out = run(capsys, "show", "d.parquet", "--model", "a", "--operation", "load", "--limit", 3)
    loads = measured[(measured["model"] == "a") & (measured["operation"] == "load")]
    assert f"3 of {len(loads)} rows (--limit shows more)" in out
    assert out.count("warm") == 3
    assert f"{loads['duration_s'].iloc[0] * 1e3:.4g} ms" in out
    assert f"{len(measured)} of {len(measured)} rows\n" in run(capsys, "show", "d.parquet", "--limit", 999)


def test_show_names_the_nearest_of_a_mistyped_filter(measured, capsys):
    assert "did you mean load" in run(capsys, "show", "d.parquet", "--operation", "lod", code=2)
    assert "--model: unknown name 'c'" in run(capsys, "show", "d.parquet", "--model", "c", code=2)
    assert "existing Parquet file" in run(capsys, "show", "none.parquet", code=2)


def test_show_reference_prints_figures_and_says_whose_they_are(capsys):
    out = run(capsys, "show", "reference", "--operation", "total_preemption_overhead")
    for figure in ("2.98 s", "5.16 s", "7.31 s", "2.62 s", "4.06 s", "5.73 s"):
        assert figure in out
    assert "6 of 6 rows" in out
    assert "https://" in out
    assert "The figures are their sources'" in out
    assert "arXiv 2605.19593 are as summarised" in out
    throughput = run(capsys, "show", "reference", "--model", "Llama-3-70B", "--operation", "decode")
    assert "as summarised" not in throughput
    assert "4 × RTX 3090" in run(capsys, "show", "reference", "--model", "Llama-3-70B", "--limit", 200)


def test_validate_says_what_is_there(measured, capsys):
    out = run(capsys, "validate", "d.parquet")
    configurations = measured["cell_id"].nunique()
    assert (
        f"d.parquet: valid, schema version {SCHEMA_VERSION}, {4 * ROWS_PER_GROUP} rows, "
        f"{configurations} configurations" in out
    )
    assert f"model: a ({2 * ROWS_PER_GROUP}), b ({2 * ROWS_PER_GROUP})" in out
    assert "unfinished" not in out
    assert "outliers: 0 rows far from their configuration's median" in out
    with Journal("d.parquet", plan_id="p", session_id="s"):
        pass
    assert "d.parquet.journal.jsonl holds rows of an unfinished sweep" in run(capsys, "validate", "d.parquet")


@pytest.mark.parametrize(
    ("rows", "says"),
    [
        ([row("a"), row("a")], "column row_id must name each row once. Got 'a' instead"),
        (
            [row("a"), row("b", gpu_layers=3)],
            "row 1, column gpu_layers must be at most total_layers (2). Got 3",
        ),
    ],
)
def test_validate_finds_what_no_single_configuration_shows(capsys, rows, says):
    write_dataset(frame_of(rows), "d.parquet")
    assert says in run(capsys, "validate", "d.parquet", code=2)


def test_merge_writes_each_row_once(measured, capsys):
    write_dataset(measured.head(30), "a.parquet")
    write_dataset(measured.tail(-20), "b.csv")
    out = run(capsys, "merge", "a.parquet", "b.csv", "--out", "c.parquet")
    assert f"c.parquet: {len(measured)} rows; 10 were there already" in out
    assert read_dataset("c.parquet").equals(measured)


def test_merge_refuses_conflicts_and_files_that_exist(measured, capsys, folder):
    changed = measured.assign(duration_s=measured["duration_s"] + 1)
    write_dataset(changed, "b.parquet")
    before = sorted(folder.iterdir())
    error = run(capsys, "merge", "d.parquet", "b.parquet", "--out", "c.parquet", code=2)
    assert "b.parquet must not have another row of the same row_id" in error
    assert "not exist yet" in run(capsys, "merge", "d.parquet", "d.parquet", "--out", "b.parquet", code=2)
    assert "end in .parquet or .csv" in run(capsys, "merge", "d.parquet", "b.parquet", "--out", "c", code=2)
    assert "two datasets or more" in run(capsys, "merge", "d.parquet", "--out", "c.parquet", code=2)
    assert sorted(folder.iterdir()) == before


def test_diff_prints_medians_beside_each_other_largest_change_first(capsys):
    a = [
        row("1", cell_id="x", model="small", duration_s=1.0),
        row("2", cell_id="y", model="big", duration_s=2.0),
    ]
    b = [
        row("3", cell_id="x", model="small", duration_s=1.1),
        row("4", cell_id="y", model="big", duration_s=1.0),
    ]
    write_dataset(frame_of([*a, row("5", cell_id="only", model="lonely")]), "a.parquet")
    write_dataset(frame_of(b), "b.parquet")
    out = run(capsys, "diff", "a.parquet", "b.parquet")
    assert out.index("0.50") < out.index("1.10")
    assert "Configurations of a.parquet only" in out
    assert out.index("Configurations of a.parquet only") < out.index("lonely")
    assert (
        "2 configurations in both, 1 only in a.parquet, 0 only in b.parquet; median ratio of durations 0.800"
        in out
    )


def test_convert_there_and_back_changes_nothing(measured, capsys):
    run(capsys, "convert", "d.parquet", "d.csv")
    run(capsys, "convert", "d.csv", "e.parquet")
    assert read_dataset("e.parquet").equals(measured)
    assert "not exist yet" in run(capsys, "convert", "d.csv", "d.parquet", code=2)


def test_a_damaged_csv_is_bad_input(measured, capsys, folder):
    run(capsys, "convert", "d.parquet", "d.csv")
    text = (folder / "d.csv").read_text()
    (folder / "d.csv").write_text(text[:-10])
    assert "d.csv: cannot be read" in run(capsys, "validate", "d.csv", code=2)


def test_validate_counts_throttled_and_imported_rows(capsys):
    rows = [
        row("a", gpu_layers=2, throttle_reasons=32.0, source=""),
        row("b", gpu_layers=2, throttle_reasons=0.0, source="llama-bench 1, b.json"),
    ]
    write_dataset(frame_of(rows), "d.parquet")
    out = run(capsys, "validate", "d.parquet")
    assert "throttled: 1 of 2 rows (heat 1)" in out
    assert "imported: llama-bench 1, b.json (1)" in out
