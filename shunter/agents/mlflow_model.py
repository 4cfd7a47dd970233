"""A policy file as an MLflow model: no pickle and no code in it, this installed module loads it."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from shunter.agents.learned.policy import LearnedPolicy
from shunter.envs.observation.features import CONTEXT_FEATURES, FEATURES

__all__ = ["signature"]


class PolicyModel:
    """What MLflow serves: arrays of observations in, choices and scores out."""

    def __init__(self, policy: LearnedPolicy) -> None:
        self.policy = policy

    def predict(self, model_input: dict[str, NDArray[Any]], params: Any = None) -> dict[str, NDArray[Any]]:
        """Decides for a batch.

        Args:
            model_input: ``candidates`` (n, A, F), ``context`` (n, G) and ``action_mask`` (n, A).
            params: Not used.

        Returns:
            ``choice`` (n,) and ``scores`` (n, A); the scores of illegal candidates do not matter.
        """
        mask = model_input["action_mask"].astype(np.bool_)
        scores = self.policy.scores(model_input["candidates"], model_input["context"], mask)
        return {"choice": self.policy.act_batch(model_input), "scores": scores}


def _load_pyfunc(data_path: str) -> PolicyModel:
    return PolicyModel(LearnedPolicy.load(data_path))


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
