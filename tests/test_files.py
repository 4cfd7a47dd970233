from __future__ import annotations

import ast
import os
from pathlib import Path

import pytest

from shunter.errors import ShunterError
from shunter.files import finite, replaced, write_json, write_text, write_texts

ROOT = Path(__file__).parents[1]


def test_a_file_is_there_as_a_whole_and_nothing_is_left_beside_it(tmp_path: Path) -> None:
    path = tmp_path / "new" / "folder" / "file.txt"
    assert write_text(path, "old") == path
    with replaced(path) as temporary:
        temporary.write_text("new")
        assert path.read_text() == "old"
    assert path.read_text() == "new"
    assert list(path.parent.iterdir()) == [path]


def test_what_fails_halfway_changes_nothing(tmp_path: Path) -> None:
    path = write_text(tmp_path / "file.txt", "old")
    with pytest.raises(ZeroDivisionError), replaced(path) as temporary:
        temporary.write_text(f"half {1 / 0}")
    with pytest.raises(ValueError, match="JSON"):
        write_json(path, {"not": float("nan")})
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_what_the_system_refuses_is_one_line_that_names_the_file(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("no folder")
    with pytest.raises(ShunterError, match=r"file/below/x.json: cannot be written: .*\w$") as caught:
        write_json(tmp_path / "file" / "below" / "x.json", {})
    assert "\n" not in str(caught.value)
    with pytest.raises(ShunterError, match="cannot be written: File name too long"):
        write_text(tmp_path / ("x" * 300), "")
    with pytest.raises(ShunterError, match="no space"), replaced(tmp_path / "full"):
        raise OSError("no space")


def test_the_new_file_is_on_the_disk_before_it_takes_the_place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[str] = []
    sync, replace = os.fsync, os.replace
    monkeypatch.setattr(os, "fsync", lambda handle: (calls.append("sync"), sync(handle))[1])
    monkeypatch.setattr(os, "replace", lambda a, b: (calls.append("replace"), replace(a, b))[1])
    write_text(tmp_path / "file", "text")
    assert calls == ["sync", "replace", "sync"]


def test_files_that_belong_together_are_all_written_or_none(tmp_path: Path) -> None:
    plan, script = write_text(tmp_path / "plan", "old"), tmp_path / "script"
    write_texts({plan: "new", script: "new"})
    with pytest.raises(ShunterError, match="cannot be written: File name too long"):
        write_texts({plan: "newer", script: "newer", tmp_path / ("x" * 300): ""})
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == {"plan": "new", "script": "new"}


def test_links_are_followed_and_pipes_written_to(tmp_path: Path) -> None:
    target = write_text(tmp_path / "target", "old")
    link = tmp_path / "link"
    link.symlink_to(target)
    write_text(link, "new")
    assert link.is_symlink()
    assert target.read_text() == "new"
    write_text("/dev/null", "nothing")
    assert Path("/dev/null").is_char_device()


def test_what_a_killed_process_left_is_removed(tmp_path: Path) -> None:
    dead, alive = tmp_path / ".a[b].4194305.tmp", tmp_path / f".a[b].{os.getppid()}.tmp"
    for left in (dead, alive):
        left.write_text("half")
    write_text(tmp_path / "a[b]", "whole")
    assert sorted(tmp_path.iterdir()) == [alive, tmp_path / "a[b]"]


def test_numbers_that_json_does_not_know_are_null() -> None:
    assert finite({"a": [1.0, float("inf")], "b": (float("nan"), "x")}) == {
        "a": [1.0, None],
        "b": [None, "x"],
    }


def test_no_other_code_puts_files_in_place_by_itself() -> None:
    """But checkpoints, which may be folders of gigabytes, and what lies in a folder that is thrown away."""
    own = {
        "files.py",
        "outputs.py",
        "profiling/checkpoints/synthetic.py",
        "profiling/checkpoints/safetensors.py",
        "serve/servers/processes/log.py",  # a full log is put aside
        "train/seeds.py",  # in the folder of a worker
        "tracking/journal.py",  # a folder gets its name once it is locked
    }
    writing = {"write_text", "write_bytes", "rename", "replace"}
    found = set()
    for path in (ROOT / "shunter").rglob("*.py"):
        name = path.relative_to(ROOT / "shunter").as_posix()
        for node in ast.walk(ast.parse(path.read_text())):
            if not (isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute)):
                continue
            called, on = node.func.attr, ast.unparse(node.func.value)
            has_target = len(node.args) == 1 and not isinstance(node.args[0], ast.Constant)
            moves = called in ("rename", "replace") and (on == "os" or (has_target and not node.keywords))
            if (moves or (called.startswith("write_") and called in writing)) and on != "temporary":
                found.add(name)
    assert found == own
