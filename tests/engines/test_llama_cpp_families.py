"""llama.cpp runs what the headers of its families say: small models of them with random weights."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("llama_cpp")

from gguf import GGUFWriter

from shunter.catalog.checkpoints import read_checkpoint
from shunter.catalog.devices import parse_device
from shunter.engines.base import Engine
from shunter.engines.llama_cpp.engine import create
from shunter.engines.llama_cpp.gguf import read_facts
from shunter.profiling.checkpoints.gguf import _add_vocabulary

pytestmark = pytest.mark.engine

HIDDEN, HEADS, KV_HEADS, HEAD_DIM, FFN, VOCAB = 128, 4, 4, 64, 256, 300
FAMILIES = {"gemma3": 12, "qwen3moe": 4}
"""Layers by family."""


def write_family(path: Path, family: str) -> str:
    layers, rng = FAMILIES[family], np.random.default_rng(0)
    writer = GGUFWriter(path, family)
    writer.add_context_length(65536)
    writer.add_block_count(layers)
    writer.add_embedding_length(HIDDEN)
    writer.add_feed_forward_length(FFN)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(KV_HEADS)
    writer.add_key_length(HEAD_DIM)
    writer.add_value_length(HEAD_DIM)
    writer.add_layer_norm_rms_eps(1e-6)
    writer.add_vocab_size(VOCAB)
    _add_vocabulary(writer, VOCAB)
    shapes: dict[str, tuple[int, ...]] = {
        "token_embd.weight": (VOCAB, HIDDEN),
        "output_norm.weight": (HIDDEN,),
    }
    norms = ["attn_norm", "ffn_norm"]
    mlp: dict[str, tuple[int, ...]] = {"gate": (FFN, HIDDEN), "up": (FFN, HIDDEN), "down": (HIDDEN, FFN)}
    if family == "gemma3":
        writer.add_sliding_window(512)
        norms += ["post_attention_norm", "post_ffw_norm"]
        experts: dict[str, tuple[int, ...]] = {f"ffn_{name}": shape for name, shape in mlp.items()}
    else:
        writer.add_expert_count(8)
        writer.add_expert_used_count(2)
        writer.add_expert_feed_forward_length(FFN)
        shapes["output.weight"] = (VOCAB, HIDDEN)
        experts = {f"ffn_{name}_exps": (8, *shape) for name, shape in mlp.items()}
        experts["ffn_gate_inp"] = (8, HIDDEN)
    q, kv = HEADS * HEAD_DIM, KV_HEADS * HEAD_DIM
    for layer in range(layers):
        here = dict.fromkeys(norms, (HIDDEN,)) | {f"attn_{x}_norm": (HEAD_DIM,) for x in "qk"} | experts
        here |= {
            "attn_q": (q, HIDDEN),
            "attn_k": (kv, HIDDEN),
            "attn_v": (kv, HIDDEN),
            "attn_output": (HIDDEN, q),
        }
        shapes |= {f"blk.{layer}.{name}.weight": shape for name, shape in here.items()}
    for name, shape in shapes.items():
        values = np.ones(shape) if len(shape) == 1 else rng.normal(0, shape[-1] ** -0.5, shape)
        writer.add_tensor(name, values.astype(np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return str(path)


@pytest.fixture(scope="module", params=sorted(FAMILIES))
def checkpoint(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> str:
    return write_family(tmp_path_factory.mktemp("family") / f"{request.param}.gguf", request.param)


@pytest.fixture
def engine() -> Iterator[Engine]:
    engine = create(asdict(parse_device("cpu:1-threads")))
    yield engine
    engine.close()


def prompt(length: int) -> list[int]:
    return [(31 * place * place + 5) % 256 for place in range(length)]


def test_a_preempted_request_of_any_family_goes_on(engine: Engine, checkpoint: str) -> None:
    engine.load("m", checkpoint, None, context_tokens=1024, max_batch=2)
    engine.prefill("m", "whole", prompt(700))  # longer than the window
    expected = engine.decode("m", {"whole": 12}, max_steps=12).tokens["whole"]
    engine.drop_kv("m", "whole")
    engine.prefill("m", "cut", prompt(700))
    first = engine.decode("m", {"cut": 5}, max_steps=5).tokens["cut"]
    engine.save_kv("m", "cut")
    engine.unload("m")
    engine.load("m", checkpoint, None, context_tokens=1024, max_batch=2)
    engine.restore_kv("m", "cut")
    assert first + engine.decode("m", {"cut": 7}, max_steps=7).tokens["cut"] == expected
    engine.unload("m")


def test_memory_grows_by_what_the_header_says(engine: Engine, checkpoint: str) -> None:
    engine.load("m", checkpoint, None, context_tokens=256, max_batch=1)  # code used for the first time
    engine.unload("m")
    sizes = []
    for context_tokens in (4096, 65536):
        before = engine.memory().host_bytes
        engine.load("m", checkpoint, None, context_tokens=context_tokens, max_batch=1)
        sizes.append(engine.memory().host_bytes - before)
        engine.unload("m")
    facts, spec = read_facts(checkpoint), read_checkpoint(checkpoint).spec
    # Layers with a window do not grow.
    full_layers = spec.layers - spec.windowed_layers
    kv_bytes = full_layers * (65536 - 4096) * spec.kv_bytes_per_token() / spec.layers
    assert sizes[1] - sizes[0] == pytest.approx(kv_bytes, rel=0.1)
    said = [facts.device_bytes(facts.total_layers, n, 1, 512) for n in (4096, 65536)]
    assert said[1] - said[0] > kv_bytes
