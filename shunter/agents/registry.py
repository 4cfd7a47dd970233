"""Policies by name, and policy files by path."""

from __future__ import annotations

from pathlib import Path

from shunter.agents.base import Policy
from shunter.agents.cost_greedy import CostGreedy
from shunter.agents.fifo_swap import FifoSwap
from shunter.agents.learned import LearnedPolicy
from shunter.agents.lru_keepalive import LruKeepalive
from shunter.errors import UnknownNameError

__all__ = ["POLICIES", "make_policy"]

POLICIES: dict[str, type[FifoSwap] | type[LruKeepalive] | type[CostGreedy]] = {
    "fifo-swap": FifoSwap,
    "lru-keepalive": LruKeepalive,
    "cost-greedy": CostGreedy,
}


def make_policy(text: str) -> Policy:
    """Makes a heuristic by name, or loads a trained policy from a file.

    Args:
        text: A name from ``POLICIES``, or the path of a ``.safetensors`` policy file.

    Raises:
        UnknownNameError: It is neither.
        VersionError: The file was trained for observations of another version.
    """
    if text in POLICIES:
        return POLICIES[text]()
    if text.endswith(".safetensors") or Path(text).exists():
        return LearnedPolicy.load(text)
    raise UnknownNameError("--policy", text, POLICIES)
