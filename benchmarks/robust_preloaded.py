"""Imported, it has all that commands need imported, compiled code loaded, and MLflow's tables mapped."""

from __future__ import annotations

import contextlib
import importlib
import io
import os
import tempfile
import threading

from shunter.cli.main import main

__all__: list[str] = []

_MODULES = (
    "optuna",
    "shunter.cli.performance.fit",
    "shunter.cli.policies.tune",
    "shunter.cli.profiles.profile",
    "shunter.models.card.card",
    "shunter.models.validation.assessment",
    "sklearn.ensemble",
)

_LINES = (
    "eval --scenario trivial-two-models --policy fifo-swap --policy cost-greedy --seeds 2 --out out",
    "train --scenario trivial-two-models --generations 1 --out policy.safetensors",
)
"""What is run once: libraries import half of what they need only when they are used."""


def _load() -> None:
    for name in _MODULES:
        importlib.import_module(name)
    before = os.getcwd()
    with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stdout(io.StringIO()):
        os.chdir(folder)
        for line in _LINES:
            with contextlib.suppress(SystemExit):
                main(line.split())
        os.chdir(before)
    others = [thread.name for thread in threading.enumerate()[1:]]
    if others:
        raise RuntimeError(f"threads that a fork would lose: {others}")


_load()
