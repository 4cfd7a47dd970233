"""What MLflow is told of a training: what it is of, and what came of it."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from shunter.agents.learned.policy import LearnedPolicy
from shunter.agents.learned.score_card import score_card_of
from shunter.envs.world.world import World
from shunter.eval.execution.event_log import write_event_logs
from shunter.eval.execution.runs import simulate
from shunter.files import finite
from shunter.tracking.lineage import (
    FILE,
    POLICY,
    policy_digest,
    policy_input,
    software_tags,
    world_inputs,
    world_params,
    world_tags,
)
from shunter.tracking.runs import Tracker
from shunter.train.seeds import CARD_SEEDS
from shunter.train.verdict import shown, verdict_of

__all__ = ["events_of", "log_policy", "log_registration", "log_result", "log_training"]


def log_training(
    tracker: Tracker,
    settings: Mapping[str, Any],
    worlds: Sequence[World],
    validation: Sequence[World] = (),
    start: LearnedPolicy | None = None,
    *,
    file: Path,
) -> None:
    """Logs what a training is of, so that no two that differ look alike.

    Args:
        tracker: The training's run.
        settings: All that was set, the algorithm and the seed included, as plain data.
        worlds: Worlds to train in.
        validation: Worlds that choose the numbers to keep, if they are others.
        start: What it starts from, unless that is the untrained policy.
        file: Policy file that it writes.
    """
    begun = "untrained" if start is None else f"{start.name} {policy_digest(start)}"
    own = {"shunter.algorithm": str(settings["algorithm"]), FILE: str(file)}
    tracker.tags({**software_tags(), **world_tags(worlds), **own})
    params = {"train": settings, "start": begun, **world_params(worlds)}
    if validation:
        params["validation"] = world_params(validation)
    tracker.params(params)
    inputs = [*world_inputs(worlds, "training"), *world_inputs(validation, "validation")]
    tracker.inputs(inputs if start is None else [*inputs, policy_input(start, "start")])
    every = [world.scenario for world in (*worlds, *validation)]
    scenarios = {scenario.name: scenario.model_dump(mode="json") for scenario in every}
    whole = {"settings": dict(settings), "start": begun, "scenarios": scenarios, "loads": params["loads"]}
    tracker.text(json.dumps(finite(whole), indent=1), "training.json")


def events_of(out: Path) -> Path:
    """Where it is written what a policy does in its first world."""
    return out.with_suffix(".events.parquet")


def log_registration(tracker: Tracker, policy: LearnedPolicy, worlds: Sequence[World], *, file: Path) -> None:
    """Logs which policy is registered, and where it is compared with others."""
    own = {POLICY: policy_digest(policy), FILE: str(file)}
    tracker.tags({**software_tags(), **world_tags(worlds), **own})
    tracker.params(world_params(worlds))
    tracker.inputs([*world_inputs(worlds, "selection"), policy_input(policy, "selection", str(file))])


def log_policy(out: Path, policy: LearnedPolicy, worlds: Sequence[World], tracker: Tracker) -> None:
    """Logs a policy, its figures, and what it does in its first world."""
    events = events_of(out)
    write_event_logs([simulate(worlds[0], policy, seed).log for seed in CARD_SEEDS], events)
    for path in (out, events):
        tracker.artifact(path)
    card = score_card_of(policy)
    if card is not None:
        tracker.table(pd.DataFrame([cell.model_dump() for cell in card.cells]), "score_card.json")
    log_result(tracker, policy)


def log_result(tracker: Tracker, policy: LearnedPolicy) -> None:
    """Logs how a policy does against what it began as and the best heuristics, in figures and words."""
    tags = {POLICY: policy_digest(policy)}
    card, verdict = score_card_of(policy), verdict_of(policy)
    if card is not None:
        tracker.metrics({"score_card/change": card.change, "change_vs_best_heuristic": card.change})
    if verdict is not None:
        tracker.metrics({"verdict": verdict.model_dump(), "change_vs_untrained": verdict.change})
        tags["shunter.best_heuristic"] = shown(verdict.best.policy)
        tracker.note(verdict.words)
    tracker.tags(tags)
