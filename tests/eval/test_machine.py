"""The machine while real runs go on: the sentinel, what is said of it, and what it takes out of the error."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pytest

from shunter.agents.registry import make_policy
from shunter.engines.base import EngineError
from shunter.envs.world.world import World, make_world
from shunter.errors import InputError, UnknownNameError
from shunter.eval import evaluation as module
from shunter.eval.evaluation import Evaluation, evaluate
from shunter.eval.execution import sentinel as sentinel_module
from shunter.eval.execution.course import MachineCourse, Stretch
from shunter.eval.execution.faults.chaos import parse_chaos
from shunter.eval.execution.order import Turn
from shunter.eval.execution.runs import simulate
from shunter.eval.execution.sentinel import PARTS, Reading, Sentinel
from shunter.eval.execution.slowdowns import slowed
from shunter.eval.fidelity.machine_words import machine_lines, machine_summary
from shunter.eval.quiet import LONGEST_WAIT_S, check_quiet
from shunter.models.performance import PerformanceModel
from shunter.models.state import ProfiledWork
from shunter.profiling.meters.watch import BUSY_CORES, Look, MachineWatch
from shunter.report.evaluation.machine import machine_section
from tests.fake_executor import TableDurations, execute_on, fake_device_executor

FACTOR = 1.7


@dataclass(frozen=True)
class SlowMachine(TableDurations):
    """Everything takes longer than was predicted, alike."""

    def load_s(self, model: str, checkpoint: str, gpu_layers: int) -> float:
        return FACTOR * super().load_s(model, checkpoint, gpu_layers)

    def unload_s(self, model: str, gpu_layers: int) -> float:
        return FACTOR * super().unload_s(model, gpu_layers)

    def prefill_s(self, model: str, gpu_layers: int, tokens: int) -> float:
        return FACTOR * super().prefill_s(model, gpu_layers, tokens)

    def decode_step_s(self, model: str, gpu_layers: int, batch: int, context_tokens: float) -> float:
        return FACTOR * super().decode_step_s(model, gpu_layers, batch, context_tokens)

    def kv_save_s(self, model: str, gpu_layers: int, tokens: int) -> float:
        return FACTOR * super().kv_save_s(model, gpu_layers, tokens)

    def kv_restore_s(self, model: str, gpu_layers: int, tokens: int) -> float:
        return FACTOR * super().kv_restore_s(model, gpu_layers, tokens)


def executors(world: World, **options: Any) -> list[Any]:
    return [
        fake_device_executor(world, d, SlowMachine(world=world, device=d), **options)
        for d in range(world.devices)
    ]


@pytest.fixture(scope="module")
def slow(fake_world: World) -> Iterator[Evaluation]:
    """Two policies on a machine that is slower than when it was profiled."""
    patch = pytest.MonkeyPatch()
    patch.setattr(module, "bind_footprints", lambda world, engines: world)
    patch.setattr(
        module,
        "run_real",
        lambda world, policy, seed, engines, **_: execute_on(world, policy, seed, executors(world)),
    )
    policies = [make_policy(name) for name in ("fifo-swap", "cost-greedy")]
    yield evaluate(fake_world.with_guard(None), policies, [0, 1], engines=executors(fake_world))
    patch.undo()


def test_the_sentinel_measures_how_much_slower_each_part_is_and_leaves_engines_empty(
    fake_world: World,
) -> None:
    engines = executors(fake_world)
    sentinel = Sentinel(fake_world, engines)
    sentinel.measure()
    assert [reading.device for reading in sentinel.readings] == ["d0", "d1"]
    for part in (None, *PARTS):
        assert sentinel.slowdown(0.0, 1.0, part) == pytest.approx(FACTOR)
    assert all(engine.is_empty and engine.memory().device_bytes == 0 for engine in engines)


def test_the_sentinel_is_no_run_that_chaos_may_strike(fake_world: World) -> None:
    sentinel = Sentinel(fake_world, executors(fake_world, chaos=parse_chaos("kill=1")))
    sentinel.measure()
    assert sentinel.readings == []
    assert math.isnan(sentinel.slowdown(0.0, 1.0))


@pytest.mark.parametrize("at", ["load", "prefill"])
def test_an_engine_that_fails_under_the_sentinel_spoils_no_run(
    fake_world: World, monkeypatch: pytest.MonkeyPatch, at: str
) -> None:
    engines = executors(fake_world)

    def fail(*_: object, **__: object) -> None:
        raise EngineError("no more")

    for engine in engines[0].workers.values():
        monkeypatch.setattr(engine, at, fail)
    sentinel = Sentinel(fake_world, engines)
    sentinel.measure()
    assert [reading.device for reading in sentinel.readings] == ["d1"]
    assert engines[0].is_empty
    assert engines[0].memory().device_bytes == 0


def test_the_sentinel_takes_its_share_of_the_time_and_no_more(fake_world: World) -> None:
    now = iter(range(1000))
    sentinel = Sentinel(fake_world, executors(fake_world)[:1], now_s=lambda: float(next(now)))
    sentinel.measure()
    first, spent_s = len(sentinel.readings), sentinel.spent_s
    sentinel.measure(engine_s=2 * spent_s)
    assert len(sentinel.readings) == first
    sentinel.measure(engine_s=2.1 * spent_s / sentinel_module.MOST_SHARE)
    assert len(sentinel.readings) == 2 * first


@pytest.fixture
def profiled(fake_world: World) -> World:
    """A world of which the profile measured one piece of work on each device, at half of its time."""

    def half(device: int) -> ProfiledWork:
        durations = TableDurations(world=fake_world, device=device)
        model, layers = fake_world.scenario.models[1], fake_world.gpu_layers[1][0]
        steps_s = [durations.decode_step_s(model.name, layers, 1, 32 + n) for n in range(1, 5)]
        return ProfiledWork(
            engine=fake_world.scenario.engine,
            device=fake_world.scenario.devices[device].hardware_name,
            model=model.name,
            gpu_layers=layers,
            prompt_tokens=32,
            steps=4,
            prefill_s=durations.prefill_s(model.name, layers, 32) / 2,
            decode_s=sum(steps_s) / 2,
            half_width=0.02,
        )

    return replace(fake_world, profiled={(d, 1, 0): half(d) for d in range(fake_world.devices)})


def test_the_machine_is_compared_with_what_the_profile_measured(profiled: World) -> None:
    sentinel = Sentinel(profiled, executors(profiled))
    sentinel.measure()
    assert [(one.profiled, one.uncertainty) for one in sentinel.readings] == [(True, 0.02)] * profiled.devices
    assert sentinel.slowdown(0.0, 1.0) == pytest.approx(2 * FACTOR)
    assert sentinel.slowdown(0.0, 1.0, "load") == pytest.approx(FACTOR)


def test_what_was_profiled_is_found_by_where_it_was_and_how_large(
    profiled: World, fake_performance: PerformanceModel
) -> None:
    one = next(iter(profiled.profiled.values()))
    others = (("engine", "transformers"), ("device", "cpu:9-threads"), ("gpu_layers", 3), ("model", "large"))
    works = (one, *(one.model_copy(update={name: value}) for name, value in others))
    state = fake_performance.state_.model_copy(update={"profiled": works})
    known = PerformanceModel()._set(state)
    assert make_world(profiled.scenario, known).profiled == dict.fromkeys(profiled.profiled, one) | {
        (d, 2, level): works[-1]
        for d in range(profiled.devices)
        for level, layers in enumerate(profiled.gpu_layers[2])
        if layers == one.gpu_layers
    }


def test_work_that_no_longer_fits_is_not_measured_again(profiled: World) -> None:
    long = {at: one.model_copy(update={"prompt_tokens": 10**6}) for at, one in profiled.profiled.items()}
    sentinel = Sentinel(replace(profiled, profiled=long), executors(profiled))
    sentinel.measure()
    assert not any(one.profiled for one in sentinel.readings)
    assert sentinel.slowdown(0.0, 1.0) == pytest.approx(FACTOR)


def reading(at_s: float, factor: float, device: str = "d") -> Reading:
    return Reading(at_s, device, dict.fromkeys(PARTS, factor), dict.fromkeys(PARTS, 1.0), 0.1)


def test_between_measurements_its_course_is_interpolated(fake_world: World) -> None:
    sentinel = Sentinel(fake_world, [], [reading(0, 1.0), reading(10, 4.0), reading(0, 1.0, "e")])
    assert sentinel.slowdown(0, 10, device="d") == pytest.approx(2.0)
    assert sentinel.slowdown(5, 5, device="d") == pytest.approx(2.0)
    assert sentinel.slowdown(10, 20, device="d") == pytest.approx(4.0)
    assert sentinel.slowdown(10, 20) == pytest.approx(2.0)  # of both devices


def test_a_slow_machine_is_told_from_a_wrong_simulator(slow: Evaluation) -> None:
    result = slow.to_dict()
    assert result["machine"]["slowdown"] == pytest.approx(FACTOR)
    for policy in result["policies"].values():
        assert policy["simulation_error"]["response_mean_s"] < -0.3
        assert policy["corrected_error"]["response_mean_s"] == pytest.approx(0.0, abs=0.02)
    assert all(run.slowdown == pytest.approx(FACTOR) for run in slow.real_runs)
    (line,) = machine_lines(result)
    assert line.startswith("The machine was 1.70 × slower than when profiled (")
    assert "corrected for that, simulation is off by 0." in line
    assert machine_summary(result)["corrected_response_error_median"] < 0.02


def test_a_world_that_is_slower_takes_longer_by_as_much(fake_world: World) -> None:
    factors = [{"load": 2.0, "prefill": 3.0, "decode": 4.0}] * fake_world.devices
    changed, tables = slowed(fake_world, factors).tables, fake_world.tables
    for name, factor in (("load_s", 2), ("unload_s", 2), ("prefill_s", 3), ("step_s", 4), ("kv_save_s", 4)):
        np.testing.assert_allclose(getattr(changed, name), factor * getattr(tables, name))
    one = slowed(fake_world, [dict.fromkeys(PARTS, 1.0)] * fake_world.devices)
    policy = make_policy("fifo-swap")
    assert simulate(one, policy, 0).requests.equals(simulate(fake_world, policy, 0).requests)


def test_the_page_shows_the_course_and_both_errors(slow: Evaluation) -> None:
    result = slow.to_dict()
    section = machine_section(result)
    assert section is not None
    assert "took 1.70 times as long as predicted, the sentinel around them 1.70" in " ".join(section.notes)
    errors, runs = section.tables
    assert [row[0] for row in errors.rows] == slow.policies
    assert [row[1] for row in runs.rows] == [slow.policies[turn.policy] for turn in slow.order]
    sentinels = [t for t in section.figures[0].data if t.name.startswith("sentinel on ")]
    assert [len(trace.x) for trace in sentinels] == [len(result["machine"]["sentinel"]) / 2] * 2
    assert machine_section({"policies": {}}) is None  # of a version that did not watch


def told(**machine: Any) -> list[str]:
    known = {"cores": 2, "others_cores": 0.9, "stolen_cores": 0.0, "slowdown": 1.7, "uncertainty": 0.1}
    policies = {"p": {"simulation_error": {"response_mean_s": -0.4}, "corrected_error": {}}}
    return machine_lines({"machine": {**known, "runs": [{}], **machine}, "policies": policies})


@pytest.mark.parametrize(
    ("machine", "said"),
    [
        ({}, "The machine was 1.70 × slower than when profiled (other programs used 0.9 of 2 cores"),
        ({"slowdown": 0.5}, "The machine was 2.00 × quicker than when profiled"),
        ({"slowdown": 1.04}, "The machine was about as fast as when profiled (other"),
        (
            {"slowdown": 1.09},
            "1.09 × slower than when profiled if the sentinel's work is predicted right (± 10%) (other",
        ),
        (
            {"slowdown": 1.09, "profiled": True},
            "1.09 × slower than when profiled, within what it took by chance then (± 10%) (other",
        ),
        (
            {"slowdown": None},
            "Note: the machine was busy (other programs used 0.9 of 2 cores); how much slower",
        ),
        ({"stolen_cores": 0.5}, "used 0.9 of 2 cores, other machines 0.5)."),
        ({"others_cores": None}, "(what other programs used is not known)"),
    ],
)
def test_what_is_said_of_the_machine(machine: dict[str, Any], said: str) -> None:
    (line,) = told(**machine)
    assert said in line


def test_nothing_is_said_where_nothing_is_known() -> None:
    assert told(slowdown=None, others_cores=0.0) == []
    assert told(runs=[]) == []
    assert machine_lines({"policies": {}}) == []


def looks(*cores: float) -> Callable[[], float]:
    values = iter(cores)
    return lambda: next(values)


def test_a_machine_that_is_not_quiet_is_waited_for_warned_of_or_refused() -> None:
    waits: list[float] = []
    assert check_quiet("wait", look=looks(1.0, 1.0, 0.0), pause=waits.append) == []
    assert len(waits) == 2
    assert check_quiet("refuse", look=looks(0.9 * BUSY_CORES)) == []
    assert check_quiet(None, look=looks()) == []
    (line,) = check_quiet("warn", look=looks(1.2))
    assert line.startswith("the machine is not quiet: other programs use 1.2 of ")
    with pytest.raises(InputError, match=r"--quiet-machine must find a machine .* use less than 0.25 cores"):
        check_quiet("refuse", look=looks(1.2))
    with pytest.raises(InputError, match="--quiet-machine"):
        check_quiet("wait", look=lambda: 1.0, pause=waits.append)
    assert sum(waits) >= LONGEST_WAIT_S
    with pytest.raises(UnknownNameError):
        check_quiet("perhaps", look=looks(0.0))


def test_what_other_programs_did_is_weighed_by_time() -> None:
    watch = MachineWatch()
    watch.looks = [
        Look(0.0, 2.0, 1.0, math.nan, 0.5, 2000.0, math.nan),
        Look(2.0, 4.0, 0.0, 0.2, 0.1, 2000.0, math.nan),
    ]
    found = watch.between(1.0, 4.0)
    assert found.others_cores == pytest.approx(1 / 3)
    assert found.stolen_cores == pytest.approx(0.2)
    assert math.isnan(found.throttled)
    assert math.isnan(watch.between(9.0, 10.0).others_cores)


def test_a_watch_looks_at_least_once_and_ends() -> None:
    with MachineWatch(every_s=60.0) as watch:
        pass
    assert watch.looks
    assert watch.looks[-1].others_cores >= 0


def test_runs_that_were_cut_short_have_no_stretch(fake_world: World) -> None:
    course = MachineCourse(Sentinel(fake_world, []), MachineWatch())
    with pytest.raises(KeyboardInterrupt), course.run(Turn(0, 0, 0, 0)):
        raise KeyboardInterrupt
    assert course.stretches == []
    assert math.isnan(course.slowdown(Stretch(Turn(0, 0, 0, 0), 0.0, 1.0)))
    assert course.to_dict(["p"])["runs"] == []
