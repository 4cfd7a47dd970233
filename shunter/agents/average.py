"""Several trained networks as one whose scores are the mean of theirs.

Trainings that differ in their seed alone err in different decisions. Source: Wiering and van Hasselt,
Ensemble Algorithms in Reinforcement Learning, 2008.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from shunter.agents.learned import Arrays, LearnedPolicy
from shunter.agents.policy_file import Training, training_of
from shunter.errors import InputError

__all__ = ["averaged"]

Matrix = NDArray[np.float32]


def averaged(policies: Sequence[LearnedPolicy]) -> LearnedPolicy:
    """One network, as wide as all of them together, that gives the mean of their logits.

    What its file says of training is of all of them: decisions and time are added up. It has no score card.

    Args:
        policies: Of any widths; at least one.

    Raises:
        InputError: They rest on different priors.
    """
    if len({policy.prior for policy in policies}) > 1:
        raise InputError("policies", "rest on one prior", [tuple(policy.prior) for policy in policies])
    all_weights = [policy.weights for policy in policies]
    # The layer on [own, mean, top, context]: a network sees its own part of the first three.
    parts = [np.split(w["score_1.weight"], len(w["score_1.bias"]) * np.arange(1, 4), 1) for w in all_weights]
    share = np.float32(len(policies))
    joined = {
        name: np.concatenate([weights[name] for weights in all_weights])
        for name in ("encode_1.weight", "encode_1.bias", "encode_2.bias", "score_1.bias")
    }
    weights: Arrays = {
        **joined,
        "encode_2.weight": _diagonal([weights["encode_2.weight"] for weights in all_weights]),
        "score_1.weight": np.concatenate(
            [
                *(_diagonal([part[i] for part in parts]) for i in range(3)),
                np.concatenate([p[3] for p in parts]),
            ],
            axis=1,
        ),
        "score_2.weight": np.concatenate([w["score_2.weight"] / share for w in all_weights], axis=1),
        "prior": all_weights[0]["prior"],
        "score_2.bias": np.sum([w["score_2.bias"] / share for w in all_weights], axis=0),
    }
    return LearnedPolicy(policies[0].name, weights, _metadata(policies))


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
    elapsed_s = sum(float(policy.metadata.get("elapsed_s", "nan")) for policy in policies)
    seeds = ", ".join(str(training.seed) for training in known)
    training = Training(
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
        },
    )
    record = {"training": training.model_dump_json()}
    return record if np.isnan(elapsed_s) else {**record, "elapsed_s": f"{elapsed_s:.1f}"}
