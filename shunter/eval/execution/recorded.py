"""Runs read back from event logs, every event as it was."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import pandas as pd

from shunter.envs.world.world import World
from shunter.eval.execution.runs import Run
from shunter.eval.fidelity.replay import replay_exactly

__all__ = ["recorded_run"]


def real_runs(log: pd.DataFrame) -> Iterator[pd.DataFrame]:
    """The rows of each real run of an event log."""
    for _, rows in log[log["mode"] == "real"].groupby("run_id", sort=False):
        yield rows


def recorded_run(world: World, rows: pd.DataFrame) -> Run:
    """A run from its rows.

    Args:
        world: The world as it was when the run was made.
        rows: Rows of one run, from its event log.

    Raises:
        InputError: The log does not fit the world.
    """
    first = rows.iloc[0]
    run = replay_exactly(world, world.draw(int(first["seed"])), rows)
    run.log.mark({name: first[name] for name in ("run_id", "policy", "mode")})
    return replace(
        run,
        mode=str(first["mode"]),
        policy=str(first["policy"]),
        decision_s=float(rows["decision_s"].mean()),
    )
