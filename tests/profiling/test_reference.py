import numpy as np
import pytest

from shunter.catalog.gpus import catalog_gpus
from shunter.engines.registry import ENGINES
from shunter.profiling.dataset.reference import PAPER, read_reference, workload_quantiles
from shunter.profiling.dataset.schema import COLUMNS, OPERATIONS


@pytest.fixture(scope="module")
def data():
    return read_reference()


@pytest.fixture(scope="module")
def paper(data):
    return data[data["system"].str.startswith(PAPER, na=False)]


def test_every_published_row_is_there_with_its_source(data):
    assert data["row_id"].is_unique
    assert data["row_id"].str[0].value_counts().to_dict() == {"r": 722, "p": 136}
    assert data["source"].str.startswith("https://").all()
    assert data["value"].notna().all()


def test_every_figure_of_the_paper_is_there_and_says_where_it_comes_from(paper):
    assert len(paper) == 37
    assert paper["provenance"].str.startswith("secondary: machine-written summaries").all()
    overhead = paper[paper["metric"] == "total_preemption_overhead"]
    assert {(r.model, r.device): r.duration_s for r in overhead.itertuples()} == {
        ("Qwen2.5-3B", "RTX 5000 Ada"): 2.98,
        ("Qwen3-8B", "RTX 5000 Ada"): 5.16,
        ("Qwen2.5-14B", "RTX 5000 Ada"): 7.31,
        ("Qwen2.5-3B", "RTX A6000"): 2.62,
        ("Qwen3-8B", "RTX A6000"): 4.06,
        ("Qwen2.5-14B", "RTX A6000"): 5.73,
    }
    assert paper["metric"].value_counts().drop("total_preemption_overhead").to_dict() == {
        "share_model_swap(unload+reload)": 6,
        "share_kv_transfer(both directions)": 6,
        "overhead_vs_uninterrupted_baseline": 6,
        "kv_gpu_to_cpu": 3,
        "kv_cpu_to_gpu": 3,
        "effective_bandwidth_range": 3,
        "kv_per_token": 3,
        "model_reload": 1,
    }


def test_the_papers_kv_sizes_are_those_of_its_models_in_mib(paper):
    """Qwen2.5-3B has 36,864 bytes a token; 178 MB read as 10^6 bytes would hold fewer than its 5,000."""
    sizes = paper.set_index("metric").query("model == 'Qwen2.5-3B'")
    assert sizes.loc["kv_per_token", "kv_bytes_per_token"] == pytest.approx(36_864, rel=0.01)
    assert sizes.loc["kv_gpu_to_cpu", "kv_bytes"] / 36_864 > 5000
    assert sizes.loc["kv_gpu_to_cpu", ["operation", "duration_s", "tokens"]].tolist() == [
        "kv_save",
        0.018,
        5000,
    ]
    assert sizes.loc["kv_cpu_to_gpu", ["operation", "duration_s"]].tolist() == ["kv_restore", 0.0144]


def test_columns_that_the_dataset_has_too_obey_its_rules(data):
    rules = {column.name: column for column in COLUMNS}
    shared = [name for name in data if name in rules]
    assert {"operation", "device", "gpu_layers", "duration_s", "tokens_per_s"} <= set(shared)
    for name in shared:
        said = data[name].dropna()
        assert said.isin(rules[name].choices).all() or not rules[name].choices
        if rules[name].minimum is not None:
            assert said.min() >= rules[name].minimum
        assert (data[name].dtype == np.float64) == (rules[name].dtype in ("int64", "float64"))
    assert set(data["engine"].dropna()) <= {*ENGINES, "vllm"}
    assert set(data["operation"].dropna()) == {*OPERATIONS} - {"unload"}


def test_rates_become_durations(data):
    rows = data.set_index("row_id")
    decode, prefill = rows.loc["r0171"], rows.loc["r0175"]
    assert (decode["operation"], decode["device"], decode["context_tokens"]) == ("decode", "RTX 3070", 256.5)
    assert decode["duration_s"] == 1 / 72.79
    assert prefill["operation"] == "prefill"
    assert prefill["duration_s"] == 512 / 2402.51


@pytest.mark.parametrize(
    ("row_id", "stated", "gpu_layers", "total_layers"),
    [
        ("r0016", 16, 16, 33),  # a level of the RTX 3090 series
        ("r0169", 35, 33, 33),  # llama.cpp of 2023 counted keys and values as layers
        ("r0171", 32, 33, 33),  # "all layers on GPU(s)"
        ("r0673", 48, 48, 49),  # "all blocks, output layer on CPU"
        ("r0696", np.nan, np.nan, 49),
    ],
)
def test_levels_count_the_output_layer(data, row_id, stated, gpu_layers, total_layers):
    row = data.set_index("row_id").loc[row_id]
    np.testing.assert_equal(
        row[["source_gpu_layers", "gpu_layers", "total_layers"]].to_numpy(float),
        np.array([stated, gpu_layers, total_layers], float),
    )


def test_what_a_source_does_not_say_is_missing(data):
    rows = data.set_index("row_id")
    assert rows.loc["r0155", "device"] is None
    assert rows.loc["r0155", "source_device"] == "unknown NVIDIA"
    assert rows.loc["r0138", "device"] == "cpu"
    unsure = data[data["source_quantization"] == "16-bit (not stated)"]
    assert len(unsure) == 10
    assert unsure["quantization"].isna().all()
    assert np.isnan(rows.loc["r0138", "context_tokens"])
    assert data.loc[data["metric"].str.startswith("L1_"), "operation"].isna().all()


def test_the_offload_curve_of_the_rtx_3090_rises_with_layers(data):
    series = data[(data["model"] == "LLaMA-1 33b") & (data["device"] == "RTX 3090")].dropna(
        subset="gpu_layers"
    )
    medians = series[series["gpu_layers"] % 10 == 0].groupby("gpu_layers")["tokens_per_s"].median()
    assert len(medians) >= 6
    assert medians.is_monotonic_increasing


def test_gpus_of_the_catalogue_can_be_joined(data):
    known = data["device"].isin(list(catalog_gpus()))
    assert known.sum() > 650


def test_quantiles_of_four_traces_name_their_licence():
    quantiles = workload_quantiles()
    levels = quantiles["quantile_levels"]
    assert len(quantiles["traces"]) == 4
    for trace in quantiles["traces"].values():
        assert trace["licence"]
        assert len(trace["prompt_q"]) == len(trace["output_q"]) == len(levels)
        assert trace["prompt_q"] == sorted(trace["prompt_q"])
