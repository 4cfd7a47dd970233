"""Real runs of the fidelity benchmark, each kept as an event log, so that a killed benchmark goes on."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path

from shunter.agents.base import Policy
from shunter.engines.base import EngineError
from shunter.envs.world.world import World
from shunter.errors import InputError
from shunter.eval.execution.device_executor import DeviceExecutor
from shunter.eval.execution.event_log import EventLog, read_event_log, write_event_logs
from shunter.eval.execution.real import open_engines, run_real
from shunter.eval.execution.recorded import recorded_run
from shunter.eval.execution.runs import Run, as_repeat

__all__ = ["Job", "RealRuns"]

TRIES = 6
"""Engines that fail are started anew, and the run begins anew, so often."""


@dataclass(frozen=True)
class Job:
    """One real run.

    Attributes:
        load: Share of the capacity.
        policy: Its name.
        seed: Seed of the requests.
        repeat: Number of the run among those of the same policy, load and seed.
    """

    load: float
    policy: str
    seed: int
    repeat: int

    @property
    def file(self) -> str:
        """Name of its event log."""
        return f"{self.load:g}-{self.policy}-{self.seed}-{self.repeat}.parquet"


class RealRuns:
    """Makes runs that are not there yet, and reads those that are.

    Args:
        folder: Folder of the event logs.
        say: Prints a line.

    Attributes:
        failed: Runs that an engine's failure ended; they were made again.
    """

    def __init__(self, folder: Path, say: Callable[[str], None]) -> None:
        self.folder, self.say, self.failed = folder, say, 0
        folder.mkdir(parents=True, exist_ok=True)

    def make(
        self, jobs: Sequence[Job], worlds: Mapping[float, World], policies: Mapping[str, Policy]
    ) -> None:
        """Makes all runs that are not there, in order.

        Raises:
            EngineError: One failed ``TRIES`` times.
        """
        for _ in range(TRIES - 1):
            try:
                return self._make(jobs, worlds, policies)
            except EngineError as error:
                self.failed += 1
                self.say(f"an engine failed, and is started anew: {error}")
        return self._make(jobs, worlds, policies)

    def _make(
        self, jobs: Sequence[Job], worlds: Mapping[float, World], policies: Mapping[str, Policy]
    ) -> None:
        left = [job for job in jobs if not (self.folder / job.file).exists()]
        if not left:
            return
        opened: AbstractContextManager[list[DeviceExecutor]] = open_engines(worlds[left[0].load])
        begun_s = time.monotonic()
        with opened as engines:
            for done, job in enumerate(left, 1):
                run = run_real(worlds[job.load], policies[job.policy], job.seed, engines)
                log = as_repeat(run, job.repeat).log
                _check_replays(worlds[job.load], log)
                write_event_logs([log], self.folder / job.file)
                to_go_s = (time.monotonic() - begun_s) / done * (len(left) - done)
                self.say(f"{done}/{len(left)} {job.file}: {run.makespan_s:.1f} s; {to_go_s:.0f} s to go")

    def read(self, world: World, job: Job) -> Run:
        """A run from its event log, every event as it was.

        Args:
            world: The world as it was when the run was made.
            job: The run to read.
        """
        return recorded_run(world, read_event_log(self.folder / job.file))


def _check_replays(world: World, log: EventLog) -> None:
    """A run that cannot be read back, as one in which an engine failed, must not spoil the others' end."""
    try:
        recorded_run(world, log.frame())
    except InputError as error:
        raise EngineError(f"the run's log cannot be replayed: {error}") from error
