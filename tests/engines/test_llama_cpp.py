"""llama.cpp on the loopback device and on the CPU, in this process."""

from __future__ import annotations

import contextlib
import ctypes
import os
import random
import re
import signal
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest

from shunter.catalog.devices import parse_device
from shunter.catalog.models import get_model, scaled_model
from shunter.engines.base import (
    CheckpointError,
    DeviceMemoryError,
    Engine,
    EngineError,
    EngineUnavailableError,
    RequestError,
    UnsupportedLevelError,
)
from shunter.profiling.checkpoints.synthetic import write_checkpoint

pytest.importorskip("llama_cpp")

from shunter.engines.llama_cpp import devices as llama_devices
from shunter.engines.llama_cpp import model as llama_model
from shunter.engines.llama_cpp.devices import open_device
from shunter.engines.llama_cpp.engine import LlamaCppEngine, create
from shunter.engines.llama_cpp.gguf import read_facts
from shunter.engines.llama_cpp.native import built_in_device, built_in_devices, device_memory

pytestmark = pytest.mark.engine

SPEC = scaled_model(get_model("Qwen3-8B"), 12e6)
LEVELS = (0, SPEC.layers // 2, SPEC.total_layers)


def make_engine(device: str) -> LlamaCppEngine:
    return LlamaCppEngine(asdict(parse_device(device)))


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("llama") / "tiny.gguf"
    return str(write_checkpoint(SPEC, path, format="gguf", quantization="Q8_0").path)


@pytest.fixture(scope="module")
def engine(checkpoint: str) -> Iterator[LlamaCppEngine]:
    engine = make_engine("loopback:1-threads")
    load(engine, checkpoint, SPEC.layers // 2)  # code that is used for the first time counts as memory too
    engine.unload("m")
    yield engine
    engine.close()


@pytest.fixture
def model(engine: Engine, checkpoint: str) -> Iterator[str]:
    load(engine, checkpoint, SPEC.layers // 2)
    yield "m"
    engine.unload("m")


def load(engine: Engine, checkpoint: str, gpu_layers: int | None = None, **sizes: int) -> None:
    engine.load("m", checkpoint, gpu_layers, **{"context_tokens": 256, "max_batch": 4, **sizes})


def rewritten(checkpoint: str, path: Path, changes: dict[str, Any]) -> None:
    """Copies a GGUF file with other metadata; the tensors stay."""
    reader, writer = gguf.GGUFReader(checkpoint), gguf.GGUFWriter(path, SPEC.architecture)
    kinds = {np.uint16: "UINT16", np.uint32: "UINT32", np.float32: "FLOAT32", bool: "BOOL", str: "STRING"}
    for name, field in reader.fields.items():
        if not name.startswith("GGUF.") and name not in changes and name != "general.architecture":
            writer.add_key_value(name, field.contents(), field.types[0], *field.types[1:])
    writer.kv_data[0].pop("general.architecture", None)
    for name, value in {"general.architecture": SPEC.architecture, **changes}.items():
        writer.add_key_value(name, value, gguf.GGUFValueType[kinds[type(value)]])
    for tensor in reader.tensors:
        writer.add_tensor(tensor.name, tensor.data, raw_dtype=tensor.tensor_type)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def prompt(seed: int, length: int = 40) -> list[int]:
    return [(seed * 7919 + 31 * place * place + 5) % 256 for place in range(length)]


def generate(engine: Engine, request: str, tokens: list[int], count: int) -> list[int]:
    first = engine.prefill("m", request, tokens).token
    return [first, *engine.decode("m", {request: count - 1}, max_steps=count).tokens[request]]


def test_gpu_layers_move_memory_from_the_host_to_the_device(engine: LlamaCppEngine, checkpoint: str) -> None:
    facts = read_facts(checkpoint)
    whole_bytes = facts.device_weight_bytes(SPEC.total_layers)
    for level in LEVELS:
        before = engine.memory()
        load(engine, checkpoint, level)
        after = engine.memory()
        engine.unload("m")
        left = engine.memory()
        device_bytes = facts.device_weight_bytes(level)
        grown_bytes = after.device_bytes - before.device_bytes
        assert device_bytes <= grown_bytes <= facts.device_bytes(level, 256, 4, 512) + 2e6
        assert after.host_bytes - before.host_bytes > whole_bytes - device_bytes
        assert left.device_bytes - before.device_bytes < 2e6
        assert left.host_bytes - before.host_bytes < 4e6


def test_header_facts_add_up_to_the_file(checkpoint: str) -> None:
    facts = read_facts(checkpoint)
    weight_bytes = facts.device_weight_bytes(SPEC.total_layers) + facts.unshared_host_bytes
    size_bytes = Path(checkpoint).stat().st_size
    assert (facts.layers, facts.shape.hidden_size) == (SPEC.layers, SPEC.hidden_size)
    assert facts.shape.kv_width * SPEC.layers * 2 == SPEC.kv_bytes_per_token()
    assert facts.device_weight_bytes(1) == facts.output_bytes
    assert 0.95 * size_bytes < weight_bytes < size_bytes


@pytest.mark.parametrize("level", LEVELS)
def test_a_preempted_request_goes_on_as_if_nothing_happened(
    engine: Engine, checkpoint: str, level: int
) -> None:
    load(engine, checkpoint, level)
    expected = generate(engine, "whole", prompt(1), 60)
    engine.unload("m")
    load(engine, checkpoint, level)
    engine.prefill("m", "company", prompt(2))
    tokens = generate(engine, "cut", prompt(1), 23)
    engine.save_kv("m", "cut")
    engine.unload("m")
    load(engine, checkpoint, level)
    for name in ("first", "second"):
        engine.prefill("m", name, prompt(3))
    engine.restore_kv("m", "cut")
    resumed = engine.decode("m", {"first": 37, "cut": 37, "second": 5}, max_steps=37).tokens["cut"]
    engine.unload("m")
    assert tokens + resumed == expected
    assert len(set(expected)) > 10


def test_tokens_are_the_same_at_every_level(engine: Engine, checkpoint: str) -> None:
    runs = []
    for level in LEVELS:
        load(engine, checkpoint, level)
        runs.append(generate(engine, "r", prompt(4), 40))
        engine.unload("m")
    assert runs[0] == runs[1] == runs[2]


def test_requests_leave_a_batch_at_their_limits(engine: Engine, model: str) -> None:
    limits = {"a": 4, "b": 15, "c": 9}
    alone = {}
    for seed, name in enumerate(limits):
        alone[name] = generate(engine, name, prompt(seed), 16)
        engine.drop_kv(model, name)
    first = {name: [engine.prefill(model, name, prompt(seed)).token] for seed, name in enumerate(limits)}
    result = engine.decode(model, limits, max_steps=12)
    assert len(result.step_end_s) == 12
    assert {name: len(tokens) for name, tokens in result.tokens.items()} == {"a": 4, "b": 12, "c": 9}
    assert {n: first[n] + result.tokens[n] for n in limits} == {
        n: alone[n][: 1 + len(result.tokens[n])] for n in limits
    }


@pytest.mark.parametrize("dropped", [True, False])
def test_gaps_between_slots_close_without_changing_tokens(
    engine: LlamaCppEngine, model: str, dropped: bool
) -> None:
    names = ["a", "b", "c", "d"]
    alone = {}
    for seed, name in enumerate(names):
        alone[name] = generate(engine, name, prompt(seed), 30)
        engine.drop_kv(model, name)
    tokens = {name: [engine.prefill(model, name, prompt(seed)).token] for seed, name in enumerate(names)}
    if dropped:
        engine.drop_kv(model, "b")
    for name, new in engine.decode(model, {"a": 19, "c": 19, "d": 19}, max_steps=19).tokens.items():
        tokens[name] += new
    slots = engine._ledger.resident(model).model.slot_of
    batch = sorted(slots[name] for name in "acd")
    assert batch[-1] - batch[0] == 2
    assert len(set(slots.values())) == len(slots)
    live = list(slots)
    for name, new in engine.decode(model, dict.fromkeys(live, 10), max_steps=10).tokens.items():
        tokens[name] += new
    assert {name: tokens[name] for name in live} == {name: alone[name][: len(tokens[name])] for name in live}


def test_a_prompt_longer_than_one_pass(engine: Engine, checkpoint: str) -> None:
    long = prompt(6, 1100)
    load(engine, checkpoint, None, context_tokens=1200, max_batch=1)
    assert engine.prefill("m", "r", long).tokens_prefilled == 1100
    assert engine.save_kv("m", "r").kv_tokens == 1100
    engine.restore_kv("m", "r")
    resumed = engine.decode("m", {"r": 5}, max_steps=5).tokens
    engine.drop_kv("m", "r")
    engine.prefill("m", "r", long)
    assert engine.decode("m", {"r": 5}, max_steps=5).tokens == resumed
    engine.unload("m")


def test_layers_that_stay_on_the_host_in_silence_are_noticed(
    engine: Engine, checkpoint: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = llama_model._model_params

    def without_device(device: int | None, gpu_layers: int, mmap: bool) -> Any:
        params = real(device, gpu_layers, mmap)
        params.keep_alive = (ctypes.c_void_p * 1)(None)
        params.devices = ctypes.cast(params.keep_alive, ctypes.c_void_p)
        return params

    before = engine.memory()
    monkeypatch.setattr(llama_model, "_model_params", without_device)
    with pytest.raises(EngineError, match="gpu_layers were not honoured"):
        load(engine, checkpoint, SPEC.total_layers)
    monkeypatch.undo()
    assert engine.memory().host_bytes - before.host_bytes < 4e6
    load(engine, checkpoint, SPEC.total_layers)
    engine.unload("m")


@pytest.mark.parametrize("size", [0, 3, 3000, 100_000, 6_000_000])
def test_truncated_files_are_refused_and_do_no_harm(
    engine: Engine, checkpoint: str, tmp_path: Path, size: int
) -> None:
    broken = tmp_path / "broken.gguf"
    broken.write_bytes(Path(checkpoint).read_bytes()[:size])
    with pytest.raises(CheckpointError, match=r"broken\.gguf"):
        load(engine, str(broken))
    with pytest.raises(RequestError, match="not resident"):
        engine.unload("m")


@pytest.mark.parametrize(
    ("key", "value", "match"),
    [
        ("split.count", np.uint16(3), "one part of several"),
        ("{arch}.expert_count", np.uint32(8), "holds the tensors of none"),
        ("{arch}.attention.causal", False, "encoder"),
        ("{arch}.pooling_type", np.uint32(3), "embedding model"),
        ("general.architecture", "clip", r"clip\.block_count"),
        ("{arch}.block_count", np.uint32(SPEC.layers + 1), "holds the tensors of"),
        ("{arch}.block_count", np.uint32(2**31), "holds the tensors of"),
        ("{arch}.embedding_length", np.float32(1.0), "must be a whole number"),
        ("{arch}.attention.head_count_kv", np.uint32(7), "head_count_kv 7"),
    ],
)
def test_models_that_it_cannot_run_are_refused_by_name(
    engine: Engine, checkpoint: str, tmp_path: Path, key: str, value: Any, match: str
) -> None:
    odd = tmp_path / "odd.gguf"
    rewritten(checkpoint, odd, {key.format(arch=SPEC.architecture): value})
    with pytest.raises(CheckpointError, match=match) as caught:
        load(engine, str(odd))
    assert str(caught.value).startswith(str(odd))
    assert "\n" not in str(caught.value)
    with pytest.raises(RequestError, match="not resident"):
        engine.unload("m")


@pytest.mark.parametrize("seed", range(40))
def test_a_header_with_flipped_bytes_never_ends_the_process(
    engine: Engine, checkpoint: str, tmp_path: Path, seed: int
) -> None:
    rng = random.Random(seed)
    content = bytearray(Path(checkpoint).read_bytes())
    header = content.index(b"general.architecture"), content.index(b"output_norm.weight")
    for _ in range(8):
        content[rng.randrange(header[0] - 16, header[1])] ^= 1 << rng.randrange(8)
    broken = tmp_path / "broken.gguf"
    broken.write_bytes(content)
    with contextlib.suppress(CheckpointError):
        read_facts(str(broken))


def test_a_damaged_header_is_refused(engine: Engine, checkpoint: str, tmp_path: Path) -> None:
    broken = tmp_path / "broken.gguf"
    content = bytearray(Path(checkpoint).read_bytes())
    key = f"{SPEC.architecture}.block_count".encode()
    place = content.index(key)
    content[place : place + len(key)] = key[::-1]
    broken.write_bytes(content)
    with pytest.raises(CheckpointError, match="block_count"):
        load(engine, str(broken))


def test_a_budget_holds_for_all_residents_together(checkpoint: str) -> None:
    engine = make_engine("loopback:1-threads-30MB")
    sizes = {"context_tokens": 256, "max_batch": 1}
    engine.load("first", checkpoint, None, **sizes)
    with pytest.raises(DeviceMemoryError, match="second"):
        engine.load("second", checkpoint, None, **sizes)
    engine.load("second", checkpoint, 0, **sizes)
    engine.unload("first")
    engine.load("first", checkpoint, None, **sizes)
    engine.close()


def test_saved_kv_needs_a_resident_that_is_long_enough(engine: Engine, checkpoint: str) -> None:
    load(engine, checkpoint)
    engine.prefill("m", "r", prompt(1, 200))
    engine.save_kv("m", "r")
    engine.unload("m")
    load(engine, checkpoint, context_tokens=64)
    with pytest.raises(RequestError):
        engine.restore_kv("m", "r")
    engine.unload("m")
    load(engine, checkpoint)
    assert engine.restore_kv("m", "r").kv_tokens == 200
    engine.unload("m")


def test_saved_kv_of_another_model_is_refused(engine: Engine, checkpoint: str, tmp_path: Path) -> None:
    other = write_checkpoint(
        scaled_model(get_model("Qwen3-8B"), 6e6), tmp_path / "o.gguf", format="gguf", quantization="Q8_0"
    )
    load(engine, checkpoint)
    engine.prefill("m", "r", prompt(1))
    engine.save_kv("m", "r")
    engine.unload("m")
    load(engine, str(other.path))
    with pytest.raises(RequestError, match="does not fit"):
        engine.restore_kv("m", "r")
    engine.prefill("m", "in its place", prompt(2))
    engine.unload("m")
    engine.drop_kv("m", "r")


@pytest.mark.parametrize("token", [-1, SPEC.vocab_size])
def test_tokens_outside_the_vocabulary_are_refused(engine: Engine, model: str, token: int) -> None:
    with pytest.raises(RequestError, match="tokens must be"):
        engine.prefill(model, "r", [1, token, 2])
    engine.prefill(model, "r", [0, SPEC.vocab_size - 1])


def test_on_the_cpu_this_process_is_the_device(checkpoint: str) -> None:
    engine = create(asdict(parse_device("cpu:1-threads")))
    assert not engine.capabilities().partial_offload
    for level in (0, SPEC.layers):
        with pytest.raises(UnsupportedLevelError):
            load(engine, checkpoint, level)
    load(engine, checkpoint)
    engine.unload("m")
    before = engine.memory()
    load(engine, checkpoint, SPEC.total_layers)
    after = engine.memory()
    assert after.device_bytes == after.host_bytes
    assert after.device_bytes - before.device_bytes > read_facts(checkpoint).device_weight_bytes(SPEC.layers)
    assert len(generate(engine, "r", prompt(1), 5)) == 5
    engine.close()
    assert engine.memory().host_bytes - before.host_bytes < 4e6


@pytest.mark.parametrize(
    ("device", "match"),
    [
        ("cuda:99", r"no device CUDA99 \(only .*CPU.*DGGML_CUDA=ON"),
        ("vulkan:99", "no device Vulkan99.*DGGML_VULKAN=ON"),
    ],
)
def test_a_gpu_that_the_build_does_not_have_is_refused(device: str, match: str) -> None:
    with pytest.raises(EngineUnavailableError, match=match):
        make_engine(device)


def test_a_built_in_device_is_found_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    # The CPU is in ggml's registry like any GPU: with its name as a prefix it stands for one.
    monkeypatch.setitem(llama_devices.GPU_PREFIXES, "vulkan", "CP")
    monkeypatch.setattr(
        llama_devices, "built_in_device", lambda name: built_in_device(name.rstrip("0") + "U")
    )
    device = open_device(asdict(parse_device("vulkan:0")))
    assert device.pointer == built_in_device("CPU")
    free_bytes, total_bytes = device_memory(built_in_devices()["CPU"])
    assert 0 < free_bytes <= total_bytes
    assert not device.lost


@pytest.mark.parametrize("mmap", ["", "-mmap"])
def test_what_leaves_the_host_arrives_on_the_device(checkpoint: str, mmap: str) -> None:
    facts = read_facts(checkpoint)
    weight_bytes = facts.device_weight_bytes(SPEC.total_layers) + facts.unshared_host_bytes
    engine = make_engine("loopback:1-threads" + mmap)
    load(engine, checkpoint, SPEC.layers // 2)
    engine.unload("m")
    for level in LEVELS:
        before = engine.memory()
        after = engine.load("m", checkpoint, level, context_tokens=256, max_batch=1).memory
        engine.unload("m")
        grown_bytes = after.device_bytes + after.host_bytes - before.device_bytes - before.host_bytes
        kv_bytes = facts.shape.kv_width * 2 * facts.layers * 256
        assert weight_bytes <= grown_bytes <= weight_bytes + kv_bytes + 12e6
    engine.close()


def test_mapped_weights_are_all_there_after_a_load(checkpoint: str) -> None:
    engine = make_engine("loopback:1-threads-mmap")
    load(engine, checkpoint, 0)
    maps = Path("/proc/self/smaps").read_text().split(checkpoint + "\n")[1:]
    sizes = [dict(re.findall(r"^(Size|Rss): +(\d+) kB", part.split("VmFlags")[0], re.M)) for part in maps]
    assert sum(int(size["Size"]) for size in sizes) * 1024 >= 0.95 * Path(checkpoint).stat().st_size
    assert [size["Rss"] for size in sizes] == [size["Size"] for size in sizes]
    engine.unload("m")
    assert checkpoint not in Path("/proc/self/maps").read_text()
    engine.close()


def test_mapped_and_read_weights_give_the_same_tokens(engine: Engine, checkpoint: str) -> None:
    mapped = make_engine("loopback:1-threads-mmap")
    for level in LEVELS:
        tokens = []
        for each in (engine, mapped):
            load(each, checkpoint, level)
            tokens.append(generate(each, "r", prompt(1), 20))
            each.unload("m")
        assert tokens[0] == tokens[1]
    mapped.close()


def test_a_lost_device_is_named_and_the_engine_can_be_closed(checkpoint: str) -> None:
    engine = make_engine("loopback:1-threads")
    load(engine, checkpoint)
    engine.prefill("m", "r", prompt(1))
    os.kill(engine._device.pid, signal.SIGKILL)
    while not engine._device.lost:
        time.sleep(0.01)
    calls: list[Callable[[], object]] = [
        lambda: engine.decode("m", {"r": 1}, max_steps=1),
        lambda: engine.prefill("m", "s", [1]),
        lambda: engine.save_kv("m", "r"),
        lambda: engine.drop_kv("m", "r"),
        lambda: engine.unload("m"),
        lambda: engine.load("n", checkpoint, None, context_tokens=64, max_batch=1),
        engine.memory,
    ]
    for call in calls:
        with pytest.raises(EngineError, match=r"device is gone.*killed by signal 9"):
            call()
    engine.close()


def test_dropping_the_page_cache_of_nothing_is_refused(engine: Engine, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"none\.gguf"):
        engine.drop_page_cache(str(tmp_path / "none.gguf"))


def test_a_second_close_does_nothing(checkpoint: str) -> None:
    engine = make_engine("loopback:1-threads")
    load(engine, checkpoint)
    engine.close()
    engine.close()
    with pytest.raises(RequestError):
        engine.prefill("m", "r", [1])
