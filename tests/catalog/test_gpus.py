import pytest

from shunter.catalog.gpus import catalog_gpus, get_gpu
from shunter.errors import UnknownNameError


def test_facts_are_in_bytes_and_flops():
    gpu = get_gpu("RTX A6000")
    assert gpu.memory_bytes == 48 * 2**30
    assert (gpu.bandwidth_bytes_per_s, gpu.fp16_flop_per_s) == (768e9, 154.8e12)
    assert (gpu.pcie_gen, gpu.pcie_lanes, gpu.link_bytes_per_s) == (4, 16, 31.508e9)
    assert "llm-analysis" in gpu.memory_source


def test_the_catalogue_is_consistent():
    assert len(catalog_gpus()) == 30
    for name, gpu in catalog_gpus().items():
        assert gpu.name == name
        per_lane = gpu.link_bytes_per_s / gpu.pcie_lanes / 2**gpu.pcie_gen
        assert per_lane == pytest.approx(1.231e8, rel=1e-3)  # each generation doubles a lane
        assert gpu.memory_source
        assert gpu.fp16_cross_checked


def test_a_gpu_without_matrix_units_has_no_rate_of_them():
    assert get_gpu("Tesla P4").fp16_flop_per_s is None


def test_an_unknown_gpu_names_the_nearest():
    with pytest.raises(UnknownNameError, match=r"^--gpu: unknown name 'rtx a600'; did you mean RTX A6000 "):
        get_gpu("rtx a600", field="--gpu")
