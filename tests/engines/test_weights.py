"""Sizes of checkpoints: the catalogue, the engines and what is really loaded agree."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import asdict, replace
from pathlib import Path

import pytest
from gguf import GGML_QUANT_SIZES

from shunter.catalog.checkpoints import Checkpoint, read_checkpoint
from shunter.catalog.devices import parse_device
from shunter.catalog.models import ModelSpec
from shunter.engines.base import CheckpointError, Engine
from shunter.engines.fake.engine import FakeEngine
from shunter.engines.headers import GGML_TYPES, TensorInfo, read_tensors
from shunter.engines.weights import weigh
from shunter.profiling.checkpoints.synthetic import (
    CHECKPOINT_FORMATS,
    checkpoint_weight_bytes,
    write_checkpoint,
)
from shunter.profiling.sweep.footprint import host_weight_bytes

SPEC = ModelSpec("sized", 4, 128, 4, 2, 32, 256, 2048, qkv_bias=True)
KINDS = [(kind, dtype) for kind, dtypes in CHECKPOINT_FORMATS.items() for dtype in dtypes]


def written(folder: Path, kind: str, dtype: str, spec: ModelSpec = SPEC) -> Checkpoint:
    return write_checkpoint(spec, folder / f"sized.{kind}", format=kind, quantization=dtype)


def change_config(folder: Path, **changes: object) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def test_the_sizes_of_tensor_types_are_those_of_the_gguf_package() -> None:
    assert {t.value: (t.name, *sizes) for t, sizes in GGML_QUANT_SIZES.items()}.items() <= GGML_TYPES.items()


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize(("kind", "dtype"), KINDS)
def test_all_that_read_headers_agree(tmp_path: Path, kind: str, dtype: str, tied: bool) -> None:
    spec = replace(SPEC, tied_embeddings=tied)
    checkpoint = written(tmp_path, kind, dtype, spec)
    tensors = read_tensors(checkpoint.path)
    weights = weigh(checkpoint.path, tensors, layers=spec.layers)
    planned_bytes = checkpoint_weight_bytes(spec, kind, dtype)
    assert planned_bytes == checkpoint.weight_bytes == weights.total_bytes
    assert sum(info.nbytes for info in tensors.values()) == planned_bytes
    assert sum(info.elements for info in tensors.values()) == spec.params == checkpoint.spec.params
    assert weights.layer_bytes == (checkpoint.layer_weight_bytes,) * spec.layers
    assert (weights.head_bytes == 0) == tied
    assert weights.embedding_bytes == tensors[next(n for n in tensors if "embd" in n or "embed" in n)].nbytes
    fake = FakeEngine()
    loaded = fake.load("m", str(checkpoint.path), None, context_tokens=9, max_batch=1)
    assert loaded.total_layers == weights.total_layers == checkpoint.spec.total_layers


@pytest.mark.engine
@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("dtype", CHECKPOINT_FORMATS["gguf"])
def test_llama_cpp_s_facts_agree_with_the_catalogue(tmp_path: Path, dtype: str, tied: bool) -> None:
    gguf = pytest.importorskip("shunter.engines.llama_cpp.gguf")
    checkpoint = written(tmp_path, "gguf", dtype, replace(SPEC, tied_embeddings=tied))
    facts = gguf.read_facts(str(checkpoint.path))
    whole_bytes = facts.device_weight_bytes(SPEC.total_layers) + facts.unshared_host_bytes
    assert whole_bytes == checkpoint.weight_bytes
    assert (facts.layers, facts.total_layers) == (SPEC.layers, SPEC.total_layers)
    assert (facts.shape.hidden_size, facts.shape.vocab_size) == (SPEC.hidden_size, SPEC.vocab_size)
    assert facts.shape.kv_width * facts.layers * 2 == checkpoint.spec.kv_bytes_per_token()


@pytest.fixture(scope="module")
def llama_cpp() -> Iterator[Engine]:
    module = pytest.importorskip("shunter.engines.llama_cpp.engine")
    engine = module.create(asdict(parse_device("loopback:1-threads")))
    yield engine
    engine.close()


@pytest.mark.engine
@pytest.mark.parametrize("tied", [False, True])
def test_a_load_of_llama_cpp_takes_what_was_predicted(llama_cpp: Engine, tmp_path: Path, tied: bool) -> None:
    spec = ModelSpec("wide", 4, 256, 4, 2, 64, 1024, 60_000, tied_embeddings=tied, qkv_bias=True)
    checkpoint = written(tmp_path, "gguf", "F16", spec)
    path, sizes = str(checkpoint.path), {"context_tokens": 64, "max_batch": 1}
    matrix_bytes = 2 * spec.embedding_params
    llama_cpp.load("m", path, 2, **sizes)  # code that is used for the first time counts as memory too
    llama_cpp.unload("m")
    for level in (0, 1, spec.total_layers):
        before = llama_cpp.memory()
        after = llama_cpp.load("m", path, level, **sizes).memory
        llama_cpp.unload("m")
        device_bytes = llama_cpp.footprint_bytes("m", path, level, **sizes)
        host_bytes = host_weight_bytes(checkpoint, level)
        grown_bytes = after.device_bytes - before.device_bytes
        assert 0.75 * device_bytes - 1e6 <= grown_bytes <= device_bytes + 1e6
        # Beside the weights there are the host's own buffers, and the tensor that was sent last.
        assert host_bytes <= after.host_bytes - before.host_bytes <= host_bytes + matrix_bytes + 22e6


@pytest.mark.engine
@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("stored", CHECKPOINT_FORMATS["safetensors"])
@pytest.mark.parametrize("wanted", ["as stored", None, "float32", "bfloat16"])
def test_torch_loads_what_was_predicted(tmp_path: Path, stored: str, wanted: str | None, tied: bool) -> None:
    torch_side = pytest.importorskip("shunter.engines.transformers.checkpoint")
    spec = replace(SPEC, tied_embeddings=tied)
    folder = str(written(tmp_path, "safetensors", stored, spec).path)
    if wanted != "as stored":
        change_config(Path(folder), torch_dtype=wanted)
    config = torch_side.read_config(folder)
    dtype = torch_side.loaded_dtype(folder, config)
    weights = torch_side.loaded_weights(folder, config, dtype)
    net = torch_side.read_model(folder, torch_side.read_config(folder))
    sizes = {name: int(part.nbytes) for name, part in net.named_parameters()}
    assert (net.dtype, sum(sizes.values())) == (dtype, weights.total_bytes)
    for level in range(1, spec.total_layers):
        placement = torch_side.device_map(net, level, "cuda:0")
        there = [n for n, device in placement.items() if device == "cuda:0"]
        held = sum(s for name, s in sizes.items() if any(name.startswith(part + ".") for part in there))
        assert torch_side.weights_on_device(weights, level) == held
    assert torch_side.weights_on_device(weights, spec.total_layers) == weights.total_bytes
    assert torch_side.weights_on_device(weights, 0) == 0
    kv_bytes = torch_side.kv_shape(config).bytes_per_token(dtype)
    assert kv_bytes == spec.kv_bytes_per_token(dtype.itemsize)


def test_an_output_matrix_beside_a_tied_embedding_is_not_counted() -> None:
    tensors = {
        "model.embed_tokens.weight": TensorInfo("F16", (4, 2), 16),
        "lm_head.weight": TensorInfo("F16", (4, 2), 16),
        "model.layers.0.mlp.up_proj.weight": TensorInfo("F16", (2, 2), 8),
    }
    weights = weigh(Path("m"), tensors, is_tied=True, element_bytes=4)
    assert (weights.embedding_bytes, weights.head_bytes, weights.layer_bytes) == (32, 0, (16,))


@pytest.mark.parametrize("layers", [3, 5, 2**31])
def test_other_layers_than_a_checkpoint_holds_are_refused(tmp_path: Path, layers: int) -> None:
    path = written(tmp_path, "safetensors", "F16").path
    with pytest.raises(CheckpointError, match=f"it says {layers} layers and holds the tensors of 4"):
        weigh(path, read_tensors(path), layers=layers)


def test_an_index_says_which_files_count(tmp_path: Path) -> None:
    checkpoint = written(tmp_path, "safetensors", "F16")
    weights = checkpoint.path / "model.safetensors"
    (checkpoint.path / "part.safetensors").write_bytes(weights.read_bytes())
    names = dict.fromkeys(read_tensors(checkpoint.path), "part.safetensors")
    (checkpoint.path / "model.safetensors.index.json").write_text(json.dumps({"weight_map": names}))
    weights.unlink()
    assert read_checkpoint(checkpoint.path).weight_bytes == checkpoint.weight_bytes
