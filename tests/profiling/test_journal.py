import json
import random
import resource

import pytest

from shunter.errors import BrokenFileError, InputError, ShunterError, VersionError
from shunter.profiling.dataset.journal import Journal, journal_path
from shunter.profiling.dataset.schema import COLUMNS, READABLE_VERSIONS, SCHEMA_VERSION
from shunter.profiling.dataset.table import append_rows, read_dataset
from shunter.seals import DIGEST
from tests.profiling.test_dataset import row


@pytest.fixture
def dataset(tmp_path):
    return tmp_path / "d.parquet"


def journal(dataset):
    return Journal(dataset, plan_id="p", session_id="s")


def test_a_row_is_on_disk_before_the_next_one_is_measured(dataset):
    with journal(dataset) as j:
        j.append({**row("a"), "kv_bytes": float("nan")})
        lines = journal_path(dataset).read_text().splitlines()
    assert json.loads(lines[0])["header"] == {
        "schema_version": SCHEMA_VERSION,
        "plan_id": "p",
        "session_id": "s",
    }
    assert json.loads(lines[1])["row_id"] == "a"
    assert json.loads(lines[1])["kv_bytes"] is None


def test_a_torn_last_line_is_cut_off_and_writing_goes_on(dataset):
    with journal(dataset) as j:
        j.append(row("a"))
        j.append(row("b"))
    path = journal_path(dataset)
    path.write_bytes(path.read_bytes()[:-30])
    with journal(dataset) as j:
        assert [r["row_id"] for r in j.rows] == ["a"]
        j.append(row("c"))
        j.merge()
    assert list(read_dataset(dataset)["row_id"]) == ["a", "c"]
    assert not path.exists()


def test_a_bit_that_changes_what_a_line_says_is_refused(dataset):
    with journal(dataset) as j:
        j.append(row("a"))
        j.append(row("b"))
    path = journal_path(dataset)
    whole, drawn, refused = path.read_bytes(), random.Random(0), 0
    with journal(dataset) as j:
        rows = j.rows
    for at in drawn.sample(range(len(whole) - 1), 40):  # without the last line's end that line is torn
        path.write_bytes(whole[:at] + bytes([whole[at] ^ (1 << drawn.randrange(7))]) + whole[at + 1 :])
        try:
            with journal(dataset) as j:
                assert j.rows == rows
        except (BrokenFileError, InputError, VersionError):
            refused += 1
    assert refused > 30


def test_a_changed_value_is_named_by_its_line_and_lines_of_before_are_read(dataset):
    with journal(dataset) as j:
        j.append(row("a"))
    path = journal_path(dataset)
    path.write_text(path.read_text().replace('"row_id": "a"', '"row_id": "b"'))
    with pytest.raises(BrokenFileError, match="line 2: it was changed since it was written"):
        journal(dataset)
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    path.write_text("".join(json.dumps(without_digest(line)) + "\n" for line in lines))
    with journal(dataset) as j:
        assert [r["row_id"] for r in j.rows] == ["b"]


def without_digest(line):
    return {key: value for key, value in line.items() if key != DIGEST}


def test_a_torn_header_starts_the_journal_anew(dataset):
    journal_path(dataset).write_text('{"header": {"sch')
    with journal(dataset) as j:
        j.append(row("a"))
    with journal(dataset) as j:
        assert [r["row_id"] for r in j.rows] == ["a"]


@pytest.mark.parametrize("line", ["{broken", "7", '{"row_id": "b"}'])
def test_a_damaged_line_in_the_middle_is_named(dataset, line):
    with journal(dataset) as j:
        j.append(row("a"))
    with journal_path(dataset).open("a") as file:
        file.write(f"{line}\n{json.dumps(row('c'))}\n")
    with pytest.raises(BrokenFileError, match="line 3"):
        journal(dataset)


def test_a_journal_of_another_schema_version_is_refused(dataset):
    journal_path(dataset).write_text(json.dumps({"header": {"schema_version": 9}}) + "\n")
    with pytest.raises(VersionError, match="Got 9"):
        journal(dataset)


def test_a_file_that_is_no_journal_is_refused(dataset):
    journal_path(dataset).write_text('{"row_id": "a"}\n')
    with pytest.raises(BrokenFileError, match="no journal header"):
        journal(dataset)


def test_two_sweeps_cannot_write_one_dataset(dataset):
    with journal(dataset), pytest.raises(InputError, match="another sweep"):
        journal(dataset)
    with journal(dataset) as j:
        assert j.rows == []


def test_a_crash_between_dataset_and_journal_removal_leaves_no_row_twice(dataset):
    with journal(dataset) as j:
        j.append(row("a"))
        append_rows(dataset, j.rows)
    with journal(dataset) as j:
        j.merge()
    assert list(read_dataset(dataset)["row_id"]) == ["a"]


def test_a_journal_without_rows_leaves_no_dataset(dataset):
    with journal(dataset) as j:
        j.merge()
    assert list(dataset.parent.iterdir()) == []


def test_a_row_that_the_disk_had_no_room_for_is_cut_off_at_once(dataset):
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    with journal(dataset) as j:
        j.append(row("a"))
        size = journal_path(dataset).stat().st_size
        resource.setrlimit(resource.RLIMIT_FSIZE, (size + 100, hard))
        try:
            with pytest.raises(
                ShunterError, match=r"journal\.jsonl: cannot be written: File too large; make room"
            ):
                j.append(row("b"))
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        assert journal_path(dataset).stat().st_size == size
        assert [r["row_id"] for r in j.rows] == ["a"]
        j.append(row("c"))
    with journal(dataset) as j:
        assert [r["row_id"] for r in j.rows] == ["a", "c"]


def test_what_a_killed_writer_left_is_removed_but_not_a_live_ones_file(dataset):
    dead, alive = dataset.with_name(".d.parquet.4194305.tmp"), dataset.with_name(".d.parquet.1.tmp")
    dead.write_bytes(b"half")
    alive.write_bytes(b"half")
    with journal(dataset) as j:
        j.append(row("a"))
        j.merge()
    assert (dead.exists(), alive.exists()) == (False, True)


@pytest.mark.parametrize("version", [v for v in READABLE_VERSIONS if v != SCHEMA_VERSION])
def test_a_journal_that_an_older_version_began_is_gone_on_with(dataset, version):
    old = {c.name: row("a")[c.name] for c in COLUMNS if c.since <= version} | {"schema_version": version}
    lines = [json.dumps({"header": {"schema_version": version}}), json.dumps(old)]
    journal_path(dataset).write_text("\n".join(lines) + "\n")
    with journal(dataset) as j:
        j.append(row("b"))
    with journal(dataset) as j:
        j.merge()
    data = read_dataset(dataset)
    assert data["row_id"].tolist() == ["a", "b"]
    late = next(c.name for c in COLUMNS if c.since == version + 1 and c.dtype == "float64")
    assert data[late].isna().tolist() == [True, False]
