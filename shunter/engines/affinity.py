"""Which CPU cores a device may run on."""

from __future__ import annotations

import os
from collections.abc import Iterable

from .base import EngineUnavailableError


def checked_cores(cores: Iterable[int]) -> set[int]:
    """The cores, if this process may run on each of them; the kernel would leave out the others in silence.

    Raises:
        EngineUnavailableError: One is not there, or not for this process.
    """
    wanted, allowed = set(cores), os.sched_getaffinity(0)
    if not wanted <= allowed:
        lacking = ", ".join(map(str, sorted(wanted - allowed)))
        there = ", ".join(map(str, sorted(allowed)))
        raise EngineUnavailableError(f"there is no core {lacking} for this process; it may use {there}")
    return wanted
