"""Rows of ``python -m benchmarks.policies`` that need runs apart: look-ahead, clairvoyant, training."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np

from benchmarks.clairvoyant import BEAM, NODES, response_s
from benchmarks.form import Row, at_most, reported
from benchmarks.instances import INSTANCES, Instance, small_world
from benchmarks.policy_cells import Cell
from benchmarks.policy_results import Results
from benchmarks.policy_rows import times_row
from benchmarks.policy_runs import Contender, Job, run_all, source_digest
from shunter.agents.learned import LearnedPolicy
from shunter.agents.policy_file import training_of
from shunter.agents.registry import make_policy
from shunter.envs.seed_ranges import SEED_RANGES
from shunter.eval.clairvoyant import Clairvoyant, solve
from shunter.train.selection import mean_responses, paired_mean_change

__all__ = ["clairvoyant_rows", "look_ahead_rows", "small_rows", "training_row"]

LOOK_AHEAD = (
    Contender("lookahead", "lookahead", "lookahead"),
    Contender("lookahead-oracle", "lookahead-oracle", "lookahead-oracle", oracle=True),
)
LOOK_SCENARIOS = ("laptop", "two-half-resident", "drift", "two-gpu-unequal", "prefetch", "unseen-pair")
"""Looking ahead takes milliseconds a decision: six scenarios at one load, few seeds."""

LOOK_LOAD, LOOK_SEEDS = 0.7, 4
TRAINING_MIN, TRAINING_CORES, CLAIRVOYANT = 60.0, 2, 1.25


def look_ahead_rows(
    others: Sequence[Contender],
    best: Contender,
    cache: Path,
    *,
    quick: bool,
    workers: int,
    say: Callable[[str], None],
) -> list[Row]:
    """Look-ahead, and others on the same few requests, against the best single baseline."""
    where = [Cell(name, LOOK_LOAD) for name in (LOOK_SCENARIOS[1:2] if quick else LOOK_SCENARIOS)]
    seeds = tuple(SEED_RANGES["benchmark"])[: 2 if quick else LOOK_SEEDS]
    everyone = (*others, *LOOK_AHEAD)
    jobs = [Job(cell, contender, seeds) for cell in where for contender in everyone]
    results = Results(run_all(jobs, cache, workers=workers, say=say), everyone, best.label)
    rows = []
    for contender in everyone:
        if contender.label == best.label:
            continue
        found = results.compare(contender.label, best.label, where)
        metric = f"sample for look-ahead: {contender.label} × of {best.label}"
        note = f"{len(found.cells)} cells at load {LOOK_LOAD:g}, {len(seeds)} seeds: " + ", ".join(
            cell.scenario for cell in found.cells
        )
        rows.append(times_row(metric, found, note))
    return rows


def clairvoyant_rows(
    contenders: Sequence[Contender], learned: Sequence[Contender], cache: Path, *, quick: bool
) -> list[Row]:
    """Everybody as a multiple of the clairvoyant on the committed instances; those judged have a bar."""
    instances = INSTANCES[: len(INSTANCES) // 2] if quick else INSTANCES
    found = [_solved(instance, cache, BEAM // 3 if quick else BEAM) for instance in instances]
    made = [instance.make() for instance in instances]
    rows = []
    for contender in contenders:
        policy = make_policy(contender.text)
        costs_s = [response_s(world, requests, policy) for world, requests in made]
        ratios = np.array([best.times(cost_s) for best, cost_s in zip(found, costs_s, strict=True)])
        low, high = np.exp(np.log(ratios).mean(axis=0))
        proven = sum(best.optimal for best in found)
        note = f"{len(found)} instances, {proven} proven optimal; interval: against the best schedule found "
        note += f"and the lower bound; most × {ratios[:, 0].max():.2f}"
        metric = f"{contender.label} × of clairvoyant"
        row = reported(metric, float(low), interval=(float(low), float(high)), note=note)
        rows.append(at_most(row, CLAIRVOYANT) if contender in learned else row)
    return rows


def small_rows(others: Sequence[Contender], best: Contender) -> list[Row]:
    """Against the best single baseline in the committed instances' worlds, on many more requests than theirs.

    Two request sequences of each world have a bound; what is luck in them shows here.
    """
    seeds = tuple(SEED_RANGES["benchmark"])
    kinds = {(i.models, i.devices, i.rate_per_s, i.requests): None for i in INSTANCES}
    rows = []
    for devices in sorted({i.devices for i in INSTANCES}):
        worlds = [small_world(m, d, rate_per_s=r, requests=n) for m, d, r, n in kinds if d == devices]
        theirs = mean_responses(worlds, make_policy(best.text), seeds)
        for other in others:
            found = paired_mean_change(mean_responses(worlds, make_policy(other.text), seeds), theirs)
            metric = f"small instances, {devices} device{'s'[: devices - 1]}: {other.label} × of {best.label}"
            interval = (1 + found.low, 1 + found.high)
            note = f"{len(worlds)} worlds, {len(seeds)} request sequences of each"
            rows.append(reported(metric, 1 + found.change, interval=interval, note=note))
    return rows


def training_row(contender: Contender) -> list[Row]:
    """How long a policy file says that it was trained for; nothing for what is no policy file.

    Of averaged or distilled policies that is the sum of all trainings; those of one thread run side by side.
    """
    if not Path(contender.text).is_file():
        return []
    policy = LearnedPolicy.load(contender.text)
    metric = f"training of {contender.label}"
    training, text = training_of(policy), policy.metadata.get("elapsed_s")
    if training is None or text is None:
        row = Row(metric, None, "min", note="its file does not say: no elapsed_s, or nothing of the training")
    else:
        minutes, note = float(text) / 60, "as its file says; on the machine that trained it"
        threads = training.settings.get("threads")
        if {"averaged", "teachers"} & training.settings.keys() and threads == 1:
            note = f"{minutes:.1f} min in all, each training on one of {TRAINING_CORES} cores; {note}"
            minutes /= TRAINING_CORES
        row = Row(metric, minutes, "min", note=note)
    return [at_most(row, TRAINING_MIN)]


def _solved(instance: Instance, cache: Path, beam: int) -> Clairvoyant:
    """The clairvoyant's schedule, kept like evaluations."""
    text = json.dumps([instance.name, beam, NODES, source_digest()])
    path = cache / f"clairvoyant-{hashlib.sha256(text.encode()).hexdigest()[:24]}.json"
    try:
        kept = Clairvoyant(**json.loads(path.read_text(encoding="utf-8")))
        return replace(kept, actions=tuple(kept.actions))
    except (OSError, ValueError, TypeError):
        found = solve(*instance.make(), beam=beam, max_nodes=NODES)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(asdict(found)), encoding="utf-8")
        return found
