import math
import subprocess
import sys
import time
from dataclasses import replace
from types import SimpleNamespace

import pytest

from shunter.catalog.devices import parse_device
from shunter.engines.fake.engine import FakeEngine
from shunter.errors import InputError, ShunterError
from shunter.profiling.dataset.table import read_dataset
from shunter.profiling.meters.conditions import Sensors, pressure
from shunter.profiling.meters.energy import Gpu, Rapl, difference, open_gpu
from shunter.profiling.sweep.plan import SweepSettings
from shunter.profiling.sweep.sweep import run_sweep
from tests.profiling.test_sweep import SETTINGS, plan


class NVMLError(Exception):
    pass


def fake_nvml(**changes):
    """The functions of pynvml that are used, with their names and arguments."""

    def only(handle, value):
        if handle != "gpu0":
            raise NVMLError("Not Found")
        return value

    def by_index(index):
        if index != 0:
            raise NVMLError("Not Found")
        return "gpu0"

    functions = {
        "NVMLError": NVMLError,
        "NVML_CLOCK_SM": 1,
        "NVML_TEMPERATURE_GPU": 0,
        "nvmlInit": lambda: None,
        "nvmlDeviceGetHandleByIndex": by_index,
        "nvmlDeviceGetHandleByUUID": lambda uuid: only("gpu0" if uuid == "GPU-1" else "", "gpu0"),
        "nvmlDeviceGetTotalEnergyConsumption": lambda handle: only(handle, 5000),
        "nvmlDeviceGetClockInfo": lambda handle, type: only(handle, 1410 if type == 1 else 0),
        "nvmlDeviceGetTemperature": lambda handle, sensor: only(handle, 61),
        "nvmlDeviceGetCurrentClocksThrottleReasons": lambda handle: only(handle, 0x4 | 0x1),
    }
    return SimpleNamespace(**{**functions, **changes})


def test_a_gpu_is_read_in_the_datasets_units():
    gpu = open_gpu(0, fake_nvml())
    assert gpu.energy_j() == 5.0
    # A power cap (0x4) holds the clock back; that the GPU is idle now (0x1) does not.
    assert gpu.state() == {"sm_clock_mhz": 1410, "device_temperature_c": 61, "throttle_reasons": 4}


def test_what_a_gpu_does_not_support_is_missing():
    def unsupported(handle):
        raise NVMLError("Not Supported")

    nvml = fake_nvml(
        nvmlDeviceGetTotalEnergyConsumption=unsupported, nvmlDeviceGetCurrentClocksThrottleReasons=unsupported
    )
    gpu = Gpu(nvml, "gpu0")
    assert math.isnan(gpu.energy_j())
    assert math.isnan(gpu.state()["throttle_reasons"])
    assert gpu.state()["sm_clock_mhz"] == 1410


def test_the_visible_devices_are_counted_as_cuda_does(monkeypatch):
    assert open_gpu(1, fake_nvml()) is None
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3, GPU-1")
    assert open_gpu(0, fake_nvml()) is None
    assert open_gpu(1, fake_nvml()).energy_j() == 5.0


def test_counters_that_wrap():
    assert difference(3.0, 5.0) == 2.0
    assert difference(9.0, 1.0, wraps_at=10.0) == 2.0
    assert math.isnan(difference(9.0, 1.0))


def test_rapl_sums_the_packages(tmp_path):
    for zone, uj in (("intel-rapl:0", 2_000_000), ("intel-rapl:1", 3_000_000), ("intel-rapl:0:0", 1)):
        (tmp_path / zone).mkdir()
        (tmp_path / zone / "energy_uj").write_text(f"{uj}\n")
        (tmp_path / zone / "max_energy_range_uj").write_text("10000000\n")
    assert Rapl(tmp_path).energy_j() == 5.0
    assert math.isnan(Rapl(tmp_path).range_j)
    assert math.isnan(Rapl(tmp_path / "none").energy_j())


def test_pressure_is_read_from_the_kernels_files(tmp_path):
    assert all(map(math.isnan, pressure(tmp_path)))
    (tmp_path / "pressure").mkdir()
    (tmp_path / "pressure" / "memory").write_text(
        "some avg10=0.00 avg60=0.00 avg300=0.00 total=9\n"
        "full avg10=0.00 avg60=0.00 avg300=0.00 total=1500000\n"
    )
    (tmp_path / "vmstat").write_text("pgpgin 7\npswpin 2\npswpout 3\npswpin_other 8\n")
    swapped_bytes, stall_s = pressure(tmp_path)
    assert (swapped_bytes % 5, swapped_bytes >= 5 * 4096, stall_s) == (0, True, 1.5)


