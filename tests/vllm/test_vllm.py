"""What the contract leaves open: levels, broken checkpoints, types, settings that do not fit the device."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from shunter.catalog.devices import parse_device
from shunter.engines.base import (
    CheckpointError,
    DeviceMemoryError,
    EngineUnavailableError,
    RequestError,
    UnsupportedLevelError,
)
from shunter.engines.caller.client import WorkerEngine
from tests.engines.contract import SPEC, generate, load, prompt

pytestmark = pytest.mark.engine


@pytest.fixture
def checkpoint(written: Callable[..., Path]) -> Path:
    """Small, and to be spoilt."""
    return written("F32", replace(SPEC, layers=2))


@pytest.mark.parametrize("gpu_layers", [0, 1, 2])
def test_refuses_to_split_a_model_on_the_cpu(worker: WorkerEngine, checkpoint: Path, gpu_layers: int) -> None:
    with pytest.raises(UnsupportedLevelError, match="holds all of a model"):
        load(worker, "split", str(checkpoint), gpu_layers)


def test_refuses_a_truncated_file_and_goes_on(worker: WorkerEngine, checkpoint: Path) -> None:
    file = checkpoint / "model.safetensors"
    whole = file.read_bytes()
    file.write_bytes(whole[:-1000])
    with pytest.raises(CheckpointError, match="F32"):
        load(worker, "mine", str(checkpoint))
    file.write_bytes(whole)
    load(worker, "mine", str(checkpoint))
    assert len(generate(worker, "mine", "r", prompt(1), 4)) == 4
    worker.unload("mine")


def test_refuses_weights_of_another_shape(worker: WorkerEngine, checkpoint: Path) -> None:
    path = checkpoint / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"intermediate_size": 512}))
    with pytest.raises(CheckpointError):
        load(worker, "mine", str(checkpoint))
    with pytest.raises(RequestError):
        worker.unload("mine")


def test_refuses_more_context_than_the_model_has(worker: WorkerEngine, checkpoint: Path) -> None:
    path = checkpoint / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"max_position_embeddings": 64}))
    with pytest.raises(RequestError, match="64 tokens"):
        load(worker, "mine", str(checkpoint))


@pytest.mark.parametrize("quantization", ["BF16", "F16"])
def test_half_precision_runs_and_a_parked_request_goes_on_identically(
    worker: WorkerEngine, written: Callable[..., Path], quantization: str
) -> None:
    load(worker, "half", str(written(quantization, replace(SPEC, layers=2))))
    expected = generate(worker, "half", "whole", prompt(1), 30)
    tokens = generate(worker, "half", "cut", prompt(1), 11)
    generate(worker, "half", "in between", prompt(2), 20)
    tokens += worker.decode("half", {"cut": 19}, max_steps=19).tokens["cut"]
    worker.unload("half")
    assert tokens == expected


def test_two_requests_can_run_while_a_third_waits(worker: WorkerEngine, checkpoint: Path) -> None:
    load(worker, "mine", str(checkpoint))
    expected = {}
    for seed, name in enumerate("abc"):
        expected[name] = generate(worker, "mine", name, prompt(seed), 13)
        worker.drop_kv("mine", name)
    tokens = {name: [worker.prefill("mine", name, prompt(seed)).token] for seed, name in enumerate("abc")}
    for pair in ("ab", "bc", "ca", "ba", "cb", "ac"):
        result = worker.decode("mine", dict.fromkeys(pair, 3), max_steps=3)
        assert set(result.tokens) == set(pair)
        for name in pair:
            tokens[name] += result.tokens[name]
    worker.unload("mine")
    assert tokens == expected


def test_keys_and_values_stay_where_they_are(worker: WorkerEngine, checkpoint: Path) -> None:
    load(worker, "mine", str(checkpoint))
    worker.prefill("mine", "r", prompt(1))
    with pytest.raises(RequestError, match="recompute"):
        worker.save_kv("mine", "r")
    assert len(worker.decode("mine", {"r": 2}, max_steps=2).tokens["r"]) == 2
    worker.unload("mine")


def test_a_lone_request_may_fill_whole_blocks(worker: WorkerEngine, checkpoint: Path) -> None:
    worker.load("mine", str(checkpoint), None, context_tokens=64, max_batch=1)
    assert len(generate(worker, "mine", "r", prompt(1), 64 - len(prompt(1)))) == 64 - len(prompt(1))
    worker.unload("mine")


def test_settings_are_part_of_the_version(vllm_python: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SHUNTER_VLLM_PREFIX_CACHING", "1")
    with WorkerEngine("vllm", parse_device("cpu:1-threads"), python=vllm_python) as engine:
        can = engine.capabilities()
    assert can.engine_version.endswith(" (prefix caching)")
    assert can.versions["prefix_caching"] == "1"


def test_vllm_preempted_nothing_by_itself(worker: WorkerEngine) -> None:
    """The blocks that every load asks for rule it out; see test_inside for what happens with fewer."""
    assert worker.memory().kv_preemptions == 0


def test_a_budget_holds_one_model_and_not_two(vllm_python: str, written: Callable[..., Path]) -> None:
    checkpoint = written("F32")
    device = parse_device("cpu:1-threads-40MB")
    with WorkerEngine("vllm", device, python=vllm_python) as engine:
        load(engine, "a", str(checkpoint))
        with pytest.raises(DeviceMemoryError, match="'b' needs"):
            load(engine, "b", str(checkpoint))
        engine.unload("a")
        load(engine, "b", str(checkpoint))


@pytest.mark.parametrize(
    ("variables", "device", "match"),
    [
        ({}, "loopback:1-threads", "cpu and cuda devices, not on loopback"),
        ({"SHUNTER_VLLM_SLEEP_LEVEL": "3"}, "cpu:1-threads", "must be 0 to 2"),
        ({"SHUNTER_VLLM_SLEEP_LEVEL": "1"}, "cpu:1-threads", "no sleep mode on cpu"),
        ({"SHUNTER_VLLM_PREFIX_CACHING": "yes"}, "cpu:1-threads", "must be 0 to 1"),
    ],
)
def test_refuses_what_does_not_fit_the_device(
    vllm_python: str, monkeypatch: pytest.MonkeyPatch, variables: dict[str, str], device: str, match: str
) -> None:
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(EngineUnavailableError, match=match):
        WorkerEngine("vllm", parse_device(device), python=vllm_python)
