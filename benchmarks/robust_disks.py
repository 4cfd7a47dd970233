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

from benchmarks.form import Row, at_least, at_most, main
from benchmarks.robust_commands import COMMANDS, Command, Place, prepare

__all__ = ["rows"]

POINTS, QUICK_POINTS = 20, 1
AGAIN = {"profile": "--append", "train": "--overwrite", "tune": "--trials 12"}
"""How a command whose outputs are whole is begun again, where that is not how one is gone on with."""

AMPLE_BYTES = 1 << 26


def rows(quick: bool) -> list[Row]:
    """Four rows for each command."""
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
    need_bytes = _need_bytes(folder / "need", whole, inputs, command)
    for number in range(points):
        room_bytes = int(drawn.uniform(0, need_bytes))
        with _little_room(folder / f"p{number}", whole, inputs, room_bytes) as (place, most_bytes):
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
    note = f"of {points}, with up to {need_bytes / 1e6:.2f} MB, which it needs"
    return [
        at_least(Row(f"{name}, disk full: points with too little room", failed, note=note), points // 2),
        at_most(Row(f"{name}, disk full: more than a line", len(many)), 0),
        at_most(Row(f"{name}, disk full: earlier outputs changed", len(changed)), 0),
        at_most(Row(f"{name}, disk full: parts left", len(left)), 0),
    ]


def _need_bytes(folder: Path, whole: Place, inputs: Path, command: Command) -> int:
    """The least room with which the command ends well, to a tenth: MLflow can go without."""
    least, enough = 0, AMPLE_BYTES
    while enough - least > max(enough // 10, 4096):
        middle = (least + enough) // 2 if least else enough // 4
        with _little_room(folder / str(middle), whole, inputs, middle) as (place, most_bytes):
            done = place.run(command, again=True, most_bytes=most_bytes) == 0
        least, enough = (least, middle) if done else (middle, enough)
    return enough


@contextlib.contextmanager
def _little_room(folder: Path, whole: Place, inputs: Path, room_bytes: int) -> Iterator[tuple[Place, int]]:
    """A place with what the command wrote before and so much room for more, or for a file if none mounts."""
    folder.mkdir(parents=True)
    mounted = os.geteuid() == 0 and _mounts(folder, AMPLE_BYTES)
    try:
        place = Place(folder, inputs)
        shutil.copytree(whole.work, place.work, dirs_exist_ok=True)
        if mounted:
            used = shutil.disk_usage(folder).used
            _mounts(folder, used + room_bytes, again=True)
        yield place, 0 if mounted else max(1, room_bytes)
    finally:
        if mounted:
            subprocess.run(["umount", str(folder)], check=False)


def _mounts(folder: Path, size_bytes: int, *, again: bool = False) -> bool:
    options = f"{'remount,' if again else ''}size={size_bytes}"
    command = ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(folder)]
    return subprocess.run(command, check=False, capture_output=True).returncode == 0


if __name__ == "__main__":
    sys.exit(main("robust_disks", rows, __doc__ or ""))
