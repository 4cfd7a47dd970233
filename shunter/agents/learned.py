"""A trained network as a policy: safetensors and numpy, no torch.

The network scores each candidate from its features, the pooled features of the candidates and the context,
with shared weights, so it takes any number of models, levels and devices. Its output is added to ``RESIDUAL``
times the log of a rate: untrained, it is a softened cost-greedy that also asks whether another device would
be done sooner (``Prior``). Of very many candidates only the ``SHORTLIST`` that it would choose first are
looked at.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import safetensors
import safetensors.numpy
from numpy.typing import NDArray

from shunter.agents.base import Scores, ScoringPolicy, is_, value
from shunter.agents.cost_greedy import CostGreedy, eviction_loss, greedy_rate
from shunter.agents.rules import second_copy
from shunter.envs.features import CONTEXT_FEATURES, CONTEXT_TABLE, FEATURE_TABLE, FEATURES_VERSION, Feature
from shunter.errors import BrokenFileError, InputError, VersionError

__all__ = [
    "POLICY_FORMAT",
    "PRIOR",
    "RESIDUAL",
    "SHORTLIST",
    "LearnedPolicy",
    "Prior",
    "candidate_inputs",
    "context_inputs",
]
__all__ += ["greedy_prior", "layer_shapes", "shortlist"]

POLICY_FORMAT = 3
"""Version of the policy file's layout; 2 had no prior of its own and is still read."""

RESIDUAL = 4.0
"""Weight of cost-greedy's log rate in the logits: high enough to start near it, low enough to explore."""

SHORTLIST = 16
"""Candidates that are looked at."""

PRIOR = CostGreedy(load_weight=1.25, reload_weight=7.26, copy_share=0.161)
"""Cost-greedy as ``shunter tune`` found it best over the training scenarios."""


class Prior(NamedTuple):
    """What untrained logits rest on; a policy file holds its own.

    Attributes:
        load_weight: As of cost-greedy.
        reload_weight: Likewise.
        copy_share: What a second copy of a model counts. Much less would keep copies out of exploration's
            reach.
        elsewhere: How much a load counts less where another device would serve sooner: the exponent of the
            share of its own time in which that one could.
    """

    load_weight: float = PRIOR.load_weight
    reload_weight: float = PRIOR.reload_weight
    copy_share: float = 0.3
    elsewhere: float = 1.0


FORMAT_2_PRIOR = Prior(copy_share=PRIOR.copy_share, elsewhere=0.0)

Arrays = dict[str, NDArray[np.float32]]


OTHERS_BUSY, PENDING = CONTEXT_FEATURES.index("others_busy"), CONTEXT_FEATURES.index("pending")


def _wide(table: tuple[Feature, ...]) -> NDArray[np.int64]:
    return np.array([i for i, feature in enumerate(table) if feature.high != 1])


WIDE, CONTEXT_WIDE = _wide(FEATURE_TABLE), _wide(CONTEXT_TABLE)
"""Features without a natural upper bound: from thousandths of a time scale to thousands."""


def _compressed(features: NDArray[Any], wide: NDArray[np.int64]) -> list[NDArray[Any]]:
    return [np.log1p(features), 0.2 * np.log1p(1e3 * features[..., wide])]


def candidate_inputs(candidates: NDArray[Any], prior: NDArray[Any]) -> NDArray[np.float32]:
    """What the network sees of candidates: features on two logarithmic scales, and the prior.

    Args:
        candidates: (..., F).
        prior: (...,), see ``greedy_prior``.

    Returns:
        (..., inputs).
    """
    parts = [*_compressed(candidates, WIDE), prior[..., None] / (4.0 * RESIDUAL)]
    return np.concatenate(parts, axis=-1, dtype=np.float32)


def context_inputs(context: NDArray[Any]) -> NDArray[np.float32]:
    """What the network sees of the context, (..., G) to (..., inputs)."""
    return np.concatenate(_compressed(context, CONTEXT_WIDE), axis=-1, dtype=np.float32)


