"""Policies of classes that a user names, ``module:Class``, and names that a user gives to policies."""

from __future__ import annotations

import importlib
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from shunter.agents.base import Policy
from shunter.agents.parameters import Heuristic, Space
from shunter.errors import InputError, PluginError, one_line

__all__ = ["renamed"]

_CLASS = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*:[A-Za-z_]\w*")


def is_class_name(text: str) -> bool:
    """Whether a text has the form ``module:Class``."""
    return _CLASS.fullmatch(text) is not None


def import_class(text: str) -> Callable[..., Any]:
    """What ``module:Class`` names; modules in the current folder are found too, behind installed ones.

    Raises:
        PluginError: It cannot be imported, whatever the reason, or cannot be called.
    """
    module, _, name = text.partition(":")
    if "" not in sys.path and str(Path.cwd()) not in sys.path:
        sys.path.append(str(Path.cwd()))
    try:
        found = getattr(importlib.import_module(module), name)
    except (Exception, SystemExit) as error:  # a third party's module may raise anything
        why = f"it cannot be imported: {type(error).__name__}: {error}"
        raise PluginError("--policy", text, module, why) from error
    if not callable(found):
        raise PluginError("--policy", text, module, f"it is no class and no function: {found!r}")
    return found  # type: ignore[no-any-return]


def checked_policy(
    make: Callable[..., Any], values: dict[str, Any], text: str, package: str, called: str
) -> Policy:
    """A policy of a third party, made.

    Args:
        make: Makes it.
        values: Its parameters.
        text: What the user named.
        package: Where it is from, for errors.
        called: What errors call ``make``.

    Raises:
        PluginError: Making it failed, whatever the reason, or what was made lacks something.
    """
    try:
        policy = make.spelled(**values) if is_heuristic(make) else make(**values)  # type: ignore[attr-defined]
    except (Exception, SystemExit) as error:  # a third party's constructor may raise anything
        why = f"making it failed: {type(error).__name__}: {error}"
        raise PluginError("--policy", text, package, why) from error
    lacking = [name for name in ("act", "act_batch") if not callable(getattr(policy, name, None))]
    if not is_name(getattr(policy, "name", None)):
        lacking.insert(0, "name")
    if lacking:
        why = f"{called} makes no Policy (name, act, act_batch): {policy!r} lacks {', '.join(lacking)}"
        raise PluginError("--policy", text, package, why)
    return policy  # type: ignore[no-any-return]


def is_heuristic(make: Any) -> bool:
    """Whether it is a class of ``Heuristic``, which has parameters."""
    return isinstance(make, type) and issubclass(make, Heuristic)


def spelling_of(make: Any) -> Space:
    """The parameters that users may write; only classes of ``Heuristic`` have some."""
    return make.spelling() if is_heuristic(make) else {}


def is_name(name: Any) -> bool:
    """Whether tables can show it as a policy's name: some printable characters."""
    return isinstance(name, str) and bool(name) and one_line(name) == name == name.strip()


def renamed(policy: Policy, name: str) -> Policy:
    """The policy itself under another name in tables and logs.

    Raises:
        InputError: It is no name, or the policy's own cannot be changed.
    """
    if not is_name(name):
        raise InputError("--policy", "be named by printable characters: NAME=POLICY", name)
    try:
        # Heuristics are frozen, but for the name that goes into tables.
        object.__setattr__(policy, "name", name)
    except (AttributeError, TypeError):
        raise InputError(
            "--policy", f"keep its own name, {policy.name!r}, which cannot be changed", name
        ) from None
    return policy
