"""Stands in a worker for the engine of a third party: ``create`` of the module that its entry names."""

from __future__ import annotations

import importlib
import json
import os
from typing import Any

from ..base import Engine, EngineError


def _imported(name: str) -> Any:
    try:
        module = importlib.import_module(name)
    except Exception as error:  # a third party's module may raise anything
        raise ImportError(f"{name} cannot be imported: {type(error).__name__}: {error}") from error
    if not hasattr(module, "create"):
        raise ImportError(f"{name} has no create(device)")
    return module


_FACTS = json.loads(os.environ["SHUNTER_ENGINE_ENTRY"])
_MODULE = _imported(_FACTS["module"])


def create(device: dict[str, Any]) -> Engine:
    """The third party's engine on a device.

    Raises:
        EngineError: It cannot be made; the message names its package.
    """
    try:
        engine = _MODULE.create(device)
    except EngineError:
        raise
    except Exception as error:  # its code may raise anything
        raise _failed(f"{type(error).__name__}: {error}") from error
    if not isinstance(engine, Engine):
        raise _failed(f"create made no Engine: {engine!r}")
    return engine


def _failed(why: str) -> EngineError:
    packages = " ".join(_FACTS["packages"])
    return EngineError(f"{_FACTS['module']} of {packages} failed: {why}")
