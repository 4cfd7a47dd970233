from __future__ import annotations

from dataclasses import replace

import pytest

from shunter.engines.base import (
    CheckpointError,
    EngineError,
    LoadResult,
    MemoryReport,
    RequestError,
)
from shunter.engines.fake.engine import FakeEngine, LinearDurations
from shunter.eval.execution.device_executor import STARTS, Deadline, DeviceExecutor
from shunter.eval.execution.operations import Eviction, Join, Operation
from tests.faulty_engines import Fate, FaultyEngine

LOAD = Operation("a", load=("a.gguf", 9), context_tokens=64, max_batch=2)
RUN = Operation("a", joins=(Join("0", "prefill", [1, 2, 3], 4),), max_steps=8)


def device_executor(start: object, **options: object) -> DeviceExecutor:
    made = DeviceExecutor(0, "d0", {"a": "one", "b": "two", "c": "one"}, start, **options)  # type: ignore[arg-type]
    made.open()
    return made


def test_there_is_a_worker_for_each_engine() -> None:
    started: list[str] = []

    def start(worker: str) -> FakeEngine:
        started.append(worker)
        return FakeEngine()

    two = device_executor(start)
    assert started == ["one", "two"]
    assert two.engine("a") is two.engine("c") is not two.engine("b")
    assert two.run(LOAD, 1.0).fault is None
    assert not two.is_empty
    two.clear(["a"], [])
    assert two.is_empty


def test_only_the_engine_that_failed_is_started_again() -> None:
    fates = {"one": Fate({"killed": 1.0}, calls=("decode",)), "two": Fate({})}
    two = device_executor(lambda worker: FaultyEngine(fates[worker]), now_s=lambda: 0.0)
    two.run(LOAD, 1.0)
    two.run(replace(LOAD, model="b"), 1.0)
    other = two.engine("b")
    outcome = two.run(RUN, 1.0)
    assert outcome.fault is not None
    assert outcome.fault.kind == "killed"
    assert outcome.fault.lost == ("a", "c")
    assert outcome.tokens == {}
    assert two.engine("b") is other
    assert two.memory().device_bytes == other.memory().device_bytes > 0


def test_what_an_operation_was_evicting_is_lost_with_it() -> None:
    fates = {"one": Fate({"killed": 1.0}, calls=("load",)), "two": Fate({})}
    two = device_executor(lambda worker: FaultyEngine(fates[worker]), now_s=lambda: 0.0)
    two.run(replace(LOAD, model="b"), 1.0)
    outcome = two.run(replace(LOAD, evictions=(Eviction("b", ()),)), 1.0)
    assert outcome.fault is not None
    assert set(outcome.fault.lost) == {"a", "b", "c"}
    assert two.is_empty


def test_what_can_never_work_is_not_tried_again() -> None:
    one = device_executor(lambda _: FakeEngine())
    with pytest.raises(RequestError, match="'a' is not resident"):
        one.run(RUN, 1.0)


def test_an_engine_that_cannot_be_started_again_ends_it() -> None:
    starts = []

    def start(worker: str) -> FakeEngine:
        starts.append(worker)
        if len(starts) > 2:
            raise EngineError("no more")
        return FaultyEngine(Fate({"killed": 1.0}))

    two = device_executor(start)
    with pytest.raises(EngineError, match="no more"):
        two.run(LOAD, 1.0)
    assert len(starts) == 2 + STARTS


class Heavy(FakeEngine):
    """Takes twice the device memory that it said it would."""

    def memory(self) -> MemoryReport:
        report = super().memory()
        return MemoryReport(2 * report.device_bytes, report.host_bytes)


def test_the_budget_is_enforced_by_measurement() -> None:
    size = LinearDurations().device_bytes("a", 9)
    two = device_executor(lambda _: Heavy(), budget_bytes=3 * size)
    assert two.run(LOAD, 1.0).fault is None
    fault = two.run(replace(LOAD, model="c"), 1.0).fault
    assert fault is not None
    assert fault.kind == "out of memory"
    assert f"took {4 * size / 1e6:.0f} MB, as measured" in fault.reason
    assert two.memory().device_bytes == 0


def test_deadlines_are_generous() -> None:
    assert Deadline().of(0.1) == Deadline().least_s
    assert Deadline(factor=10.0, least_s=5.0).of(2.0) == 20.0


def test_errors_of_other_kinds_keep_their_type() -> None:
    class Broken(FakeEngine):
        def load(self, *args: object, **options: object) -> LoadResult:
            raise CheckpointError("a.gguf: no such file")

    with pytest.raises(CheckpointError):
        device_executor(lambda _: Broken()).run(LOAD, 1.0)