def test_work_of_other_processes_is_background_and_that_of_children_is_not():
    sensors = Sensors(parse_device("cpu"))
    busy = [sys.executable, "-c", "while True: pass"]
    with subprocess.Popen(busy) as child:
        try:
            sensors.find_processes()
            start = sensors.sample()
            time.sleep(0.6)
            end = sensors.sample()
        finally:
            child.kill()
    own_s = end.own_s - start.own_s
    assert own_s > 0.0
    seen = sensors.conditions(start, end)["background_cores"]
    assert seen == pytest.approx(max(0.0, (end.busy_s - start.busy_s) - own_s) / (end.at_s - start.at_s))


def test_every_row_has_its_conditions(tmp_path):
    run_sweep(plan(models=("a",)), FakeEngine(device="cpu:1-threads"), tmp_path / "d.parquet")
    data = read_dataset(tmp_path / "d.parquet")
    assert (data["swapped_bytes"].dropna() >= 0).all()
    assert data["device_energy_j"].isna().all()


class Swapping:
    """Memory counters that grow while the first units are measured."""

    def __init__(self, units):
        self.left, self.total = 2 * units, 0.0

    def __call__(self):
        self.left -= 1
        self.total += 2**22 if self.left >= 0 else 0
        return self.total, 0.0


def swapping(monkeypatch, units):
    monkeypatch.setattr("shunter.profiling.meters.conditions.pressure", Swapping(units))


def test_a_unit_during_which_memory_was_swapped_is_measured_once_more(tmp_path, monkeypatch):
    swapping(monkeypatch, 1)
    result = run_sweep(plan(models=("a",)), FakeEngine(device="cpu:1-threads"), tmp_path / "d.parquet")
    data = read_dataset(tmp_path / "d.parquet")
    assert len(data) == result.rows
    assert (data["swapped_bytes"] < 2**20).all()


def test_swapping_that_goes_on_ends_the_sweep_and_keeps_nothing_of_the_unit(tmp_path, monkeypatch):
    swapping(monkeypatch, 99)
    out = tmp_path / "d.parquet"
    with pytest.raises(
        ShunterError, match=r"memory is short: while . at \d layers.*4 MB.*--allow-overcommit"
    ):
        run_sweep(plan(), FakeEngine(device="cpu:1-threads"), out)
    assert not out.exists()
    allowed = SweepSettings(**{**vars(SETTINGS), "allow_overcommit": True})
    run_sweep(plan(allowed), FakeEngine(device="cpu:1-threads"), out)
    assert (read_dataset(out)["swapped_bytes"] > 2**20).any()


class Small(FakeEngine):
    """Counts loads; says that a level takes 10 MB a layer, as the fake does."""

    loads = 0

    def load(self, *args, **kwargs):
        self.loads += 1
        return super().load(*args, **kwargs)


def budget_plan(text, settings=SETTINGS):
    return replace(plan(settings, ("a",)), device=parse_device(text))


def test_a_level_that_is_predicted_not_to_fit_is_not_loaded(tmp_path):
    engine = Small(device="cpu:1-threads")
    result = run_sweep(budget_plan("cpu:1-threads-50MB"), engine, tmp_path / "d.parquet")
    assert len(result.refused) == 1
    assert "a at 9 layers is predicted to need 90 MB of the device's 50 MB; --allow-over" in result.refused[0]
    assert set(read_dataset(tmp_path / "d.parquet")["gpu_layers"]) == {0}
    allowed = SweepSettings(**{**vars(SETTINGS), "allow_overcommit": True})
    forced = run_sweep(budget_plan("cpu:1-threads-50MB", allowed), engine, tmp_path / "e.parquet")
    assert forced.refused == ()


def test_a_model_that_fits_nowhere_is_bad_input_and_never_loaded(tmp_path, monkeypatch):
    engine = Small(device="cpu:1-threads")
    all_layers = SweepSettings(**{**vars(SETTINGS), "gpu_layers": ("all",)})
    with pytest.raises(InputError, match=r"--model must fit the memory.*90 MB of the device's 50 MB"):
        run_sweep(budget_plan("cpu:1-threads-50MB", all_layers), engine, tmp_path / "d.parquet")
    free = SimpleNamespace(available=1_000_000)
    monkeypatch.setattr("shunter.profiling.sweep.footprint.psutil.virtual_memory", lambda: free)
    with pytest.raises(InputError, match="90 MB of host memory, of which 1 MB are free"):
        run_sweep(budget_plan("cpu:1-threads", all_layers), engine, tmp_path / "d.parquet")
    assert (engine.loads, list(tmp_path.iterdir())) == (0, [])