def greedy_prior(candidates: NDArray[Any], prior: Prior) -> NDArray[np.float32]:
    """What untrained logits are: log rates of serving, low constants for waiting and prefetching, log losses.

    Of prefetches, what is asked for most per second of loading comes first.

    Args:
        candidates: (..., F).
        prior: Its parameters.

    Returns:
        (...,).
    """
    rate = greedy_rate(candidates, prior.load_weight)
    if prior.elsewhere:
        own = sum(value(candidates, name) for name in ("swap_time", "join_time", "batch_time"))
        there = value(candidates, "serve_elsewhere")  # 0 where there is no other device
        share = np.minimum(1.0, there / (own + 1e-3)) ** prior.elsewhere
        free = is_(candidates, "load") & (value(candidates, "held") == 0) & (there > 0)
        rate = np.where(free, share * rate, rate)
    rate = np.where(second_copy(candidates), prior.copy_share * rate, rate)
    effort = value(candidates, "swap_time") / (value(candidates, "arrivals") + 1e-3)
    idle = np.where(is_(candidates, "wait"), -3.0, -4.0 - 0.1 * np.log1p(effort))
    logit = np.where(rate > 0, np.log(np.maximum(rate, 1e-4)), idle)
    evict = -4.5 - np.log1p(eviction_loss(candidates, prior.reload_weight))
    return (RESIDUAL * np.where(is_(candidates, "evict"), evict, logit)).astype(np.float32)


def shortlist(
    candidates: NDArray[Any], context: NDArray[Any], mask: NDArray[np.bool_], prior: NDArray[np.float32]
) -> NDArray[np.bool_]:
    """The candidates that the network chooses from.

    While requests wait that no other device holds the model of, nothing is prefetched, and nobody waits
    unless another device is busy: so the system never stands still. Only a load that lacks room evicts. Of
    what is left, those of highest prior: ``SHORTLIST`` of them, and whatever equals the last.

    Args:
        candidates: (..., A, F).
        context: (..., G).
        mask: (..., A).
        prior: (..., A).

    Returns:
        (..., A); at least one of the legal ones.
    """
    serves = value(candidates, "requests") > 0
    evicts, waits = is_(candidates, "evict"), is_(candidates, "wait")
    urgent = (mask & serves & ~evicts & ~second_copy(candidates)).any(axis=-1, keepdims=True)
    alone = context[..., OTHERS_BUSY, None] == 0
    idle = ~serves & ~waits & ~evicts
    dropped = (urgent & (idle | (waits & alone))) | (evicts & (context[..., PENDING, None] == 0))
    mask = mask & ~dropped
    if mask.shape[-1] <= SHORTLIST:
        return mask
    legal = np.where(mask, prior, -np.inf)
    least = np.partition(legal, -SHORTLIST, axis=-1)[..., -SHORTLIST, None]
    return np.asarray(mask & (legal >= least))


def layer_shapes(width: int) -> dict[str, tuple[int, int]]:
    """Linear layers of the network as name to (out, in)."""
    candidate = len(FEATURE_TABLE) + len(WIDE) + 1
    context = len(CONTEXT_TABLE) + len(CONTEXT_WIDE)
    return {
        "encode_1": (width, candidate),
        "encode_2": (width, width),
        "score_1": (width, 3 * width + context),
        "score_2": (1, width),
    }


