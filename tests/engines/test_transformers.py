from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from dataclasses import asdict, replace
from pathlib import Path

import pytest
import torch
from accelerate import dispatch_model
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, AutoModelForCausalLM

from shunter.catalog.devices import parse_device
from shunter.catalog.models import ModelSpec
from shunter.engines.base import (
    CheckpointError,
    DeviceMemoryError,
    Engine,
    EngineError,
    EngineUnavailableError,
    RequestError,
)
from shunter.engines.page_cache import cached_bytes
from shunter.engines.transformers.checkpoint import device_map, kv_shape, read_config, read_model
from shunter.engines.transformers.engine import create
from shunter.engines.transformers.kv import KvSlots, StepCache
from shunter.engines.transformers.model import TorchModel
from shunter.profiling.checkpoints.synthetic import write_checkpoint

pytestmark = pytest.mark.engine

SPEC = ModelSpec("tiny", 3, 128, 2, 1, 64, 256, 512, qk_norm=True)


def device(**changes: object) -> dict[str, object]:
    return asdict(parse_device("cpu:1-threads")) | changes


@pytest.fixture(scope="module")
def engine() -> Iterator[Engine]:
    engine = create(device())
    yield engine
    engine.close()


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("checkpoints") / "tiny"
    return write_checkpoint(SPEC, folder, format="safetensors", quantization="F32").path


@pytest.fixture
def checkpoint(written: Path, tmp_path: Path) -> Path:
    """A copy to be spoilt."""
    return Path(shutil.copytree(written, tmp_path / "copy"))


def load(engine: Engine, checkpoint: Path, name: str = "m") -> None:
    engine.load(name, str(checkpoint), None, context_tokens=64, max_batch=2)


def change_config(checkpoint: Path, **changes: object) -> None:
    path = checkpoint / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def test_refuses_a_truncated_file(engine: Engine, checkpoint: Path) -> None:
    file = checkpoint / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-1000])
    with pytest.raises(CheckpointError, match="copy"):
        load(engine, checkpoint)


def test_refuses_missing_weights_rather_than_drawing_them(engine: Engine, checkpoint: Path) -> None:
    file = checkpoint / "model.safetensors"
    weights = load_file(file)
    del weights["model.layers.1.mlp.up_proj.weight"]
    save_file(weights, file, metadata={"format": "pt"})
    with pytest.raises(CheckpointError, match=r"1 weights are missing.*layers.1.mlp.up_proj"):
        load(engine, checkpoint)


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"model_type": "no-such-model"}, "no-such-model"),
        ({"intermediate_size": 512}, "misshapen|mismatch"),
        (
            {"use_sliding_window": True, "sliding_window": 8, "layer_types": ["sliding_attention"] * 3},
            "sliding",
        ),
    ],
)
def test_refuses_a_configuration_that_it_cannot_run(
    engine: Engine, checkpoint: Path, changes: dict[str, object], match: str
) -> None:
    change_config(checkpoint, **changes)
    with pytest.raises(CheckpointError, match=match):
        load(engine, checkpoint)
    with pytest.raises(RequestError):
        engine.unload("m")


@pytest.mark.parametrize("index", ["{", "{}", '{"weight_map": {"a": "gone.safetensors"}}'])
def test_refuses_a_broken_index(engine: Engine, checkpoint: Path, index: str) -> None:
    (checkpoint / "model.safetensors.index.json").write_text(index)
    with pytest.raises(CheckpointError, match=r"index|gone\.safetensors"):
        load(engine, checkpoint)


def test_reads_a_checkpoint_in_several_files(engine: Engine, checkpoint: Path) -> None:
    weights = load_file(checkpoint / "model.safetensors")
    (checkpoint / "model.safetensors").unlink()
    names = {key: f"part-{number % 2}.safetensors" for number, key in enumerate(sorted(weights))}
    for file in set(names.values()):
        part = {key: weights[key] for key, name in names.items() if name == file}
        save_file(part, checkpoint / file, metadata={"format": "pt"})
    (checkpoint / "model.safetensors.index.json").write_text(
        json.dumps({"metadata": {}, "weight_map": names})
    )
    load(engine, checkpoint)
    assert engine.prefill("m", "r", [1, 2, 3]).token < SPEC.vocab_size
    engine.unload("m")


def test_the_budget_counts_weights_and_kv_of_all_residents(written: Path) -> None:
    kv_bytes = 2 * SPEC.layers * SPEC.kv_heads * SPEC.head_dim * 4 * 64 * 2
    weight_bytes = (written / "model.safetensors").stat().st_size
    engine = create(device(memory_bytes=2 * (weight_bytes + kv_bytes)))
    load(engine, written, "a")
    load(engine, written, "b")
    with pytest.raises(DeviceMemoryError, match="'c' needs"):
        load(engine, written, "c")
    engine.unload("a")
    load(engine, written, "c")
    engine.close()


