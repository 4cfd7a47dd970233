"""Two copies of one policy under two names on real engines: what differs is the machine alone."""

from __future__ import annotations

from copy import copy

from benchmarks.fidelity_place import FIRST_SEED, Place
from benchmarks.fidelity_runs import Job, RealRuns
from benchmarks.form import Row, at_most, reported
from shunter.agents.imported import renamed
from shunter.agents.registry import make_policy
from shunter.eval.execution.order import run_order
from shunter.eval.execution.runs import Run
from shunter.eval.metrics.changes import interleaved_change, run_spread, runs_needed
from shunter.uncertainty import sign_of

__all__ = ["null_rows"]

POLICY = "lru-keepalive"
COPIES = ("one", "another")
COMPARISONS = 20
MOST_SIGNIFICANT = 2
ROUNDS = 4
"""Of each comparison: two blocks of ABBA."""

REQUESTS = 24

LOAD = 4.0
"""All requests come nearly at once: a run takes as long as the engines work, and shows how fast they are."""


def null_rows(place: Place) -> list[Row]:
    """Runs all comparisons, of other request sequences each, and counts those called different.

    Args:
        place: An engine; its folder keeps the runs.
    """
    place.prepare(learn=False)
    jobs = [job for number in range(COMPARISONS) for job in comparison_jobs(number)]
    world = place.world(LOAD, REQUESTS)
    policies = {name: renamed(copy(make_policy(POLICY)), name) for name in COPIES}
    runs = RealRuns(place.folder / "null", place.say)
    runs.make(jobs, {LOAD: world}, policies)
    engine = place.site.engine
    return rows_of(
        engine, [[runs.read(world, job) for job in comparison_jobs(n)] for n in range(COMPARISONS)]
    )


def comparison_jobs(number: int) -> list[Job]:
    """The runs of one comparison, in order."""
    rounds = [(FIRST_SEED + number * ROUNDS + n, 0) for n in range(ROUNDS)]
    turns = run_order(len(COPIES), rounds, order=number)
    return [Job(LOAD, COPIES[turn.policy], turn.seed, turn.repeat) for turn in turns]


def rows_of(engine: str, comparisons: list[list[Run]]) -> list[Row]:
    """Rows of comparisons, each a list of both copies' runs."""
    columns = [[[r for r in runs if r.policy == name] for name in COPIES] for runs in comparisons]
    changes = [interleaved_change(*pair) for pair in columns]
    significant = sum(sign_of(change["low"], change["high"]) != 0 for change in changes)
    metric = f"{engine}: copies of one policy that differ significantly"
    note = (
        f"of {len(changes)} comparisons of {ROUNDS} rounds each, at 95 %; {POLICY}, {REQUESTS} requests "
        f"at load {LOAD:g}"
    )
    spread = run_spread([[run for pair in columns for run in pair[n]] for n in range(len(COPIES))])
    needed = runs_needed(spread)
    return [
        at_most(Row(metric, float(significant), "comparisons", note=note), MOST_SIGNIFICANT),
        reported(f"{engine}: spread of a run, over its copy in the same round", spread),
        reported(f"{engine}: runs of each policy that tell 10 % apart", float(needed), "runs"),
    ]