class LearnedPolicy(ScoringPolicy):
    """A trained network; takes the candidate of highest logit.

    Args:
        name: In tables and logs.
        weights: ``<layer>.weight`` (out, in) and ``<layer>.bias`` (out,) for each of ``layer_shapes``; and
            ``prior``, the numbers of a ``Prior``.
        metadata: What it was trained on, as text by name.
    """

    def __init__(self, name: str, weights: Arrays, metadata: dict[str, str]) -> None:
        self.name = name
        self.weights = weights
        self.prior = Prior(*weights["prior"].tolist())
        self.metadata = metadata

    def scores(self, candidates: NDArray[Any], context: NDArray[Any], mask: NDArray[np.bool_]) -> Scores:
        """Logits of the candidates on the shortlist; minus infinity for the others."""
        prior = np.full(mask.shape, -np.inf, np.float32)
        prior[mask] = greedy_prior(candidates[mask], self.prior)
        seen = shortlist(candidates, context, mask, prior)
        # Rows of all decisions, one after the other; where nothing is legal there is no decision.
        decided = np.asarray(seen.any(axis=-1))
        lengths = np.asarray(seen.sum(axis=-1))[decided]
        starts = np.cumsum(lengths) - lengths
        hidden = np.tanh(self._linear("encode_1", candidate_inputs(candidates[seen], prior[seen])))
        hidden = np.tanh(self._linear("encode_2", hidden))
        mean = np.add.reduceat(hidden, starts) / lengths[:, None]
        top = np.maximum.reduceat(hidden, starts)
        shared = np.concatenate([mean, top, context_inputs(context[decided])], axis=-1, dtype=np.float32)
        # A layer on [hidden, shared], its second part computed once for all candidates of a decision.
        weight = self.weights["score_1.weight"]
        own, common = weight[:, : hidden.shape[-1]], weight[:, hidden.shape[-1] :]
        common_part = shared @ common.T + self.weights["score_1.bias"]
        hidden = np.tanh(hidden @ own.T + np.repeat(common_part, lengths, axis=0))
        logits = np.full(mask.shape, -np.inf)
        logits[seen] = self._linear("score_2", hidden)[:, 0] + prior[seen]
        return logits

    def _linear(self, layer: str, x: NDArray[np.float32]) -> NDArray[np.float32]:
        return x @ self.weights[f"{layer}.weight"].T + self.weights[f"{layer}.bias"]

    def save(self, path: str | Path) -> None:
        """Writes a safetensors file whose metadata says which observations the network reads."""
        path = Path(path)
        header = {
            **self.metadata,
            "format": "shunter-policy",
            "format_version": str(POLICY_FORMAT),
            "features_version": str(FEATURES_VERSION),
            "features": json.dumps([feature.name for feature in FEATURE_TABLE]),
            "name": self.name,
        }
        part = path.with_name(path.name + ".part")
        safetensors.numpy.save_file(self.weights, part, metadata=header)
        part.replace(path)

    @classmethod
    def load(cls, path: str | Path) -> LearnedPolicy:
        """Reads a policy file.

        Raises:
            InputError: There is no such file.
            BrokenFileError: It is truncated, or no policy of ours.
            VersionError: It was trained for observations of another version, or has another layout.
        """
        path = Path(path)
        if not path.is_file():
            raise InputError("--policy", "be a known name or an existing policy file", str(path))
        try:
            with safetensors.safe_open(path, framework="numpy") as file:
                header = dict(file.metadata() or {})
                weights = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 - no mapping
        except (safetensors.SafetensorError, OSError) as error:
            raise BrokenFileError(path, f"no safetensors file: {error}") from None
        if header.get("format") != "shunter-policy":
            raise BrokenFileError(path, "its metadata does not say format: shunter-policy")
        if header.get("format_version") == "2":
            weights["prior"] = np.array(FORMAT_2_PRIOR, np.float32)
            header["format_version"] = str(POLICY_FORMAT)
        for what, want in (("format_version", POLICY_FORMAT), ("features_version", FEATURES_VERSION)):
            if header.get(what) != str(want):
                raise VersionError(path, what, header.get(what), want)
        _check_shapes(path, weights)
        return cls(header.get("name", path.stem), weights, header)


def _check_shapes(path: Path, weights: Arrays) -> None:
    width = weights["encode_1.weight"].shape[0] if "encode_1.weight" in weights else 0
    shapes: dict[str, tuple[int, ...]] = {"prior": (len(Prior._fields),)}
    for layer, (out, fan_in) in layer_shapes(width).items():
        shapes |= {f"{layer}.weight": (out, fan_in), f"{layer}.bias": (out,)}
    for key, shape in shapes.items():
        if key not in weights or weights[key].shape != shape or not np.isfinite(weights[key]).all():
            raise BrokenFileError(path, f"{key} must be finite numbers of shape {shape}")
    if (weights["prior"] < 0).any():
        raise BrokenFileError(path, "prior must not be negative")
