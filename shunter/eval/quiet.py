"""Whether other programs leave the machine to real runs, and what to do where they do not."""

from __future__ import annotations

import time
from collections.abc import Callable

from shunter.errors import InputError, UnknownNameError
from shunter.profiling.meters.watch import BUSY_CORES, core_count, others_cores

__all__ = ["check_quiet", "known_quiet"]

QUIET_MACHINE = ("wait", "warn", "refuse")
"""What ``--quiet-machine`` may be."""

LONGEST_WAIT_S = 1800.0
PAUSE_S = 5.0
_OPTION = "--quiet-machine"


def known_quiet(what: str | None) -> str | None:
    """What ``--quiet-machine`` is, as given.

    Raises:
        UnknownNameError: It is none of ``QUIET_MACHINE``, nor None.
    """
    if what is not None and what not in QUIET_MACHINE:
        raise UnknownNameError(_OPTION, what, QUIET_MACHINE)
    return what


def check_quiet(
    what: str | None,
    *,
    look: Callable[[], float] = others_cores,
    pause: Callable[[float], None] = time.sleep,
    say: Callable[[str], None] = lambda text: None,
) -> list[str]:
    """Looks at what other programs use, just before engines start.

    Args:
        what: One of ``QUIET_MACHINE``; None: nothing is looked at.
        look: Measures the CPU cores that others use, for some seconds.
        pause: Waits for so many seconds.
        say: Told why nothing happens yet.

    Returns:
        A line to warn with; none where the machine is quiet.

    Raises:
        InputError: It is busy, and was to be refused, or stays busy for half an hour.
        UnknownNameError: ``what`` is none of them.
    """
    if known_quiet(what) is None:
        return []
    busy, waited_s = look(), 0.0
    while busy >= BUSY_CORES and what == "wait" and waited_s < LONGEST_WAIT_S:
        say(f"waiting for a quiet machine: {_words(busy)}")
        pause(PAUSE_S)
        waited_s += PAUSE_S
        busy = look()
    if busy < BUSY_CORES:
        return []
    if what == "warn":
        return [f"the machine is not quiet: {_words(busy)}"]
    rule = f"find a machine of which other programs use less than {BUSY_CORES:g} cores"
    raise InputError(_OPTION, rule, _words(busy))


def _words(busy: float) -> str:
    return f"other programs use {busy:.1f} of {core_count()} cores"
