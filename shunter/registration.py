"""Registers our environments with Gymnasium as soon as that is imported, whichever of both comes first.

Gymnasium finds packages by no entry point, and importing it takes longer than all of ``import shunter``.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from functools import partial
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

__all__ = ["ENV_ID", "FLAT_ENV_ID", "MULTI_ENV_ID", "register_when_imported"]

ENV_ID = "shunter/Scheduling-v0"
FLAT_ENV_ID = "shunter/SchedulingFlat-v0"
MULTI_ENV_ID = "shunter/SchedulingMulti-v0"

_ENTRY_POINTS = {
    ENV_ID: ("shunter.envs.gym.scheduling:SchedulingEnv", "shunter.envs.gym.vector:SchedulingVectorEnv"),
    FLAT_ENV_ID: ("shunter.envs.gym.flat:FlatSchedulingEnv", "shunter.envs.gym.flat:FlatSchedulingVectorEnv"),
    MULTI_ENV_ID: ("shunter.envs.gym.multi:MultiSchedulingEnv", None),
}
"""For each id what makes one environment, and many at once; imported when they are made."""


def register_when_imported() -> None:
    """Registers the environments now if Gymnasium was imported, or else once it is."""
    gymnasium = sys.modules.get("gymnasium")
    if hasattr(gymnasium, "register"):
        _register(gymnasium)
    elif not any(isinstance(finder, _Finder) for finder in sys.meta_path):
        sys.meta_path.insert(0, _Finder())


def _register(gymnasium: ModuleType | None) -> None:
    for env_id, (entry_point, vector_entry_point) in _ENTRY_POINTS.items():
        if gymnasium is not None and env_id not in gymnasium.registry:
            gymnasium.register(env_id, entry_point=entry_point, vector_entry_point=vector_entry_point)


class _Finder:
    """Finds Gymnasium as all others do, once, and has us registered when it is loaded."""

    def find_spec(self, fullname: str, path: Any, target: ModuleType | None = None) -> ModuleSpec | None:
        if fullname != "gymnasium":
            return None
        import importlib.util  # not before: it takes a while

        sys.meta_path.remove(self)
        spec = importlib.util.find_spec(fullname)
        if spec is not None and spec.loader is not None:
            loader: Any = spec.loader
            loader.exec_module = partial(_execute, loader.exec_module)
        return spec


def _execute(execute: Callable[[ModuleType], None], module: ModuleType) -> None:
    execute(module)
    _register(module)
