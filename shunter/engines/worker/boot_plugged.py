"""Starts a worker for an engine of a third party: as ``boot.py``, with its entry in ``SHUNTER_ENGINE_ENTRY``.

The third party's module imports ``shunter.engines.base``. The engines' folder is registered under that
full name, whether or not shunter is installed in this interpreter: nothing exists twice, and errors that the
engine raises are those that the wire knows.
"""

from __future__ import annotations

import importlib
import importlib.util
import json
import os
import sys
from types import ModuleType

PACKAGE = "shunter.engines"
HERE = os.path.dirname(os.path.realpath(__file__))


def register(folder: str) -> None:
    """Makes the folder importable as ``PACKAGE``; of what lies above it nothing is run."""
    sys.path[:] = [entry for entry in sys.path if os.path.realpath(entry or os.curdir) != HERE]
    above = ModuleType("shunter")
    above.__path__ = [os.path.dirname(folder)]
    sys.modules["shunter"] = above
    init = os.path.join(folder, "__init__.py")
    spec = importlib.util.spec_from_file_location(PACKAGE, init, submodule_search_locations=[folder])
    if spec is None or spec.loader is None:
        raise ImportError(f"{folder} is no package")
    package = importlib.util.module_from_spec(spec)
    sys.modules[PACKAGE] = package
    spec.loader.exec_module(package)


def enter(name: str) -> None:
    """Puts the engine into this process's registry, as the module that stands in for it."""
    registry = importlib.import_module(PACKAGE + ".registry")
    facts = json.loads(os.environ["SHUNTER_ENGINE_ENTRY"])
    registry.ENGINES[name] = registry.EngineEntry(**{**facts, "module": "worker.plugged"})


if __name__ == "__main__":
    register(os.path.dirname(HERE))
    enter(sys.argv[sys.argv.index("--engine") + 1])
    sys.exit(importlib.import_module(PACKAGE + ".worker.serve").main(sys.argv[1:]))
