"""Where a policy comes from, by its file: what the registry says of its version, in words and as tags."""

from __future__ import annotations

from shunter.agents.learned.file import TrainedOn, training_of
from shunter.agents.learned.policy import LearnedPolicy
from shunter.tracking.lineage import POLICY, policy_digest

MOST_NAMED = 6
"""Scenarios that a description names."""


def origin_words(policy: LearnedPolicy) -> str:
    """What a policy was trained on and by, in a sentence."""
    training = training_of(policy)
    if training is None:
        return "Its file does not say what it was trained on."
    names = training.scenarios
    if len(names) > MOST_NAMED:
        names = [*names[: MOST_NAMED - 1], f"{len(names) - MOST_NAMED + 1} more"]
    return (
        f"Trained on {', '.join(names)} at load {_loads(training)} by {_algorithm(training)}: "
        f"{training.steps} decisions, seed {training.seed}."
    )


def origin_tags(policy: LearnedPolicy) -> dict[str, str]:
    """The same as tags of a version, which a search of the registry takes; cut at what MLflow takes."""
    training = training_of(policy)
    found = {POLICY: policy_digest(policy)}
    if training is not None:
        found |= {
            "shunter.scenarios": ", ".join(training.scenarios)[:5000],
            "shunter.loads": _loads(training),
            "shunter.algorithm": _algorithm(training),
            "shunter.seed": str(training.seed),
            "shunter.decisions": str(training.steps),
        }
    return found


def _algorithm(training: TrainedOn) -> str:
    return str(training.settings.get("algorithm", "an algorithm that its file does not name"))


def _loads(training: TrainedOn) -> str:
    return ", ".join(f"{load:.3g}" for load in training.loads)
