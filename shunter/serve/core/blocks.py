"""Which models may not be loaded where for a while, because they failed there."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from shunter.envs.state.tables import Tables


@dataclass
class Blocked:
    """A model that did not load on a device.

    Attributes:
        until_ns: When it may be tried again.
        times: How often it failed in a row.
        reason: What its server said last.
    """

    until_ns: int
    times: int
    reason: str


class Blocks:
    """What failed, and until when it is not tried again.

    Args:
        tables: Their ``level_ok`` says what may be loaded; it is changed.
        backoff_s: Seconds after which what failed is tried again; doubled each time, up to 64 times.
    """

    def __init__(self, tables: Tables, backoff_s: float) -> None:
        self._tables, self._backoff_s = tables, backoff_s
        self._level_ok = tables.level["level_ok"].copy()
        self._found: dict[tuple[int, int], Blocked] = {}

    def died(self, now_ns: int, device: int, model: int, reason: str) -> None:
        """A server has ended by itself: the first time since it answered it may be loaded again at once."""
        if (device, model) in self._found:
            self.failed(now_ns, device, model, reason)
        else:
            self._found[device, model] = Blocked(0, 0, reason)

    def failed(self, now_ns: int, device: int, model: int, reason: str) -> None:
        """A load has failed."""
        before = self._found.get((device, model))
        times = before.times + 1 if before is not None else 1
        wait_s = self._backoff_s * 2 ** min(6, times - 1)
        self._found[device, model] = Blocked(now_ns + round(wait_s * 1e9), times, reason)
        self._tables.level["level_ok"][device, model] = 0

    def answered(self, device: int, model: int) -> None:
        """A server has answered: what failed before on its device counts no more."""
        blocked = self._found.get((device, model))
        if blocked is not None and blocked.until_ns == 0:
            del self._found[device, model]

    def pass_time(self, now_ns: int) -> list[int]:
        """Lets what has waited long enough be tried again; returns the models."""
        over = [at for at, blocked in self._found.items() if 0 < blocked.until_ns <= now_ns]
        for device, model in over:
            self._found[device, model].until_ns = 0
            self._tables.level["level_ok"][device, model] = self._level_ok[device, model]
        return [model for _, model in over]

    def next_ns(self) -> list[int]:
        """When something may be tried again."""
        return [blocked.until_ns for blocked in self._found.values() if blocked.until_ns > 0]

    def of(self, model: int) -> Blocked | None:
        """Why no device loads a model for now, which may be tried again first; None if one may."""
        fits = np.flatnonzero(self._level_ok[:, model].any(axis=1)).tolist()
        found = [self._found.get((device, model)) for device in fits]
        blocked = [one for one in found if one is not None and one.until_ns > 0]
        return min(blocked, key=lambda one: one.until_ns) if len(blocked) == len(fits) > 0 else None
