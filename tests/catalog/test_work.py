"""One table of terms: its three readers must see the same bytes, multiplications and tokens."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from shunter.catalog import work
from shunter.catalog.checkpoints import Checkpoint
from shunter.catalog.devices import parse_device
from shunter.catalog.models import ModelSpec
from shunter.models.physics import rated_configurations
from shunter.models.physics.decode import kv_read_s, matrix_s, weight_read_s
from shunter.models.physics.features import TARGETS, feature_frame
from shunter.models.physics.memory import device_kv_bytes, device_weights_bytes
from shunter.models.physics.prefill import prompt_activation_s, prompt_attention_s, prompt_matrix_s
from shunter.models.physics.swap import kv_transfer_s, transfer_s
from shunter.profiling.sweep.design import observations
from shunter.profiling.sweep.plan import SweepSettings, make_plan

SPEC = ModelSpec(
    name="m",
    layers=10,
    hidden_size=512,
    attn_heads=8,
    kv_heads=4,
    head_dim=64,
    intermediate_size=1536,
    vocab_size=512,
)
CHECKPOINT = Checkpoint(
    "m", Path("/nowhere/m"), "safetensors", SPEC, "F32", 4 * SPEC.params, 4 * SPEC.params_per_layer
)


@pytest.fixture
def configuration() -> pd.DataFrame:
    facts: dict[str, Any] = {
        "params": SPEC.params,
        "weight_bytes": CHECKPOINT.weight_bytes,
        "layer_weight_bytes": CHECKPOINT.layer_weight_bytes,
        "layers": SPEC.layers,
        "total_layers": SPEC.total_layers,
        "hidden_size": SPEC.hidden_size,
        "attn_heads": SPEC.attn_heads,
        "kv_bytes_per_token": SPEC.kv_bytes_per_token(),
        "vocab_size": SPEC.vocab_size,
        "gpu_layers": SPEC.total_layers,
        "batch": 3,
        "tokens": 100,
        "context_tokens": 104.5,
        "max_batch": 4,
        "max_context_tokens": 2048,
    }
    return pd.DataFrame([{**facts, "datasheet": "RTX 4090"}])


def test_the_fit_over_gpus_divides_the_features_of_one_device_by_rates(configuration: pd.DataFrame) -> None:
    rated = rated_configurations(configuration)
    decode, prefill, load, kv = (
        feature_frame(TARGETS[t], configuration).iloc[0]
        for t in ("decode_step_s", "prefill_s", "load_s", "kv_save_s")
    )
    flop_per_s = rated.matrix[0]
    sequences_params = decode["more_sequences_params_device"] * 3 / 2  # of three, two are more
    for seconds, amount, rate in (
        (weight_read_s, decode["read_bytes_device"], rated.bandwidth[0]),
        (matrix_s, 2 * sequences_params, flop_per_s),
        (kv_read_s, decode["kv_bytes_device"], rated.bandwidth[0]),
        (prompt_matrix_s, 2 * prefill["token_params_device"], flop_per_s),
        (prompt_attention_s, 2 * prefill["attention_device"], flop_per_s),
        (prompt_activation_s, 2 * prefill["token_width_device"], rated.bandwidth[0]),
        (transfer_s, load["weight_bytes_device"], rated.link[0]),
        (kv_transfer_s, kv["kv_bytes_device"], rated.link[0]),
        (device_weights_bytes, load["weight_bytes_device"], 1.0),
        (device_kv_bytes, load["kv_reserved_bytes_device"], 1.0),
    ):
        assert seconds(rated)[0] == pytest.approx(amount / rate, rel=1e-12), seconds.__name__
        assert amount > 0


def test_a_sweep_is_designed_for_the_same_terms(configuration: pd.DataFrame) -> None:
    settings = SweepSettings(
        gpu_layers=("all",), prompt_tokens=(100,), decode_tokens=(8,), batch=(3,), cut_tokens=(), repeats=1
    )
    plan = make_plan(
        [CHECKPOINT], engine="fake", device=parse_device("loopback:1-threads"), settings=settings
    )
    group = plan.groups[0]
    told = next(observations(plan, group, unit) for unit in group.units if unit.kind == "run")
    at = work.placed_configurations(configuration)
    all_params = float(SPEC.params)
    _, params, on_device, on_host, pairs, activations = told["prefill"]
    assert (params, on_device, on_host) == (all_params, 100 * all_params, 0.0)
    assert pairs == work.pair_width(at).device[0]
    assert activations == work.token_width(at).device[0]
    _, read, _, _, more, *_, kv, width = told["decode"]
    assert (read, more) == (CHECKPOINT.weight_bytes, 2 * all_params)
    assert kv == work.kv_read_bytes(at).device[0]
    assert width == work.attended_width(at).device[0]


def test_sides_add_up_to_the_whole_wherever_the_layers_are(configuration: pd.DataFrame) -> None:
    for layers in range(SPEC.total_layers + 1):
        at = work.placed_configurations(configuration.assign(gpu_layers=layers))
        assert sum(work.layers(at)) == SPEC.layers
        assert sum(work.weights_held_bytes(at)) == CHECKPOINT.weight_bytes
        assert sum(work.kv_copied_bytes(at)) == pytest.approx(100 * SPEC.kv_bytes_per_token())
