"""Tracking under trouble: is a run lost when many log at once, or a policy when MLflow's server is killed?

First use of the default store: processes that begin at once make it and log run after run. Then trainings
against a real ``mlflow server`` that is killed at a random moment of each: a policy must be the one of an
undisturbed training, to the bit, and after ``push_runs`` a server that is started again must have all of it.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import urllib.error
import urllib.request
import warnings
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.form import Row, at_most, main, reported
from shunter.agents.learned.policy import LearnedPolicy
from shunter.envs.scenario.scenario import load_scenario
from shunter.envs.world.world import World, make_world
from shunter.errors import ShunterWarning
from shunter.tracking.journal import UNSENT, kept
from shunter.tracking.push import push_runs
from shunter.tracking.store import open_store, store_uri
from shunter.train.runs import TrainingRun, train_runs
from shunter.train.settings import EvolutionSettings

__all__ = ["hammered", "killed", "run"]

SCENARIO = "two-gpu-unequal"
SETTINGS = EvolutionSettings(generations=6, pairs=4, episodes=1, validate_every=1, threads=1)
EXPERIMENT = "shunter"
START_S = 300.0
"""Within which a server must be up, however busy the machine is."""

REQUESTS = 100
"""Of an episode, for trainings of seconds: what is asked is where they are cut off, not what they learn."""

HAMMER = """
import sys
from shunter.tracking.runs import tracking
for number in range(int(sys.argv[2])):
    with tracking("hammer", f"{sys.argv[1]}.{number}") as tracker:
        tracker.params({"process": sys.argv[1]})
        tracker.metrics({"number": number})
        tracker.artifact(sys.argv[3])
