"""What MLflow is told of a search of parameters: a run of it all, and in it one for each thing searched."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from shunter.envs.world.world import World
from shunter.tracking.lineage import software_tags, world_inputs, world_params, world_tags
from shunter.tracking.runs import Tracker
from shunter.train.tune.search import Tuned

__all__ = ["log_tuning"]


def log_tuning(
    tracker: Tracker, results: Mapping[str, Tuned], worlds: Sequence[World], asked: Mapping[str, Any]
) -> None:
    """Logs a search, with the score of each trial as a series over trials.

    Args:
        tracker: The open run.
        results: What came of each search, by its name; none of an interrupted one.
        worlds: Where trials took place.
        asked: What was asked for.
    """
    tags = {**software_tags(), **world_tags(worlds)}
    tracker.tags(tags)
    tracker.params({**asked, **world_params(worlds)})
    tracker.inputs(world_inputs(worlds, "tuning"))
    if not results:
        return
    best = min(results.values(), key=lambda one: one.score)
    tracker.params({"best": best.policy})
    tracker.metrics(_figures(best))
    for name, result in results.items():
        with tracker.child(f"{name}: {len(result.trials)} trials") as child:
            child.tags({**tags, "shunter.policy": name})
            child.params({"policy": name, "best": result.policy, "parameters": result.parameters, **asked})
            child.metrics(_figures(result))
            _log_trials(child, result)


def _figures(result: Tuned) -> dict[str, float]:
    change = result.score / result.default_score - 1
    return {"best_score": result.score, "default_score": result.default_score, "change_vs_defaults": change}


def _log_trials(tracker: Tracker, result: Tuned) -> None:
    """Each trial's score, and the lowest so far; a table has what was tried."""
    scores = result.trials["score"].to_numpy(np.float64)
    lowest = np.fmin.accumulate(scores)
    for number, score, so_far in zip(result.trials["number"], scores, lowest, strict=True):
        found = {"score": float(score), "lowest_score": float(so_far)}
        tracker.metrics({k: v for k, v in found.items() if math.isfinite(v)}, step=int(number))
    tracker.table(result.trials, "trials.json")
