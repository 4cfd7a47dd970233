"""Options that several commands share, and how they talk to the terminal."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from itertools import count
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn
from rich.text import Text

from shunter.errors import InputError
from shunter.files import check_place, is_free
from shunter.outputs import hold, in_use
from shunter.sinks import visible

__all__ = ["WIDE", "PlainConsole"]

LINE_EVERY_S = 10.0

Performance = Annotated[
    Path | None,
    typer.Option(
        help="Fitted performance model; 'published' is one fitted to public llama.cpp benchmarks, with "
        "loads, KV copies and memory from data sheets. Default: perf; published for scenarios of the "
        "library.",
        show_default=False,
    ),
]
"""The option of commands that predict; see ``shunter.envs.scenario.library.performance_of``."""

Ray = Annotated[
    str | None,
    typer.Option(
        help="Share the work among the CPUs of a Ray cluster: auto, host:port, ray://… or local.",
        show_default=False,
    ),
]
"""The option of commands whose work can be shared."""


Look = Callable[[Path | None], Path | None]
"""An option's callback that looks at a path and hands it on."""


def place(field: str, *, folder: bool = False, make: bool = True, held: bool = False) -> Look:
    """An option's callback that looks at the place for an output before the work begins.

    Args:
        field: The option.
        folder: Whether it is to be a folder.
        make: Whether folders above it are made.
        held: Whether the place is held, too, until the command ends.
    """

    def look(path: Path | None) -> Path | None:
        (hold if held else check_place)(field, path, folder=folder, make=make)
        return path

    return look


Json = Annotated[
    Path | None,
    typer.Option(
        "--json",
        callback=place("--json", make=False, held=True),
        help="Also write the figures here.",
        show_default=False,
    ),
]
"""The option of commands that also write what they found as JSON."""


def left_out(where: str, **options: object) -> None:
    """Refuses options that would be ignored.

    Args:
        where: Beside what, and why.
        **options: Their values by name; None, or a flag that is not raised, is not given.

    Raises:
        InputError: One is given.
    """
    for name, value in options.items():
        if value is not None and value is not False:
            given = str(value) if isinstance(value, Path) else value
            raise InputError(f"--{name.replace('_', '-')}", f"be left out {where}", given)


def _known_quiet(given: str | None) -> str | None:
    from shunter.eval.quiet import known_quiet  # two commands need it

    return known_quiet(given)


QuietMachine = Annotated[
    str | None,
    typer.Option(
        "--quiet-machine",
        callback=_known_quiet,
        help="Before engines run for real, where other programs use the machine: wait until they do not, "
        "warn, or refuse.",
        show_default=False,
        metavar="wait|warn|refuse",
    ),
]
"""The option of commands that measure; see ``shunter.eval.quiet``."""

Verbose = Annotated[bool, typer.Option("--verbose", help="Print the tables too.")]
"""The option of commands that print an answer and keep the tables for those who ask."""

ANSWER_LINES = 10
"""Most lines that a command prints unasked, beside its progress."""

WIDE = 1000
"""Columns where output is no terminal: a table in a file or a pipe is never cropped."""

MOST_SEEDS = 100_000
"""Workload seeds that a command takes; the same holds for other counts of runs."""

_DIGITS = 15
_WHOLE = rf"[0-9]{{1,{_DIGITS}}}"
_DECIMAL = r"[0-9]{1,15}(\.[0-9]{0,15})?|\.[0-9]{1,15}"

_SECONDS = {"s": 1, "m": 60, "h": 3600}


class PlainConsole(Console):
    """Prints text as it is: what looks like markup or an emoji is none, and controls are shown."""

    def render_str(self, text: str, **how: Any) -> Text:
        """What every text becomes, those in tables too."""
        return super().render_str(visible(text), **{**how, "markup": False, "emoji": False})


def open_console() -> Console:
    """What commands print on: as wide as the terminal, or wide enough for any table where there is none."""
    console = PlainConsole()
    return console if console.is_terminal else PlainConsole(width=WIDE)


def aside(console: Console) -> Console:
    """Where commands tell how far they are: where nobody watches on stderr, so that output is the answer."""
    return console if console.is_terminal else Console(stderr=True, width=WIDE)


def say(console: Console, text: str) -> None:
    """Prints a line as it is, never broken by the width of the terminal."""
    console.print(text, highlight=False, markup=False, soft_wrap=True)


def say_answer(
    console: Console, findings: Sequence[str], places: Sequence[str] = (), *, verbose: bool = False
) -> None:
    """Prints what came of a command, then where more of it is: at most ten lines, unless more are asked for.

    Args:
        console: To print on.
        findings: The most important first; the last give way if there are too many.
        places: Lines that say where the page and other files are.
        verbose: Whether all are printed.
    """
    room = ANSWER_LINES - len(places)
    if not verbose and len(findings) > room:
        left_out = len(findings) - (room - 1)
        findings = [*findings[: room - 1], f"and {left_out} lines more: --verbose prints them"]
    for line in (*findings, *places):
        say(console, line)


