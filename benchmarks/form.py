"""The one form of all benchmarks: rows of metric, value, unit, interval, bar and ok, printed and as JSON."""

from __future__ import annotations

import argparse
import shlex
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from shunter.files import finite, write_json
from shunter.profiling.dataset.fingerprint import hardware

__all__ = ["Row", "at_least", "at_most", "main", "reported", "without_place"]

_ROOT = Path(__file__).parents[1]


@dataclass(frozen=True)
class Row:
    """One figure.

    Attributes:
        metric: What was measured, on what, against what.
        value: The figure; None: it could not be had, and ``note`` says why.
        unit: Unit of value, interval and bar; empty for ratios.
        interval: Both ends of a 95 % interval, or None where none is known.
        bar: What it must reach, as written: ``<= 0.1``; empty: reported only.
        ok: Whether it does; None: there is no bar.
        note: What a reader must know to judge it.
    """

    metric: str
    value: float | None
    unit: str = ""
    interval: tuple[float, float] | None = None
    bar: str = ""
    ok: bool | None = None
    note: str = ""


def at_most(row: Row, bar: float) -> Row:
    """Judges a row: its value must not exceed the bar."""
    return replace(row, bar=f"<= {bar:g}", ok=row.value is not None and row.value <= bar)


def at_least(row: Row, bar: float) -> Row:
    """Judges a row: its value must reach the bar."""
    return replace(row, bar=f">= {bar:g}", ok=row.value is not None and row.value >= bar)


def reported(metric: str, value: float | None, unit: str = "", **more: Any) -> Row:
    """A row without a bar."""
    return Row(metric, value, unit, **more)


def main(
    name: str,
    run: Callable[..., Sequence[Row]],
    description: str,
    argv: Sequence[str] | None = None,
    more: Mapping[str, Mapping[str, Any]] | None = None,
) -> int:
    """Runs a benchmark as a command: ``python -m benchmarks.NAME [--quick] --json PATH``.

    Args:
        name: Name of the benchmark's module.
        run: Measures; told whether to be quick. Where there are more options, these and ``json`` follow by
            name.
        description: For ``--help``.
        argv: Arguments; None: the process's.
        more: Options of this benchmark alone, each with what ``add_argument`` takes.

    Returns:
        0 if every row with a bar is ok, else 1. The JSON file is written either way.
    """
    parser = argparse.ArgumentParser(prog=f"python -m benchmarks.{name}", description=description)
    parser.add_argument("--quick", action="store_true", help="a few minutes instead of a full run")
    parser.add_argument("--json", type=Path, help="where to write the rows")
    for flag, settings in (more or {}).items():
        parser.add_argument(flag, **settings)
    options = parser.parse_args(argv)
    started = datetime.now(UTC)
    given = {key: value for key, value in vars(options).items() if more and key != "quick"}
    rows = list(run(options.quick, **given))
    Console().print(_table(name, rows))
    if options.json is not None:
        arguments = sys.argv[1:] if argv is None else argv
        record = {
            "benchmark": name,
            "command": shlex.join(["python", "-m", f"benchmarks.{name}", *map(without_place, arguments)]),
            "commit": _commit(),
            "machine": hardware(),
            "started_at": started.isoformat(timespec="seconds"),
            "duration_s": round((datetime.now(UTC) - started).total_seconds(), 1),
            "quick": options.quick,
            "rows": [asdict(row) for row in rows],
        }
        write_json(options.json, finite(record))
    return 0 if all(row.ok is not False for row in rows) else 1


def without_place(argument: str) -> str:
    """An argument as results name it: of a path that holds on one machine alone, the name is left."""
    option, equals, value = argument.rpartition("=")
    return f"{option}{equals}{Path(value).name}" if Path(value).is_absolute() else argument


def _commit() -> str:
    """The commit that was measured; with ``+`` where files differ from it."""
    try:
        commit = _git("rev-parse", "--short", "HEAD")
        return commit + ("+" if _git("status", "--porcelain", "--untracked-files=no") else "")
    except (OSError, subprocess.CalledProcessError):
        return "unknown"


def _git(*arguments: str) -> str:
    done = subprocess.run(["git", *arguments], cwd=_ROOT, capture_output=True, text=True, check=True)
    return done.stdout.strip()


def _table(name: str, rows: Sequence[Row]) -> Table:
    table = Table("metric", "value", "unit", "interval", "bar", "ok", "note", title=name)
    for row in rows:
        interval = "" if row.interval is None else f"{row.interval[0]:.4g} to {row.interval[1]:.4g}"
        ok = {True: "yes", False: "NO", None: ""}[row.ok]
        value = "none" if row.value is None else f"{row.value:.4g}"
        table.add_row(row.metric, value, row.unit, interval, row.bar, ok, row.note)
    return table
