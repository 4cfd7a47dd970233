"""Trained policies against tuned heuristics, look-ahead and the clairvoyant bound, on requests nobody saw.

``python -m benchmarks.policies [--quick] [--policy FILE ...] [--specialists FOLDER] --json PATH``. Cells are
all scenarios of the library at 0.5, 0.7 and 0.9 of their capacity; arrivals stop and the runs drain.
Heuristics are those of ``benchmarks.policy_tuning``. Evaluations are kept in ``--cache`` by the content of
what they depend on, so that a run with another policy evaluates only that one. Beside the JSON: a picture,
and tables of all cells.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from rich.console import Console

from benchmarks.form import Row, main
from benchmarks.policy_apart import (
    clairvoyant_rows,
    look_ahead_rows,
    small_rows,
    specialist_training_rows,
    training_row,
)
from benchmarks.policy_cells import LOADS, Cell, cells
from benchmarks.policy_page import write_picture, write_tables
from benchmarks.policy_results import Results
from benchmarks.policy_rows import (
    bar_rows,
    baseline_rows,
    cell_rows,
    kind_rows,
    noise_rows,
    slo_rows,
    specialist_rows,
)
from benchmarks.policy_runs import Contender, Job, file_digest, run_all
from benchmarks.policy_tuning import Baselines, read_tuned
from benchmarks.policy_wait_rows import guard_rows, longest_rows, starved_rows, wait_rows
from shunter.agents.learned.policy import LearnedPolicy
from shunter.agents.learned.weights import untrained_weights
from shunter.agents.registry import make_policy
from shunter.envs.workload.seed_ranges import SEED_RANGES
from shunter.errors import InputError, ShunterError

__all__ = ["GENERALIST", "run"]

GENERALIST = Path(__file__).parents[1] / "results" / "policies" / "generalist.safetensors"
"""Judged unless another is named."""

QUICK_SCENARIOS = (
    "trivial-two-models",
    "two-half-resident",
    "two-gpu-unequal",
    "slo-interactive",
    "laptop",
    "unseen-pair",
    "starved-l4",
    "replicas-l40s",
    "skewed-unequal",
)
QUICK_SEEDS = 5

GREEDY = "cost-greedy"
"""Label of the tuned one."""

UNTUNED = ("cost-greedy", "lru-keepalive")
"""Heuristics that are shown with their defaults too."""

_console = Console()


def run(
    quick: bool,
    policy: list[str] | None,
    specialists: Path | None,
    cache: Path,
    workers: int,
    json: Path | None,
) -> list[Row]:
    """Evaluates what is not kept yet, and judges."""
    tuned = read_tuned()
    learned = trained(policy or [default_policy()])
    seeds = tuple(SEED_RANGES["benchmark"])[: QUICK_SEEDS if quick else None]
    where = [Cell(name, load) for name in QUICK_SCENARIOS for load in LOADS] if quick else cells()
    scenarios = list(dict.fromkeys(cell.scenario for cell in where))
    special = [] if specialists is None else [trained_apart(specialists, scenarios)]
    bases = untrained(learned, cache)
    contenders = [*heuristics(tuned), *learned, *bases]
    best, greedy = (next(c for c in contenders if c.label == name) for name in (tuned.best, GREEDY))
    guarded = [(one, without_guard(one)) for one in (greedy, *learned)]
    noisy = [(one, with_noise(one)) for one in (greedy, *learned, *special)]
    everyone = (*contenders, *special, *(other for _, other in (*guarded, *noisy)))
    jobs = [Job(cell, contender, seeds) for cell in where for contender in everyone]
    results = Results(run_all(jobs, cache, workers=workers, say=_say), everyone, best.label)
    rows = []
    for one in learned:
        rows += bar_rows(results, one.label, GREEDY, "fifo-swap", "lru-keepalive")
        rows += wait_rows(results, one.label, GREEDY)
        rows += training_row(one)
    for one in special:
        rows += specialist_rows(results, one.label, GREEDY)
        rows += specialist_training_rows(one, scenarios)
    rows += noise_rows(results, GREEDY, {one.label: drawn.label for one, drawn in noisy})
    rows += starved_rows(results)
    rows += clairvoyant_rows(contenders, learned, best, cache, quick=quick, workers=workers)
    rows += small_rows([*learned, *(c for c in contenders if c.oracle)], best)
    rows += look_ahead_rows([best, *learned], best, cache, quick=quick, workers=workers, say=_say)
    for one in (*learned, *special):
        others = [best, *(base for base in bases if base.label == _untrained(one))]
        for other in others:
            rows += kind_rows(results, one.label, other.label)
        rows += cell_rows(results, one.label)
    rows += baseline_rows(results)
    rows += longest_rows(results)
    for on, off in guarded:
        rows += guard_rows(results, on.label, off.label)
    rows += slo_rows(results, [best.label, *(one.label for one in (*learned, *special))])
    if json is not None:
        judged = [one.label for one in (*learned, *special)]
        write_picture(json.with_suffix(".html"), results, judged, len(seeds), rows)
        write_tables(json, results, {on.label: off.label for on, off in guarded})
    return rows


def default_policy() -> str:
    """The policy of this repository.

    Raises:
        InputError: It is not there.
    """
    if not GENERALIST.exists():
        rule = "name policy files, where this repository has none of its own yet"
        raise InputError("--policy", rule, f"nothing, and no {GENERALIST}")
    return str(GENERALIST)


def heuristics(tuned: Baselines) -> list[Contender]:
    """All heuristics as tuned, two as they come, and the oracles."""
    texts = dict(tuned.policies)
    texts |= {f"{name} (defaults)": name for name in UNTUNED if tuned.policies.get(name) != name}
    found = [Contender(label, text, text, heuristic=True) for label, text in texts.items()]
    return [*found, Contender("sjf-oracle", "sjf-oracle", "sjf-oracle", oracle=True)]


def trained(texts: Sequence[str]) -> list[Contender]:
    """Policies to judge, labelled by their files.

    Raises:
        ShunterError: One is no policy.
    """
    found: list[Contender] = []
    for text in texts:
        policy, path = make_policy(text), Path(text)
        digest = file_digest(path) if path.is_file() else text
        label = path.stem if path.is_file() else text
        label = f"judged {label}" if not path.is_file() else label
        twins = sum(c.label.partition(" #")[0] == label for c in found)
        found.append(
            Contender(f"{label} #{twins + 1}" if twins else label, text, digest, oracle=policy.oracle)
        )
    return found


def trained_apart(folder: Path, scenarios: Sequence[str]) -> Contender:
    """Policies that were each trained for one scenario, as one contender.

    Raises:
        InputError: A scenario has none.
        ShunterError: One is no policy.
    """
    contender = Contender("specialists", str(folder), "")
    missing = [name for name in scenarios if not (folder / f"{name}.safetensors").is_file()]
    if missing:
        raise InputError("--specialists", "hold SCENARIO.safetensors for each scenario", ", ".join(missing))
    for name in scenarios:
        make_policy(contender.in_scenario(name).text)
    return contender


def untrained(learned: Sequence[Contender], cache: Path) -> list[Contender]:
    """What policy files rest on before any training, each prior once: what of their gains was not learned."""
    found: dict[str, Contender] = {}
    for one in (contender for contender in learned if Path(contender.text).is_file()):
        policy = LearnedPolicy.load(one.text)
        digest = ",".join(f"{number:g}" for number in policy.prior)
        path = cache / f"untrained-{digest}.safetensors"
        if digest not in found:
            cache.mkdir(parents=True, exist_ok=True)
            LearnedPolicy("untrained", untrained_weights(policy.prior), {}).save(path)
            found[digest] = Contender(_untrained(one), str(path), f"untrained {digest}")
    return list(found.values())


def _untrained(one: Contender) -> str:
    return f"{one.label} untrained"


def without_guard(contender: Contender) -> Contender:
    """The same policy in worlds in which nothing bounds waiting."""
    return replace(contender, label=f"{contender.label}, guard off", heuristic=False, guard=False)


def with_noise(contender: Contender) -> Contender:
    """The same policy where durations are drawn from the prediction intervals."""
    return replace(contender, label=f"{contender.label}, durations drawn", heuristic=False, noise=True)


def _say(line: str) -> None:
    _console.print(f"{time.strftime('%H:%M:%S')} {line}", highlight=False, soft_wrap=True)


_MORE: dict[str, dict[str, Any]] = {
    "--policy": {"nargs": "+", "help": "policies to judge; default: this repository's generalist"},
    "--specialists": {"type": Path, "help": "folder of SCENARIO.safetensors, each trained for one scenario"},
    "--cache": {"type": Path, "default": Path("runs/benchmark-policies"), "help": "folder of evaluations"},
    "--workers": {"type": int, "default": 1, "help": "processes"},
}


def _main(argv: Sequence[str] | None = None) -> int:
    try:
        return main("policies", run, "Trained policies against tuned heuristics.", argv, _MORE)
    except ShunterError as error:
        print(error, file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(_main())