def lost_words(lost: Iterable[str]) -> list[str]:
    """Which workers of a cluster were lost on the way, in words; see ``shunter.jobs.Runner.lost``."""
    return [f"lost on the way, its work was done elsewhere: {line}" for line in lost]


def percent(share: float | None, sign: str = "") -> str:
    """A share in words; with the sign ``+`` rises have one too."""
    return "unknown" if share is None else f"{100 * share:{sign}.1f} %"


def seed_list(text: str) -> list[int]:
    """Reads workload seeds: a count (``20`` is 0 to 19), a range (``100-119``) or a list (``3,5,8``).

    Raises:
        InputError: It is none of these, or empty.
    """
    seeds = _seeds(text)
    if len(seeds) > MOST_SEEDS:
        raise InputError("--seeds", f"be at most {MOST_SEEDS} seeds", text)
    return list(dict.fromkeys(seeds))


def _seeds(text: str) -> Sequence[int]:
    if re.fullmatch(_WHOLE, text) and int(text) > 0:
        return range(int(text))
    ends = re.fullmatch(f"({_WHOLE})-({_WHOLE})", text)
    if ends and int(ends[1]) <= int(ends[2]):
        return range(int(ends[1]), int(ends[2]) + 1)
    if re.fullmatch(f"{_WHOLE}(,{_WHOLE})+", text):
        return [int(word) for word in text.split(",")]
    rule = f"be a count (20), a range (100-119) or a list (3,5,8), each of at most {_DIGITS} digits"
    raise InputError("--seeds", rule, text)


def seconds(field: str, text: str) -> float:
    """Reads a time: ``90s``, ``10m`` or ``1h``.

    Raises:
        InputError: It is none of these, or not more than nothing.
    """
    number, unit = text.strip()[:-1], text.strip()[-1:]
    if unit not in _SECONDS or not re.fullmatch(_DECIMAL, number) or float(number) <= 0:
        raise InputError(field, "be a time, like 90s, 10m or 1h", text)
    return float(number) * _SECONDS[unit]


def share(field: str, text: str) -> float | None:
    """Reads a share above 0: ``10%`` or ``0.1``; ``none`` is None.

    Raises:
        InputError: It is neither.
    """
    if text.strip() == "none":
        return None
    number = text.strip().removesuffix("%")
    if not re.fullmatch(_DECIMAL, number) or float(number) <= 0:
        raise InputError(field, "be a share above 0, like 10%, or none", text)
    return float(number) / (100 if text.strip().endswith("%") else 1)


def check_new(field: str, path: Path, *, overwrite: bool) -> None:
    """Holds the place for a file; refuses one that is there, unless it may be written over.

    Raises:
        InputError: Names the option, and the rule that its path breaks.
    """
    hold(field, path, make=False)
    if path.exists() and not overwrite:
        raise InputError(field, "not exist yet (or give --overwrite)", str(path))


def free_folder(given: Path | None, *, overwrite: bool) -> Path:
    """Holds the folder to write a report into.

    Args:
        given: As the user named it; None: ``runs/eval``, with the first number that makes it new.
        overwrite: Whether one that holds something is written over.

    Raises:
        InputError: The one named holds something, another command writes it, or it is no folder.
    """
    if given is None:
        given = default = Path("runs/eval")
        names = (default if n == 1 else default.with_name(f"{default.name}-{n}") for n in count(1))
        if not overwrite:
            given = next(folder for folder in names if not folder.exists() and not in_use(folder))
    hold("--out", given, folder=True)
    if not overwrite and not is_free(given):
        raise InputError("--out", "be a folder that is new or empty (or give --overwrite)", str(given))
    return given


@contextmanager
def progress(console: Console) -> Iterator[Callable[[str, int, int], None]]:
    """Yields a function of (text, done, total): a bar on a terminal, a line now and then elsewhere."""
    if console.is_terminal:
        columns = (BarColumn(), TextColumn("{task.percentage:>3.0f} %"), TimeRemainingColumn())
        with Progress(*columns, TextColumn("{task.description}"), console=console, transient=True) as bar:
            task = bar.add_task("", total=None)
            yield lambda text, done, total: bar.update(task, description=text, completed=done, total=total)
        return
    last_s = time.monotonic()

    def line(text: str, done: int, total: int) -> None:
        nonlocal last_s
        if time.monotonic() - last_s >= LINE_EVERY_S:
            last_s = time.monotonic()
            say(aside(console), f"{done}/{total}  {text}")

    yield line
