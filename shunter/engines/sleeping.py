"""What an engine that can sleep offers beside ``Engine``: a resident falls asleep, and a load wakes it."""

from __future__ import annotations

from abc import abstractmethod

from .base import Engine, Timed

__all__ = ["SleepingEngine"]


class SleepingEngine(Engine):
    """An engine whose residents can fall asleep.

    A sleeper gives most of the device's memory back. ``load`` with the arguments that it was loaded with
    wakes it, other arguments are refused until ``unload`` has ended it.
    """

    @abstractmethod
    def fall_asleep(self, model: str, level: int) -> Timed:
        """Sends a resident to sleep; every request in it is forgotten, saved KV stays.

        Args:
            model: The resident.
            level: 1: its weights stay in the host's memory; 2: they are dropped, and read again to wake it.

        Raises:
            RequestError: It is not resident, or there is no such level.
        """
