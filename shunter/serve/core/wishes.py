"""What a gateway does unasked by any policy: it loads what is to be there, and unloads what nobody wants."""

from __future__ import annotations

import numpy as np

from shunter.envs.state.state import State
from shunter.envs.state.tables import Tables


class Wishes:
    """Loads and unloads that come before a policy is asked.

    Args:
        tables: What of models and devices is looked at.
        state: Of which something is wished.

    Attributes:
        unwanted: Devices and models that are to be unloaded there, and why.
    """

    def __init__(self, tables: Tables, state: State) -> None:
        self._tables, self._state = tables, state
        self.unwanted: dict[tuple[int, int], str] = {}
        self._first = {
            (int(at["start_device"]), m): int(at["start_level"])
            for m, at in enumerate(tables.model)
            if at["start_device"] >= 0
        }

    def unload(self, model: int) -> bool:
        """Wishes that a model be unloaded where it is not pinned; returns whether it is anywhere."""
        pinned = int(self._tables.model["pinned"][model])
        where = np.flatnonzero(self._state.place["resident"][:, model] >= 0).tolist()
        found = {(device, model) for device in where if device != pinned}
        self.unwanted |= dict.fromkeys(found, "unload")
        return bool(found)

    def reload(self, unwanted: set[tuple[int, int]]) -> None:
        """Wishes that just these models be unloaded from these devices because they are to be others."""
        others = {at: cause for at, cause in self.unwanted.items() if cause != "reload"}
        self.unwanted = dict.fromkeys(unwanted, "reload") | others

    def action(self, device: int, *, paused: bool) -> tuple[int, str] | None:
        """What a device is to do now, and why; None: a policy may say. While paused nothing is loaded."""
        load = None if paused else self._load(device)
        return load if load is not None else self._unload(device)

    def _load(self, device: int) -> tuple[int, str] | None:
        """The load of what a device is to hold from the beginning, and does not."""
        levels = self._tables.level.shape[2]
        for (where, model), level in list(self._first.items()):
            if where != device or not self._tables.level["level_ok"][device, model, level]:
                continue
            is_pinned = int(self._tables.model["pinned"][model]) == device
            if not is_pinned:
                del self._first[where, model]
            if self._state.place["resident"][device, model] < 0:
                return int(model * levels + level), "pinned" if is_pinned else "preload"
        return None

    def _unload(self, device: int) -> tuple[int, str] | None:
        """The unload of what is not wanted on a device; it waits while a load waits for room there."""
        if self._state.device["pending_model"][device] >= 0:
            return None
        models, levels = self._tables.level.shape[1:3]
        for where, model in sorted(self.unwanted):
            if where != device:
                continue
            cause = self.unwanted.pop((where, model))
            if self._state.place["resident"][device, model] >= 0:
                return int(models * levels + model), cause
        return None
