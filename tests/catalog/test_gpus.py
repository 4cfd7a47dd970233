import pytest

from shunter.catalog.gpus import catalog_gpus, get_gpu


def test_facts_are_in_bytes_and_flops():
    gpu = get_gpu("RTX A6000")
    assert gpu.marketed_bytes == 48 * 2**30
    assert (gpu.bandwidth_bytes_per_s, gpu.fp16_flop_per_s) == (768e9, 154.8e12)
    assert (gpu.pcie_gen, gpu.pcie_lanes, gpu.link_bytes_per_s) == (4, 16, 31.508e9)
    assert "llm-analysis" in gpu.memory_source


def test_the_catalogue_is_consistent():
    assert len(catalog_gpus()) >= 250
    for name, gpu in catalog_gpus().items():
        assert gpu.name == name
        if gpu.pcie_lanes:
            per_lane = gpu.link_bytes_per_s / gpu.pcie_lanes / 2**gpu.pcie_gen
            assert per_lane == pytest.approx(1.231e8, rel=1e-3)  # each generation doubles a lane
        else:
            assert (gpu.pcie_gen, "link" in gpu.notes) == (0, True)
        assert gpu.memory_source
        assert gpu.fp16_cross_checked


def test_newer_entries_have_their_makers_figures():
    assert get_gpu("GB300").memory_bytes == 284208 * 2**20
    assert (get_gpu("GB300").bandwidth_bytes_per_s, get_gpu("GB300").fp16_flop_per_s) == (8e12, 2500e12)
    bandwidths = [
        get_gpu(f"M5 {name}").bandwidth_bytes_per_s for name in ("24GB", "Pro 24GB", "Max 36GB", "Max 64GB")
    ]
    assert bandwidths == [153.6e9, 307e9, 460e9, 614e9]
    assert get_gpu("M5 Max 128GB").fp16_flop_per_s == 4 * get_gpu("M5 Max 128GB").fp16_vector_flop_per_s


def test_memory_is_what_a_driver_shows_where_that_was_seen():
    for gpu in catalog_gpus().values():
        seen = gpu.driver_memory_source != ""
        assert (gpu.memory_bytes != gpu.marketed_bytes) <= seen
        least = (
            0.9
            if "derived" not in gpu.driver_memory_source and "llama.cpp" not in gpu.driver_memory_source
            else 0.6
        )
        assert least < gpu.memory_bytes / gpu.marketed_bytes <= 1
    assert get_gpu("L40S").memory_bytes == 46068 * 2**20  # 48.3e9: ECC takes a sixteenth
    assert get_gpu("MI300X").memory_bytes == 206_141_652_992


def test_rates_are_those_of_the_cards_multiprocessors():
    """A slip of a row shows here: FP16 of matrix units is a power of two a multiprocessor and clock."""
    for gpu in catalog_gpus().values():
        if gpu.fp16_cross_checked.startswith("derived: multiprocessors"):
            per_clock = gpu.matrix_flop_per_s / gpu.lane_clocks_per_s
            assert min(abs(per_clock / rate - 1) for rate in (1024, 2048, 4096)) < 0.01, gpu.name


def test_a_gpu_without_matrix_units_has_no_rate_of_them():
    assert get_gpu("Tesla P4").fp16_flop_per_s is None
