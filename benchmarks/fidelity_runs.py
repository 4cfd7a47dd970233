"""Real runs of the fidelity benchmark, each kept as an event log, so that a killed benchmark goes on.

Beside them stands how fast the machine was, by the sentinel.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

from shunter.agents.base import Policy
from shunter.engines.base import EngineError
from shunter.envs.world.world import World
from shunter.errors import InputError
from shunter.eval.execution.course import MachineCourse, Stretch, watched
from shunter.eval.execution.device_executor import DeviceExecutor
from shunter.eval.execution.event_log import EventLog, read_event_log, write_event_logs
from shunter.eval.execution.order import Turn
from shunter.eval.execution.real import open_engines, run_real
from shunter.eval.execution.recorded import recorded_run
from shunter.eval.execution.runs import Run, as_repeat
from shunter.eval.execution.sentinel import Reading, Sentinel
from shunter.files import finite, write_json
from shunter.profiling.meters.watch import MachineWatch

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
        begun_s = time.monotonic()
        with self._watched(worlds[left[0].load], left) as (engines, course):
            for number, job in enumerate(left):
                with course.run(Turn(number, 0, job.seed, job.repeat)):
                    run = run_real(worlds[job.load], policies[job.policy], job.seed, engines)
                log = as_repeat(run, job.repeat).log
                _check_replays(worlds[job.load], log)
                write_event_logs([log], self.folder / job.file)
                done = number + 1
                to_go_s = (time.monotonic() - begun_s) / done * (len(left) - done)
                self.say(f"{done}/{len(left)} {job.file}: {run.makespan_s:.1f} s; {to_go_s:.0f} s to go")

    @contextmanager
    def _watched(
        self, world: World, jobs: Sequence[Job]
    ) -> Iterator[tuple[list[DeviceExecutor], MachineCourse]]:
        """Engines and the machine's course; the course is kept in a file of its own, however it ends."""
        kept = self.folder / f"machine-{len(list(self.folder.glob('machine-*.json')))}.json"
        with open_engines(world) as engines:
            course = None
            try:
                with watched(world, engines) as course:
                    yield engines, course
            finally:
                if course is not None:
                    write_json(kept, finite(_course_dict(course, jobs)))

    def courses(self, world: World) -> Iterator[tuple[MachineCourse, dict[str, Stretch]]]:
        """The machine while engines lived, and when each run was that came to its end then, by its file."""
        for path in sorted(self.folder.glob("machine-*.json")):
            found = json.loads(path.read_text(encoding="utf-8"))
            readings = [Reading(**reading) for reading in found["readings"]]
            course = MachineCourse(Sentinel(world, (), readings, spent_s=found["spent_s"]), MachineWatch())
            runs = {
                name: Stretch(Turn(0, 0, run["seed"], run["repeat"]), run["start_s"], run["end_s"])
                for name, run in found["runs"].items()
            }
            course.stretches += runs.values()
            yield course, runs

    def others_cores(self) -> dict[str, float]:
        """Cores that other programs used in each run, by its file."""
        paths = self.folder.glob("machine-*.json")
        files = [json.loads(path.read_text(encoding="utf-8"))["runs"] for path in paths]
        return {name: run["others_cores"] for runs in files for name, run in runs.items()}

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


def _course_dict(course: MachineCourse, jobs: Sequence[Job]) -> dict[str, object]:
    runs = {}
    for one in course.stretches:
        job = jobs[one.turn.round]
        others_cores = course.watch.between(one.start_s, one.end_s).others_cores
        when = {"start_s": one.start_s, "end_s": one.end_s, "others_cores": others_cores}
        runs[job.file] = {"seed": job.seed, "repeat": job.repeat, **when}
    readings = [asdict(reading) for reading in course.sentinel.readings]
    return {"readings": readings, "spent_s": course.sentinel.spent_s, "runs": runs}
