"""Real engines: two devices of different sizes at once, and two engines on one device."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from shunter.agents.registry import make_policy
from shunter.catalog.models import get_model, scaled_model
from shunter.envs.scenario.scenario import Scenario
from shunter.envs.world.world import World, make_world
from shunter.eval.execution.real import bind_footprints, open_engines, run_real
from shunter.models.performance import PerformanceModel
from shunter.profiling.checkpoints.synthetic import write_checkpoint
from shunter.profiling.dataset.table import read_dataset
from tests import worlds
from tests.eval.test_faults import check_answers

pytestmark = pytest.mark.engine

SIZES = {"small": 4e6, "large": 8e6}
WORKLOAD = {"requests": 16, "rate_per_s": 20.0, "prompt_scale": 0.02, "decode_scale": 0.04}


@pytest.fixture(scope="module")
def ggufs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder, paths = tmp_path_factory.mktemp("gguf"), {}
    for name, params in SIZES.items():
        paths[name] = folder / f"{name}.gguf"
        spec = scaled_model(get_model("Qwen3-8B"), params)
        write_checkpoint(spec, paths[name], format="gguf", quantization="Q8_0")
    return paths


@pytest.fixture(scope="module")
def performance(
    fake_checkpoints: dict[str, Path], tmp_path_factory: pytest.TempPathFactory
) -> PerformanceModel:
    """The fake engine's, under the names of real ones: what is tested here does not depend on the figures."""
    folder = tmp_path_factory.mktemp("fit")
    worlds.fit_fake(fake_checkpoints, folder)
    rows = read_dataset(folder / "fake.parquet")
    places = [("llama-cpp", "loopback:1-threads"), ("llama-cpp", "cpu:1-threads")]
    places.append(("transformers", "cpu:1-threads"))
    return PerformanceModel().fit(pd.concat([rows.assign(engine=e, device=d) for e, d in places]))


def world_of(performance: PerformanceModel, devices: list[str], models: list[dict[str, Any]]) -> World:
    data = {
        "name": "real",
        "engine": "llama-cpp",
        "models": models,
        "devices": [{"name": f"d{i}", "device": text} for i, text in enumerate(devices)],
        "workload": WORKLOAD,
        "limits": {"context_tokens": 128, "max_batch": 2, "quantum_steps": 4},
    }
    return make_world(Scenario.parse(data), performance)


def test_two_devices_of_different_sizes_at_once(
    ggufs: dict[str, Path], performance: PerformanceModel
) -> None:
    pytest.importorskip("llama_cpp", reason="needs the extra llama-cpp")
    models = [{"name": n, "checkpoint": str(p), "levels": ["all", "50%"]} for n, p in ggufs.items()]
    devices = ["loopback:1-threads-900MB", "loopback:1-threads-500MB"]
    world = replace(world_of(performance, devices, models), rate_per_s=1e3)  # on any machine they must queue
    with open_engines(world) as device_executors:
        assert [device_executor.budget_bytes for device_executor in device_executors] == [900e6, 500e6]
        run = run_real(
            bind_footprints(world, device_executors), make_policy("count-lru"), 0, device_executors
        )
        assert all(device_executor.is_empty for device_executor in device_executors)
    check_answers(run)
    assert run.failures == []
    rows = run.log.frame()
    quanta = rows[rows.operation == "run"]
    assert set(quanta.device) == {"d0", "d1"}
    # Continuous batching: more than one at once, and some join while others are on their way.
    assert quanta.request_ids.map(len).max() == 2
    assert quanta.steps.max() <= 4
    a, b = (rows[(rows.device == d) & rows.start_s.notna()] for d in ("d0", "d1"))
    assert any(((b.start_s < row.end_s) & (b.end_s > row.start_s)).any() for row in a.itertuples())


def test_models_of_one_device_on_different_engines(
    ggufs: dict[str, Path], fake_checkpoints: dict[str, Path], performance: PerformanceModel
) -> None:
    pytest.importorskip("llama_cpp", reason="needs the extra llama-cpp")
    pytest.importorskip("transformers", reason="needs the extra transformers")
    models = [
        {"name": "a", "checkpoint": str(ggufs["small"])},
        {"name": "b", "checkpoint": str(fake_checkpoints["small"]), "engine": "transformers"},
    ]
    world = world_of(performance, ["cpu:1-threads-900MB"], models)
    assert world.scenario.engines == ["llama-cpp", "transformers"]
    with open_engines(world) as device_executors:
        (device_executor,) = device_executors
        assert set(device_executor.workers) == {"llama-cpp", "transformers"}
        assert device_executor.engine("b").capabilities().engine == "transformers"
        run = run_real(
            bind_footprints(world, device_executors), make_policy("fifo-swap"), 0, device_executors
        )
        assert device_executor.is_empty
    check_answers(run)
    assert run.failures == []
    assert set(run.log.frame().query("operation == 'run'").model) == {"a", "b"}
