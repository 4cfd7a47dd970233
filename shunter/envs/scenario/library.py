"""The scenarios that shunter ships, by name."""

from __future__ import annotations

import re
from importlib.resources import files
from pathlib import Path

from shunter.errors import InputError, UnknownNameError
from shunter.files import write_text

__all__ = ["find_scenario", "performance_of", "scenario_names", "write_capacity"]

_FOLDER = Path(str(files("shunter.data"))) / "scenarios"


def scenario_names() -> tuple[str, ...]:
    """Names of all scenarios of the library, in order."""
    return tuple(sorted(path.stem for path in _FOLDER.glob("*.yaml")))


def in_library(text: str | Path) -> bool:
    """Whether it names a scenario of the library, rather than a file."""
    return not Path(text).exists() and str(text) in scenario_names()


def performance_of(scenario: str | Path, given: str | Path | None = None) -> Path:
    """The performance model to use for a scenario.

    Args:
        scenario: A file, or a name of the library.
        given: What the user named; None: ``published`` for scenarios of the library, ``perf`` for others.
    """
    if given is not None:
        return Path(given)
    return Path("published" if in_library(scenario) else "perf")


def find_scenario(text: str | Path) -> Path:
    """The file of a scenario.

    Args:
        text: A path, or the bare name of a scenario of the library.

    Raises:
        InputError: It looks like a path, and there is no such file.
        UnknownNameError: It looks like a name, and the library has none of that name.
    """
    path = Path(text)
    if path.is_file():
        return path
    if in_library(text):
        return _FOLDER / f"{text}.yaml"
    if path.suffix or len(path.parts) > 1 or path.exists():
        raise InputError("--scenario", "be an existing YAML file or a name of the library", str(text))
    raise UnknownNameError("--scenario", str(text), scenario_names())


def write_capacity(path: Path, rate_per_s: float) -> Path:
    """Puts a measured capacity behind the load of a scenario file, which is otherwise left as it is.

    Args:
        path: The file; replaced whole or not at all.
        rate_per_s: The capacity; four digits of it are kept.

    Returns:
        The file.

    Raises:
        InputError: The file's workload has no load on a line of its own.
    """
    text = path.read_text(encoding="utf-8")
    bare = re.sub(r"^ +capacity_rate_per_s:.*\n", "", text, flags=re.M)
    line = rf"\g<0>\n\g<1>capacity_rate_per_s: {rate_per_s:.4g}"
    changed, count = re.subn(r"^( +)load:.*$", line, bare, count=1, flags=re.M)
    if count == 0:
        raise InputError(str(path), "have workload.load on a line of its own to write a capacity", "none")
    return write_text(path, changed)
