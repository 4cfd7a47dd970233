"""The trained policy that comes with the package; ``shunter/data/README.md`` says from where."""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path

from shunter.agents.learned.policy import LearnedPolicy

__all__ = ["SHIPPED", "shipped_policy"]

SHIPPED = "shipped"
"""Name of the policy that comes with the package."""

OWN_NAME = "distilled"
"""What it is called in tables, logs and records, which is understood too."""


def shipped_policy() -> LearnedPolicy:
    """Loads the trained policy that comes with the package."""
    return LearnedPolicy.load(Path(str(files("shunter.data"))) / "policies" / "generalist.safetensors")
