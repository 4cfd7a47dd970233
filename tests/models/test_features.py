import numpy as np
import pandas as pd
import pytest

from shunter.models.physics.features import TARGETS, feature_frame, with_heads

# 4 layers of 100 bytes, an output of 2 * 8 * 2 = 32 bytes and an embedding as large; 2 bytes per parameter.
FACTS = {
    "params": 232,
    "weight_bytes": 464,
    "layer_weight_bytes": 100,
    "layers": 4,
    "total_layers": 5,
    "hidden_size": 2,
    "attn_heads": 1,
    "kv_bytes_per_token": 8.0,
    "vocab_size": 8,
}
CONFIGURATION = {"batch": 1, "tokens": 10, "context_tokens": 20.0, "max_batch": 2, "max_context_tokens": 30}


def features(target, gpu_layers, **configuration):
    frame = pd.DataFrame([{**FACTS, **CONFIGURATION, "gpu_layers": gpu_layers, **configuration}])
    return feature_frame(TARGETS[target], frame).iloc[0]


@pytest.mark.parametrize(
    ("gpu_layers", "device", "host", "hop"),
    [(0, 0, 432, 0), (1, 32, 400, 1), (4, 332, 100, 1), (5, 432, 0, 0)],
)
def test_a_step_reads_the_output_layer_first_and_the_layers_where_they_are(gpu_layers, device, host, hop):
    f = features("decode_step_s", gpu_layers)
    assert (f["read_bytes_device"], f["read_bytes_host"], f["hop"]) == (device, host, hop)


def test_kv_is_where_its_layers_are():
    f = features("decode_step_s", 2, batch=3)
    assert f["kv_bytes_device"] == 3 * 20 * 8 / 4
    assert f["kv_bytes_host"] == 3 * 20 * 8 * 3 / 4
    f = features("kv_save_s", 4)
    assert (f["kv_bytes_device"], f["kv_bytes_host"]) == (10 * 6, 10 * 2)


def test_one_sequence_adds_nothing_to_the_weights_and_more_do():
    alone, three = features("decode_step_s", 5), features("decode_step_s", 5, batch=3)
    assert alone["more_sequences_params_device"] == alone["is_batched_params_device"] == 0
    assert three["more_sequences_params_device"] == 2 * 216
    assert three["is_batched_params_device"] == three["many_sequences_params_device"] == 216


def test_weights_beyond_the_cache_are_all_or_nothing_far_from_its_size():
    small, large = (
        features("decode_step_s", 5),
        features("decode_step_s", 5, layer_weight_bytes=5e7, weight_bytes=2.1e8),
    )
    assert (small["read_bytes_device"], small["beyond_cache_bytes_device"]) == (432, 0)
    assert large["beyond_cache_bytes_device"] == large["read_bytes_device"] > 2e8


def test_heads_that_a_dataset_does_not_know_are_128_wide():
    frame = pd.DataFrame({"hidden_size": [4096, 64, 4096], "attn_heads": [np.nan, np.nan, 64]})
    assert with_heads(frame)["attn_heads"].tolist() == [32, 1, 64]
    assert with_heads(frame[["hidden_size"]])["attn_heads"].tolist() == [32, 1, 32]


def test_all_weights_are_somewhere_and_the_embedding_on_the_host():
    for gpu_layers in range(6):
        f = features("device_bytes", gpu_layers)
        assert f["weight_bytes_device"] + f["weight_bytes_host"] == 464
    assert f["weight_bytes_host"] == 32
    assert f["kv_reserved_bytes_device"] == 2 * 30 * 8


@pytest.mark.parametrize(
    ("tokens", "passes"), [(3, 0), (4, 0), (5, 1), (8, 0), (63, 1), (64, 0), (129, 0.75), (132, 0.75)]
)
def test_what_does_not_fill_a_kernels_rows_reads_the_weights_again(tokens, passes):
    f = features("prefill_s", 5, tokens=tokens)
    assert f["leftover_read_bytes_device"] == passes * f["read_bytes_device"] == passes * 432


def test_attention_of_a_short_prompt_has_a_term_of_its_own():
    short, long = features("prefill_s", 5, tokens=63), features("prefill_s", 5, tokens=64)
    assert short["short_heads_device"] == short["heads_device"] > 0 == long["short_heads_device"]


def test_prefill_grows_with_tokens_and_with_their_square():
    once, twice = features("prefill_s", 5), features("prefill_s", 5, tokens=20)
    assert twice["token_params_device"] == 2 * once["token_params_device"]
    assert twice["attention_device"] == 4 * once["attention_device"]
    assert twice["read_bytes_device"] == once["read_bytes_device"]


@pytest.mark.parametrize("target", TARGETS)
def test_no_feature_is_negative_or_missing(target):
    for gpu_layers in range(6):
        values = features(target, gpu_layers).to_numpy(dtype=float)
        assert np.isfinite(values).all()
        assert (values >= 0).all()
