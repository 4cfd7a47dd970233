"""Sweeps that are killed, or whose disk is full: nothing that was reported written is lost."""

from __future__ import annotations

import json
import os
import random
import resource
import signal
import subprocess
import sys
import time
import traceback
from pathlib import Path

import pytest

import shunter.profiling.dataset.table
import shunter.profiling.sweep.sweep
from shunter.engines.fake.engine import FakeEngine
from shunter.errors import InputError, ShunterError
from shunter.profiling.dataset.journal import Journal, journal_path
from shunter.profiling.dataset.table import read_dataset
from shunter.profiling.sweep.sweep import run_sweep
from tests.profiling.test_sweep import ROWS_PER_GROUP, plan

KILLS = 4  # benchmarks.robust has more
ROWS = 4 * ROWS_PER_GROUP


class ReportingJournal(Journal):
    """Says on a file which rows ``append`` returned for."""

    report = -1

    def append(self, row):
        super().append(row)
        os.write(self.report, f"{row['row_id']}\n".encode())


def half_a_table(table, path, **_):
    Path(path).write_bytes(b"PAR1 and then nothing")
    os.kill(os.getpid(), signal.SIGKILL)


def dying(function, *, when, ends):
    """The function, but the process dies before or after a call whose first path ends like this."""

    def call(path, *args, **kwargs):
        if when == "after":
            function(path, *args, **kwargs)
        if str(path).endswith(ends):
            os.kill(os.getpid(), signal.SIGKILL)
        return function(path, *args, **kwargs)

    return call


def die_while_merging(instant):
    """Arranges for this process to be killed at a named instant of moving rows into the dataset."""
    if instant == "in the middle of the file":
        shunter.profiling.dataset.table.write_table = half_a_table
    elif instant.endswith("replacing the dataset"):
        os.replace = dying(os.replace, when=instant.split()[0], ends=".tmp")
    elif instant.endswith("removing the journal"):
        Path.unlink = dying(Path.unlink, when=instant.split()[0], ends=".journal.jsonl")


def sweep(dataset, mode, report, instant):
    die_while_merging(instant)
    ReportingJournal.report = os.open(report, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    shunter.profiling.sweep.sweep.Journal = ReportingJournal
    run_sweep(plan(), FakeEngine(device="cpu:1-threads"), dataset, mode=mode)


def reported_rows(report):
    return Path(report).read_bytes().count(b"\n") if Path(report).exists() else 0


def nursery():
    """Forks a sweep for each line that it reads, kills it after a while, and says how and when it ended.

    It imports once for all of them, and has no threads that a fork would lose.
    """
    for line in sys.stdin:
        dataset, mode, report, kill_after_s, instant, kill_after_rows = json.loads(line)
        pid = os.fork()
        if pid == 0:
            try:
                sweep(Path(dataset), mode, report, instant)
            except BaseException:
                traceback.print_exc()
                os._exit(1)
            os._exit(0)
        deadline_s = time.monotonic() + kill_after_s
        ended = (0, 0)
        while not ended[0] and time.monotonic() < deadline_s:
            if kill_after_rows is not None and reported_rows(report) >= kill_after_rows:
                deadline_s = min(deadline_s, time.monotonic() + kill_after_rows % 7 / 1000)
            time.sleep(0.0002)
            ended = os.waitpid(pid, os.WNOHANG)
        if not ended[0]:
            os.kill(pid, signal.SIGKILL)
            ended = os.waitpid(pid, 0)
        status = os.waitstatus_to_exitcode(ended[1])
        print(status, flush=True)


class Nursery:
    def __enter__(self):
        command = [sys.executable, "-c", "from tests.profiling.test_kill import nursery; nursery()"]
        self.process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=Path(__file__).parents[2]
        )
        return self

    def __exit__(self, *_):
        self.process.stdin.close()
        self.process.wait(30)
        self.process.stdout.close()

    def run(self, dataset, mode, report, kill_after_s, instant="", kill_after_rows=None):
        line = json.dumps([str(dataset), mode, str(report), kill_after_s, instant, kill_after_rows])
        self.process.stdin.write(line + "\n")
        self.process.stdin.flush()
        return int(self.process.stdout.readline())


@pytest.fixture(scope="module")
def nursery_process():
    with Nursery() as nursery:
        yield nursery


def keys_on_disk(dataset):
    """Row ids of dataset and journal; a row that a crash left in both counts once."""
    written = list(read_dataset(dataset)["row_id"]) if dataset.exists() else []
    lines = journal_path(dataset).read_bytes() if journal_path(dataset).exists() else b""
    records = [json.loads(line) for line in lines[: lines.rfind(b"\n") + 1].splitlines()]
    kept = [record["row_id"] for record in records if "row_id" in record]
    assert len(set(written)) == len(written)
    assert len(set(kept)) == len(kept)
    return set(written) | set(kept)


