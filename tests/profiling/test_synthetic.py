import importlib.util
import math
import os
import stat
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
from gguf import GGMLQuantizationType, GGUFReader
from gguf.quants import dequantize
from safetensors.numpy import load_file

from shunter.catalog.checkpoints import read_checkpoint
from shunter.catalog.models import ModelSpec, catalog_models, get_model, scaled_model
from shunter.errors import InputError, UnknownNameError
from shunter.profiling.checkpoints.synthetic import (
    CHECKPOINT_FORMATS,
    checkpoint_weight_bytes,
    write_checkpoint,
)
from shunter.profiling.checkpoints.tensors import model_tensors, stored_bytes

TINY = ModelSpec("tiny", 2, 64, 4, 2, 16, 96, 300, qk_norm=True)
KINDS = [(format, quantization) for format, some in CHECKPOINT_FORMATS.items() for quantization in some]


def data_file(path):
    return path / "model.safetensors" if path.is_dir() else path


@pytest.mark.parametrize(("format", "quantization"), KINDS)
def test_same_seed_same_bytes_wherever_it_is_written(tmp_path, format, quantization):
    (tmp_path / "other").mkdir()
    places = [tmp_path / "a.gguf", tmp_path / "other" / "b.gguf", tmp_path / "c.gguf"]
    first, second, third = (
        write_checkpoint(TINY, out, format=format, quantization=quantization, seed=seed).path
        for out, seed in zip(places, (7, 7, 8), strict=True)
    )
    assert data_file(first).read_bytes() == data_file(second).read_bytes()
    assert data_file(first).read_bytes() != data_file(third).read_bytes()


@pytest.mark.parametrize("name", sorted(catalog_models()))
def test_planned_tensors_hold_all_parameters_of_every_catalogue_model(name):
    spec = get_model(name)
    tensors = model_tensors(spec)
    assert sum(math.prod(tensor.shape) for tensor in tensors) == spec.params
    assert sum(stored_bytes(tensor, "safetensors", "BF16") for tensor in tensors) == 2 * spec.params


@pytest.mark.parametrize("quantization", CHECKPOINT_FORMATS["gguf"])
def test_gguf_weights_keep_the_scale_of_activations(tmp_path, quantization):
    spec = ModelSpec("m", 2, 256, 4, 2, 64, 512, 300, qk_norm=True)
    out = tmp_path / "m.gguf"
    write_checkpoint(spec, out, format="gguf", quantization=quantization)
    for tensor in GGUFReader(out).tensors:
        values = np.asarray(dequantize(tensor.data, GGMLQuantizationType(tensor.tensor_type)), np.float64)
        if values.ndim == 1:
            assert (values == 1).all()
            continue
        gain = 0.3 if "attn_output" in tensor.name else 1.0
        assert values.std() * math.sqrt(values.shape[1]) == pytest.approx(gain, rel=0.03)
        assert abs(values.mean()) < 4 * values.std() / math.sqrt(values.size / 32)
        assert np.linalg.norm(values, 2) < 1.5 * gain * (1 + math.sqrt(values.shape[0] / values.shape[1]))


def test_tensors_and_layers_differ_from_one_another(tmp_path):
    out = write_checkpoint(TINY, tmp_path / "m", format="safetensors", quantization="F32").path
    tensors = load_file(out / "model.safetensors")
    one, other = (tensors[f"model.layers.{layer}.self_attn.q_proj.weight"] for layer in (0, 1))
    assert abs(np.corrcoef(one.ravel(), other.ravel())[0, 1]) < 0.1
    assert abs(np.corrcoef(one[0], one[1])[0, 1]) < 0.6


