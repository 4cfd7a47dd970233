"""Which models are resident from the start, which of them stay, and what these leave of the devices."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from shunter.envs.scenario.model import Model
from shunter.envs.scenario.scenario import Scenario
from shunter.envs.state.records import FAR_NS
from shunter.envs.state.tables import Tables
from shunter.errors import InputError

Bools = NDArray[np.bool_]
Ints = NDArray[np.int64]


def with_residents(scenario: Scenario, tables: Tables) -> Tables:
    """Tables in which pinned and preloaded models have their places, and others no level without room for it.

    Models go to their places one after another, the pinned ones first, of these those with a device's name
    first, and the largest first; each at its highest level that still has room, and of several devices to the
    first with room at that level. A pinned model has only that level on its device, and what does not fit
    beside the pinned models of a device fits it at no level.

    Args:
        scenario: Says what is pinned, preloaded and limited.
        tables: Its ``level_ok`` says what each device can hold alone.

    Raises:
        InputError: There is no room for a pinned or preloaded model, or no device has room for a model beside
            what is pinned there.
    """
    models, footprint = scenario.models, tables.footprint_bytes
    level_ok, room = tables.level_ok.copy(), tables.capacity_bytes.copy()
    start: Ints = np.full((len(models), 2), -1)
    pinned: Ints = np.full(len(models), -1)
    for m in _in_order(models, footprint, "pinned"):
        start[m] = d, level = _place(scenario, level_ok & _fits(footprint, room), m, "pinned")
        pinned[m] = d
        room[d] -= footprint[d, m, level]
    level_ok &= _fits(footprint, room)
    for m in _in_order(models, footprint, "pinned"):
        level_ok[pinned[m], m] = np.arange(level_ok.shape[2]) == start[m, 1]
    _check_others(scenario, level_ok, footprint, room)
    for m in _in_order(models, footprint, "preload"):
        start[m] = d, level = _place(scenario, level_ok & _fits(footprint, room), m, "preload")
        room[d] -= footprint[d, m, level]
    return tables.changed(
        level_ok=level_ok,
        pinned=pinned,
        start_device=start[:, 0],
        start_level=start[:, 1],
        replicas_max=[model.replicas_max or FAR_NS for model in models],
        ttl_ns=[FAR_NS if model.ttl_s is None else round(model.ttl_s * 1e9) for model in models],
        priority=[model.priority for model in models],
    )


def _fits(footprint: NDArray[np.float64], room: NDArray[np.float64]) -> Bools:
    return np.asarray(footprint <= room[:, None, None])


def _in_order(models: list[Model], footprint: NDArray[np.float64], field: str) -> list[int]:
    """The models that have the field: named devices first, then the largest first."""
    asked = [m for m, model in enumerate(models) if getattr(model, field)]
    return sorted(asked, key=lambda m: (getattr(models[m], field) is True, -footprint[:, m].max()))


def _place(scenario: Scenario, fits: Bools, m: int, field: str) -> tuple[int, int]:
    """Device and level of a model that is to be resident from the start."""
    model, names = scenario.models[m], [device.name for device in scenario.devices]
    where = getattr(model, field)
    devices = range(len(names)) if where is True else [names.index(where)]
    found = [(int(level), d) for d in devices for level in np.flatnonzero(fits[d, m])]
    if not found:
        beside = "what else is pinned" if field == "pinned" else "what is pinned and else preloaded"
        on = "some device" if where is True else where
        raise InputError(f"models.{model.name}.{field}", f"fit {on} at some level, beside {beside}", where)
    level, d = min(found)
    return d, level


def _check_others(
    scenario: Scenario, level_ok: Bools, footprint: NDArray[np.float64], room: NDArray[np.float64]
) -> None:
    for m, model in enumerate(scenario.models):
        if not level_ok[:, m].any():
            most = f"{max(0.0, room.max()) / 1e6:.0f} MB"
            rule = f"fit some device beside what is pinned there, which leaves at most {most}"
            least = footprint[:, m][footprint[:, m] > 0].min(initial=np.inf)
            raise InputError(f"models.{model.name}", rule, f"{least / 1e6:.0f} MB")
