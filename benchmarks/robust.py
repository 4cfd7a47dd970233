"""What damaged and hostile files, hostile names, kills and full disks do.

Every file is read in a process that is ended after so much time of a processor: what hangs is counted, and
does not stop the rest. What a reader raises must be an error of ours, of one line; what it takes, it may take
for right only where nobody said what is right: a file with a digest must be as it was written.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import random
import resource
import signal
import tempfile
import traceback
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from benchmarks import robust_disks, robust_kills
from benchmarks.form import Row, at_most, main, reported
from benchmarks.robust_commands import COMMANDS
from benchmarks.robust_files import OWN, READERS, Kind, damaged, flipped, make_files
from benchmarks.robust_names import names_rows
from shunter.engines.base import EngineError
from shunter.errors import ShunterError

__all__ = ["run"]

MUTATED, FLIPPED = 10_000, 1_000
QUICK_MUTATED, QUICK_FLIPPED = 700, 200
MOST_S = 5.0
MOST_BYTES = 10**9
LONGEST_LINE = 2_500
"""Characters of a message: a field, a rule and a value, each cut to a line."""
SEED = 24

Task = tuple[str, str, int]
"""A kind, one of its files, and a seed."""


def run(quick: bool, part: Sequence[str] = (), **rest: Any) -> list[Row]:
    """The rows of some parts; of all where none is named."""
    rows: list[Row] = []
    for name in part or PARTS:
        rows += PARTS[name](quick)
    return rows


def _in_files(
    rows_of: Callable[[Path, int], list[Row]], count: int, quick_count: int
) -> Callable[[bool], list[Row]]:
    def rows(quick: bool) -> list[Row]:
        with tempfile.TemporaryDirectory() as place:
            make_files(Path(place))
            return rows_of(Path(place), quick_count if quick else count)

    return rows


def mutated_rows(folder: Path, count: int) -> list[Row]:
    """How many of so many damaged files made a reader fail, hang, or take too much memory."""
    kinds = list(READERS)
    tasks = [(kinds[i % len(kinds)], "", SEED + i) for i in range(count)]
    found = Counter(said.split(":")[0] for said in outcomes(folder, tasks, "damage"))
    note = ", ".join(f"{number} {what}" for what, number in sorted(found.items()))
    return [
        at_most(Row(f"{count} damaged files: tracebacks", found["traceback"], "files", note=note), 0),
        at_most(Row(f"{count} damaged files: over {MOST_S:g} s", found["hang"], "files"), 0),
        at_most(Row(f"{count} damaged files: over 1 GB", found["memory"], "files"), 0),
    ]


def flipped_rows(folder: Path, count: int) -> list[Row]:
    """How many of so many files of ours with a bit flipped were taken for something else than they were."""
    tasks = [(OWN[i % len(OWN)], "", SEED + i) for i in range(count)]
    found = Counter(said.split(":")[0] for said in outcomes(folder, tasks, "flip"))
    wrong = found["other content"] + found["traceback"] + found["hang"] + found["memory"]
    note = f"{found['refused']} refused, {found['read']} read as before: the bit means nothing"
    return [
        at_most(Row(f"{count} flipped bits in own files: believed or failed", wrong, "files", note=note), 0),
        reported("flipped bits that were refused", found["refused"] / count),
    ]


def outcomes(folder: Path, tasks: list[Task], how: str) -> Iterator[str]:
    """What came of each file: read, refused, other content, traceback, hang or memory."""
    left = list(tasks)
    whole = {
        path: path.read_bytes() for kind in READERS.values() for path in map(folder.joinpath, kind.files)
    }
    context = multiprocessing.get_context("fork")
    while left:
        ours, theirs = context.Pipe(duplex=False)
        process = context.Process(target=_work, args=(folder, left, how, theirs))
        process.start()
        theirs.close()
        with contextlib.suppress(EOFError):
            while left:
                said = ours.recv()
                yield _told(left.pop(0), said)
        process.join()
        for path, data in whole.items():  # one of them is still damaged if the process was ended
            if path.read_bytes() != data:
                path.write_bytes(data)
        if left:
            yield _told(
                left.pop(0), "hang" if process.exitcode == -signal.SIGPROF else "memory: it was killed"
            )


def _told(task: Task, said: str) -> str:
    if said.split(":")[0] not in ("read", "refused"):
        print(f"{task[0]}, seed {task[2]}: {said}", flush=True)
    return said


def _work(folder: Path, tasks: list[Task], how: str, to: Connection) -> None:
    warnings.simplefilter("ignore")
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    whole: dict[str, Any] = {}
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for name, _, seed in tasks:
        drawn = random.Random(seed)
        kind = READERS[name]
        path = folder / drawn.choice(kind.files)
        if how == "flip" and str(path) not in whole:
            whole[str(path)] = kind.read(path)
        said = one(path, kind, drawn, how, whole.get(str(path)))
        most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        if (most - before) * 1024 > MOST_BYTES:
            said = f"memory: {(most - before) / 1e6:.1f} GB"
        before = max(before, most)
        to.send(said)


def one(path: Path, kind: Kind, drawn: random.Random, how: str, whole: Any) -> str:
    """What comes of reading a file, damaged for as long as that takes."""
    data = path.read_bytes()
    path.write_bytes(flipped(data, drawn) if how == "flip" else damaged(data, drawn))
    signal.setitimer(signal.ITIMER_PROF, MOST_S)
    try:
        said = kind.read(path)
    except (ShunterError, EngineError) as error:
        text = str(error)
        return "refused" if text.isprintable() and len(text) <= LONGEST_LINE else f"traceback: {text[:300]!r}"
    except Exception as error:
        frame = traceback.extract_tb(error.__traceback__)[-1]
        where = f"{os.path.basename(frame.filename)}:{frame.lineno}"
        return f"traceback: {path.name}: {type(error).__name__}: {str(error)[:200]} ({where})"
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        path.write_bytes(data)
    return "read" if how != "flip" or said == whole else f"other content: {path.name}"


PARTS: dict[str, Callable[[bool], list[Row]]] = {
    "damage": _in_files(mutated_rows, MUTATED, QUICK_MUTATED),
    "flips": _in_files(flipped_rows, FLIPPED, QUICK_FLIPPED),
    "names": lambda quick: names_rows(),
    **{f"kills of {name}": partial(robust_kills.rows, commands=[name]) for name in COMMANDS},
    "disks": robust_disks.rows,
}

if __name__ == "__main__":
    which: dict[str, Any] = {"action": "append", "default": [], "choices": list(PARTS), "help": "only this"}
    raise SystemExit(main("robust", run, __doc__ or "", more={"--part": which}))
