"""A trained policy: safetensors and numpy, no torch.

Its score of a candidate is that of the base policy, plus a linear function of the candidate's and the
context's inputs with weights for each kind of candidate, plus, where it has one, a small network of the
candidate, the pooled candidates and the context. All candidates share the weights, so it takes any number
of models, levels and devices. Untrained, all but the prior is 0.
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from shunter.agents.base import Scores, ScoringPolicy
from shunter.agents.learned.base_policy import PRIOR_INPUT, BasePolicy, listed
from shunter.agents.learned.compiled import Scratch, choose_batch, make_scratch
from shunter.agents.learned.inputs import INPUTS, KINDS, candidate_inputs, context_inputs, kind_of
from shunter.agents.learned.weights import Arrays, layer_shapes, to_vector, width_of
from shunter.envs.observation.features import CONTEXT_FEATURES, FEATURES, FEATURES_VERSION
from shunter.envs.scenario.fields import checked
from shunter.errors import BrokenFileError, InputError, ShunterWarning, VersionError
from shunter.reading import from_json, reading
from shunter.tensors import read_tensors, write_tensors

__all__ = ["LearnedPolicy", "check_weights"]

T = TypeVar("T")

POLICY_FORMAT = 5
"""Version of the policy file's layout."""

UNSEALED_FORMAT = 4
"""The version before, which has no digest: it is read, with a note."""

MOST_WEIGHT = 1e6
"""Larger weights are none that a training finds."""

NAMES = {"features": FEATURES, "context_features": CONTEXT_FEATURES}
"""What a policy file says it reads; older ones do not name what they read of the whole system."""


def _texts(names: Sequence[str]) -> tuple[str, str]:
    """How a policy file lists names: as JSON, and as PPO once wrote them, which is still read."""
    return json.dumps(names), ",".join(names)


def softsign(x: NDArray[Any]) -> NDArray[Any]:
    """What the network's layers end with: x / (1 + |x|)."""
    return np.asarray(x / (1.0 + np.abs(x)))


class LearnedPolicy(ScoringPolicy):
    """A trained policy; takes the candidate of highest score, of equals the first.

    Args:
        name: Name in tables and logs.
        weights: ``prior``, the numbers of a ``BasePolicy``; ``linear``, (kinds, inputs); if it has a network,
            ``<layer>.weight`` (out, in) and ``<layer>.bias`` (out,) for each of ``layer_shapes``.
        metadata: What it was trained on, as text by name.
    """

    def __init__(self, name: str, weights: Arrays, metadata: dict[str, str]) -> None:
        self.name = name
        self.weights = weights
        self.metadata = metadata
        self._scratch: dict[int, Scratch] = {}

    @property
    def prior(self) -> BasePolicy:
        """The base policy that its scores rest on."""
        return BasePolicy(*self.weights["prior"].tolist())

    def recorded(self, key: str, kind: type[T], whole: str) -> T | None:
        """What the metadata says under a key; None if nothing.

        Args:
            key: Key of the metadata to read.
            kind: Type that the value is checked to be.
            whole: What errors call the whole value.

        Raises:
            BrokenFileError: It is no JSON.
            InputError: It has another form.
        """
        text = self.metadata.get(key)
        if text is None:
            return None
        with reading(self.name, f"its metadata {key} is no JSON: "):
            data = from_json(text)
        return checked(kind, data, source=f"{self.name}: {key}", whole=whole)

    def number(self, key: str, missing: float | None = None) -> float:
        """The number that the metadata give under a key.

        Args:
            key: Key of the metadata to read.
            missing: What it is where they have none; None: that is refused.

        Raises:
            InputError: It is no number.
        """
        return checked(float, self.metadata.get(key, missing), source=self.name, whole=key)

    @property
    def width(self) -> int:
        """Width of the policy's network; 0 without one."""
        return width_of(self.weights)

    @cached_property
    def vector(self) -> NDArray[np.float64]:
        """The policy's numbers as one vector, for compiled code; shape (size,)."""
        return to_vector(self.weights)

    def scratch(self, actions: int) -> Scratch:
        """Room for compiled decisions among so many candidates."""
        return make_scratch(actions, self.width)

    def act_batch(self, observations: dict[str, NDArray[Any]]) -> NDArray[np.int64]:
        """Chooses for a batch of observations, compiled; returns shape (batch,)."""
        # One type and layout for all, so that nothing is compiled anew for whoever serves it others.
        mask = np.ascontiguousarray(observations["action_mask"], np.bool_)
        candidates = np.ascontiguousarray(observations["candidates"], np.float32)
        context = np.ascontiguousarray(observations["context"], np.float32)
        count, actions = mask.shape
        if actions not in self._scratch:
            self._scratch[actions] = self.scratch(actions)
        chosen = np.zeros(count, np.int64)
        choose_batch(self.vector, candidates, context, mask, self._scratch[actions], chosen)
        return chosen

    def act(self, observation: dict[str, NDArray[Any]]) -> int:
        """Chooses for one observation."""
        return int(self.act_batch({name: array[None] for name, array in observation.items()})[0])

    def scores(self, candidates: NDArray[Any], context: NDArray[Any], mask: NDArray[np.bool_]) -> Scores:
        """Scores of the candidates on the pruned; minus infinity for the others."""
        seen, prior = listed(candidates, context, mask, self.prior)
        scores = np.full(mask.shape, -np.inf)
        decision = np.nonzero(seen)[:-1]  # of each row, where there are several
        own, shared = candidate_inputs(candidates[seen]), context_inputs(context)
        linear = self.weights["linear"].astype(np.float64)[kind_of(candidates[seen])]
        beside = shared[decision] if decision else np.tile(shared, (len(own), 1))
        inputs = np.concatenate([own, beside], axis=1)
        scores[seen] = prior[seen] + (linear[:, :-1] * inputs).sum(axis=1) + linear[:, -1]
        if self.width:
            scores[seen] += self._network(own, prior[seen], shared, seen)
        return scores

    def _network(self, own: Scores, prior: Scores, shared: Scores, seen: NDArray[np.bool_]) -> Scores:
        """What the network adds: rows of all decisions, one after the other."""
        decided = np.asarray(seen.any(axis=-1))  # where nothing is legal there is no decision
        lengths = np.asarray(seen.sum(axis=-1))[decided]
        starts = np.cumsum(lengths) - lengths
        hidden = softsign(self._layer("encode_1", np.column_stack([own, PRIOR_INPUT * prior])))
        hidden = softsign(self._layer("encode_2", hidden))
        mean = np.add.reduceat(hidden, starts) / lengths[:, None]
        top = np.maximum.reduceat(hidden, starts)
        pooled = np.concatenate([mean, top, shared[decided]], axis=-1)
        # A layer on [hidden, pooled], its second part computed once for all candidates of a decision.
        layer = self.weights["score_1.weight"].astype(np.float64)
        mine, common = layer[:, : self.width], layer[:, self.width :]
        common_part = pooled @ common.T + self.weights["score_1.bias"]
        hidden = softsign(hidden @ mine.T + np.repeat(common_part, lengths, axis=0))
        return np.asarray(self._layer("score_2", hidden)[:, 0])

    def _layer(self, layer: str, x: Scores) -> Scores:
        weight = self.weights[f"{layer}.weight"].astype(np.float64)
        return np.asarray(x @ weight.T + self.weights[f"{layer}.bias"])

    def save(self, path: str | Path) -> None:
        """Writes a safetensors file whose metadata says which observations the policy reads."""
        header = {
            **self.metadata,
            "format": "shunter-policy",
            "format_version": str(POLICY_FORMAT),
            "features_version": str(FEATURES_VERSION),
            **{key: _texts(names)[0] for key, names in NAMES.items()},
            "name": self.name,
        }
        write_tensors(path, self.weights, header)

    @classmethod
    def load(cls, path: str | Path) -> LearnedPolicy:
        """Reads a policy file.

        Raises:
            InputError: There is no such file.
            BrokenFileError: It is truncated, no policy of ours, or was changed since it was written.
            VersionError: It was trained for observations of another version, or has another layout.
        """
        path = Path(path)
        if not path.is_file():
            raise InputError("--policy", "be a known name or an existing policy file", str(path))
        weights, header, is_sealed = read_tensors(path)
        if header.get("format") != "shunter-policy":
            raise BrokenFileError(path, "its metadata does not say format: shunter-policy")
        if header.get("features_version") != str(FEATURES_VERSION):
            raise VersionError(path, "features_version", header.get("features_version"), FEATURES_VERSION)
        _check_format(path, header.get("format_version"), is_sealed)
        for key, names in NAMES.items():
            is_missing = key == "context_features" and key not in header
            if header.get(key) not in _texts(names) and not is_missing:
                why = f"its metadata {key} must be those of this version, in their order"
                raise BrokenFileError(path, why)
        check_weights(path, weights)
        return cls(header.get("name", path.stem), weights, header)


