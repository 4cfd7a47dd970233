"""What third parties add: objects that the entry points of installed packages name.

Our own registries are literal dicts. Entry points are read only for names that those lack, and an object is
imported only when its name is asked for.
"""

from __future__ import annotations

import warnings
from collections.abc import Collection
from importlib.metadata import EntryPoint, entry_points
from typing import Any

from shunter.errors import PluginError, ShunterWarning

__all__ = ["ENGINE_GROUP", "POLICY_GROUP", "find_plugin", "load_plugin", "package_of", "plugin_names"]

POLICY_GROUP = "shunter.policies"
"""Callables that return a ``shunter.agents.base.Policy``; classes of ``Heuristic`` may have parameters."""

ENGINE_GROUP = "shunter.engines"
"""``EngineEntry`` objects, whose module is a full name of one that has ``create(device: dict) -> Engine``."""


def find_plugin(group: str, name: str, ours: Collection[str]) -> EntryPoint | None:
    """Looks for a plugin that offers a name; imports nothing of it.

    A plugin that offers one of our names is ignored, with a warning.

    Args:
        group: ``POLICY_GROUP`` or ``ENGINE_GROUP``.
        name: Asked for; not one of ours.
        ours: Names that plugins cannot take.

    Raises:
        PluginError: Several packages offer it.
    """
    offered = entry_points(group=group)
    for entry in offered:
        if entry.name in ours:
            warnings.warn(
                f"the package {package_of(entry)} offers {entry.name!r} in {group}, which is a name of "
                "shunter's own: ignored",
                ShunterWarning,
                stacklevel=2,
            )
    found = list(offered.select(name=name))
    if len(found) > 1:
        raise PluginError(
            group, name, ", ".join(map(package_of, found)), "several packages offer it; uninstall all but one"
        )
    return found[0] if found else None


def plugin_names(group: str) -> list[str]:
    """All names that plugins offer."""
    return [entry.name for entry in entry_points(group=group)]


def load_plugin(entry: EntryPoint) -> Any:
    """Imports what an entry point names.

    Raises:
        PluginError: It cannot be imported, whatever the reason.
    """
    try:
        return entry.load()
    except (Exception, SystemExit) as error:  # a third party's module may raise anything
        why = f"{entry.value} cannot be imported: {type(error).__name__}: {error}"
        raise PluginError(entry.group, entry.name, package_of(entry), why) from error


def package_of(entry: EntryPoint) -> str:
    """The package that has an entry point, as it is installed and uninstalled."""
    return entry.value if entry.dist is None else f"{entry.dist.name} {entry.dist.version}"
