"""Starts a worker for an engine of a third party: as ``boot.py``, with its entry in ``SHUNTER_ENGINE_ENTRY``.

The third party's module imports ``shunter.engines.base``. The engines' folder is registered under that
full name, whether or not shunter is installed in this interpreter: nothing exists twice, and errors that the
engine raises are those that the wire knows.
"""

from __future__ import annotations

import importlib
import json
import os
import sys
from types import ModuleType

PACKAGE = "shunter.engines"


def register(folder: str) -> None:
    """Makes the folder importable as ``PACKAGE``; of what lies above it nothing is run."""
    boot = importlib.import_module(
        "boot"
    )  # beside this script, whose folder is on the path until it registers
    above = ModuleType("shunter")
    above.__path__ = [os.path.dirname(folder)]
    sys.modules["shunter"] = above
    boot.PACKAGE = PACKAGE  # type: ignore[attr-defined]
    boot.register(folder)


def enter(name: str) -> None:
    """Puts the engine into this process's registry, as the module that stands in for it."""
    registry = importlib.import_module(PACKAGE + ".registry")
    facts = json.loads(os.environ["SHUNTER_ENGINE_ENTRY"])
    registry.ENGINES[name] = registry.EngineEntry(**{**facts, "module": "worker.plugged"})


if __name__ == "__main__":
    register(os.path.dirname(os.path.dirname(os.path.realpath(__file__))))
    enter(sys.argv[sys.argv.index("--engine") + 1])
    sys.exit(importlib.import_module(PACKAGE + ".worker.serve").main(sys.argv[1:]))
