"""The scenarios that shunter ships, by name."""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path
from typing import Any

import yaml

from shunter.errors import InputError, UnknownNameError
from shunter.files import write_bytes

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


def find_scenario(text: str | Path, *, field: str = "--scenario") -> Path:
    """The file of a scenario.

    Args:
        text: A path, or the bare name of a scenario of the library.
        field: What it was given as.

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
        raise InputError(field, "be an existing YAML file or a name of the library", str(text))
    raise UnknownNameError(field, str(text), scenario_names())


def write_capacity(path: Path, rate_per_s: float) -> Path:
    """Puts a measured capacity behind the load of a scenario file, which is otherwise left as it is.

    Args:
        path: The file; replaced whole or not at all.
        rate_per_s: The capacity; four digits of it are kept.

    Returns:
        The file.

    Raises:
        InputError: The file's workload has no load.
    """
    text = path.read_bytes().decode()
    found = _entry(yaml.compose(text, yaml.SafeLoader), "workload")
    load = None if found is None else _entry(found[1], "load")
    if found is None or load is None:
        raise InputError(str(path), "have workload.load to write a capacity behind", "none")
    key, value = load
    stated, rate = _entry(found[1], "capacity_rate_per_s"), f"{rate_per_s:.4g}"
    if stated is not None:
        begin, end = (mark.index for mark in (stated[1].start_mark, stated[1].end_mark))
    elif found[1].flow_style:
        begin = end = value.end_mark.index
        rate = f", {_quoted('capacity_rate_per_s', key)}: {rate}"
    else:  # behind the line, which may end in a comment
        rest = text[value.end_mark.index :]
        begin = end = value.end_mark.index + len(rest.partition("\n")[0].rstrip("\r"))
        rate = f"\n{' ' * key.start_mark.column}{_quoted('capacity_rate_per_s', key)}: {rate}"
        rate = rate.replace("\n", "\r\n" if rest.partition("\n")[0].endswith("\r") else "\n")
    return write_bytes(path, (text[:begin] + rate + text[end:]).encode())


def _entry(node: yaml.Node | None, name: str) -> tuple[Any, Any] | None:
    """A key of a mapping and its value, as nodes; None where there is none."""
    pairs = node.value if isinstance(node, yaml.MappingNode) else []
    return next((pair for pair in pairs if pair[0].value == name), None)


def _quoted(name: str, like: Any) -> str:
    """A key written as another one is."""
    return f"{like.style or ''}{name}{like.style or ''}"
