import pytest

from shunter.catalog.gpus import catalog_gpus
from shunter.models.datasheets import datasheet, host_bandwidth_bytes_per_s


def test_every_gpu_of_the_catalogue_has_rates_that_agree_with_it():
    for name, gpu in catalog_gpus().items():
        sheet = datasheet(name)
        assert min(sheet.matrix_flop_per_s, sheet.lane_clocks_per_s, sheet.link_bytes_per_s) > 0
        assert sheet.bandwidth_bytes_per_s == gpu.bandwidth_bytes_per_s


@pytest.mark.parametrize("name", ["RTX 3090", "RTX 4090", "RTX A6000", "L40S", "RTX 2080", "A40", "RTX 5070"])
def test_multiprocessors_and_clock_give_the_vector_rate(name):
    vector = catalog_gpus()[name].fp16_vector_flop_per_s
    assert 256 * datasheet(name).lane_clocks_per_s == pytest.approx(vector, rel=0.01)


@pytest.mark.parametrize(
    ("cpu", "rate"),
    [
        ("Ryzen 7 3700X, dual-channel DDR4-3200", 51.2e9),
        ("EPYC 9554 64c, 12ch DDR5-5600", 537.6e9),
        ("EPYC 9374F (~360 GB/s per author)", 360e9),
        ("RunPod host, not stated", None),
        (None, None),
    ],
)
def test_memory_bandwidth_is_read_from_what_is_said_of_a_host(cpu, rate):
    assert host_bandwidth_bytes_per_s(cpu) == rate


@pytest.mark.parametrize(
    ("cpu", "rate"),
    [
        ("AMD EPYC 9354 32-Core Processor", 460.8e9),
        ("Ryzen 7 7700X, DDR5-4800", 76.8e9),
        ("Intel(R) Core(TM) i9-10900X CPU @ 3.70GHz", 93.856e9),
        ("8-channel DDR4-3200", 204.8e9),
        ("64 GB DDR5-6000", None),
        ("EPYC 93540", None),
    ],
)
def test_a_cpu_of_the_catalogue_tells_its_memory_and_a_speed_alone_tells_nothing(cpu, rate):
    assert host_bandwidth_bytes_per_s(cpu) == (None if rate is None else pytest.approx(rate))
