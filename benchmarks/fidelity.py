"""How far simulation is from real engines, and whether what is learned in it holds there.

``python -m benchmarks.fidelity [--quick] [--part null] --json PATH``: llama.cpp on the loopback device and
transformers, each profiled first, then six policies at two loads, the real runs interleaved over policies. A
full run takes at most an hour on 2 idle cores, and says beforehand how the time is spent; a killed one goes
on. The part ``disturbed`` makes the runs of the lower load again while other programs use all cores for a
minute, rest for one, and so on; the part ``null`` compares two copies of one policy, again and again: no more
may differ than by chance.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from rich.console import Console

from benchmarks.fidelity_hog import disturbed
from benchmarks.fidelity_machine import corrected_row, machine_rows
from benchmarks.fidelity_null import null_rows
from benchmarks.fidelity_place import LOADS, PLACES, Place, Scale, Site
from benchmarks.fidelity_rows import drift_rows, error_rows, gain_rows, order_rows, other_rows
from benchmarks.fidelity_runs import RealRuns
from benchmarks.form import Row, main, reported
from shunter.errors import UnknownNameError
from shunter.eval.fidelity.tables import fidelity_markdown

__all__ = ["run"]

FULL = Scale(
    profile_s=240,
    train_s=150,
    real_s=0.0,
    requests=60,
    most_requests=200,
    repeats=3,
    capacity_requests=None,
    capacity_seeds=16,
)
QUICK = Scale(
    profile_s=25,
    train_s=10,
    real_s=0.0,
    requests=8,
    most_requests=20,
    repeats=2,
    capacity_requests=200,
    capacity_seeds=4,
)
MINUTES = {True: 5.0, False: 60.0}
"""By ``--quick``."""

OTHER_S = {True: 45.0, False: 220.0}
"""Of each engine: checkpoints, fit, starts, capacity, compilation, replays, configurations measured again."""

STEADY, DISTURBED = 0.05, 0.08
"""Bars of the mean response, corrected for the machine's speed."""

_console = Console()


def run(
    quick: bool,
    *,
    policy: Path | None = None,
    work: Path | None = None,
    minutes: float | None = None,
    engine: list[str] | None = None,
    part: str = "all",
    **_: object,
) -> list[Row]:
    """Measures everything, engine after engine.

    Args:
        quick: A few requests instead of a full run.
        policy: A policy file instead of training.
        work: Folder to work in, and to go on from.
        minutes: Minutes to plan for.
        engine: Names; None: all.
        part: ``all``; ``disturbed``: while other programs work; ``null``: copies of a policy alone.
    """
    folder = work or Path("runs") / ("fidelity-quick" if quick else "fidelity")
    sites = _sites(engine)
    scale = _scale(quick, minutes or MINUTES[quick], len(sites))
    _say_budget(scale, OTHER_S[quick], len(sites), folder)
    rows: list[Row] = []
    for site in sites:
        place = Place(site, folder / site.engine, scale, policy, _say)
        rows += PARTS[part](place)
    return rows


def _sites(names: list[str] | None) -> list[Site]:
    known = {site.engine: site for site in PLACES}
    for name in names or ():
        if name not in known:
            raise UnknownNameError("--engine", name, known)
    return [known[name] for name in names or known]


def _scale(quick: bool, minutes: float, engines: int) -> Scale:
    """What is left of an engine's share of the time is for real runs."""
    scale = QUICK if quick else FULL
    other_s = scale.profile_s + scale.train_s + OTHER_S[quick]
    return Scale(**{**vars(scale), "real_s": max(0.0, 60 * minutes / engines - other_s)})


def _say_budget(scale: Scale, other_s: float, engines: int, work: Path) -> None:
    total_s = engines * (scale.profile_s + scale.train_s + scale.real_s + other_s)
    _say(
        f"budget for each of {engines} engines: profile {scale.profile_s:.0f} s, training "
        f"{scale.train_s:.0f} s, real runs {scale.real_s:.0f} s, all else about {other_s:.0f} s; in all "
        f"{total_s / 60:.0f} min. Everything is kept in {work}: a killed run goes on from there."
    )


def _measured(place: Place) -> list[Row]:
    engine = place.site.engine
    begun_s = time.monotonic()
    place.prepare()
    policies = place.policies()
    requests, jobs = place.plan(policies)
    worlds = {load: place.world(load, requests) for load in LOADS}
    runs = RealRuns(place.folder / "runs", _say)
    real_s = time.monotonic()
    runs.make(jobs, worlds, {policy.name: policy for policy in policies})
    real_s = time.monotonic() - real_s
    drift = drift_rows(engine, *place.again())
    found = dict(place.evaluations(requests, jobs, runs))
    for load, evaluation in found.items():
        result = evaluation.to_dict()
        name = place.folder / f"fidelity-{load:g}"
        title = f"{engine} at load {load:g}"
        name.with_name(f"{name.name}.json").write_text(json.dumps(result), encoding="utf-8")
        name.with_name(f"{name.name}.md").write_text(fidelity_markdown(result, title), encoding="utf-8")
    rows = [corrected_row(engine, found, STEADY), *error_rows(engine, found)]
    rows += [*order_rows(engine, found), *gain_rows(engine, found), *machine_rows(engine, runs, jobs, found)]
    rows += [*other_rows(engine, found), *drift]
    stages = ", ".join(f"{name} {seconds:.0f} s" for name, seconds in place.record().items())
    note = f"{stages}; real runs {real_s:.0f} s; {runs.failed} engine failures"
    return [*rows, reported(f"{engine}: time taken", time.monotonic() - begun_s, "s", note=note)]


def _disturbed(place: Place) -> list[Row]:
    """The runs of the lower load once more, on a machine that others use half of the time."""
    place.prepare()
    policies = place.policies()
    requests, jobs = place.plan(policies)
    jobs = [job for job in jobs if job.load == min(LOADS)]
    runs = RealRuns(place.folder / "disturbed", _say)
    with disturbed():
        worlds = {job.load: place.world(job.load, requests) for job in jobs}
        runs.make(jobs, worlds, {policy.name: policy for policy in policies})
    found = dict(place.evaluations(requests, jobs, runs))
    label = f"{place.site.engine}, disturbed"
    rows = [corrected_row(label, found, DISTURBED), *error_rows(label, found, judge=False)]
    return [*rows, *order_rows(label, found), *machine_rows(label, runs, jobs, found)]


def _say(line: str) -> None:
    _console.print(f"{time.strftime('%H:%M:%S')} {line}", highlight=False, soft_wrap=True)


PARTS: dict[str, Callable[[Place], list[Row]]] = {
    "all": _measured,
    "disturbed": _disturbed,
    "null": null_rows,
}

OPTIONS: dict[str, dict[str, Any]] = {
    "--policy": {"type": Path, "help": "policy file to judge instead of one trained here"},
    "--work": {"type": Path, "help": "folder to work in, and to go on from (runs/fidelity)"},
    "--minutes": {"type": float, "help": "time to plan for (60, or 5 with --quick)"},
    "--part": {
        "choices": [*PARTS],
        "default": "all",
        "help": "disturbed: while other programs work; null: two copies of one policy",
    },
    "--engine": {"action": "append", "help": "only this engine; repeatable"},
}

if __name__ == "__main__":
    sys.exit(main("fidelity", run, "Simulation against real engines, measured.", more=OPTIONS))
