import numpy as np
import pytest

from shunter.catalog.gpus import catalog_gpus
from shunter.models.datasheets import HOST
from shunter.models.published.rows import (
    facts_of,
    gpu_of,
    model_name,
    published_frame,
    quantization_name,
    refused,
    spec_of,
)
from shunter.profiling.dataset.reference import read_reference
from shunter.profiling.dataset.schema import COLUMNS, validate


def test_published_rows_are_a_valid_dataset_with_their_own_ids():
    frame = published_frame()
    validate(frame[[c.name for c in COLUMNS]], "published")
    assert frame["row_id"].is_unique
    assert set(frame["row_id"]) <= set(read_reference()["row_id"])
    assert set(frame["device"]) <= {*catalog_gpus(), HOST}
    assert frame.groupby("model")["weight_bytes"].nunique().max() == 1


@pytest.mark.parametrize("text", ["LLaMA 7B", "LLaMA-1 7b", "Llama-2-7B"])
def test_one_shape_has_one_name(text):
    assert model_name(text) == "Llama-2-7B"


def test_models_keep_their_own_names():
    assert model_name("Qwen2.5-Coder-14B") == "Qwen2.5-14B"
    assert model_name("Llama-3-70B") == "Llama-3-70B"
    assert spec_of("Mixtral-8x70B") is None


def test_what_is_left_out_says_why():
    reference = read_reference().set_index("row_id")
    assert refused(reference.loc["r0680"]).startswith("the shape of Qwen3.5-27B is not known")
    unnamed = reference.loc["r0000"].to_dict() | {"device": "RTX 3080"}
    assert refused(unnamed) == "there is no data sheet of RTX 3080"
    assert refused(reference.loc["r0155"]) == "its device is not named"
    assert refused(reference.loc["r0000"]) == ""
    experts = reference.loc["r0300"].to_dict() | {"model": "Mixtral-8x7B"}
    assert "not a dense transformer" in refused(experts)


def test_facts_by_name_and_quantisation():
    facts = facts_of("Llama-3-8B Q4_K_M")
    assert facts["weight_bytes"] == pytest.approx(4.92e9, rel=0.02)
    assert facts_of("Llama-3-8B") is None
    assert facts_of("Nobody-8B Q4_0") is None


def test_kv_on_the_host_and_several_gpus_are_told():
    frame = published_frame().set_index("row_id")
    assert frame.loc["r0000", "kv_on_host"] == 1
    assert (frame["gpu_count"] > 1).sum() > 100
    assert np.isfinite(frame["duration_s"]).all()


def test_llama_benchs_name_of_mxfp4_is_the_catalogues():
    assert quantization_name("MXFP4 MoE") == "MXFP4"
    assert facts_of("gpt-oss-20b MXFP4")["model"] == "gpt-oss-20b MXFP4"


def test_a_gpu_whose_sizes_differ_in_memory_alone_is_the_largest_unless_its_size_is_told():
    row = read_reference().set_index("row_id").loc["r0000"].to_dict()

    def found(device, vram_gb):
        return gpu_of(row | {"device": device, "vram_gb": vram_gb})

    assert found("Radeon 8060S", float("nan")) == "Radeon 8060S 96GB"
    assert found("Radeon 8060S", 64.0) == "Radeon 8060S 64GB"
    assert found("RTX 3080", float("nan")) is None
    assert found("RTX 3080", 10.0) == "RTX 3080 10GB"