def _check_format(path: Path, said: str | None, is_sealed: bool) -> None:
    if said not in (str(UNSEALED_FORMAT), str(POLICY_FORMAT)):
        raise VersionError(path, "format_version", said, POLICY_FORMAT)
    if not is_sealed and said == str(POLICY_FORMAT):
        raise BrokenFileError(path, "its digest is missing")
    if not is_sealed:
        note = "an older shunter wrote it, without a digest: damage to its numbers would go unseen"
        warnings.warn(f"{path}: {note}", ShunterWarning, stacklevel=3)


def check_weights(path: Path, weights: Arrays) -> None:
    """Refuses what are no weights of a policy.

    Raises:
        BrokenFileError: Names the first tensor that is none.
    """
    if any(array.dtype != np.float32 for array in weights.values()):
        kinds = sorted({str(array.dtype) for array in weights.values()})
        raise BrokenFileError(path, f"its tensors must be float32. Got {', '.join(kinds)} instead")
    if weights.get("encode_1.bias", np.zeros(1)).ndim != 1:
        raise BrokenFileError(path, "encode_1.bias must have one dimension")
    shapes: dict[str, tuple[int, ...]] = {"prior": (len(BasePolicy._fields),), "linear": (len(KINDS), INPUTS)}
    for layer, (out, fan_in) in layer_shapes(width_of(weights)).items():
        shapes |= {f"{layer}.weight": (out, fan_in), f"{layer}.bias": (out,)}
    for key, shape in shapes.items():
        if key not in weights or weights[key].shape != shape or not np.isfinite(weights[key]).all():
            raise BrokenFileError(path, f"{key} must be finite numbers of shape {shape}")
        if (np.abs(weights[key]) > MOST_WEIGHT).any():
            raise BrokenFileError(path, f"{key} must hold numbers of at most {MOST_WEIGHT:g}")
    unknown = sorted(weights.keys() - shapes.keys())
    if unknown:
        raise BrokenFileError(path, f"it holds tensors that no policy has: {', '.join(unknown)}")
    if (weights["prior"] < 0).any():
        raise BrokenFileError(path, "prior must not be negative")
