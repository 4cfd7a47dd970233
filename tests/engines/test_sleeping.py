"""Engines that can sleep: the fake one, and what an executor makes of it."""

from __future__ import annotations

from unittest.mock import create_autospec

import pytest

from shunter.engines.base import Engine, EngineError, RequestError
from shunter.engines.fake.engine import FakeEngine, LinearDurations
from shunter.engines.sleeping import SleepingEngine
from shunter.eval.execution.device_executor import DeviceExecutor
from shunter.eval.execution.operations import Eviction, Operation

SIZES = {"context_tokens": 64, "max_batch": 2}
KEPT_BYTES = 1_000_000
MODEL_BYTES = 9 * 10_000_000


@pytest.fixture
def engine() -> SleepingEngine:
    return FakeEngine()


def test_who_sleeps_keeps_little_wakes_as_it_was_and_is_ended_by_unloading(engine: SleepingEngine) -> None:
    engine.load("a", "a.gguf", 9, **SIZES)
    engine.prefill("a", "0", [1, 2, 3])
    engine.save_kv("a", "0")
    engine.prefill("a", "1", [1, 2, 3])
    slept = engine.fall_asleep("a", 1)
    assert slept.end_s >= slept.start_s
    memory = engine.memory()
    assert memory.device_bytes == KEPT_BYTES
    assert memory.host_bytes >= MODEL_BYTES
    for other in ({"context_tokens": 32, "max_batch": 2}, {"context_tokens": 64, "max_batch": 1}):
        with pytest.raises(RequestError, match="'a' sleeps as it was loaded otherwise"):
            engine.load("a", "a.gguf", 9, **other)
    with pytest.raises(RequestError, match="loaded otherwise"):
        engine.load("a", "a.gguf", 4, **SIZES)
    engine.load("a", "a.gguf", 9, **SIZES)
    assert engine.memory().device_bytes == MODEL_BYTES
    engine.restore_kv("a", "0")
    with pytest.raises(RequestError, match="unknown"):
        engine.save_kv("a", "1")
    engine.fall_asleep("a", 2)
    with pytest.raises(RequestError, match="not resident"):
        engine.fall_asleep("a", 2)
    engine.unload("a")
    assert engine.memory().device_bytes == 0
    with pytest.raises(RequestError, match="not resident"):
        engine.unload("a")


def test_a_level_of_sleep_that_is_none_is_refused_and_nothing_happens(engine: SleepingEngine) -> None:
    engine.load("a", "a.gguf", 9, **SIZES)
    with pytest.raises(RequestError, match="level 1 or 2, not 3"):
        engine.fall_asleep("a", 3)
    assert engine.memory().device_bytes == MODEL_BYTES


def test_waking_is_quicker_than_loading_and_counts_what_others_keep() -> None:
    engine, costs = FakeEngine(memory_bytes=MODEL_BYTES + KEPT_BYTES), LinearDurations()
    loaded = engine.load("a", "a.gguf", 9, **SIZES)
    for level in (1, 2):
        engine.fall_asleep("a", level)
        woken = engine.load("a", "a.gguf", 9, **SIZES)
        assert woken.duration_s == pytest.approx(costs.wake_s("a", "a.gguf", 9, level))
        assert woken.duration_s < loaded.duration_s
    engine.fall_asleep("a", 1)
    engine.load("b", "b.gguf", 9, **SIZES)
    with pytest.raises(EngineError, match="90 of 91 MB are taken"):
        engine.load("a", "a.gguf", 9, **SIZES)


def test_an_executor_counts_what_sleepers_keep_and_engines_that_cannot_sleep_say_so() -> None:
    executor = DeviceExecutor(0, "d0", {"a": "one"}, lambda _: FakeEngine())
    executor.open()
    load = Operation("a", load=("a.gguf", 9), **SIZES)
    executor.run(load, 1.0)
    executor.run(Operation("a", evictions=(Eviction("a", (), 1),)), 1.0)
    assert (executor.is_empty, executor.memory().device_bytes) == (False, KEPT_BYTES)
    assert executor.run(load, 1.0).memory.device_bytes == MODEL_BYTES
    executor.clear(["a"], [])
    assert executor.is_empty
    other = DeviceExecutor(0, "d0", {"a": "one"}, lambda _: create_autospec(Engine, instance=True))
    other.open()
    with pytest.raises(EngineError, match="'a' cannot be told to sleep"):
        other.fall_asleep("a", 1)