"""


def hammered(folder: Path, processes: int, runs: int) -> list[Row]:
    """Rows of processes that log runs to a store that none of them finds there."""
    note = folder / "note.txt"
    note.write_text("an artefact")
    environment = {key: text for key, text in os.environ.items() if key != "MLFLOW_TRACKING_URI"}
    environment["PYTHONPATH"] = str(Path(__file__).parents[1])
    begun_s = time.monotonic()
    started = [
        subprocess.Popen(
            [sys.executable, "-c", HAMMER, str(number), str(runs), str(note)], cwd=folder, env=environment
        )
        for number in range(processes)
    ]
    failed = sum(process.wait() != 0 for process in started)
    duration_s = time.monotonic() - begun_s
    unsent = len(kept(folder / UNSENT))
    wanted = {f"{process}.{number}" for process in range(processes) for number in range(runs)}
    found = [run for run in _runs(store_uri(folder)) if run.info.status == "FINISHED"]
    whole = {run.info.run_name for run in found if run.data.params and run.data.metrics}
    artefacts = len(list((folder / "mlartifacts").glob("*/artifacts/note.txt")))
    what = f"{processes} processes x {runs} runs, first use"
    return [
        at_most(reported(f"{what}: processes that failed", failed), 0),
        at_most(reported(f"{what}: runs lost", len(wanted - whole)), 0),
        at_most(reported(f"{what}: runs too many", len(found) - len(wanted)), 0),
        at_most(reported(f"{what}: artefacts lost", len(wanted) - artefacts), 0),
        reported(f"{what}: runs kept for shunter track push", unsent),
        reported(f"{what}: all of it", duration_s, "s"),
    ]


class Server:
    """``mlflow server`` with its store in a folder, begun again at the same address after each end."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.port = folder, _free_port()
        self.uri = f"http://127.0.0.1:{self.port}"
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Has it serve."""
        command = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(self.port)]
        command += ["--workers", "1", "--backend-store-uri", f"sqlite:///{self.folder / 'server.db'}"]
        command += ["--artifacts-destination", str(self.folder / "server")]
        quiet = {"MLFLOW_DISABLE_TELEMETRY": "true", "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
        with (self.folder / "server.log").open("a") as log:
            self._process = subprocess.Popen(
                command, stdout=log, stderr=log, env={**os.environ, **quiet}, start_new_session=True
            )
        _wait_for(f"{self.uri}/health", self._process)

    def kill(self) -> None:
        """Ends it and its workers without a word to them."""
        if self._process is not None:
            with suppress(ProcessLookupError):  # it is dead by now
                os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()


def _wait_for(url: str, process: subprocess.Popen[bytes]) -> None:
    until_s = time.monotonic() + START_S
    while time.monotonic() < until_s and process.poll() is None:
        try:
            with urllib.request.urlopen(url, timeout=5):
                return
        except (urllib.error.URLError, ConnectionError, TimeoutError):
            time.sleep(0.2)
    raise RuntimeError(f"no server at {url}")


@dataclass(frozen=True)
class _Trained:
    policy: LearnedPolicy | None
    duration_s: float
    lines: int


def killed(
    folder: Path, times: int, world: World, settings: EvolutionSettings = SETTINGS, seed: int = 0
) -> list[Row]:
    """Rows of trainings whose server is killed at a random moment."""
    server, rng = Server(folder), np.random.default_rng(seed)
    policies_lost = runs_lost = doubled = most_lines = kept_runs = 0
    longest_s = 0.0
    before = os.environ.get("MLFLOW_TRACKING_URI")
    os.environ["MLFLOW_TRACKING_URI"] = server.uri
    try:
        server.start()
        _train(folder / "warm", world, settings)  # whatever is compiled or loaded, is by now
        whole = _train(folder / "whole", world, settings)
        reference, quickest_s = _logged(server.uri), whole.duration_s
        for number in range(times):
            place = folder / f"killed-{number}"
            killer = threading.Timer(float(rng.uniform(0, quickest_s)), server.kill)
            killer.start()
            one = _train(place, world, settings)
            killer.join()
            policies_lost += not _same(one.policy, whole.policy)
            most_lines, longest_s = max(most_lines, one.lines), max(longest_s, one.duration_s)
            quickest_s = min(quickest_s, one.duration_s)
            server.start()
            pushed = push_runs(place)
            kept_runs += len(pushed)
            found = _logged(server.uri)
            runs_lost += any(one.why for one in pushed) or found.latest != reference.latest
            doubled = max(doubled, found.trainings - reference.trainings - 1 - number)
        unregistered = found.trainings - found.versions
    finally:
        server.kill()
        if before is None:
            del os.environ["MLFLOW_TRACKING_URI"]
        else:
            os.environ["MLFLOW_TRACKING_URI"] = before
    what = f"server killed in {times} trainings"
    return [
        at_most(reported(f"{what}: policies lost or changed", policies_lost), 0),
        at_most(reported(f"{what}: runs incomplete after shunter track push", runs_lost), 0),
        at_most(reported(f"{what}: runs logged twice", doubled), 0),
        at_most(reported(f"{what}: policies that are not registered", unregistered), 0),
        at_most(reported(f"{what}: most lines that one printed of it", most_lines), 1),
        reported(f"{what}: trainings that something was kept of", kept_runs),
        reported(f"{what}: longest against undisturbed", longest_s / whole.duration_s),
    ]


def _train(folder: Path, world: World, settings: EvolutionSettings) -> _Trained:
    folder.mkdir()
    begun_s = time.monotonic()
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        train_runs([TrainingRun(folder / "policy.safetensors", settings, [world])], folder=folder)
    duration_s = time.monotonic() - begun_s
    lines = sum(line.category is ShunterWarning for line in told)
    policy = folder / "policy.safetensors"
    return _Trained(LearnedPolicy.load(policy) if policy.exists() else None, duration_s, lines)


def _same(one: LearnedPolicy | None, other: LearnedPolicy | None) -> bool:
    if one is None or other is None:
        return False
    return all(np.array_equal(weights, other.weights[name]) for name, weights in one.weights.items())


@dataclass(frozen=True)
class _Logged:
    """What a store has.

    Attributes:
        latest: Validations, names of artefacts and status of the latest training.
        trainings: How many there are.
        versions: Versions in the registry.
    """

    latest: tuple[list[tuple[int, float]], list[str], str]
    trainings: int
    versions: int


def _logged(uri: str) -> _Logged:
    client, runs = open_store(uri), _runs(uri)
    info = max((run.info for run in runs), key=lambda one: int(one.start_time))
    points = client.get_metric_history(info.run_id, "validation/response_ratio")
    names = sorted(file.path for file in client.list_artifacts(info.run_id))
    latest = [(point.step, point.value) for point in points], names, str(info.status)
    return _Logged(latest, len(runs), len(client.search_model_versions()))


def _runs(uri: str) -> list[Any]:
    client = open_store(uri)
    experiment = client.get_experiment_by_name(EXPERIMENT)
    return (
        [] if experiment is None else list(client.search_runs([experiment.experiment_id], max_results=5000))
    )


def _free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


def short_world() -> World:
    """The scenario with short episodes."""
    scenario = load_scenario(SCENARIO)
    workload = scenario.workload.model_copy(update={"requests": REQUESTS})
    return make_world(scenario.model_copy(update={"workload": workload}))


def run(quick: bool) -> Sequence[Row]:
    """Hammers a new store, and kills servers."""
    processes, runs, times = (4, 3, 3) if quick else (8, 20, 20)
    with tempfile.TemporaryDirectory() as text:
        folder = Path(text)
        (folder / "hammered").mkdir()
        return [
            *hammered(folder / "hammered", processes, runs),
            *killed(folder, times, short_world()),
        ]


if __name__ == "__main__":
    sys.exit(main("tracking", run, __doc__ or ""))
