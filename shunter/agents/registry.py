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
from shunter.agents.imported import checked_policy, import_class, is_class_name, renamed, spelling_of
from shunter.agents.learned.policy import LearnedPolicy
from shunter.agents.learned.shipped import OWN_NAME, SHIPPED, shipped_policy
from shunter.agents.lookahead.policy import Lookahead
from shunter.agents.parameters import FilePath, Heuristic, Spelling, read_parameters
from shunter.agents.sb3 import load_sb3
from shunter.errors import UnknownNameError
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

NAMED = re.compile(r"(?P<name>[^=:/\\]*)=(?P<policy>.+)", re.DOTALL)
"""A policy with a name that the user gives it."""


def make_policy(text: str, *, unpickle: bool = False) -> Policy:
    """Makes a heuristic by name, or loads a trained policy from a file.

    Args:
        text: A name from ``HEURISTICS`` or ``STATE_POLICIES``, ``shipped`` for the trained policy that comes
            with shunter, the path of a ``.safetensors`` policy file, the URI of a registered model
            (``models:/…``), a name that an installed package offers in ``shunter.policies``, a class that can
            be imported (``module:Class``), or the path of a ``.zip`` that Stable-Baselines3 wrote. Parameters
            may follow, as in ``fifo-collated:max_wait_s=30``; with ``NAME=`` before it, tables and logs call
            it that.
        unpickle: Whether pickles may be loaded, which run what their author wrote: Stable-Baselines3 writes
            such.

    Raises:
        UnknownNameError: It is none of these, or has no such parameter.
        InputError: A parameter breaks its rule.
        BrokenFileError: A file is damaged, or not what it should be.
        VersionError: The file was trained for observations of another version.
        PluginError: A third party's package or module offers the name, and it cannot be used.
    """
    named = NAMED.fullmatch(text)
    if named is not None and not Path(text).exists():
        return renamed(make_policy(named["policy"], unpickle=unpickle), named["name"])
    name, given = _split(text)
    make, space = _maker(name, unpickle)
    return make(**read_parameters(given, space, f"--policy {name}"))


def _split(text: str) -> tuple[str, str]:
    """A name, path or URI, and the parameters behind it."""
    name, _, given = text.rpartition(":")
    if name in HEURISTICS or (PARAMETERS.match(given) and not Path(text).exists()):
        return name, given
    return text, ""


def _maker(name: str, unpickle: bool) -> tuple[Callable[..., Policy], Spelling]:
    """What makes the policy from its parameters, and which it takes."""
    if name in HEURISTICS:
        return HEURISTICS[name].spelled, HEURISTICS[name].spelling()
    if name in STATE_POLICIES:
        return STATE_POLICIES[name], {}
    if name in (SHIPPED, OWN_NAME) and not Path(name).exists():
        return shipped_policy, {}
    if name.startswith("models:/"):
        from shunter.agents.model_uri import load_registered  # MLflow takes seconds to import

        return partial(load_registered, name), {}
    if name.endswith(".zip"):
        return partial(load_sb3, name, consent=unpickle), {"normalize": FilePath()}
    if name.endswith(".safetensors") or Path(name).exists():
        return partial(LearnedPolicy.load, name), {}
    if is_class_name(name):
        kind = import_class(name)
        return partial(_made, kind, name, name.partition(":")[0], name), spelling_of(kind)
    return _plugged(name)


def _plugged(name: str) -> tuple[Callable[..., Policy], Spelling]:
    """The same for a policy of a third party."""
    ours = [*HEURISTICS, *STATE_POLICIES, SHIPPED]
    entry = find_plugin(POLICY_GROUP, name, ours)
    if entry is None:
        raise UnknownNameError("--policy", name, [*ours, *plugin_names(POLICY_GROUP)])
    kind = load_plugin(entry)
    return partial(_made, kind, name, package_of(entry), entry.value), spelling_of(kind)


def _made(kind: Callable[..., Any], name: str, package: str, called: str, /, **values: Any) -> Policy:
    return checked_policy(kind, values, name, package, called)
