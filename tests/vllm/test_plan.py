"""Pure arithmetic: needs no vLLM."""

from __future__ import annotations

from pathlib import Path

import pytest

from shunter.catalog.models import ModelSpec
from shunter.engines.base import (
    CheckpointError,
    DeviceMemoryError,
    EngineUnavailableError,
    UnsupportedLevelError,
)
from shunter.engines.caller.client import start_engine
from shunter.engines.headers import TensorInfo, read_tensors
from shunter.engines.vllm.plan import (
    KvPlan,
    check_blocks,
    check_offloaded,
    check_shapes,
    offloaded_bytes,
)
from shunter.engines.weights import weigh
from shunter.profiling.checkpoints.synthetic import write_checkpoint

SPEC = ModelSpec("tiny", 3, 128, 2, 1, 64, 256, 512)


def test_requests_share_no_block_and_one_is_vllms_own() -> None:
    assert KvPlan(128, 3, 32, 10).blocks == 3 * 4 + 1
    assert KvPlan(129, 3, 32, 10).blocks == 3 * 5 + 1
    assert KvPlan(100, 1, 32, 10).blocks == 4 + 1
    assert KvPlan(1, 1, 16, 10).total_bytes == 2 * 16 * 10


def test_a_lone_request_gets_the_block_for_vllms_own_limit() -> None:
    assert KvPlan(64, 1, 32, 10).blocks == 3 + 1
    assert KvPlan(64, 2, 32, 10).blocks == 4 + 1


@pytest.mark.parametrize(("context_tokens", "max_batch"), [(128, 3), (100, 2), (1, 1)])
def test_refuses_one_block_less_than_the_requests_need(context_tokens: int, max_batch: int) -> None:
    plan = KvPlan(context_tokens, max_batch, 32, 10)
    check_blocks(plan, plan.blocks, 32)
    with pytest.raises(DeviceMemoryError, match="preempt"):
        check_blocks(plan, plan.blocks - 1, 32)


def test_vllm_may_choose_larger_blocks() -> None:
    plan = KvPlan(100, 2, 16, 10)
    check_blocks(plan, 3, 128)
    with pytest.raises(DeviceMemoryError, match="1 KV blocks of 128 tokens"):
        check_blocks(plan, 2, 128)


def test_layers_are_measured_in_the_file(tmp_path: Path) -> None:
    folder = write_checkpoint(SPEC, tmp_path / "c", format="safetensors", quantization="BF16").path
    layers = list(weigh(folder, read_tensors(folder)).layer_bytes)
    attention = 2 * SPEC.hidden_size * SPEC.head_dim * (SPEC.attn_heads + SPEC.kv_heads)
    weights = attention + 3 * SPEC.hidden_size * SPEC.intermediate_size + 2 * SPEC.hidden_size
    assert layers == [2 * weights] * SPEC.layers


@pytest.mark.parametrize("content", [b"", b"no header", b"\xff" * 64, b"\x02\0\0\0\0\0\0\0[]"])
def test_refuses_a_file_without_a_header(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "model.safetensors").write_bytes(content)
    with pytest.raises(CheckpointError, match=r"model\.safetensors"):
        read_tensors(tmp_path)


def test_refuses_a_tensor_of_another_shape() -> None:
    tensors = {"a": TensorInfo("F32", (2, 3), 24), "b": TensorInfo("F32", (4,), 16)}
    check_shapes("c", tensors, {"a": (2, 3), "elsewhere": (1,)})
    with pytest.raises(CheckpointError, match=r"1 weights are misshapen, first a: \(2, 3\), not \(3, 2\)"):
        check_shapes("c", tensors, {"a": (3, 2)})


def test_the_first_layers_are_offloaded_and_the_output_layer_never() -> None:
    layers = [10, 20, 30]
    assert [offloaded_bytes(layers, gpu_layers) for gpu_layers in (4, 3, 2, 1)] == [0, 10, 30, 60]
    with pytest.raises(UnsupportedLevelError, match="output layer"):
        offloaded_bytes(layers, 0)


def test_refuses_when_other_weights_stayed_on_the_host_than_asked_for() -> None:
    check_offloaded(30, 30)
    for done_bytes in (0, 29, 31):
        with pytest.raises(UnsupportedLevelError, match="on the host"):
            check_offloaded(30, done_bytes)


@pytest.mark.engine
def test_an_interpreter_without_vllm_says_what_to_install() -> None:
    with pytest.raises(EngineUnavailableError, match="pip install vllm"):
        start_engine("vllm", "cpu:1-threads")