def test_types_of_a_folder_agree_up_to_rounding(tmp_path):
    loaded = {}
    for quantization in ("F32", "F16"):
        out = tmp_path / quantization
        write_checkpoint(TINY, out, format="safetensors", quantization=quantization)
        loaded[quantization] = load_file(out / "model.safetensors")["lm_head.weight"].astype(np.float32)
    np.testing.assert_allclose(loaded["F16"], loaded["F32"], rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize(("format", "quantization"), KINDS)
def test_progress_ends_at_the_planned_size(tmp_path, format, quantization):
    seen = []
    out = tmp_path / "m.gguf"
    write_checkpoint(
        TINY,
        out,
        format=format,
        quantization=quantization,
        progress=lambda done, total: seen.append((done, total)),
    )
    planned = checkpoint_weight_bytes(TINY, format, quantization)
    assert seen[-1] == (planned, planned)
    assert sorted(seen) == seen
    assert read_checkpoint(out).weight_bytes == planned


@pytest.mark.parametrize("format", CHECKPOINT_FORMATS)
@pytest.mark.parametrize("existing", [False, True])
def test_an_interrupt_leaves_everything_as_it_was(tmp_path, format, existing):
    out = tmp_path / "m.gguf"
    if existing:
        write_checkpoint(TINY, out, format=format, quantization="F16")
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}

    def interrupt(done, total):
        if done > total / 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_checkpoint(
            TINY, out, format=format, quantization="F16", seed=1, overwrite=existing, progress=interrupt
        )
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before
    assert len(list(tmp_path.iterdir())) == existing


@pytest.mark.parametrize("format", CHECKPOINT_FORMATS)
def test_overwrites_only_when_asked(tmp_path, format):
    out = tmp_path / "m.gguf"
    write_checkpoint(TINY, out, format=format, quantization="F16")
    first = data_file(out).read_bytes()
    with pytest.raises(InputError, match="out must not exist yet"):
        write_checkpoint(TINY, out, format=format, quantization="F16", seed=1)
    assert data_file(out).read_bytes() == first
    write_checkpoint(TINY, out, format=format, quantization="F16", seed=1, overwrite=True)
    assert data_file(out).read_bytes() != first
    assert [path.name for path in tmp_path.iterdir()] == ["m.gguf"]


def test_a_folder_with_other_things_in_it_is_never_overwritten(tmp_path):
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / "thesis.tex").write_text("all of it")
    with pytest.raises(InputError, match="must hold nothing but a synthetic checkpoint"):
        write_checkpoint(TINY, tmp_path / "home", format="safetensors", quantization="F16", overwrite=True)
    assert (tmp_path / "home" / "thesis.tex").read_text() == "all of it"


def test_formats_do_not_overwrite_each_other(tmp_path):
    (tmp_path / "m").mkdir()
    with pytest.raises(InputError, match="must be of the same format as what it overwrites"):
        write_checkpoint(TINY, tmp_path / "m", format="gguf", quantization="F16", overwrite=True)


def test_a_full_disk_is_found_beforehand(tmp_path):
    huge = replace(TINY, intermediate_size=2**42)
    with pytest.raises(
        InputError, match=r"out must lie on a disk with \d{15,} bytes available\. Got '.*: \d+ bytes'"
    ):
        write_checkpoint(huge, tmp_path / "m", format="safetensors", quantization="F32")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"vocab_size": 258},
            "vocab_size must be at least 259 (all bytes and special tokens). Got 258 instead.",
        ),
        (
            {"hidden_size": 72},
            "token_embd.weight must have rows of a multiple of 32 weights for Q8_0. Got 72 instead.",
        ),
        ({"kv_heads": 3}, "attn_heads must be a multiple of kv_heads (3). Got 4 instead."),
    ],
)
def test_shapes_that_no_engine_loads_are_refused(tmp_path, change, message):
    with pytest.raises(InputError) as caught:
        write_checkpoint(replace(TINY, **change), tmp_path / "m.gguf", format="gguf", quantization="Q8_0")
    assert str(caught.value) == message


@pytest.mark.parametrize(
    ("format", "quantization", "message"),
    [
        ("ggml", "F16", "format: unknown name 'ggml'; did you mean gguf?"),
        ("gguf", "Q8", r"quantization \(gguf\): unknown name 'Q8'; did you mean Q8_0"),
        (
            "safetensors",
            "Q8_0",
            r"quantization \(safetensors\): unknown name 'Q8_0'; be one of BF16, F16, F32",
        ),
    ],
)
def test_unknown_kinds_are_refused(tmp_path, format, quantization, message):
    with pytest.raises(UnknownNameError, match=message):
        write_checkpoint(TINY, tmp_path / "m", format=format, quantization=quantization)


