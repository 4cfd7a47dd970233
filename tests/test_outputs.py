"""Outputs: one writer each, whole or as they were, and nothing left of what was temporary."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import numba
import pytest

from shunter import outputs
from shunter.cli.main import main
from shunter.envs.sim import compiled
from shunter.errors import InputError, ShunterError
from shunter.files import cache_folder, check_place, is_leftover, no_room, replaced, write_text
from shunter.outputs import held, in_use, replaced_folder, sole_writer
from shunter.scratch import scratch

HOLDS = """
import sys
from pathlib import Path
from shunter.outputs import held
with held("--out", Path(sys.argv[1])):
    print("held", flush=True)
    sys.stdin.read()
"""

WORKS = """
import os, sys, tempfile
from shunter.scratch import scratch
with scratch():
    tempfile.mkdtemp(prefix="SB3-")
    print("working", flush=True)
    sys.stdin.read()
"""


def started(code: str, *arguments: str, **environment: str) -> subprocess.Popen[bytes]:
    process = subprocess.Popen(
        [sys.executable, "-c", code, *arguments],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env={**os.environ, **environment},
    )
    assert process.stdout is not None
    assert process.stdout.readline()
    return process


def test_an_output_has_one_writer_and_no_trace_of_it_is_left(tmp_path: Path) -> None:
    out = tmp_path / "new" / "out"
    with sole_writer("--out", out):
        assert in_use(out)
        with pytest.raises(InputError, match="--out must not be written by another command at the same time"):
            sole_writer("--out", out).__enter__()
        with sole_writer("--out", tmp_path / "other"):
            pass
    assert not in_use(out)
    assert list(tmp_path.iterdir()) == []


def test_a_link_and_what_it_leads_to_are_one_output(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(tmp_path / "deep" / "out")
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    with sole_writer("--out", tmp_path / "link"), pytest.raises(InputError, match="another command"):
        sole_writer("--out", tmp_path / "deep" / "out").__enter__()
    with replaced_folder(tmp_path / "link", last="x") as staged:
        write_text(staged / "x", "new")
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "deep" / "out" / "x").read_text() == "new"
    (tmp_path / "file").symlink_to(tmp_path / "deep" / "file")
    write_text(tmp_path / "file", "new")
    assert (tmp_path / "file").is_symlink()
    assert (tmp_path / "deep" / "file").read_text() == "new"
    with pytest.raises(InputError, match="--out must not be a link that leads to itself"):
        sole_writer("--out", tmp_path / "loop").__enter__()
    with pytest.raises(ShunterError, match="loop: cannot be written"):
        write_text(tmp_path / "loop", "")
    (tmp_path / "nowhere").symlink_to(tmp_path / "missing" / "file")
    with pytest.raises(InputError, match="--json must be a file in an existing folder"):
        check_place("--json", tmp_path / "nowhere")


def test_a_folder_beside_which_nothing_can_be_written_holds_its_lock_itself(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "mounted"
    out.mkdir()
    access = os.access
    # The tests may run as root, who may write anywhere.
    monkeypatch.setattr(os, "access", lambda at, mode: Path(at) != tmp_path and access(at, mode))
    with sole_writer("--out", out, folder=True):
        assert list(tmp_path.iterdir()) == [out]
        assert in_use(out)
        assert all(is_leftover(path) for path in out.iterdir())
    assert list(out.iterdir()) == []
    with pytest.raises(InputError, match="be where files may be written"):
        sole_writer("--out", tmp_path / "new", folder=True).__enter__()


def test_what_is_no_file_has_no_lock() -> None:
    for _ in range(2):
        with sole_writer("--json", Path(os.devnull)):
            assert not in_use(Path(os.devnull))


def test_the_lock_of_a_killed_writer_does_not_count(tmp_path: Path) -> None:
    out = tmp_path / "out"
    with started(HOLDS, str(out)) as process:
        assert in_use(out)
        with pytest.raises(InputError, match="another command"):
            sole_writer("--out", out).__enter__()
        process.send_signal(signal.SIGKILL)
        process.wait()
    assert not in_use(out)
    with sole_writer("--out", out):
        pass
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("theirs", "ours"), [("out", "out/page"), ("out/page", "out")])
def test_who_holds_a_folder_holds_the_files_in_it_and_no_file_of_it_is_held(
    theirs: str, ours: str, tmp_path: Path
) -> None:
    (tmp_path / "out").mkdir()
    with started(HOLDS, str(tmp_path / theirs)) as process:
        with pytest.raises(InputError, match="another command"):
            held("--out", tmp_path / ours).__enter__()
        with held("--out", tmp_path / "page"):
            pass
        process.kill()
    with held("--out", tmp_path / theirs), held("--out", tmp_path / ours):
        pass  # of one command
    assert [path.name for path in tmp_path.rglob("*")] == ["out"]


def test_a_folder_is_replaced_as_a_whole_and_the_rest_of_it_stays(tmp_path: Path) -> None:
    folder = tmp_path / "new" / "out"
    for text in ("old", "new"):
        with replaced_folder(folder, last="results.json") as staged:
            (staged / "traces").mkdir()
            write_text(staged / "traces" / text, text)
            write_text(staged / "report.html", text)
            write_text(staged / "results.json", text)
        write_text(folder / "notes.txt", "mine")
        assert (folder / "results.json").read_text() == (folder / "report.html").read_text() == text
        assert [path.name for path in (folder / "traces").iterdir()] == [text]
    assert {path.name for path in folder.iterdir()} == {"traces", "report.html", "results.json", "notes.txt"}


def test_what_fails_halfway_changes_nothing(tmp_path: Path) -> None:
    new = tmp_path / "not" / "there"
    with pytest.raises(ShunterError, match="not/there: cannot be written"), replaced_folder(new, last="x"):
        pass  # there is no x to put in place
    assert list(tmp_path.iterdir()) == []
    with replaced_folder(new, last="x") as staged:
        write_text(staged / "x", "old")
    with pytest.raises(ZeroDivisionError), replaced_folder(new, last="x") as staged:
        write_text(staged / "x", f"half {1 / 0}")
    assert [path.name for path in new.iterdir()] == ["x"]
    assert (new / "x").read_text() == "old"


def test_what_cannot_be_written_is_called_as_it_will_be(tmp_path: Path) -> None:
    with (
        pytest.raises(ShunterError, match=f"^{tmp_path}/page: cannot be written: File too large$"),
        replaced_folder(tmp_path, last="x") as staged,
        replaced(staged / "page"),
    ):
        raise OSError(errno.EFBIG, "full")


def test_the_last_file_is_gone_while_others_change(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_text(tmp_path / "x", "old")
    write_text(tmp_path / "a", "old")
    seen = []
    replace = os.replace

    def look(source: Path, target: Path) -> None:
        if target.parent == tmp_path:
            seen.append((target.name, (tmp_path / "x").exists()))
        replace(source, target)

    with replaced_folder(tmp_path, last="x") as staged:
        for name in ("x", "a", "z"):
            write_text(staged / name, "new")
        monkeypatch.setattr(outputs.os, "replace", look)
    assert seen == [("a", False), ("z", False), ("x", False)]


def test_what_a_killed_process_left_of_a_folder_is_removed(tmp_path: Path) -> None:
    left = tmp_path / ".x.4194305.tmp"
    left.mkdir()
    write_text(left / "a", "half")
    with replaced_folder(tmp_path, last="x") as staged:
        write_text(staged / "x", "whole")
    assert [path.name for path in tmp_path.iterdir()] == ["x"]


def test_a_command_has_a_folder_for_what_is_temporary_and_kills_leave_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    killed = started(WORKS, TMPDIR=str(tmp_path))
    with started(WORKS, TMPDIR=str(tmp_path)) as living, killed:
        killed.send_signal(signal.SIGKILL)
        killed.wait()
        assert len(list(tmp_path.iterdir())) == 2
        with scratch() as folder:
            assert tempfile.mkdtemp().startswith(str(folder))
            assert len(list(tmp_path.iterdir())) == 2  # the living one's and ours
        assert tempfile.gettempdir() == str(tmp_path)
        living.kill()
    with scratch():
        pass
    assert list(tmp_path.iterdir()) == []


def test_where_nothing_temporary_can_be_written_is_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def none() -> str:
        raise FileNotFoundError(errno.ENOENT, "No usable temporary directory found in ['/tmp', '/var/tmp']")

    monkeypatch.setattr(tempfile, "gettempdir", none)
    monkeypatch.delenv("TMPDIR", raising=False)
    with pytest.raises(SystemExit) as ended:
        main(["scenarios", "list"])
    assert ended.value.code == 2
    said = "shunter: TMPDIR must name a folder where files can be written. Got '/tmp' instead.\n"
    assert capsys.readouterr().err == said


def test_a_user_without_a_home_is_told_what_to_set(monkeypatch: pytest.MonkeyPatch) -> None:
    def homeless() -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setattr(Path, "home", homeless)
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    with pytest.raises(InputError, match="HOME must name a folder"):
        cache_folder("models")
    monkeypatch.setenv("XDG_CACHE_HOME", "/cache")
    assert cache_folder("models") == Path("/cache/shunter/models")
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.delenv("NUMBA_CACHE_DIR", raising=False)
    before = numba.config.CACHE_DIR
    compiled._keep_apart()
    assert before == numba.config.CACHE_DIR, "compiled code goes where numba puts it"


@pytest.mark.parametrize(
    ("path", "rule"),
    [
        ("missing/file", "be a file in an existing folder"),
        ("folder", "be a file in an existing folder"),
        ("file/below", "be in a folder, which file is not|be a file in an existing folder"),
        ("x" * 240, "have names of at most 223 bytes"),
        ("locked/file", "be where files may be written"),
    ],
)
def test_places_that_could_not_be_written_are_refused_before_the_work(
    path: str, rule: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_text(tmp_path / "file", "")
    (tmp_path / "folder").mkdir()
    (tmp_path / "locked").mkdir()
    access = os.access
    # The tests may run as root, who may write anywhere.
    monkeypatch.setattr(os, "access", lambda at, mode: Path(at).name != "locked" and access(at, mode))
    with pytest.raises(InputError, match=f"--json must ({rule})"):
        check_place("--json", tmp_path / path)
    check_place("--json", tmp_path / "file")
    check_place("--out", tmp_path / "folder" / "new" / "deep", folder=True, make=True)


def test_a_full_disk_is_known_before_the_work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    of = os.statvfs(tmp_path)
    full = os.statvfs_result((*of[:3], 0, 0, *of[5:]))
    monkeypatch.setattr(os, "statvfs", lambda path: full)
    with pytest.raises(InputError, match="--out must be on a disk with 256 KB free"):
        check_place("--out", tmp_path / "x")
    check_place("--out", Path("/dev/null"))


def test_a_full_disk_is_one_line_whatever_said_so() -> None:
    for code in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        try:
            try:
                raise OSError(code, "full", "a.db")
            except OSError as error:
                raise RuntimeError("a library's own") from error
        except RuntimeError as error:
            found = no_room(error)
        assert str(found) == f"a.db: cannot be written: {os.strerror(code)}"
    assert no_room(RuntimeError("something else")) is None
    assert no_room(OSError(errno.ENOENT, "missing")) is None


def test_files_and_folders_have_the_modes_that_the_user_wants(tmp_path: Path) -> None:
    before = os.umask(0o027)
    try:
        write_text(tmp_path / "file", "")
        with replaced_folder(tmp_path / "folder", last="x") as staged:
            write_text(staged / "x", "")
    finally:
        os.umask(before)
    modes = {path.name: oct(path.stat().st_mode & 0o777) for path in tmp_path.rglob("*")}
    assert modes == {"file": "0o640", "folder": "0o750", "x": "0o640"}
