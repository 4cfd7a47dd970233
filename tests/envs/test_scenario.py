from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from shunter.envs.scenario.model import Model
from shunter.envs.scenario.scenario import Device, Scenario, load_scenario
from shunter.envs.world.world import make_world
from shunter.errors import BrokenFileError, InputError, UnknownNameError
from shunter.models.performance import PerformanceModel
from tests.worlds import fake_scenario

GOOD: dict[str, Any] = {
    "name": "s",
    "engine": "fake",
    "models": [{"name": "a"}, {"name": "b", "levels": ["all", "50%", 0]}],
    "devices": [{"name": "d", "device": "cpu:1-threads-50MB"}],
    "workload": {"rate_per_s": 1.0},
}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"workload": {"rate_per_s": -1}}, "workload.rate_per_s must be greater than 0. Got -1 instead."),
        ({"workload": {}}, "give exactly one of rate_per_s, load and closed_loop"),
        ({"workload": {"rate_per_s": 1, "load": 1}}, "give exactly one of rate_per_s, load and closed_loop"),
        ({"engine": "vlm"}, "unknown name 'vlm'"),
        ({"like": "x"}, "like must not be given: there is no such key. Got 'x' instead."),
        ({"models": []}, "models must have at least 1 item"),
        ({"models": [{"name": "a"}, {"name": "a"}]}, "have models of distinct names"),
        ({"devices": [{"name": "d", "device": "cuda0"}]}, "devices.device must have the form"),
        ({"devices": [{"name": "d", "device": "gpu:0"}]}, "unknown name 'gpu'"),
        ({"devices": [{"name": "d"}]}, "give device (a real one), gpu (one of the catalogue), or both"),
        (
            {"devices": [{"name": "d", "gpu": "RTX 9090"}]},
            "devices.gpu: unknown name 'RTX 9090'; did you mean",
        ),
        ({"models": [{"name": "a", "catalog": "Llama-3-8B"}]}, "give catalog and quantization together"),
        (
            {"models": [{"name": "a", "catalog": "Llama-3-9B", "quantization": "F16"}]},
            "models.a.catalog: unknown name 'Llama-3-9B'; did you mean Llama-3-8B",
        ),
        (
            {"models": [{"name": "a", "catalog": "Llama-3-8B", "quantization": "Q9"}]},
            "models.a.quantization: unknown name 'Q9'",
        ),
        ({"split": "dev"}, "split must"),
        ({"limits": {"max_batch": 0}}, "limits.max_batch must be greater than or equal to 1. Got 0"),
        ({"colour": "red"}, "colour must"),
    ],
)
def test_bad_values_are_named_with_rule_and_value(change: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError) as caught:
        Scenario.parse({**GOOD, **change})
    assert message in str(caught.value)


def test_unknown_engine_names_the_nearest() -> None:
    with pytest.raises(UnknownNameError, match="did you mean transformers"):
        Scenario.parse({**GOOD, "engine": "transfomers"})


def test_levels_become_gpu_layers_most_first_without_repeats() -> None:
    assert Model(name="m", levels=["50%", 0, "all", 5]).gpu_layers(10) == [10, 5, 0]
    with pytest.raises(InputError, match=r"models\.m\.levels must be at most 10 layers. Got 11"):
        Model(name="m", levels=[11]).gpu_layers(10)


def test_checkpoints_are_relative_to_the_file(tmp_path: Path) -> None:
    data = {**GOOD, "models": [{"name": "a", "checkpoint": "models/a"}]}
    (tmp_path / "s.yaml").write_text(yaml.safe_dump(data))
    assert load_scenario(tmp_path / "s.yaml").models[0].checkpoint == tmp_path / "models" / "a"


@pytest.mark.parametrize("text", ["- 1\n- 2", "a: [", "\x80"])
def test_files_that_are_no_mapping(tmp_path: Path, text: str) -> None:
    path = tmp_path / "s.yaml"
    path.write_bytes(text.encode("latin-1"))
    with pytest.raises(BrokenFileError):
        load_scenario(path)


def test_a_missing_file(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="be an existing YAML file"):
        load_scenario(tmp_path / "none.yaml")


def test_a_device_smaller_than_every_model(
    fake_checkpoints: dict[str, Path], fake_performance: PerformanceModel
) -> None:
    small = fake_scenario(fake_checkpoints, devices=[{"name": "d0", "device": "cpu:1-threads-1MB"}])
    with pytest.raises(InputError, match=r"devices\.d0 must hold at least one model at one level"):
        make_world(small, fake_performance)


def test_a_model_that_fits_nowhere(
    fake_checkpoints: dict[str, Path], fake_performance: PerformanceModel
) -> None:
    some = fake_scenario(fake_checkpoints, devices=[{"name": "d0", "device": "cpu:1-threads-20MB"}])
    with pytest.raises(InputError, match=r"models\.large must fit some device at some level"):
        make_world(some, fake_performance)


def test_a_device_without_a_budget(
    fake_checkpoints: dict[str, Path], fake_performance: PerformanceModel
) -> None:
    open_ended = fake_scenario(fake_checkpoints, devices=[{"name": "d0", "device": "cpu"}])
    with pytest.raises(InputError, match="name its memory budget"):
        make_world(open_ended, fake_performance)


def test_a_model_that_nobody_profiled(
    fake_checkpoints: dict[str, Path], fake_performance: PerformanceModel
) -> None:
    unknown = fake_scenario(fake_checkpoints, models=[{"name": "smal"}])
    with pytest.raises(UnknownNameError, match="did you mean small"):
        make_world(unknown, fake_performance)


def test_a_gpu_of_the_catalogue_has_its_memory_less_a_reserve() -> None:
    device = Device(name="d", gpu="NVIDIA RTX A6000", reserve_gb=2)
    assert device.gpu == device.hardware_name == "RTX A6000"
    assert device.memory_bytes == 49140 * 2**20 - 2 * 10**9
    assert Device(name="d", gpu="RTX A6000", device="cuda:0-20GB").memory_bytes == 20 * 10**9
    with pytest.raises(
        InputError, match=r"devices\.d\.reserve_gb must leave something of RTX A6000's 51\.5 GB"
    ):
        _ = Device(name="d", gpu="RTX A6000", reserve_gb=60).memory_bytes


def test_a_gpu_of_the_catalogue_is_no_real_device() -> None:
    with pytest.raises(InputError, match=r"devices\.d\.device must be given to run on real engines"):
        _ = Device(name="d", gpu="RTX A6000").spec


def test_only_scenarios_of_catalogue_gpus_go_without_a_performance_model(
    fake_checkpoints: dict[str, Path],
) -> None:
    with pytest.raises(InputError, match="performance must be given: not all devices are GPUs"):
        make_world(fake_scenario(fake_checkpoints))
