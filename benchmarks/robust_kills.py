"""Commands killed at random moments and gone on with: is what came of them as if nothing had happened?"""

from __future__ import annotations

import contextlib
import random
import shutil
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks.form import Row, at_least, at_most, main
from benchmarks.robust_commands import COMMANDS, Command, Found, Place, prepare

__all__ = ["rows"]

KILLS, QUICK_KILLS = 100, 2
MOST_IN_A_CHAIN = 4
"""Kills of one command before it is let to its end."""

GONE_S = 20.0
"""How long what a killed command had started may take to end."""


@dataclass
class Counts:
    """What was counted of one command.

    Attributes:
        kills: Times that it was killed.
        wrong: What differed, or failed, in words.
        left: What was left behind, in words.
    """

    kills: int = 0
    wrong: list[str] = field(default_factory=list)
    left: list[str] = field(default_factory=list)


def rows(quick: bool, commands: Sequence[str] = tuple(COMMANDS)) -> list[Row]:
    """Three rows for each command; what Ctrl-C cuts short is of the kills until then."""
    found = []
    with tempfile.TemporaryDirectory() as folder:
        inputs = Path(folder) / "inputs"
        prepare(inputs)
        for number, name in enumerate(commands):
            kills = QUICK_KILLS if quick else KILLS
            counts = killed(COMMANDS[name], Path(folder) / f"c{number}", inputs, kills, random.Random(name))
            for text in (*counts.wrong, *counts.left):
                print(f"{name}: {text}", file=sys.stderr, flush=True)
            found += kill_rows(name, counts, kills)
    return found


def kill_rows(name: str, counts: Counts, kills: int) -> list[Row]:
    """The rows of one command that was to be killed so many times."""
    wrong, left = Row(f"{name}: outputs unlike the uninterrupted", len(counts.wrong)), len(counts.left)
    note = "; ".join([f"{counts.kills} kills", *sorted(set(counts.wrong))[:1], *sorted(set(counts.left))[:1]])
    return [
        at_least(Row(f"{name}: kills", counts.kills), kills),
        at_most(Row(wrong.metric, wrong.value, note=note), 0),
        at_most(Row(f"{name}: files and processes left", left), 0),
    ]


def killed(command: Command, folder: Path, inputs: Path, kills: int, drawn: random.Random) -> Counts:
    """Kills a command so many times, and lets it to its end now and then."""
    whole = Place(folder / "whole", inputs)
    begun_s = time.monotonic()
    if whole.run(command, again=False):
        raise RuntimeError(f"uninterrupted: {whole.said()}")
    takes_s = time.monotonic() - begun_s
    wanted, files, counts = command.found(whole.work), whole.files(), Counts()
    with contextlib.suppress(KeyboardInterrupt):
        while counts.kills < kills:
            place = Place(folder / f"k{counts.kills}", inputs)
            chain = drawn.randint(1, min(MOST_IN_A_CHAIN, kills - counts.kills))
            for number in range(chain):
                process = place.start(command.words(inputs, again=number > 0))
                time.sleep(drawn.uniform(0, takes_s))
                process.kill()
                process.join()
                counts.left += still_running(place)
            _finish(command, place, wanted, files, counts)
            counts.kills += chain
            print(f"{counts.kills} kills", file=sys.stderr, flush=True)
            shutil.rmtree(place.work.parent)
    return counts


def still_running(place: Place) -> list[str]:
    """Processes that outlive a killed command."""
    end_s = time.monotonic() + GONE_S
    while left := place.processes():
        if time.monotonic() > end_s:
            for process in left:
                process.kill()
            return [f"process {process.pid}" for process in left]
        time.sleep(0.1)
    return []


def _finish(
    command: Command, place: Place, wanted: Found, files: Sequence[str] | set[str], counts: Counts
) -> None:
    """Lets a command to its end, and looks at what came of it."""
    if place.run(command, again=True):
        counts.wrong.append(f"it cannot be gone on with: {place.said().strip()[-300:]}")
        return
    try:
        found = command.found(place.work)
    except Exception as error:
        counts.wrong.append(f"not whole: {error}")
        return
    counts.wrong += [f"other {name}" for name in wanted if found[name] != wanted[name]]
    counts.wrong += [f"{name} is missing" for name in sorted(set(files) - place.files())]
    counts.left += [f"{name} is left" for name in sorted(place.files() - set(files))]


if __name__ == "__main__":
    sys.exit(main("robust_kills", rows, __doc__ or ""))
