"""Starts a worker in any interpreter: ``PYTHON .../boot.py --fd N --engine NAME --device JSON``.

Run by path, so that shunter need not be installed there. Python puts a script's folder first on
``sys.path``, where names of this folder would shadow libraries: it is taken off the path, and the folder of
all engines is registered as a package instead, so that relative imports work.
"""

from __future__ import annotations

import importlib
import importlib.util
import os
import sys

PACKAGE = "shunter_engines"
HERE = os.path.dirname(os.path.realpath(__file__))


def register(folder: str) -> None:
    """Makes the folder importable as ``PACKAGE`` and as nothing else."""
    sys.path[:] = [entry for entry in sys.path if os.path.realpath(entry or os.curdir) != HERE]
    init = os.path.join(folder, "__init__.py")
    spec = importlib.util.spec_from_file_location(PACKAGE, init, submodule_search_locations=[folder])
    if spec is None or spec.loader is None:
        raise ImportError(f"{folder} is no package")
    package = importlib.util.module_from_spec(spec)
    sys.modules[PACKAGE] = package
    spec.loader.exec_module(package)


if __name__ == "__main__":
    register(os.path.dirname(HERE))
    sys.exit(importlib.import_module(PACKAGE + ".worker.serve").main(sys.argv[1:]))
