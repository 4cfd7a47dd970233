"""Policies by name, of ours and of third parties, and policy files by path."""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from shunter.agents.base import Policy
from shunter.agents.heuristics.cost_greedy import CostGreedy
from shunter.agents.heuristics.fifo.collated import FifoCollated
from shunter.agents.heuristics.fifo.cost_table import CostTable
from shunter.agents.heuristics.fifo.exhaustive import Exhaustive
from shunter.agents.heuristics.fifo.never_preempt import NeverPreempt
from shunter.agents.heuristics.fifo.swap import FifoSwap
from shunter.agents.heuristics.greedy.pressure import PressureGreedy
from shunter.agents.heuristics.greedy.sjf import Sjf, SjfOracle
from shunter.agents.heuristics.greedy.startup import StartupGreedy
from shunter.agents.heuristics.lru.count import CountLru
from shunter.agents.heuristics.lru.keepalive import LruKeepalive
from shunter.agents.heuristics.lru.size import SizeLru
from shunter.agents.heuristics.random_choice import Random
from shunter.agents.learned.policy import LearnedPolicy
from shunter.agents.learned.shipped import SHIPPED, shipped_policy
from shunter.agents.lookahead.policy import Lookahead
from shunter.agents.parameters import Heuristic, Space, read_parameters
from shunter.errors import PluginError, UnknownNameError
from shunter.plugins import POLICY_GROUP, find_plugin, load_plugin, package_of, plugin_names

__all__ = ["DEFAULT_POLICIES", "HEURISTICS", "STATE_POLICIES", "make_policy"]

HEURISTICS: dict[str, type[Heuristic]] = {
    "fifo-swap": FifoSwap,
    "fifo-collated": FifoCollated,
    "count-lru": CountLru,
    "lru-keepalive": LruKeepalive,
    "size-lru": SizeLru,
    "startup-greedy": StartupGreedy,
    "pressure-greedy": PressureGreedy,
    "cost-table": CostTable,
    "sjf": Sjf,
    "sjf-oracle": SjfOracle,
    "cost-greedy": CostGreedy,
    "exhaustive": Exhaustive,
    "never-preempt": NeverPreempt,
    "random": Random,
}
"""All heuristics; those marked ``oracle`` are bounds, not baselines."""

DEFAULT_POLICIES: dict[str, type[Heuristic]] = {
    "fifo-swap": FifoSwap,
    "lru-keepalive": LruKeepalive,
    "cost-greedy": CostGreedy,
}
"""What is compared unless policies are named: what people run, and what is strong."""

STATE_POLICIES: dict[str, Callable[[], Policy]] = {
    "lookahead": Lookahead,
    "lookahead-oracle": partial(Lookahead, oracle=True),
}
"""Policies that decide on copies of the state: milliseconds, not microseconds."""

PARAMETERS = re.compile(r"\w+=")
"""How parameters behind a name begin."""


def make_policy(text: str) -> Policy:
    """Makes a heuristic by name, or loads a trained policy from a file.

    Args:
        text: A name from ``HEURISTICS`` or ``STATE_POLICIES``, ``shipped`` for the trained policy that comes
            with shunter, the path of a ``.safetensors`` policy file, the URI of a registered model
            (``models:/…``), or a name that an installed package offers in ``shunter.policies``. Parameters
            may follow, as in ``fifo-collated:max_wait_s=30``.

    Raises:
        UnknownNameError: It is none of these, or has no such parameter.
        InputError: A parameter breaks its rule.
        VersionError: The file was trained for observations of another version.
        PluginError: A third party's package offers the name, and it cannot be used.
    """
    name, given = _split(text)
    make, space = _maker(name)
    return make(**read_parameters(given, space, f"--policy {name}"))


def _split(text: str) -> tuple[str, str]:
    """A name, path or URI, and the parameters behind it."""
    name, _, given = text.rpartition(":")
    if name in HEURISTICS or (PARAMETERS.match(given) and not Path(text).exists()):
        return name, given
    return text, ""


def _maker(name: str) -> tuple[Callable[..., Policy], Space]:
    """What makes the policy from its parameters, and which it takes."""
    if name in HEURISTICS:
        return HEURISTICS[name].spelled, HEURISTICS[name].spelling()
    if name in STATE_POLICIES:
        return STATE_POLICIES[name], {}
    if name == SHIPPED:
        return shipped_policy, {}
    if name.startswith("models:/"):
        from shunter.agents.model_uri import load_registered  # MLflow takes seconds to import

        return partial(load_registered, name), {}
    if name.endswith(".safetensors") or Path(name).exists():
        return partial(LearnedPolicy.load, name), {}
    return _plugged(name)


def _plugged(name: str) -> tuple[Callable[..., Policy], Space]:
    """The same for a policy of a third party."""
    ours = [*HEURISTICS, *STATE_POLICIES, SHIPPED]
    entry = find_plugin(POLICY_GROUP, name, ours)
    if entry is None:
        raise UnknownNameError("--policy", name, [*ours, *plugin_names(POLICY_GROUP)])
    kind = load_plugin(entry)
    is_heuristic = isinstance(kind, type) and issubclass(kind, Heuristic)

    def make(**values: Any) -> Policy:
        try:
            policy = kind.spelled(**values) if is_heuristic else kind(**values)
        except Exception as error:  # a third party's constructor may raise anything
            why = f"making it failed: {type(error).__name__}: {error}"
            raise PluginError("--policy", name, package_of(entry), why) from error
        if not isinstance(policy, Policy):
            why = f"{entry.value} makes no Policy (name, oracle, act, act_batch): {policy!r}"
            raise PluginError("--policy", name, package_of(entry), why)
        return policy

    return make, kind.spelling() if is_heuristic else {}
