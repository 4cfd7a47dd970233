"""Families with windows, experts, latent attention and other types: read from headers of real models."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from shunter.catalog.checkpoints import read_checkpoint
from shunter.engines.base import CheckpointError
from shunter.engines.llama_cpp.gguf import read_facts
from shunter.errors import BrokenFileError, InputError
from shunter.profiling.sweep.sweep import read_models
from tests.headers import CORPUS, tensors_of, write_gguf, write_header, write_safetensors

GGUF = sorted(name for name, entry in CORPUS.items() if entry["format"] == "gguf")


@pytest.mark.parametrize("name", sorted(CORPUS))
def test_a_header_says_what_is_published_of_its_model(name: str, tmp_path: Path) -> None:
    found = read_checkpoint(write_header(CORPUS[name], tmp_path))
    got = {
        "params": found.params,
        "active_params": found.active_params,
        "weight_bytes": found.weight_bytes,
        "kv_bytes_per_token": found.spec.kv_bytes_per_token(),
        "windowed_layers": found.spec.windowed_layers,
        "window_tokens": found.spec.window_tokens,
        "quantization": found.quantization,
    }
    for figure, expected in CORPUS[name]["expected"].items():
        # Published sizes of files have rounding of their own; counts are to the last one.
        exact = figure != "weight_bytes"
        assert got[figure] == (expected if exact else pytest.approx(expected, rel=1e-4)), figure


@pytest.mark.parametrize("name", GGUF)
def test_the_engine_reads_the_same_of_a_gguf(name: str, tmp_path: Path) -> None:
    path = write_header(CORPUS[name], tmp_path)
    found, facts = read_checkpoint(path), read_facts(str(path))
    assert facts.total_layers == found.spec.total_layers
    assert facts.shape.kv_width * facts.layers * 2 == found.spec.kv_bytes_per_token()
    assert facts.device_weight_bytes(facts.total_layers) + facts.unshared_host_bytes == found.weight_bytes
    assert facts.host_weight_bytes == facts.weights.embedding_bytes > 0


def test_layers_with_a_window_keep_that_and_one_pass(tmp_path: Path) -> None:
    path = str(write_header(CORPUS["gemma-3-27b-q8_0"], tmp_path))
    facts = read_facts(path)

    def kv_bytes(context_tokens: int) -> int:
        here, none = (facts.device_bytes(facts.total_layers, n, 1, 0) for n in (context_tokens, 0))
        return here - none

    assert kv_bytes(32768) == 8192 * (10 * 32768 + 52 * 1536)
    assert kv_bytes(512) == 8192 * 62 * 512


def changed(name: str, metadata: dict[str, Any]) -> dict[str, Any]:
    entry = json.loads(json.dumps(CORPUS[name]))
    entry["metadata"] |= metadata
    return entry


@pytest.mark.parametrize(
    ("metadata", "expected"),
    [
        ({"gemma3.attention.sliding_window_pattern": 3}, 62 - 62 // 3),
        ({"gemma3.attention.sliding_window_pattern": [True] * 60 + [False] * 2}, 60),
        ({"gemma3.attention.sliding_window_pattern": [False] * 62}, 0),
        ({"gemma3.attention.sliding_window": 0}, 0),
        ({"gemma3.attention.head_count_kv": [16] * 62}, 52),
    ],
)
def test_patterns_of_windows_and_numbers_of_each_layer(
    metadata: dict[str, Any], expected: int, tmp_path: Path
) -> None:
    found = read_checkpoint(write_header(changed("gemma-3-27b-q8_0", metadata), tmp_path))
    assert found.spec.windowed_layers == expected
    assert bool(found.spec.window_tokens) == bool(expected)


@pytest.mark.parametrize(
    ("metadata", "message"),
    [
        ({"gemma3.block_count": [62] * 62}, r"gemma3\.block_count must be a whole number from 1 on\. Got \("),
        ({"gemma3.embedding_length": [5376]}, r"embedding_length must be a whole number"),
        (
            {"gemma3.embedding_length": 5376.0},
            r"embedding_length must be a whole number from 1 on\. Got 5376\.0",
        ),
        (
            {"gemma3.attention.head_count": [32, 32]},
            r"one number, or one for each of 62 layers\. Got \(32, 32\)",
        ),
        (
            {"gemma3.attention.head_count_kv": [16] * 61 + [8]},
            r"have layers that are alike in .*head_count_kv",
        ),
        (
            {"gemma3.attention.sliding_window": [1024] * 62},
            r"sliding_window must be a whole number from 0 on",
        ),
        ({"gemma3.attention.sliding_window_pattern": [True]}, r"say of each layer whether it has a window"),
        (
            {"gemma3.attention.sliding_window_pattern": ["a"] * 62},
            r"say of each layer whether it has a window",
        ),
        ({"gemma3.expert_count": [8]}, r"expert_count must be a whole number from 0 on"),
        ({"gemma3.expert_count": 8}, r"it says 8 experts and holds the tensors of none"),
        ({"gemma3.attention.causal": [True]}, r"attention\.causal must be true or false"),
        ({"gemma3.pooling_type": [0]}, r"pooling_type must be a whole number"),
        ({"gemma3.nextn_predict_layers": 62}, r"it says 62 layers, of which 62 only predict tokens ahead"),
        ({"general.architecture": ["gemma3"]}, r"general\.architecture is no text"),
        ({"general.alignment": [32]}, r"alignment"),
        ({"split.count": [2]}, r"be one GGUF file"),
    ],
)
def test_metadata_of_another_form_is_one_clear_error_on_both_sides(
    metadata: dict[str, Any], message: str, tmp_path: Path
) -> None:
    path = write_header(changed("gemma-3-27b-q8_0", metadata), tmp_path)
    with pytest.raises(InputError, match=message):
        read_checkpoint(path)
    with pytest.raises(CheckpointError, match=message):
        read_facts(str(path))


def test_a_window_that_must_be_named_is_not_taken_for_none(tmp_path: Path) -> None:
    entry = changed("gpt-oss-20b-mxfp4", {})
    del entry["metadata"]["gpt-oss.attention.sliding_window"]
    with pytest.raises(InputError, match=r"its header does not say gpt-oss\.attention\.sliding_window"):
        read_checkpoint(write_header(entry, tmp_path))


@pytest.mark.parametrize("family", ["gemma3n", "qwen3next", "nemotron_h", "mamba2", "granitehybrid", "lfm2"])
def test_what_is_not_modelled_is_refused_by_what_it_has(family: str, tmp_path: Path) -> None:
    metadata = {"general.architecture": family, f"{family}.block_count": 2}
    path = write_gguf(tmp_path / "m.gguf", metadata, {"token_embd.weight": ([32, 32], "F32")})
    with pytest.raises(InputError, match=f"--model: .* must be of a family .* this one has .*'{family}'"):
        read_checkpoint(path)
    folder = tmp_path / "hf"
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps({"model_type": family}))
    write_safetensors(folder / "model.safetensors", {"model.embed_tokens.weight": ([32, 32], "F32")})
    with pytest.raises(InputError, match=f"this one has .*'{family}'"):
        read_checkpoint(folder)


def test_an_unknown_family_with_a_window_is_not_guessed_at(tmp_path: Path) -> None:
    entry = changed("qwen3-30b-a3b-bf16", {"general.architecture": "newmoe"})
    entry["metadata"] |= {k.replace("qwen3moe", "newmoe"): v for k, v in entry["metadata"].items()}
    assert read_facts(str(write_header(entry, tmp_path))).shape.experts == 128
    entry["metadata"]["newmoe.attention.sliding_window"] = 4096
    with pytest.raises(
        CheckpointError, match=r"a family whose windows are known. Got 'newmoe with a window'"
    ):
        read_facts(str(write_header(entry, tmp_path, "windowed")))
    with pytest.raises(InputError, match=r"be a model of a family of llama, .* Got '.*: newmoe'"):
        read_checkpoint(tmp_path / "m.gguf")


def folder_of(tmp_path: Path, **config: Any) -> Path:
    entry = CORPUS["qwen2.5-0.5b-stored-f32"]
    return write_header(entry | {"config": entry["config"] | config}, tmp_path)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"torch_dtype": "float8"}, r"dtype must be one of float32, float16, bfloat16\. Got 'float8'"),
        ({"tie_word_embeddings": "yes"}, r"tie_word_embeddings must be true or false\. Got 'yes'"),
        (
            {"tie_word_embeddings": False},
            r"tie_word_embeddings false, and the folder holds no lm_head\.weight",
        ),
        ({"quantization_config": {}}, r"quantization_config must name its quant_method\. Got \{\}"),
        ({"num_key_value_heads": [2]}, r"num_key_value_heads must be a whole number above zero\. Got \[2\]"),
        (
            {"layer_types": ["linear_attention"] * 24},
            r"layer_types must name each of 24 layers one of full_attention, .* Got \['linear_",
        ),
        ({"layer_types": ["full_attention"] * 3}, r"layer_types must name each of 24 layers"),
        ({"architectures": "Qwen2ForCausalLM"}, r"architectures must be a list of texts\. Got 'Qwen2ForC"),
        ({"architectures": 3}, r"architectures must be a list of texts\. Got 3"),
        (
            {"num_experts": 4, "num_experts_per_tok": 2, "mlp_only_layers": [[0]]},
            r"mlp_only_layers must be a list of whole numbers\. Got \[\[0\]\]",
        ),
    ],
)
def test_a_configuration_of_another_form_is_one_clear_error(
    config: dict[str, Any], message: str, tmp_path: Path
) -> None:
    with pytest.raises(BrokenFileError, match=message):
        read_checkpoint(folder_of(tmp_path, **config))


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (
            {"num_key_value_heads": None},
            r"heads 14 x head_dim 64 = 896, and .*0\.self_attn\.k_proj\.weight has 128 rows",
        ),
        ({"num_key_value_heads": 1}, r"num_key_value_heads 1 x head_dim 64, and .* has 128 rows"),
        ({"num_attention_heads": 7}, r"num_key_value_heads 2 x head_dim 128 = 256, and .* has 128 rows"),
        ({"head_dim": 128}, r"num_attention_heads 14 x head_dim 128 = 1792, and .* has 896 rows"),
        (
            {"intermediate_size": 9728},
            r"it says intermediate_size 9728, and .*_proj\.weight has 4864 rows",
        ),
        ({"hidden_size": 1792, "head_dim": 64}, r"it says hidden_size 1792, and .* has 896 rows"),
        ({"vocab_size": 32000}, r"it says vocab_size 32000, and model\.embed_tokens\.weight has 151936 rows"),
    ],
)
def test_a_configuration_that_its_tensors_contradict_is_refused(
    config: dict[str, Any], message: str, tmp_path: Path
) -> None:
    with pytest.raises(BrokenFileError, match=message):
        read_checkpoint(folder_of(tmp_path, **config))


def configured(name: str, change: dict[str, Any]) -> dict[str, Any]:
    entry = CORPUS[name]
    return entry | {"config": entry["config"] | change}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"num_local_experts": None}, "it says 0 experts, and its tensors are of 32"),
        ({"num_local_experts": 64}, "it says 64 experts, and its tensors are of 32"),
        ({"num_local_experts": {}}, r"num_local_experts must be a whole number .* Got \{\}"),
        ({"intermediate_size": 1440}, r"intermediate_size 1440 x 2 = 2880, and .* has 5760 columns"),
        ({"hidden_size": 1440}, r"it says hidden_size 1440, and .* has 2880 rows"),
    ],
)
def test_experts_that_are_not_those_of_the_tensors_are_refused(
    change: dict[str, Any], message: str, tmp_path: Path
) -> None:
    with pytest.raises(BrokenFileError, match=message):
        read_checkpoint(write_header(configured("gpt-oss-20b", change), tmp_path))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"intermediate_size": 7168},
            r"intermediate_size 7168, and .*(gate|up)_proj\.scales has 14336 columns",
        ),
        ({"vocab_size": 32000}, r"vocab_size 32000, and model\.embed_tokens\.weight has 128256 rows"),
        ({"num_key_value_heads": 32}, r"num_key_value_heads 32 x .* = 4096, and .*\.scales has 1024 columns"),
    ],
)
def test_a_packed_folder_is_measured_by_its_scales(
    change: dict[str, Any], message: str, tmp_path: Path
) -> None:
    with pytest.raises(BrokenFileError, match=message):
        read_checkpoint(write_header(configured("llama-3-8b-awq", change), tmp_path))


GPTQ_LAYERS = [
    {
        "count": 24,
        "tensors": {
            "self_attn.q_proj.bias": [[896], "F16"],
            "self_attn.k_proj.qweight": [[112, 128], "I32"],
            "self_attn.k_proj.scales": [[7, 128], "F16"],
            "mlp.down_proj.qweight": [[608, 896], "I32"],
        },
    }
]


@pytest.mark.parametrize(
    ("beside", "method"), [("quantize_config.json", "GPTQ"), ("quant_config.json", "AWQ"), (None, None)]
)
def test_a_folder_packed_before_configurations_said_so_is_what_lies_beside_says(
    beside: str | None, method: str | None, tmp_path: Path
) -> None:
    folder = write_header(CORPUS["qwen2.5-0.5b-stored-f32"] | {"layers": GPTQ_LAYERS}, tmp_path)
    if beside is None:
        with pytest.raises(BrokenFileError, match=r"by quantization_config how .*qweight .* is I32"):
            read_checkpoint(folder)
        return
    (folder / beside).write_text("{}")
    assert (found := read_checkpoint(folder)).quantization == method
    assert found.params == found.spec.params == 494032768


def test_the_heads_of_a_packed_folder_are_told_by_its_scales(tmp_path: Path) -> None:
    change = {"quantization_config": {"quant_method": "gptq"}, "num_key_value_heads": None}
    entry = configured("qwen2.5-0.5b-stored-f32", change)
    folder = write_header(entry | {"layers": GPTQ_LAYERS}, tmp_path)
    with pytest.raises(BrokenFileError, match=r"heads 14 x head_dim 64 = 896, and .* has 128 columns"):
        read_checkpoint(folder)


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("attention.head_count_kv", None, r"head_count_kv 16 x key_length 256 = 4096, and blk\.0\.attn_k"),
        ("attention.head_count_kv", 4, r"head_count_kv 4 x key_length 256 = 1024, and blk\.0\.attn_k"),
        ("attention.key_length", 128, r"head_count 16 x key_length 128 = 2048, and blk\.0\.attn_q"),
        ("attention.value_length", 128, r"head_count_kv 8 x value_length 128 = 1024, and blk\.0\.attn_v"),
        (
            "feed_forward_length",
            99,
            r"feed_forward_length 99, and blk\.0\.ffn_down\.weight has 15360 columns",
        ),
    ],
)
def test_a_gguf_header_that_its_tensors_contradict_is_refused_on_both_sides(
    key: str, value: int | None, message: str, tmp_path: Path
) -> None:
    entry = CORPUS["gemma-3-12b-q8_0"]
    metadata = {**entry["metadata"], f"gemma3.{key}": value}
    entry = entry | {"metadata": {name: said for name, said in metadata.items() if said is not None}}
    path = write_header(entry, tmp_path)
    with pytest.raises(BrokenFileError, match=message):
        read_checkpoint(path)
    with pytest.raises(CheckpointError, match=message):
        read_facts(str(path))


@pytest.mark.parametrize(
    ("name", "key", "value", "message"),
    [
        ("mixtral-8x7b-f16", "llama.expert_count", None, "expert_count 0 .* tensors are of 8, 14336 wide"),
        ("mixtral-8x7b-f16", "llama.expert_count", 64, "expert_count 64 .* tensors are of 8, 14336 wide"),
        ("mixtral-8x7b-f16", "llama.feed_forward_length", 4096, "experts 4096 wide, .* of 8, 14336 wide"),
        ("deepseek-v2-lite-bf16", "deepseek2.attention.value_length_mla", 64, "attn_output.* 2048 columns"),
        ("glm-4.5-air-bf16", "glm4moe.nextn_predict_layers", None, "nextn_predict_layers 0, and holds 1"),
        ("glm-4.5-air-bf16", "glm4moe.expert_count", 64, "expert_count 64 .* tensors are of 128, 1408 wide"),
        (
            "glm-4.5-air-bf16",
            "glm4moe.expert_shared_count",
            None,
            "0 wide shared experts = 0, .* 1408 columns",
        ),
    ],
)
def test_experts_of_a_gguf_are_those_of_its_tensors(
    name: str, key: str, value: int | None, message: str, tmp_path: Path
) -> None:
    metadata = {**CORPUS[name]["metadata"], key: value}
    entry = CORPUS[name] | {"metadata": {k: said for k, said in metadata.items() if said is not None}}
    path = write_header(entry, tmp_path)
    with pytest.raises(BrokenFileError, match=message):
        read_checkpoint(path)
    with pytest.raises(CheckpointError, match=message):
        read_facts(str(path))


@pytest.mark.parametrize(
    ("config", "windowed"),
    [
        ({"layer_types": ["full_attention", "sliding_attention"] * 12, "use_sliding_window": True}, 12),
        ({"use_sliding_window": True, "max_window_layers": 20}, 4),
        ({"model_type": "mistral", "sliding_window": 4096, "use_sliding_window": None}, 24),
        ({"model_type": "mistral", "sliding_window": None}, 0),
        ({"model_type": "cohere2", "sliding_window": 4096, "use_sliding_window": None}, 18),
        ({"model_type": "cohere2", "sliding_window_pattern": 2, "use_sliding_window": None}, 12),
        ({"model_type": "olmo3", "sliding_window": 4096, "use_sliding_window": None}, 18),
        ({"model_type": "smollm3", "sliding_window": None, "use_sliding_window": False}, 0),
        ({"model_type": "seed_oss"}, 0),
    ],
)
def test_windows_of_configurations(config: dict[str, Any], windowed: int, tmp_path: Path) -> None:
    assert read_checkpoint(folder_of(tmp_path, **config)).spec.windowed_layers == windowed


def test_a_type_that_is_not_said_is_that_of_the_files(tmp_path: Path) -> None:
    found = read_checkpoint(folder_of(tmp_path, torch_dtype=None))
    assert (found.quantization, found.weight_bytes) == ("F32", 4 * 494032768)


@pytest.mark.parametrize("method", ["gptq", "awq", "bitsandbytes", "compressed-tensors", "fp8"])
def test_a_quantised_folder_is_called_what_it_is(method: str, tmp_path: Path) -> None:
    found = read_checkpoint(folder_of(tmp_path, quantization_config={"quant_method": method}))
    assert found.quantization == method.upper()
    assert (found.params, found.weight_bytes) == (494032768, 4 * 494032768)  # weights as they are stored
    assert read_models([found.path], "vllm") == [found]
    with pytest.raises(InputError, match=f"not be quantised for .*transformers.* '{method.upper()}'"):
        read_models([found.path], "transformers")


def test_a_snapshot_is_named_by_its_repository(tmp_path: Path) -> None:
    place = tmp_path / "models--Qwen--Qwen2.5-0.5B-Instruct" / "snapshots"
    place.mkdir(parents=True)
    commit = write_header(
        CORPUS["qwen2.5-0.5b-stored-f32"], place, "7ae557604adf67be50417f59c2c2f167def9a775"
    )
    (tmp_path / "link").symlink_to(commit)
    for path in (commit, tmp_path / "link"):
        found = read_checkpoint(path)
        assert found.name == found.spec.name == "Qwen2.5-0.5B-Instruct"
    assert found.named("small").name == found.named("small").spec.name == "small"


@pytest.mark.parametrize("other", ["model-00001-of-00002.safetensors", "consolidated.safetensors"])
def test_two_sets_of_weights_are_refused(other: str, tmp_path: Path) -> None:
    folder = folder_of(tmp_path)
    write_safetensors(folder / "adapter_model.safetensors", {"a": ([1], "F32")})
    read_checkpoint(folder)
    write_safetensors(folder / other, tensors_of(CORPUS["qwen2.5-0.5b-stored-f32"]))
    message = f"hold one set of weights: beside model.safetensors lies {other}; move one set away"
    with pytest.raises(InputError, match=message):
        read_checkpoint(folder)
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"a": other}}))
    with pytest.raises(InputError, match=f"hold one set of weights: beside {other} lies model.safetensors"):
        read_checkpoint(folder)