def test_a_place_in_no_folder_is_refused(tmp_path):
    with pytest.raises(InputError, match="out must lie in a folder that exists"):
        write_checkpoint(TINY, tmp_path / "none" / "m.gguf", format="gguf", quantization="F16")


LLAMA_CPP = """
import sys
from llama_cpp import Llama, llama_cpp

defaults = llama_cpp.llama_model_default_params

def without_repacking():
    # ggml built by GCC 12 for a CPU with AMX dies in its repacked AMX kernels
    params = defaults()
    params.use_extra_bufts = False
    return params

llama_cpp.llama_model_default_params = without_repacking
for path in sys.argv[1:]:
    model = Llama(path, n_ctx=128, n_threads=1, n_threads_batch=1, verbose=False)
    prompt = model.tokenize(b"the quick brown fox")
    assert model.detokenize(prompt) == b"the quick brown fox", prompt
    tokens = []
    for token in model.generate(prompt, temp=0.0):
        tokens.append(token)
        if len(tokens) == 30:
            break
    print(model.n_vocab(), len(set(tokens)))
"""

TRANSFORMERS = """
import sys
import torch
from transformers import AutoModelForCausalLM
torch.set_num_threads(1)
for path in sys.argv[1:]:
    model, info = AutoModelForCausalLM.from_pretrained(path, dtype="auto", output_loading_info=True)
    assert not any(info.values()), info
    prompt = torch.arange(20)[None]
    out = model.generate(prompt, max_new_tokens=30, do_sample=False, eos_token_id=None, pad_token_id=0)
    assert torch.isfinite(model(out).logits).all()
    print(model.config.vocab_size, len(set(out[0, 20:].tolist())), sum(p.numel() for p in model.parameters()))
"""


def run_engine(code, paths):
    arguments = [sys.executable, "-c", code, *map(str, paths)]
    done = subprocess.run(arguments, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    return [tuple(map(int, line.split())) for line in done.stdout.splitlines()]


FAMILIES = {
    name: replace(scaled_model(get_model(name), 5e6), vocab_size=300, layers=4)
    for name in ("Llama-3-8B", "Qwen2.5-3B", "Qwen3-8B")
}


@pytest.mark.engine
@pytest.mark.skipif(importlib.util.find_spec("llama_cpp") is None, reason="llama-cpp-python is not installed")
def test_llama_cpp_runs_every_family_and_quantization(tmp_path):
    paths = []
    for name, spec in FAMILIES.items():
        for quantization in CHECKPOINT_FORMATS["gguf"]:
            paths.append(tmp_path / f"{name}-{quantization}.gguf")
            write_checkpoint(spec, paths[-1], format="gguf", quantization=quantization)
    for vocab_size, distinct_tokens in run_engine(LLAMA_CPP, paths):
        assert vocab_size == 300
        assert distinct_tokens > 5


@pytest.mark.engine
@pytest.mark.skipif(importlib.util.find_spec("transformers") is None, reason="transformers is not installed")
def test_transformers_runs_every_family_and_type(tmp_path):
    expected, paths = [], []
    for name, spec in FAMILIES.items():
        for quantization in CHECKPOINT_FORMATS["safetensors"]:
            paths.append(tmp_path / f"{name}-{quantization}")
            write_checkpoint(spec, paths[-1], format="safetensors", quantization=quantization)
            expected.append((300, spec.params))
    results = run_engine(TRANSFORMERS, paths)
    assert [(vocab_size, params) for vocab_size, _, params in results] == expected
    assert all(distinct_tokens > 5 for _, distinct_tokens, _ in results)


def test_a_pipe_is_no_place_and_stays_one(tmp_path):
    out = tmp_path / "pipe"
    os.mkfifo(out)
    with pytest.raises(InputError, match="out must be a file or a folder, and no pipe or device"):
        write_checkpoint(TINY, out, format="gguf", quantization="Q8_0", overwrite=True)
    assert stat.S_ISFIFO(out.stat().st_mode)
    assert [path.name for path in tmp_path.iterdir()] == ["pipe"]
