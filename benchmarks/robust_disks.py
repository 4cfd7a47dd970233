"""Commands that run out of room at random points: one line, and whatever was there before is as it was.

Where a file system of a few megabytes can be mounted (by root), the disk is really full; elsewhere files may
not grow beyond a random size, which the system says in another word.
"""

from __future__ import annotations

import contextlib
import os
import random
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from benchmarks.form import Row, at_most, main
from benchmarks.robust_commands import COMMANDS, Command, Place, prepare

__all__ = ["rows"]

POINTS, QUICK_POINTS = 20, 1
AGAIN = {"profile": "--append", "train": "--overwrite"}
"""How a command whose outputs are whole is begun again, where that is not how one is gone on with."""


def rows(quick: bool) -> list[Row]:
    """Three rows for each command."""
    found = []
    with tempfile.TemporaryDirectory() as folder:
        inputs = Path(folder) / "inputs"
        prepare(inputs)
        for number, (name, command) in enumerate(COMMANDS.items()):
            again = Command(command.begin, AGAIN.get(name, command.more), command.found)
            points = QUICK_POINTS if quick else POINTS
            found += full_rows(name, again, Path(folder) / f"d{number}", inputs, points)
    return found


def full_rows(name: str, command: Command, folder: Path, inputs: Path, points: int) -> list[Row]:
    """Runs out of room so many times."""
    drawn, failed = random.Random(points), 0
    many: list[str] = []
    changed: list[str] = []
    left: list[str] = []
    whole = Place(folder / "whole", inputs)
    if whole.run(command, again=False):
        raise RuntimeError(f"with room enough: {whole.said()}")
    wanted, files = command.found(whole.work), whole.files()
    sizes = [path.stat().st_size for path in whole.work.rglob("*") if path.is_file()]
    for number in range(points):
        with _little_room(folder / f"p{number}", whole, inputs, sizes, drawn) as (place, most_bytes):
            if place.run(command, again=True, most_bytes=most_bytes) == 0:
                continue
            failed += 1
            said = place.said().strip().splitlines()
            if "Traceback" in place.said() or not said or not said[-1].startswith("shunter: "):
                many.append("\n".join(said[-3:]))
            try:
                changed += [key for key, of in command.found(place.work).items() if of != wanted[key]]
            except Exception as error:
                changed.append(str(error))
            left += sorted(place.files() - files)
    for text in (*many, *changed, *left):
        print(f"{name}: {text}", file=sys.stderr, flush=True)
    note = f"{points} points, {failed} of them too little"
    return [
        at_most(Row(f"{name}, disk full: more than a line", len(many), note=note), 0),
        at_most(Row(f"{name}, disk full: earlier outputs changed", len(changed)), 0),
        at_most(Row(f"{name}, disk full: parts left", len(left)), 0),
    ]


@contextlib.contextmanager
def _little_room(
    folder: Path, whole: Place, inputs: Path, sizes: list[int], drawn: random.Random
) -> Iterator[tuple[Place, int]]:
    """A place with what the command wrote before, and little room for more."""
    folder.mkdir(parents=True)
    room = int(drawn.uniform(0.02, 1.0) * sum(sizes)) + (1 << 18)
    mounted = os.geteuid() == 0 and _mounts(folder, sum(sizes) + room)
    try:
        place = Place(folder / "place", inputs)
        shutil.copytree(whole.work, place.work, dirs_exist_ok=True)
        if mounted:
            yield place, 0
            return
        yield place, int(drawn.uniform(1, max(sizes)))
    finally:
        if mounted:
            subprocess.run(["umount", str(folder)], check=False)


def _mounts(folder: Path, size_bytes: int) -> bool:
    command = ["mount", "-t", "tmpfs", "-o", f"size={size_bytes}", "tmpfs", str(folder)]
    return subprocess.run(command, check=False, capture_output=True).returncode == 0


if __name__ == "__main__":
    sys.exit(main("robust_disks", rows, __doc__ or ""))
