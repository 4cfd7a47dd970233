"""Several trained policies as one whose scores are the mean of theirs.

Trainings that differ in their seed alone err in different decisions. Source: Wiering and van Hasselt,
Ensemble Algorithms in Reinforcement Learning, 2008.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from shunter.agents.learned.file import TrainedOn, training_of
from shunter.agents.learned.policy import LearnedPolicy
from shunter.agents.learned.weights import Arrays, width_of
from shunter.errors import InputError

__all__ = ["averaged"]

Matrix = NDArray[np.float32]


def averaged(policies: Sequence[LearnedPolicy]) -> LearnedPolicy:
    """One policy, its network as wide as all of them together, that gives the mean of their scores.

    What its file says of training is of all of them: decisions and time are added up. It has no score card.

    Args:
        policies: One or more policies, with networks of any widths or without.

    Raises:
        InputError: They rest on different priors.
    """
    if len({policy.prior for policy in policies}) > 1:
        raise InputError("policies", "rest on one prior", [tuple(policy.prior) for policy in policies])
    weights: Arrays = {
        "prior": policies[0].weights["prior"],
        "linear": np.mean([policy.weights["linear"] for policy in policies], axis=0),
    }
    networks = [policy.weights for policy in policies if policy.width]
    if networks:
        weights |= _joined(networks, np.float32(len(policies)))
    return LearnedPolicy(policies[0].name, weights, _metadata(policies))


def _joined(networks: Sequence[Arrays], share: np.float32) -> Arrays:
    """The layers of one network that gives the sum of what several give, over ``share``."""
    # The layer on [own, mean, top, context]: a network sees its own part of the first three.
    parts = [np.split(w["score_1.weight"], width_of(w) * np.arange(1, 4), axis=1) for w in networks]
    *seen, context = zip(*parts, strict=True)
    joined = {
        name: np.concatenate([w[name] for w in networks])
        for name in ("encode_1.weight", "encode_1.bias", "encode_2.bias", "score_1.bias")
    }
    return {
        **joined,
        "encode_2.weight": _diagonal([w["encode_2.weight"] for w in networks]),
        "score_1.weight": np.concatenate([*map(_diagonal, seen), np.concatenate(context)], axis=1),
        "score_2.weight": np.concatenate([w["score_2.weight"] / share for w in networks], axis=1),
        "score_2.bias": np.sum([w["score_2.bias"] / share for w in networks], axis=0),
    }


def _diagonal(blocks: Sequence[Matrix]) -> Matrix:
    whole = np.zeros(np.sum([block.shape for block in blocks], axis=0), np.float32)
    row = column = 0
    for block in blocks:
        whole[row : row + block.shape[0], column : column + block.shape[1]] = block
        row, column = row + block.shape[0], column + block.shape[1]
    return whole


def _metadata(policies: Sequence[LearnedPolicy]) -> dict[str, str]:
    """What is known of the training of all; nothing if one says nothing."""
    known = [training for policy in policies if (training := training_of(policy)) is not None]
    if len(known) < len(policies):
        return {}
    elapsed_s = sum(policy.number("elapsed_s", np.nan) for policy in policies)
    seeds = ", ".join(str(training.seed) for training in known)
    training = TrainedOn(
        scenarios=sorted({name for t in known for name in t.scenarios}),
        models=sorted({name for t in known for name in t.models}),
        devices=sorted({name for t in known for name in t.devices}),
        loads=sorted({load for t in known for load in t.loads}),
        steps=sum(t.steps for t in known),
        seed=known[0].seed,
        settings={**known[0].settings, "averaged": f"{len(policies)} policies, seeds {seeds}"},
        ranges={
            name: (min(t.ranges[name][0] for t in known), max(t.ranges[name][1] for t in known))
            for name in known[0].ranges
            if all(name in t.ranges for t in known)
        },
    )
    record = {"training": training.model_dump_json()}
    return record if np.isnan(elapsed_s) else {**record, "elapsed_s": f"{elapsed_s:.1f}"}
