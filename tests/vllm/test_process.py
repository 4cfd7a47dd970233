"""A process for each model, as a restarted server has it."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from shunter.catalog.devices import parse_device
from shunter.engines.base import CheckpointError, DeviceMemoryError, EngineError
from shunter.engines.caller.client import WorkerEngine
from tests.engines.contract import SPEC, generate, load, prompt

pytestmark = pytest.mark.engine


@pytest.fixture(scope="module")
def engine(vllm_python: str) -> Iterator[WorkerEngine]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SHUNTER_VLLM_PROCESS_PER_MODEL", "1")
        with WorkerEngine("vllm", parse_device("cpu:1-threads-60MB"), python=vllm_python) as engine:
            yield engine


@pytest.fixture(scope="module")
def checkpoint(written: Callable[..., Path]) -> str:
    return str(written("F32"))


def test_a_load_starts_a_process_and_an_unload_ends_it(
    engine: WorkerEngine, worker: WorkerEngine, checkpoint: str
) -> None:
    assert engine.capabilities().engine_version.endswith(" (process per model)")
    before = engine.memory()
    (own,) = engine.pids()
    loaded = load(engine, "mine", checkpoint)
    assert (loaded.includes_process_start, loaded.total_layers) == (True, SPEC.total_layers)
    assert loaded.memory.device_bytes - before.device_bytes > 4 * SPEC.params
    _, child = engine.pids()
    assert psutil.Process(child).ppid() == own
    tokens = generate(engine, "mine", "r", prompt(1), 12)
    engine.drop_kv("mine", "r")
    tokens += generate(engine, "mine", "r", prompt(2), 5)
    engine.prefill("mine", "s", prompt(3))
    assert len(engine.decode("mine", {"r": 4, "s": 2}, max_steps=4).step_end_s) == 4
    with pytest.raises(DeviceMemoryError, match="'more' needs"):
        load(engine, "more", checkpoint)
    engine.unload("mine")
    assert engine.pids() == [own]
    assert engine.memory().device_bytes - before.device_bytes < 4 * SPEC.params

    assert not load(worker, "same", checkpoint).includes_process_start
    expected = generate(worker, "same", "r", prompt(1), 12)
    worker.drop_kv("same", "r")
    expected += generate(worker, "same", "r", prompt(2), 5)
    worker.unload("same")
    assert tokens == expected


def test_a_process_that_dies_is_reported_and_its_model_can_be_loaded_again(
    engine: WorkerEngine, checkpoint: str
) -> None:
    load(engine, "mine", checkpoint)
    own, child = engine.pids()
    os.kill(child, signal.SIGKILL)
    with pytest.raises(EngineError, match="vLLM process"):
        engine.prefill("mine", "r", prompt(1))
    with pytest.raises(EngineError, match="vLLM process"):
        engine.unload("mine")
    assert engine.pids() == [own]
    load(engine, "mine", checkpoint)
    assert engine.prefill("mine", "r", prompt(1)).tokens_prefilled == len(prompt(1))
    engine.unload("mine")


def test_a_broken_checkpoint_leaves_no_process(engine: WorkerEngine, written: Callable[..., Path]) -> None:
    broken = written("F32")
    file = broken / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-1000])
    own = engine.pids()
    with pytest.raises(CheckpointError):
        load(engine, "broken", str(broken))
    assert engine.pids() == own