def test_memory_that_an_unload_keeps_is_noticed(engine: Engine, tmp_path: Path) -> None:
    spec = replace(SPEC, hidden_size=512, intermediate_size=2048, layers=4, attn_heads=8)
    folder = write_checkpoint(spec, tmp_path / "f32", format="safetensors", quantization="F32").path
    load(engine, folder)
    engine.unload("m")
    load(engine, folder)
    held = engine._ledger.residents["m"].model.net
    with pytest.raises(EngineError, match=r"unloading 'm' gave back .* MB on cpu:1-threads"):
        engine.unload("m")
    with pytest.raises(RequestError):
        engine.unload("m")
    del held
    load(engine, folder)
    engine.unload("m")


def test_the_page_cache_of_all_its_files_is_dropped(engine: Engine, checkpoint: Path) -> None:
    file = str(checkpoint / "model.safetensors")
    load(engine, checkpoint)
    assert cached_bytes(file) > 0
    try:
        engine.drop_page_cache(str(checkpoint))
    except EngineError:
        pytest.skip("this file system keeps its pages")
    assert cached_bytes(file) == 0
    engine.unload("m")


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"name": "loopback:1-threads", "kind": "loopback"}, "cpu and cuda devices, not on loopback"),
        ({"name": "cuda:99", "kind": "cuda", "index": 99, "threads": None}, "no cuda:99"),
    ],
)
def test_refuses_devices_that_are_not_there(changes: dict[str, object], match: str) -> None:
    with pytest.raises(EngineUnavailableError, match=match):
        create(device(**changes))


def hollow(spec: ModelSpec) -> object:
    config = AutoConfig.for_model(
        spec.architecture,
        hidden_size=spec.hidden_size,
        intermediate_size=spec.intermediate_size,
        num_hidden_layers=spec.layers,
        num_attention_heads=spec.attn_heads,
        num_key_value_heads=spec.kv_heads,
        vocab_size=spec.vocab_size,
        tie_word_embeddings=spec.tied_embeddings,
    )
    with torch.device("meta"):
        return AutoModelForCausalLM.from_config(config)


@pytest.mark.parametrize("tied", [False, True])
def test_a_gpu_holds_the_first_layers(tied: bool) -> None:
    placement = device_map(hollow(replace(SPEC, tied_embeddings=tied)), 2, "cuda:0")
    assert [placement[f"model.layers.{n}"] for n in range(3)] == ["cuda:0", "cuda:0", "cpu"]
    assert placement["model.embed_tokens"] == placement["model.norm"] == "cuda:0"
    assert placement["lm_head"] == ("cuda:0" if tied else "cpu")


def test_layers_that_are_fetched_at_each_use_give_the_same_tokens(written: Path, tmp_path: Path) -> None:
    # accelerate treats layers on the disk of a CPU as those on the host of a GPU: both are copied when used.
    config = read_config(str(written))
    shape = kv_shape(config)
    results = []
    for gpu_layers in (SPEC.total_layers, 1):
        net = read_model(str(written), config)
        if gpu_layers < SPEC.total_layers:
            names = {"cuda:0": "cpu", "cpu": "disk"}
            placement = {n: names[d] for n, d in device_map(net, gpu_layers, "cuda:0").items()}
            skipped = net._skip_keys_device_placement
            dispatch_model(net, placement, offload_dir=str(tmp_path), skip_keys=skipped)
            assert net.model.layers[1].mlp.up_proj.weight.device.type == "meta"
        model = TorchModel(net, KvSlots(shape, 2, 32, torch.float32, torch.device("cpu")), 0)
        tokens = {"a": [1, 2, 3], "b": [4, 5, 6, 7, 8]}
        for name in tokens:
            tokens[name].append(model.prefill(name, tokens[name]))
        for _ in range(6):
            found = model.step(
                {n: t[-1] for n, t in tokens.items()}, {n: len(t) - 1 for n, t in tokens.items()}
            )
            for name, token in zip(tokens, found, strict=True):
                tokens[name].append(token)
        results.append(tokens)
    assert results[0] == results[1]


def test_slots_apart_are_read_as_those_side_by_side(written: Path) -> None:
    slots = KvSlots(kv_shape(read_config(str(written))), 3, 8, torch.float32, torch.device("cpu"))
    for number, layer in enumerate(slots.layers):
        layer.copy_(torch.arange(layer.numel()).reshape(layer.shape) + number)
    new = torch.full((2, SPEC.kv_heads, 1, SPEC.head_dim), -1.0)
    keys, values = StepCache(slots, [0, 2], [3, 5]).update(new, new, 1)
    assert keys.shape == (2, SPEC.kv_heads, 6, SPEC.head_dim)
    for row, (slot, length) in enumerate(((0, 3), (2, 5))):
        assert torch.equal(keys[row, :, :length], slots.layers[1][0, slot, :, :length])
        assert (keys[row, :, length] == -1).all()
        assert (values[row, :, length] == -1).all()
    assert not (slots.layers[1][:, 1] == -1).any()
