"""Engines in processes of their own, killed and stopped on purpose: nothing is lost, nothing stays."""

from __future__ import annotations

import gc
import os
import signal
import subprocess
import sys
import threading
from collections import Counter
from dataclasses import replace
from itertools import pairwise
from typing import Any

import psutil
import pytest

from shunter.agents.registry import make_policy
from shunter.envs.scenario.scenario import Scenario
from shunter.envs.world.world import World
from shunter.errors import InputError, UnknownNameError
from shunter.eval.execution.device_executor import Deadline
from shunter.eval.execution.faults.chaos import Chaos, parse_chaos
from shunter.eval.execution.memory import tree_pss_bytes
from shunter.eval.execution.real import open_engines, run_real
from shunter.eval.execution.runs import InterruptedRun
from tests.eval.test_faults import check_answers

QUICK = {"requests": 40, "rate_per_s": 60.0, "prompt_scale": 0.01, "decode_scale": 0.02}


def changed(world: World, **changes: Any) -> World:
    data = {**world.scenario.model_dump(), **changes}
    return replace(world, scenario=Scenario.parse(data), rate_per_s=data["workload"]["rate_per_s"])


@pytest.fixture(scope="module")
def quick_world(fake_world: World) -> World:
    """So many requests that engines are busy; as the fake engine's own sizes are others, all levels fit."""
    devices = [{"name": d.name, "device": "cpu:1-threads-900MB"} for d in fake_world.scenario.devices]
    limits = {**fake_world.scenario.limits.model_dump(), "attempts": 50}
    world = changed(fake_world, workload=QUICK, devices=devices, limits=limits)
    tables = world.tables.changed(capacity_bytes=9e8)
    return replace(world, tables=tables, gpu_layers=((9, 4),) * world.models)


def test_it_is_read() -> None:
    assert parse_chaos("kill=0.05,hang=0.01") == Chaos(kill=0.05, hang=0.01)
    assert parse_chaos(" hang=1 ", seed=3) == Chaos(hang=1.0, seed=3)
    with pytest.raises(UnknownNameError, match=r"--chaos: unknown name 'kil'; did you mean kill\?"):
        parse_chaos("kil=0.1")
    for text in ("kill=often", "kill=-0.1", "kill=0.6,hang=0.6", "kill"):
        with pytest.raises(InputError, match="--chaos must give probabilities"):
            parse_chaos(text)


def test_it_strikes_as_often_as_it_says_and_the_same_operations_again() -> None:
    chaos = Chaos(kill=0.2, hang=0.1, seed=4)
    strikes = [chaos.strike(1, operation) for operation in range(4000)]
    kinds = Counter(strike.kind for strike in strikes if strike)
    assert kinds["kill"] == pytest.approx(800, abs=100)
    assert kinds["hang"] == pytest.approx(400, abs=80)
    assert strikes == [chaos.strike(1, operation) for operation in range(4000)]
    assert strikes != [chaos.strike(0, operation) for operation in range(4000)]
    assert [Chaos().strike(0, operation) for operation in range(100)] == [None] * 100


@pytest.mark.engine
def test_killed_and_stopped_workers_lose_nothing_and_leave_nothing(quick_world: World) -> None:
    others = psutil.Process().children(recursive=True)  # of tests before
    policy, deadline = make_policy("fifo-swap"), Deadline(factor=1.0, least_s=1.0)
    failures, after_bytes = 0, []
    for seed in range(4):
        chaos = Chaos(kill=0.25, hang=0.05, seed=seed)
        with open_engines(quick_world, chaos=chaos, deadline=deadline) as device_executors:
            run = run_real(quick_world, policy, 0, device_executors)
        gc.collect()
        # The workers are gone; pages that others share count as theirs come and go.
        after_bytes.append(psutil.Process().memory_full_info().uss)
        check_answers(run)
        assert run.requests.finish_s.notna().all()
        assert {f.fault.kind for f in run.failures} <= {"killed", "hung"}
        failures += len(run.failures)
    assert failures > 10
    assert set(psutil.Process().children(recursive=True)) <= set(others)
    growths_bytes = [later - earlier for earlier, later in pairwise(after_bytes)]
    assert min(growths_bytes) < 5e6, growths_bytes  # what is kept of each run is kept after every one


@pytest.mark.engine
def test_a_worker_that_hangs_is_found_out_and_the_report_says_so(quick_world: World) -> None:
    deadline = Deadline(factor=1.0, least_s=0.5)
    with open_engines(quick_world, chaos=Chaos(hang=0.05, seed=1), deadline=deadline) as device_executors:
        run = run_real(quick_world, make_policy("cost-greedy"), 1, device_executors)
    check_answers(run)
    hung = [failure for failure in run.failures if failure.fault.kind == "hung"]
    assert hung
    assert "did not answer" in hung[0].fault.reason
    assert "was killed" in hung[0].fault.reason


@pytest.mark.engine
def test_ctrl_c_keeps_what_there_is_and_ends_the_workers_though_they_hang(quick_world: World) -> None:
    others = psutil.Process().children(recursive=True)
    handler = signal.signal(signal.SIGINT, signal.default_int_handler)  # background jobs of a shell ignore it
    press = threading.Timer(1.0, os.kill, (os.getpid(), signal.SIGINT))
    hours = Deadline(least_s=3600.0)
    with open_engines(quick_world, chaos=Chaos(hang=1.0), deadline=hours) as device_executors:
        press.start()
        with pytest.raises(InterruptedRun) as caught:
            run_real(quick_world, make_policy("fifo-swap"), 0, device_executors)
    press.join()
    signal.signal(signal.SIGINT, handler)
    run = caught.value.run
    assert 1 <= len(run.log.rows) < 10
    assert run.requests.finish_s.isna().all()
    assert set(psutil.Process().children(recursive=True)) <= set(others)


def test_memory_of_the_process_tree_is_measured() -> None:
    def measured_bytes(megabytes: int) -> int:
        """Of a new process: one that has lived long takes from what it has freed."""
        code = f"import os; held = os.urandom(1 << 20) * {megabytes}; print(flush=True); input()"
        command = [sys.executable, "-c", code]
        with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
            assert process.stdout is not None
            process.stdout.readline()
            return tree_pss_bytes(process.pid)

    assert measured_bytes(50) - measured_bytes(0) == pytest.approx(50 << 20, rel=0.2)