def test_killed_at_any_instant_no_reported_row_is_lost_and_none_is_there_twice(tmp_path, nursery_process):
    rng = random.Random(3)
    kills, datasets = 0, 0
    kills_per_dataset, rows_at_kill = [], set()
    while kills < KILLS:
        datasets += 1
        assert datasets < 5 * KILLS
        dataset, report = tmp_path / f"{datasets}.parquet", tmp_path / f"{datasets}.txt"
        before, mode, status = kills, "new", -signal.SIGKILL
        while status == -signal.SIGKILL:
            rows = reported_rows(report) + rng.randrange(ROWS // 2)
            status = nursery_process.run(dataset, mode, report, 30, kill_after_rows=rows)
            kills += status == -signal.SIGKILL
            started = dataset.exists() or journal_path(dataset).exists()
            mode = "resume" if started else "new"
            reported = report.read_text().split() if report.exists() else []
            rows_at_kill.add(len(reported))
            assert set(reported) <= keys_on_disk(dataset)
            assert len(set(reported)) == len(reported)
        assert status == 0
        data = read_dataset(dataset)
        assert len(data) == ROWS
        assert data["row_id"].str.partition("/")[2].is_unique
        assert not journal_path(dataset).exists()
        kills_per_dataset.append(kills - before)
    assert sorted(tmp_path.glob(".*.tmp")) == []
    assert max(kills_per_dataset) > 1  # some sweeps were killed while they resumed
    assert len(rows_at_kill) > KILLS // 4  # kills fell on many places of the sweep


MERGING = [
    "in the middle of the file",
    "before replacing the dataset",
    "after replacing the dataset",
    "before removing the journal",
    "after removing the journal",
]


@pytest.mark.parametrize("instant", MERGING)
def test_killed_while_rows_move_into_the_dataset(tmp_path, nursery_process, instant):
    dataset, report = tmp_path / "d.parquet", tmp_path / "r.txt"
    assert nursery_process.run(dataset, "new", report, 30, instant) == -signal.SIGKILL
    reported = report.read_text().split()
    assert len(reported) == ROWS
    assert keys_on_disk(dataset) == set(reported)
    assert nursery_process.run(dataset, "resume", report, 30) == 0
    assert list(read_dataset(dataset)["row_id"]) == reported
    assert sorted(path.name for path in tmp_path.iterdir()) == ["d.parquet", "r.txt"]


def limited(file_bytes):
    """Runs in a child before its program: no file may grow beyond this many bytes."""
    return lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (file_bytes, file_bytes))


FULL_DISK = """
import sys
from shunter.errors import ShunterError
from tests.profiling.test_kill import sweep
try:
    sweep(sys.argv[1], sys.argv[2], sys.argv[3], "")
except ShunterError as error:
    print(error)
    sys.exit(error.exit_code)
"""


def sweep_in_child(dataset, mode, report, file_bytes):
    command = [sys.executable, "-c", FULL_DISK, str(dataset), mode, str(report)]
    root = Path(__file__).parents[2]
    return subprocess.run(
        command, preexec_fn=limited(file_bytes), capture_output=True, text=True, cwd=root, check=False
    )


@pytest.mark.parametrize(
    ("file_bytes", "dataset_fits", "says"),
    [
        (60_000, True, "d.parquet.journal.jsonl: cannot be written: File too large; make room"),
        (12_000, False, "rows are kept in"),
    ],
)
def test_a_full_disk_is_one_clear_line_and_loses_nothing(tmp_path, file_bytes, dataset_fits, says):
    dataset, report = tmp_path / "d.parquet", tmp_path / "r.txt"
    done = sweep_in_child(dataset, "new", report, file_bytes)
    assert (done.returncode, done.stderr) == (1, "")
    assert says in done.stdout
    assert done.stdout.count("\n") == 1
    reported = report.read_text().split()
    assert 0 < len(reported) < ROWS
    assert keys_on_disk(dataset) == set(reported)
    assert (dataset.exists(), journal_path(dataset).exists()) == (dataset_fits, not dataset_fits)
    result = run_sweep(plan(), FakeEngine(device="cpu:1-threads"), dataset, mode="resume")
    assert result.rows == ROWS - len(reported)
    data = read_dataset(dataset)
    assert list(data["row_id"])[: len(reported)] == reported
    assert len(data) == ROWS


def test_a_folder_that_cannot_be_written_to_is_one_clear_line(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ShunterError, match=r"cannot be written: (Not a directory|File exists)"):
        run_sweep(plan(), FakeEngine(device="cpu:1-threads"), tmp_path / "file" / "d.parquet")


def test_a_second_sweep_on_the_same_dataset_is_refused_while_the_first_goes_on(tmp_path):
    dataset = tmp_path / "d.parquet"
    refusals = []

    class Intruder(FakeEngine):
        def decode(self, *args, **kwargs):
            if not refusals:
                with pytest.raises(InputError, match="another sweep") as caught:
                    run_sweep(plan(), FakeEngine(device="cpu:1-threads"), dataset, mode="append")
                refusals.append(caught.value)
            return super().decode(*args, **kwargs)

    run_sweep(plan(), Intruder(device="cpu:1-threads"), dataset)
    assert len(refusals) == 1
    assert len(read_dataset(dataset)) == ROWS
