"""Chaos: engines that are killed or stopped on purpose, at random, to see that nothing is lost."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np

from shunter.engines.base import Engine
from shunter.errors import InputError, UnknownNameError

__all__ = ["Chaos", "parse_chaos"]

KINDS = {"kill": "SIGKILL to a process of the engine", "hang": "SIGSTOP to the engine's process"}


@dataclass(frozen=True)
class Strike:
    """What happens to an operation's engine.

    Attributes:
        kind: ``kill`` or ``hang``.
        when: Share of the operation's predicted duration after which it happens, in [0, 1).
        victim: Which process of the engine, as a share of their number, in [0, 1).
    """

    kind: str
    when: float
    victim: float


Striker = Callable[[Engine, Strike], None]
"""Carries a strike out, now."""


@dataclass(frozen=True)
class Chaos:
    """Probabilities per operation, and the seed that decides which it hits.

    Attributes:
        kill: Probability that the engine is killed.
        hang: Probability that the engine stops.
        seed: The same seed hits the same operations of each device, counted from its start.
    """

    kill: float = 0.0
    hang: float = 0.0
    seed: int = 0

    def strike(self, device: int, operation: int) -> Strike | None:
        """What happens to an operation of a device, by their numbers."""
        random = np.random.Generator(np.random.Philox(key=[self.seed, (device << 40) + operation]))
        chance, when, victim = random.random(3)
        if chance >= self.kill + self.hang:
            return None
        return Strike("kill" if chance < self.kill else "hang", when, victim)


def parse_chaos(text: str, *, seed: int = 0) -> Chaos:
    """Reads ``kill=0.05,hang=0.01``.

    Raises:
        InputError: A probability is none, or they are more than 1 together.
        UnknownNameError: There is no such kind.
    """
    chances = {}
    for part in text.split(","):
        name, _, number = part.strip().partition("=")
        if name not in KINDS:
            raise UnknownNameError("--chaos", name, KINDS)
        try:
            chances[name] = float(number)
        except ValueError:
            raise InputError("--chaos", "give probabilities, like kill=0.05,hang=0.01", text) from None
    if not all(0 <= p <= 1 for p in chances.values()) or sum(chances.values()) > 1:
        raise InputError("--chaos", "give probabilities from 0 to 1, at most 1 together", text)
    return Chaos(**chances, seed=seed)


def strike_process(engine: Engine, strike: Strike) -> None:
    """Kills one of a worker's processes, or stops the one that answers calls."""
    pids: list[int] = engine.pids()  # type: ignore[attr-defined] # only workers are struck
    if not pids:
        return
    pid = pids[int(strike.victim * len(pids))] if strike.kind == "kill" else pids[0]
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL if strike.kind == "kill" else signal.SIGSTOP)


@contextlib.contextmanager
def striking(strike: Strike | None, engine: Engine, predicted_s: float, striker: Striker) -> Iterator[None]:
    """Carries a strike out during the block, at the latest as it ends."""
    if strike is None:
        yield
        return
    is_over = threading.Event()

    def wait_and_strike() -> None:
        is_over.wait(strike.when * predicted_s)
        striker(engine, strike)

    thread = threading.Thread(target=wait_and_strike, name="chaos")
    thread.start()
    try:
        yield
    finally:
        is_over.set()
        thread.join()
