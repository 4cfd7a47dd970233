from __future__ import annotations

import ctypes
import os
import sys
from pathlib import Path

import numba
import pytest

from shunter.envs.sim.compiled import cache_stamp, interruptible
from shunter.envs.sim.kernel import step_batch


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


def interrupted_in_c(then: type[Exception] | None) -> None:
    """As LLVM is by Ctrl-C: raised while C calls back, and what that was to do is not done."""

    def back() -> None:
        raise KeyboardInterrupt

    ctypes.CFUNCTYPE(None)(back)()
    if then is not None:
        raise then("no compiled object yet")


@pytest.mark.parametrize("then", [None, RuntimeError])
def test_ctrl_c_while_code_is_compiled_is_ctrl_c(then: type[Exception] | None) -> None:
    hook = sys.unraisablehook
    with pytest.raises(KeyboardInterrupt):
        interruptible(interrupted_in_c)(then)
    assert sys.unraisablehook is hook
    with pytest.raises(ZeroDivisionError):
        interruptible(lambda: 1 / 0)()
    assert step_batch.compile.__wrapped__ is not None  # type: ignore[attr-defined]
