"""One table of terms: its three readers must see the same bytes, multiplications and tokens."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from shunter.catalog import work
from shunter.catalog.checkpoints import Checkpoint
from shunter.catalog.devices import parse_device
from shunter.catalog.models import ModelSpec, known_models
from shunter.models.physics import rated_configurations
from shunter.models.physics.decode import kv_read_s, matrix_s, weight_read_s
from shunter.models.physics.features import TARGETS, feature_frame
from shunter.models.physics.memory import device_kv_bytes, device_weights_bytes
from shunter.models.physics.prefill import prompt_activation_s, prompt_attention_s, prompt_matrix_s
from shunter.models.physics.swap import kv_transfer_s, transfer_s
from shunter.models.published.rows import catalog_facts
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


def family(name: str, quantization: str, **asked: float) -> pd.DataFrame:
    """One configuration of a model of the catalogue, all of it on the device unless asked otherwise."""
    facts = catalog_facts(name, quantization)
    blank = {"batch": 1, "tokens": 0, "context_tokens": 0.0, "max_batch": 1, "max_context_tokens": 1}
    return pd.DataFrame([{**facts, **blank, "gpu_layers": facts["total_layers"], **asked}])


def test_layers_with_a_window_read_copy_and_reserve_no_more_than_it() -> None:
    per_layer = 8192  # Gemma-3-27B: 16 heads of 128, keys and values, 2 bytes each; 52 of 62 have 1024 tokens
    at = work.placed_configurations(
        family("Gemma-3-27B", "Q4_K_M", tokens=32768, context_tokens=32768.0, max_context_tokens=32768)
    )
    kept = per_layer * (10 * 32768 + 52 * 1024)
    assert work.kv_read_bytes(at).device[0] == pytest.approx(kept)
    assert work.kv_copied_bytes(at).device[0] == pytest.approx(kept)
    assert work.kv_reserved_bytes(at).device[0] == pytest.approx(per_layer * (10 * 32768 + 52 * 1536))
    pairs = 10 * 32768**2 + 52 * (2 * 1024 * 32768 - 1024**2)
    assert work.pair_width(at).device[0] == pytest.approx(pairs * 5376)
    short = work.placed_configurations(family("Gemma-3-27B", "Q4_K_M", tokens=1000, context_tokens=1000.0))
    assert work.kv_read_bytes(short).device[0] == pytest.approx(per_layer * 62 * 1000)
    assert work.pair_width(short).device[0] == pytest.approx(62 * 1000**2 * 5376)


def test_a_step_reads_the_experts_that_its_tokens_are_sent_to() -> None:
    spec = known_models()["Qwen3-30B-A3B"]

    def placed(**asked: float) -> work.PlacedConfigurations:
        return work.placed_configurations(family(spec.name, "F16", **asked))

    one = placed()
    everything = sum(work.weights_read_bytes(one, np.array([1e6])))[0]
    assert everything == pytest.approx(2 * (spec.params - spec.embedding_params), rel=1e-3)
    active_bytes = 2 * (spec.active_params - spec.embedding_params)
    assert sum(work.weights_read_bytes(one, one.batch))[0] == pytest.approx(active_bytes, rel=1e-2)
    assert work.token_params(placed(tokens=100)).device[0] == pytest.approx(100 * active_bytes / 2, rel=1e-2)
    steps = [placed(batch=batch) for batch in (1, 2, 8, 64)]
    read = [sum(work.weights_read_bytes(at, at.batch))[0] for at in steps]
    assert read == sorted(read)
    assert read[1] < 2 * read[0]
    assert read[2] < read[3] < everything
    assert sum(work.weights_held_bytes(one))[0] == pytest.approx(2 * spec.params, rel=1e-3)


def test_experts_kept_on_the_host_are_read_and_held_there() -> None:
    facts = catalog_facts("gpt-oss-120b", "MXFP4")
    on_device = work.placed_configurations(family("gpt-oss-120b", "MXFP4"))
    for layers in (0, 10, 36):
        at = work.placed_configurations(family("gpt-oss-120b", "MXFP4", expert_layers_on_host=layers))
        moved = layers * facts["layer_weight_bytes"] * facts["expert_share"]
        held, all_held = work.weights_held_bytes(at), work.weights_held_bytes(on_device)
        assert held.device[0] == pytest.approx(all_held.device[0] - moved)
        assert held.host[0] == pytest.approx(all_held.host[0] + moved)
        asked = {**facts, work.EXPERT_LAYERS_ON_HOST: layers}
        assert work.experts_kept_on_host_bytes(asked, facts["total_layers"]) == pytest.approx(moved)
        assert at.is_split[0] == (layers > 0)
    # The first layers are the host's anyway where not all are on the device.
    half = family("gpt-oss-120b", "MXFP4", gpu_layers=19, expert_layers_on_host=18)
    assert work.placed_configurations(half).expert_bytes_device[0] == pytest.approx(
        18 * facts["layer_weight_bytes"] * facts["expert_share"]
    )


def test_a_tied_embedding_lies_on_both_sides() -> None:
    at = work.placed_configurations(family("Gemma-3-27B", "Q4_K_M"))
    facts = catalog_facts("Gemma-3-27B", "Q4_K_M")
    kept, held = work.weights_kept_bytes(at), work.weights_held_bytes(at)
    assert kept.device[0] == held.device[0]
    assert kept.host[0] - held.host[0] == facts["tied_bytes"] == pytest.approx(262208 * 5376 * 210 / 256)
    on_host = work.placed_configurations(family("Gemma-3-27B", "Q4_K_M", gpu_layers=0))
    assert work.weights_kept_bytes(on_host).host[0] == facts["weight_bytes"]


def test_reserved_kv_is_what_configurations_say() -> None:
    for name in ("Llama-3-8B", "Gemma-3-27B", "DeepSeek-V3", "gpt-oss-20b"):
        facts = catalog_facts(name, "F16")
        at = work.placed_configurations(family(name, "F16", max_batch=3, max_context_tokens=20_000))
        reserved = work.reserved_kv_bytes(facts, 20_000, 3)
        assert sum(work.kv_reserved_bytes(at))[0] == pytest.approx(reserved)
        missing = {key: value for key, value in facts.items() if key not in work.FAMILY_COLUMNS}
        assert work.reserved_kv_bytes(missing, 20_000, 3) == facts["kv_bytes_per_token"] * 60_000
