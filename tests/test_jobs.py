from __future__ import annotations

import importlib.util
import os
import signal
import time
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from shunter.agents.heuristics.cost_greedy import CostGreedy
from shunter.agents.heuristics.fifo.collated import FifoCollated
from shunter.agents.registry import make_policy
from shunter.envs.world.world import World
from shunter.errors import InputError, ShunterError
from shunter.eval.evaluation import Evaluation, evaluate
from shunter.jobs import Job, JobError, Report, Runner, WorkersLostError, open_runner
from shunter.train.settings import EvolutionSettings
from shunter.train.tune.heuristic import tune_all
from tests.ray_nodes import Nodes, ray_nodes

needs_ray = pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason="ray is an extra")


@pytest.fixture(scope="module")
def nodes() -> Iterator[Nodes]:
    """A cluster whose head has one CPU."""
    with ray_nodes() as started:
        yield started


@pytest.fixture
def victim(nodes: Nodes) -> Iterator[Any]:
    """A second node, which the test may kill."""
    node = nodes.add()
    yield node
    if node in nodes.cluster.worker_nodes:
        nodes.kill(node)


def add_up(shared: int, report: Report, task: int) -> int:
    """Asks the driver for one number after another."""
    total = shared
    for number in range(task):
        total += report(number)
    return total


def refuse(shared: Any, report: Report, task: int) -> int:
    if task == 1:
        raise InputError("--task", "not be 1", task)
    return 1 // (task - 2)


def die(shared: Any, report: Report, task: int) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


@dataclass
class Sum(Job):
    number: int
    answers: list[int] = field(default_factory=list)
    value: int | None = None

    @property
    def name(self) -> str:
        return f"job {self.number}"

    def task(self) -> int:
        self.answers.clear()
        return self.number

    def on_message(self, message: int) -> int:
        self.answers.append(message)
        return 10 * message

    def done(self, value: int) -> None:
        self.value = value


def meet(shared: Any, report: Report, task: int) -> int:
    """Waits for the others."""
    while not report(task):
        time.sleep(0.02)
    return task


@dataclass
class Guest(Job):
    number: int
    here: set[int]
    number_of_guests: int

    @property
    def name(self) -> str:
        return f"guest {self.number}"

    def task(self) -> int:
        return self.number

    def on_message(self, message: int) -> bool:
        self.here.add(message)
        return len(self.here) == self.number_of_guests

    def done(self, value: int) -> None:
        pass


def start_workers(runner: Runner, count: int = 2) -> None:
    """Has every node at work: until then, one that is killed may cost nothing."""
    here: set[int] = set()
    runner.run(meet, None, [Guest(number, here, count) for number in range(count)])


def evaluation(world: World, runner: Runner, **options: Any) -> Evaluation:
    policies = [make_policy("fifo-swap"), make_policy("cost-greedy")]
    return evaluate(world, policies, range(6), runner=runner, **options)


def figures(evaluation: Evaluation) -> list[Any]:
    """All that an evaluation holds but what the clock on the wall said."""
    plain = evaluation.to_dict()
    for policy in plain["policies"].values():
        del policy["simulated"]["decision_mean_s"]
    return [plain, *([{**row, "decision_s": 0} for row in log.rows] for log in evaluation.logs())]


@needs_ray
def test_jobs_talk_to_the_driver_here_and_on_a_cluster(nodes: Nodes, victim: Any) -> None:
    for ray in (None, nodes.address):
        jobs = [Sum(number) for number in range(5)]
        with open_runner(ray) as runner:
            for shared in (1, 2):  # workers are used again
                runner.run(add_up, shared, jobs)
                assert [job.value for job in jobs] == [shared + 10 * sum(range(n)) for n in range(5)]
                assert [job.answers for job in jobs] == [list(range(n)) for n in range(5)]
        assert runner.lost == []


def look(shared: Any, report: Report, task: Any) -> list[Any]:
    return [task, [given.flags.writeable for given in (shared, report(task), task)]]


@dataclass
class Look(Job):
    name = "look"
    writable: list[bool] = field(default_factory=list)

    def task(self) -> Any:
        return np.zeros(3)

    def on_message(self, message: Any) -> Any:
        self.writable.append(message.flags.writeable)
        return message

    def done(self, value: list[Any]) -> None:
        self.writable += [value[0].flags.writeable, *value[1]]


@needs_ray
def test_arrays_arrive_as_they_are_here_so_that_nothing_is_compiled_for_others(nodes: Nodes) -> None:
    for ray in (None, nodes.address):
        job = Look()
        with open_runner(ray) as runner:
            runner.run(look, np.zeros(3), [job])
        assert job.writable == [True] * 5


@needs_ray
def test_errors_on_a_worker_are_the_drivers(nodes: Nodes) -> None:
    with open_runner(nodes.address) as runner:
        with pytest.raises(JobError, match=r"--task must not be 1\. Got 1 instead") as caught:
            runner.run(refuse, None, [Sum(1)])
        assert caught.value.exit_code == 2
        with pytest.raises(RuntimeError, match=r"job 2 failed on its worker:\n(.*\n)*ZeroDivisionError"):
            runner.run(refuse, None, [Sum(2)])
        with pytest.raises(WorkersLostError, match="job 3 lost its worker 3 times"):
            runner.run(die, None, [Sum(3)])


