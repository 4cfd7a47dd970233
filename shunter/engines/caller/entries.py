"""Engines by name, of ours and of third parties, and how each is started."""

from __future__ import annotations

from shunter.catalog.devices import parse_device
from shunter.engines.caller.client import WorkerEngine
from shunter.engines.caller.plugged import PluggedWorker
from shunter.engines.registry import ENGINES, EngineEntry
from shunter.errors import InputError, PluginError, UnknownNameError
from shunter.plugins import ENGINE_GROUP, find_plugin, load_plugin, package_of, plugin_names

__all__ = ["engine_entry", "start_engine"]


def engine_entry(name: str, *, field: str = "engine") -> EngineEntry:
    """The facts of an engine.

    Args:
        name: Key of ``ENGINES``, or a name that an installed package offers in ``shunter.engines``.
        field: What was given, for errors.

    Raises:
        UnknownNameError: It is neither.
        PluginError: A third party's package offers the name, and it cannot be used.
    """
    if name in ENGINES:
        return ENGINES[name]
    plugin = find_plugin(ENGINE_GROUP, name, ENGINES)
    if plugin is None:
        raise UnknownNameError(field, name, [*ENGINES, *plugin_names(ENGINE_GROUP)])
    entry = load_plugin(plugin)
    if not isinstance(entry, EngineEntry):
        why = f"{plugin.value} is no EngineEntry: {entry!r}"
        raise PluginError(field, name, package_of(plugin), why)
    return entry


def start_engine(
    name: str, device: str, *, python: str | None = None, timeout_s: float = 600.0
) -> WorkerEngine:
    """Starts an engine in a worker process: as ``worker.start_engine``, and those of third parties too.

    Args:
        name: As ``engine_entry`` takes it.
        device: As users write it, like ``cpu:1-threads`` or ``cuda:0``.
        python: Interpreter that has the engine; None means this one.
        timeout_s: Longest that a call may take.

    Raises:
        InputError: The engine or the device is unknown, or its package cannot be used.
        EngineUnavailableError: The interpreter or the device cannot run it.
    """
    entry, spec = engine_entry(name), parse_device(device)
    if spec.address:
        raise InputError("device", "have an index: workers find no GPU by its UUID or PCI address", device)
    if name in ENGINES:
        return WorkerEngine(name, spec, python=python, timeout_s=timeout_s)
    return PluggedWorker(name, entry, spec, python=python, timeout_s=timeout_s)
