"""A policy file as an MLflow model: no pickle in it, this module loads it wherever shunter is installed."""

from __future__ import annotations

import threading
from typing import Any

import numpy as np
from numpy.typing import NDArray

from shunter.agents.learned.policy import LearnedPolicy
from shunter.envs.observation.features import CONTEXT_FEATURES, FEATURES

__all__ = ["signature"]


LEAST = float(np.finfo(np.float32).min)
"""Score of a candidate that is not to be chosen: JSON has no minus infinity."""


class PolicyModel:
    """What MLflow serves: observations in, choices and scores out; several threads may ask at once."""

    def __init__(self, policy: LearnedPolicy) -> None:
        self.policy = policy
        self._deciding = threading.Lock()  # decisions share scratch arrays

    def predict(self, model_input: dict[str, NDArray[Any]], params: Any = None) -> dict[str, NDArray[Any]]:
        """Decides for a batch.

        Args:
            model_input: ``candidates`` (n, A, F), ``context`` (n, G) and ``action_mask`` (n, A).
            params: Not used.

        Returns:
            ``choice`` (n,) and ``scores`` (n, A), all finite: ``LEAST`` for what is illegal or was not
            considered.

        Raises:
            MlflowException: The arrays do not belong together, a number is not finite, the mask holds
                other than 0 and 1, or a decision has no legal candidate; a server answers 400.
        """
        problem = _problem(model_input)
        if problem is not None:
            raise _refused(problem)
        mask = model_input["action_mask"].astype(np.bool_)
        observations = {**model_input, "action_mask": mask}
        scores = self.policy.scores(observations["candidates"], observations["context"], mask)
        with self._deciding:
            choice = self.policy.act_batch(observations)
        return {"choice": choice, "scores": np.where(np.isfinite(scores), scores, LEAST)}


def _problem(observations: dict[str, NDArray[Any]]) -> str | None:
    """What is wrong with a batch of observations; None if nothing is."""
    mask, candidates = observations["action_mask"], observations["candidates"]
    if not np.isin(mask, (0, 1)).all():
        return f"action_mask must hold 0 and 1 only. Got {mask[~np.isin(mask, (0, 1))][0]}"
    if candidates.shape[:2] != mask.shape:
        return f"candidates must be for the {mask.shape} of action_mask. Got {candidates.shape}"
    if len(observations["context"]) != len(mask):
        return f"context must have {len(mask)} rows, as action_mask. Got {len(observations['context'])}"
    for name in ("candidates", "context"):
        if not np.isfinite(observations[name]).all():
            return f"{name} must be finite. Got a number that is not"
    nothing = np.flatnonzero(~mask.any(axis=1))
    if len(nothing):
        return f"action_mask must allow a candidate in each row. Row {nothing[0]} allows none"
    return None


def _refused(problem: str) -> Exception:
    from mlflow.exceptions import MlflowException

    refusal: Exception = MlflowException.invalid_parameter_value(problem)
    return refusal


def _load_pyfunc(data_path: str) -> PolicyModel:
    """The model, whose first answer then takes no longer than any other."""
    model = PolicyModel(LearnedPolicy.load(data_path))
    model.predict(
        {
            "candidates": np.zeros((1, 1, len(FEATURES)), np.float32),
            "context": np.zeros((1, len(CONTEXT_FEATURES)), np.float32),
            "action_mask": np.ones((1, 1), np.int8),
        }
    )
    return model


def signature() -> Any:
    """MLflow's description of what goes in and what comes out, for any number of candidates."""
    from mlflow.models import ModelSignature
    from mlflow.types import Schema, TensorSpec

    def tensors(*specs: tuple[str, str, tuple[int, ...]]) -> Any:
        return Schema([TensorSpec(np.dtype(kind), shape, name) for name, kind, shape in specs])

    return ModelSignature(
        tensors(
            ("candidates", "float32", (-1, -1, len(FEATURES))),
            ("context", "float32", (-1, len(CONTEXT_FEATURES))),
            ("action_mask", "int8", (-1, -1)),
        ),
        tensors(("choice", "int64", (-1,)), ("scores", "float64", (-1, -1))),
    )