@needs_ray
def test_a_node_that_is_killed_costs_an_evaluation_nothing(
    nodes: Nodes, victim: Any, fake_world: World
) -> None:
    seen: list[str] = []

    def kill(text: str, done: int, total: int) -> None:
        seen.append(text)
        if len(seen) == 4:
            nodes.kill(victim)

    with open_runner(nodes.address) as runner:
        start_workers(runner)
        shared = evaluation(fake_world, runner, on_progress=kill)
    assert len(seen) == len(set(seen)) == 12
    assert len(runner.lost) == 1
    assert figures(shared) == figures(evaluation(fake_world, Runner()))


@needs_ray
def test_a_node_that_is_killed_costs_a_search_nothing(
    nodes: Nodes, victim: Any, fake_world: World, tmp_path: Path
) -> None:
    pytest.importorskip("optuna", reason="tuning is an extra")
    policies = [FifoCollated, CostGreedy]
    seen: list[str] = []

    def kill(name: str, done: int, best: float) -> None:
        seen.append(name)
        if len(seen) == 4:
            nodes.kill(victim)

    storage = tmp_path / "tune.journal"
    with open_runner(nodes.address) as runner:
        start_workers(runner)
        shared = tune_all(policies, [fake_world], range(4), 5, storage=storage, runner=runner, on_trial=kill)
    assert len(seen) == 10
    assert len(runner.lost) == 1
    alone = tune_all(policies, [fake_world], range(4), 5)
    for name, result in alone.items():
        pd.testing.assert_frame_equal(shared[name].trials, result.trials)


def train_together(shared: Any, report: Report, task: Any) -> Any:
    """Trains, and after each message asks whether it may go on."""
    from shunter.train.seeds import train_seed

    def tell(message: Any) -> None:
        may_go_on = report(message)
        while not may_go_on:
            time.sleep(0.02)
            may_go_on = report(None)

    return train_seed(shared, tell, task)


@needs_ray
def test_a_node_that_is_killed_costs_a_training_what_is_behind_its_checkpoint(
    nodes: Nodes, victim: Any, fake_world: World, tmp_path: Path
) -> None:
    from shunter.train.result import Curve, TrainResult
    from shunter.train.search.checkpoint import read_search
    from shunter.train.seeds import SeedsShared, SeedTraining, TrainingTasks, train_seed

    ground = TrainingTasks([fake_world], [])
    settings = EvolutionSettings(generations=10, pairs=2, episodes=1, validate_every=2)
    results: dict[int, TrainResult] = {}
    seen: dict[int, list[float]] = {0: [], 1: []}

    class Seed(SeedTraining):
        def on_message(self, message: Any) -> Any:
            """Whether to go on: the kill waits until both have a checkpoint, and they for the kill."""
            if message is not None:
                super().on_message(message)
            if victim not in nodes.cluster.worker_nodes:
                return True
            if all(shares and shares[-1] >= 0.2 for shares in seen.values()):
                nodes.kill(victim)
            return seen[self.settings.seed][-1] < 0.2

    def job(seed: int) -> SeedTraining:
        def follow(share: float, point: Curve) -> None:
            seen[seed].append(share)

        checkpoint = tmp_path / f"{seed}.checkpoint"
        kept = results.__setitem__
        return Seed(replace(settings, seed=seed), checkpoint, follow, lambda value: kept(seed, value))

    with open_runner(nodes.address) as runner:
        runner.run(train_together, SeedsShared([ground]), [job(0), job(1)])
    assert len(runner.lost) == 1
    # Nobody began anew: each had its first generation once, and went on from a checkpoint.
    assert [shares.count(0.1) for shares in seen.values()] == [1, 1]
    for seed, result in results.items():
        path = tmp_path / f"alone-{seed}.checkpoint"
        alone: list[TrainResult] = []
        job_here = SeedTraining(replace(settings, seed=seed), path, lambda share, point: None, alone.append)
        Runner().run(train_seed, SeedsShared([ground]), [job_here])
        assert [(c.steps, c.ratio) for c in result.curve] == [(c.steps, c.ratio) for c in alone[0].curve]
        kept, expected = (read_search(p, {}) for p in (tmp_path / f"{seed}.checkpoint", path))
        assert kept.state["generation"] == expected.state["generation"] == 10
        for key, array in expected.arrays.items():
            np.testing.assert_array_equal(kept.arrays[key], array)


@needs_ray
def test_ctrl_c_keeps_the_policies_that_are_complete(nodes: Nodes, fake_world: World) -> None:
    def interrupt(text: str, done: int, total: int) -> None:
        if done > 0.7 * total:
            raise KeyboardInterrupt

    with open_runner(nodes.address) as runner:
        cut = evaluation(fake_world, runner, on_progress=interrupt)
    assert cut.interrupted
    assert set(cut.simulated) == {"fifo-swap"}
    assert len(cut.simulated["fifo-swap"]) == 6


def test_an_error_of_a_job_here_keeps_what_was_done() -> None:
    jobs = [Sum(3), Sum(1)]
    with pytest.raises(ShunterError, match="--task"):
        Runner().run(refuse, None, jobs)
    assert jobs[0].value == 1
