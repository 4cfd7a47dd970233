"""Tunes every heuristic that is no oracle with the same budget, for ``python -m benchmarks.policies``.

``python -m benchmarks.policy_tuning --storage FOLDER``: a search that was killed goes on from the folder.
The best single baseline is the tuned heuristic with the lowest score.
"""

from __future__ import annotations

import argparse
import json
import shlex
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from benchmarks.form import without_place
from benchmarks.policy_cells import LOADS, cell_world, cells
from shunter.agents.registry import HEURISTICS
from shunter.envs.workload.seed_ranges import SEED_RANGES
from shunter.envs.world.world import World
from shunter.errors import BrokenFileError
from shunter.files import write_json
from shunter.train.tune.heuristic import Tuned, tune

__all__ = ["TUNED", "Baselines", "read_tuned"]

TUNED = Path(__file__).parents[1] / "results" / "benchmarks" / "tuned_heuristics.json"
"""What came of it, as committed."""

TRIALS = 24

NAMES = [name for name, kind in HEURISTICS.items() if not kind.oracle]


@dataclass(frozen=True)
class Baselines:
    """The tuned heuristics.

    Attributes:
        policies: Policies with parameters, as ``make_policy`` reads them, by name of the heuristic.
        scores_s: Geometric mean over cells and tuning seeds of the mean response.
        best: Name of the one with the lowest score: the best single baseline.
    """

    policies: dict[str, str]
    scores_s: dict[str, float]

    @property
    def best(self) -> str:
        """Name of the best single baseline."""
        return min(self.scores_s, key=lambda name: self.scores_s[name])


def read_tuned(path: Path = TUNED) -> Baselines:
    """Reads the tuned heuristics.

    Raises:
        BrokenFileError: They are missing, or not of that form.
    """
    try:
        found = json.loads(path.read_text(encoding="utf-8"))["heuristics"]
        policies = {name: str(row["policy"]) for name, row in found.items()}
        return Baselines(policies, {name: float(row["score_s"]) for name, row in found.items()})
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise BrokenFileError(
            path, f"no tuned heuristics (python -m benchmarks.policy_tuning): {error}"
        ) from None


def row(result: Tuned) -> dict[str, Any]:
    """What is kept of a search."""
    return {
        "policy": result.policy,
        "score_s": round(result.score, 4),
        "default_score_s": round(result.default_score, 4),
        "trials": len(result.trials),
        "pruned": int((result.trials.state == "pruned").sum()),
    }


def search(
    names: Sequence[str],
    worlds: Sequence[World],
    seeds: Sequence[int],
    trials: int,
    storage: Path,
    workers: int = 1,
) -> dict[str, Any]:
    """Tunes them all, one journal each, so many at once: what is found does not depend on that."""
    found: dict[str, Any] = {}
    with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool:
        many = sorted(names, key=lambda name: -len(HEURISTICS[name].space()))  # they take longest
        tunings = [
            pool.submit(_tuned, name, worlds, seeds, trials, storage / f"{name}.journal") for name in many
        ]
        for tuning in as_completed(tunings):
            name, found_row, took_s = tuning.result()
            found[name] = found_row
            print(f"{name}: {found_row}, {took_s:.0f} s", flush=True)
    return dict(sorted(found.items(), key=lambda item: float(item[1]["score_s"])))


def _tuned(
    name: str, worlds: Sequence[World], seeds: Sequence[int], trials: int, journal: Path
) -> tuple[str, dict[str, Any], float]:
    begun_s = time.monotonic()
    found = row(tune(HEURISTICS[name], worlds, seeds, trials, storage=journal))
    return name, found, time.monotonic() - begun_s


def main(argv: Sequence[str] | None = None) -> int:
    """Tunes and writes the file."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.policy_tuning", description=__doc__)
    parser.add_argument("--storage", type=Path, required=True, help="folder of journals")
    parser.add_argument("--trials", type=int, default=TRIALS, help="for each heuristic, pruned ones included")
    parser.add_argument("--only", nargs="*", default=NAMES, help="these; nothing but journals is written")
    parser.add_argument("--workers", type=int, default=1, help="processes, a heuristic each")
    parser.add_argument("--json", type=Path, default=TUNED, help="where to write the result")
    options = parser.parse_args(argv)
    options.storage.mkdir(parents=True, exist_ok=True)
    seeds, where = SEED_RANGES["tuning"], cells("train")
    worlds = [cell_world(cell, seeds) for cell in where]
    found = search(options.only, worlds, seeds, options.trials, options.storage, options.workers)
    if options.only != NAMES:
        return 0
    arguments = sys.argv[1:] if argv is None else argv
    record = {
        "command": shlex.join(["python", "-m", "benchmarks.policy_tuning", *map(without_place, arguments)]),
        "scenarios": list(dict.fromkeys(cell.scenario for cell in where)),
        "loads": list(LOADS),
        "seeds": list(seeds),
        "trials": options.trials,
        "score": "geometric mean over cells and seeds of the mean response, s",
        "heuristics": found,
    }
    write_json(options.json, record)
    return 0


if __name__ == "__main__":
    sys.exit(main())
