"""The numbers of a learned policy: by layer as a file holds them, and as one vector for compiled code."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from shunter.agents.learned.base_policy import BasePolicy
from shunter.agents.learned.inputs import CANDIDATE_FEATURE, CONTEXT_FEATURE, INPUTS, KINDS

__all__ = ["Arrays", "from_vector", "layer_shapes", "to_vector", "untrained_weights", "width_of"]

Arrays = dict[str, NDArray[np.float32]]
Vector = NDArray[np.float64]

OWN, SHARED = len(CANDIDATE_FEATURE), len(CONTEXT_FEATURE)


def layer_shapes(width: int) -> dict[str, tuple[int, int]]:
    """Layers of the network as name to (out, in); none where the width is 0.

    ``encode_1`` reads a candidate's inputs and its prior; ``score_1`` the candidate's own hidden layer, then
    the mean and the maximum over the pruned, then the context's inputs.
    """
    if width == 0:
        return {}
    return {
        "encode_1": (width, OWN + 1),
        "encode_2": (width, width),
        "score_1": (width, 3 * width + SHARED),
        "score_2": (1, width),
    }


def width_of(weights: Arrays) -> int:
    """Width of the network's layers; 0 if there is none."""
    return len(weights["encode_1.bias"]) if "encode_1.bias" in weights else 0


def untrained_weights(prior: BasePolicy, width: int = 0) -> Arrays:
    """Weights that leave only the prior."""
    weights: Arrays = {
        "prior": np.array(prior, np.float32),
        "linear": np.zeros((len(KINDS), INPUTS), np.float32),
    }
    for layer, shape in layer_shapes(width).items():
        weights[f"{layer}.weight"] = np.zeros(shape, np.float32)
        weights[f"{layer}.bias"] = np.zeros(shape[0], np.float32)
    return weights


def to_vector(weights: Arrays) -> Vector:
    """All numbers of a policy as ``shunter.agents.learned.compiled`` reads them."""
    parts = [weights["prior"], weights["linear"].ravel()]
    width = width_of(weights)
    for layer in layer_shapes(width):
        weight = weights[f"{layer}.weight"]
        parts.append(weights[f"{layer}.bias"])
        if layer == "score_1":
            own, mean, top, context = np.split(weight, width * np.arange(1, 4), axis=1)
            parts += [part.T.ravel() for part in (context, mean, top, own)]
        else:
            parts.append(weight.T.ravel())
    return np.concatenate(parts, dtype=np.float64)


def from_vector(vector: Vector, width: int = 0) -> Arrays:
    """The weights that ``to_vector`` makes a vector of."""
    at = 0

    def take(*shape: int) -> NDArray[np.float32]:
        nonlocal at
        first, at = at, at + int(np.prod(shape))
        return vector[first:at].reshape(shape).astype(np.float32)

    weights: Arrays = {"prior": take(len(BasePolicy._fields)), "linear": take(len(KINDS), INPUTS)}
    for layer, (out, fan_in) in layer_shapes(width).items():
        weights[f"{layer}.bias"] = take(out)
        if layer == "score_1":
            context, mean, top, own = (take(rows, out).T for rows in (SHARED, width, width, width))
            weights[f"{layer}.weight"] = np.concatenate([own, mean, top, context], axis=1)
        else:
            weights[f"{layer}.weight"] = np.ascontiguousarray(take(fan_in, out).T)
    return weights
