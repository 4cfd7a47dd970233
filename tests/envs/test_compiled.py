from __future__ import annotations

import os
from pathlib import Path

import numba

from shunter.envs.sim.compiled import cache_stamp


def test_a_change_of_any_source_is_another_version(tmp_path: Path) -> None:
    files = [tmp_path / "a.py", tmp_path / "b.py"]
    for file in files:
        file.write_text("x = 1")
    before = cache_stamp(files)
    assert cache_stamp(reversed(files)) == before
    os.utime(files[1], ns=(1, 1))
    assert cache_stamp(files) != before


def test_compiled_code_lies_in_the_folder_of_its_version() -> None:
    here = Path(__file__).parents[2] / "shunter"
    files = [file for area in ("envs", "agents") for file in (here / area).rglob("*.py")]
    assert Path(numba.config.CACHE_DIR).name == cache_stamp(files)
