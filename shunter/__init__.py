"""shunter: learned scheduling of several LLMs on shared, unequal GPUs.

The areas build on each other in one direction::

    catalog <- engines <- profiling <- models <- envs <- agents <- eval <- train <- cli

What a user calls is also here, imported when it is first used. Importing this registers the environments with
Gymnasium, without importing it.
"""

import importlib
from typing import TYPE_CHECKING, Any

from shunter.registration import register_when_imported

if TYPE_CHECKING:
    from shunter.agents.registry import make_policy
    from shunter.envs.world.world import make_world
    from shunter.eval.evaluation import evaluate
    from shunter.eval.execution.real import open_engines
    from shunter.models.performance import PerformanceModel
    from shunter.profiling.dataset.table import read_dataset
    from shunter.profiling.profile import profile_models
    from shunter.train.algorithms import train_policy
    from shunter.train.settings import EvolutionSettings, PpoSettings

__version__ = "0.1.0"

register_when_imported()

__all__ = [
    "EvolutionSettings",
    "PerformanceModel",
    "PpoSettings",
    "__version__",
    "evaluate",
    "make_policy",
    "make_world",
    "open_engines",
    "profile_models",
    "read_dataset",
    "train_policy",
]

_HOME = {
    "PerformanceModel": "shunter.models.performance",
    "EvolutionSettings": "shunter.train.settings",
    "PpoSettings": "shunter.train.settings",
    "evaluate": "shunter.eval.evaluation",
    "make_policy": "shunter.agents.registry",
    "make_world": "shunter.envs.world.world",
    "open_engines": "shunter.eval.execution.real",
    "profile_models": "shunter.profiling.profile",
    "read_dataset": "shunter.profiling.dataset.table",
    "train_policy": "shunter.train.algorithms",
}


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'shunter' has no attribute {name!r}")
    return getattr(importlib.import_module(_HOME[name]), name)
