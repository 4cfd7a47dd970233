"""Rows of ``python -m benchmarks.policies`` that need runs apart: look-ahead, clairvoyant, training."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, replace
from multiprocessing import get_context
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from benchmarks.clairvoyant import BEAM, NODES
from benchmarks.form import Row, at_most, reported
from benchmarks.instances import INSTANCES, Instance
from benchmarks.policy_cells import Cell
from benchmarks.policy_results import Results
from benchmarks.policy_rows import times_row
from benchmarks.policy_runs import Contender, Job, run_all, source_digest
from shunter.agents.learned.file import training_of
from shunter.agents.learned.policy import LearnedPolicy
from shunter.agents.registry import make_policy
from shunter.envs.workload.seed_ranges import SEED_RANGES
from shunter.envs.world.world import World
from shunter.eval.bounds.clairvoyant import Clairvoyant, solve
from shunter.train.selection import mean_responses
from shunter.uncertainty import paired_mean_change

__all__ = ["clairvoyant_rows", "look_ahead_rows", "small_rows", "specialist_training_rows"]
__all__ += ["times_clairvoyant", "training_row"]

Floats = NDArray[np.float64]

LOOK_AHEAD = (
    Contender("lookahead", "lookahead", "lookahead"),
    Contender("lookahead-oracle", "lookahead-oracle", "lookahead-oracle", oracle=True),
)
LOOK_SCENARIOS = ("laptop", "two-half-resident", "drift", "two-gpu-unequal", "prefetch", "unseen-pair")
"""Looking ahead takes milliseconds a decision: six scenarios at one load, few seeds."""

LOOK_LOAD, LOOK_SEEDS = 0.7, 4
TRAINING_MIN, TRAINING_CORES, CLAIRVOYANT = 45.0, 2, 1.22
RESAMPLES = 4000


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
    contenders: Sequence[Contender],
    learned: Sequence[Contender],
    best: Contender,
    cache: Path,
    *,
    quick: bool,
    workers: int,
) -> list[Row]:
    """Everybody as a multiple of the clairvoyant on the committed instances, and those judged on many more.

    A schedule's bound takes seconds, so that many request sequences of an instance's world cannot all have
    one. Who is judged is estimated on them as a ratio: against the best single baseline on all of them, times
    that one against the clairvoyant on those that have one.
    """
    instances = INSTANCES[: len(INSTANCES) // 2] if quick else INSTANCES
    found = _all_solved(instances, cache, BEAM // 3 if quick else BEAM, workers)
    ratios = {}
    for contender in dict.fromkeys([*contenders, best]):
        policy = make_policy(contender.text)
        costs_s = [float(mean_responses([i.world()], policy, [i.seed])[0, 0]) for i in instances]
        ratios[contender.label] = np.array([b.times(c) for b, c in zip(found, costs_s, strict=True)])
    proven = sum(one.optimal for one in found)
    rows = []
    for contender in contenders:
        times = ratios[contender.label]
        low, high = np.exp(np.log(times).mean(axis=0))
        note = f"{len(found)} instances, {proven} proven optimal; interval: against the best schedule found "
        note += f"and the lower bound; most × {times[:, 0].max():.2f}"
        metric = f"{contender.label} × of clairvoyant"
        rows.append(reported(metric, float(low), interval=(float(low), float(high)), note=note))
    worlds, seeds = _small_worlds(), tuple(SEED_RANGES["benchmark"])
    theirs_s = mean_responses(worlds, make_policy(best.text), seeds)
    for one in learned:
        mine_s = mean_responses(worlds, make_policy(one.text), seeds)
        value, interval = times_clairvoyant(mine_s, theirs_s, ratios[best.label][:, 0])
        note = f"a ratio estimate: × of {best.label} on {len(seeds)} request sequences of each of "
        note += f"{len(worlds)} worlds, times its × of the best schedule found for {len(found)} of them"
        metric = f"many small sequences: {one.label} × of clairvoyant"
        rows.append(at_most(reported(metric, value, interval=interval, note=note), CLAIRVOYANT))
    return rows


def times_clairvoyant(mine_s: Floats, theirs_s: Floats, ratios: Floats) -> tuple[float, tuple[float, float]]:
    """Estimates how many times the clairvoyant's response a policy takes, with a 95 % bootstrap interval.

    Args:
        mine_s: (worlds, seeds) mean responses of the policy.
        theirs_s: (worlds, seeds) mean responses of another policy on the same requests.
        ratios: (N,) the other's over the clairvoyant's, on requests of which that is known.

    Returns:
        Geometric mean over all sequences, and the interval: seeds, and those N, are drawn anew.
    """
    logs, known, rng = np.log(mine_s / theirs_s).mean(axis=0), np.log(ratios), np.random.default_rng(0)
    drawn = (rng.choice(values, (RESAMPLES, len(values))).mean(axis=1) for values in (logs, known))
    low, high = np.exp(np.quantile(sum(drawn), [0.025, 0.975]))
    return float(np.exp(logs.mean() + known.mean())), (float(low), float(high))


def _small_worlds(devices: int | None = None) -> list[World]:
    """The worlds of the committed instances, or of those with so many devices."""
    first = {replace(i, seed=0): None for i in INSTANCES if devices in (None, i.devices)}
    return [instance.world() for instance in first]


def small_rows(others: Sequence[Contender], best: Contender) -> list[Row]:
    """Against the best single baseline in the committed instances' worlds, on many more requests than theirs.

    Two request sequences of each world have a bound; what is luck in them shows here.
    """
    seeds = tuple(SEED_RANGES["benchmark"])
    rows = []
    for devices in sorted({i.devices for i in INSTANCES}):
        worlds = _small_worlds(devices)
        theirs = mean_responses(worlds, make_policy(best.text), seeds)
        for other in others:
            found = paired_mean_change(mean_responses(worlds, make_policy(other.text), seeds), theirs)
            metric = f"small instances, {devices} device{'s'[: devices - 1]}: {other.label} × of {best.label}"
            interval = (1 + found.low, 1 + found.high)
            note = f"{len(worlds)} worlds, {len(seeds)} request sequences of each"
            rows.append(reported(metric, 1 + found.value, interval=interval, note=note))
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


def specialist_training_rows(contender: Contender, scenarios: Sequence[str]) -> list[Row]:
    """How long policies of single scenarios were trained, as their files say: median and longest."""
    seconds: dict[str, float] = {}
    settings: dict[str, None] = {}
    for scenario in scenarios:
        policy = LearnedPolicy.load(contender.in_scenario(scenario).text)
        training, text = training_of(policy), policy.metadata.get("elapsed_s")
        if text is not None:
            seconds[scenario] = float(text)
        if training is not None:
            settings[json.dumps(training.settings, sort_keys=True)] = None
    metric = f"training of each of {contender.label}"
    if not seconds:
        return [reported(f"{metric}, median", None, "s", note="their files do not say: no elapsed_s")]
    note = "as their files say: " + ", ".join(f"{name} {s:.0f} s" for name, s in seconds.items())
    longest = max(seconds, key=lambda name: seconds[name])
    return [
        reported(f"{metric}, median", float(np.median(list(seconds.values()))), "s", note=note),
        reported(
            f"{metric}, longest",
            seconds[longest],
            "s",
            note=f"{longest}; settings: {'; '.join(settings) or 'unknown'}",
        ),
    ]


def _all_solved(instances: Sequence[Instance], cache: Path, beam: int, workers: int) -> list[Clairvoyant]:
    """The clairvoyant's schedules, the largest instances first where processes share them."""
    if workers == 1:
        return [_solved(instance, cache, beam) for instance in instances]
    with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool:
        largest = sorted(instances, key=lambda one: one.requests, reverse=True)
        futures = {one: pool.submit(_solved, one, cache, beam) for one in largest}
        return [futures[instance].result() for instance in instances]


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
