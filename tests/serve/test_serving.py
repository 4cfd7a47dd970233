"""``shunter serve`` as a function, without servers."""

from __future__ import annotations

import asyncio
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from benchmarks.serve_histories import small_world
from shunter.agents.registry import make_policy
from shunter.envs.scenario.scenario import Scenario, load_scenario
from shunter.envs.scenario.workload import AssumedWorkload
from shunter.envs.world.served import served_world
from shunter.errors import InputError
from shunter.serve import serving
from shunter.serve.core.core import Core


def test_a_champion_that_has_changed_is_taken_up_once(monkeypatch: pytest.MonkeyPatch) -> None:
    versions = ["models:/box/1", "models:/box/1", "models:/box/2", "models:/box/2"]

    def version(uri: str) -> str:
        if not versions:
            raise ConnectionError(f"{uri} is away")
        return versions.pop(0)

    def policy(uri: str) -> Any:
        return SimpleNamespace(name=uri.removeprefix("models:/").replace("/", ":"))

    monkeypatch.setattr(serving, "version_uri", version)
    monkeypatch.setattr(serving, "make_policy", policy)
    monkeypatch.setattr(serving, "_CHAMPION_S", 0.001)
    taken: list[str] = []
    gateway: Any = SimpleNamespace(
        core=SimpleNamespace(policy=serving.policy_of("models:/box@champion", None)[0]),  # type: ignore[arg-type]
        world=None,
        change_policy=lambda found: taken.append(found.name),
    )
    said: list[str] = []

    async def follow() -> None:
        task = asyncio.create_task(serving._follow_champion("models:/box@champion", gateway, said.append))
        async with asyncio.timeout(30):
            while len(said) < 2:
                await asyncio.sleep(0.001)
        task.cancel()

    asyncio.run(follow())
    assert taken == ["box:2"]
    assert said[0] == "box:2 decides from now on"
    assert said[1] == "models:/box@champion could not be looked up: models:/box@champion is away"


DEVICES = [
    {"name": "gpu", "device": "cuda:0", "gpu": "RTX 3090"},
    {"name": "cpu", "device": "cpu:4-threads-32GB"},
]


def test_where_nothing_was_measured_all_is_assumed_of_kv_too_and_whatever_the_devices() -> None:
    def footprint_bytes(engine: str = "llama-cpp", **keys: str) -> np.ndarray:
        model = {"name": "m", "catalog": "Qwen3-8B", "quantization": "Q4_K_M", **keys}
        data = {
            "name": "box",
            "engine": engine,
            "models": [model],
            "devices": DEVICES[: 1 + (engine != "vllm")],
        }
        world = served_world(Scenario.parse({**data, "workload": {"load": 0.5}}))
        assert (np.diff(world.tables.step_s[:, 0, 0, 0, 0]) > 0).all(), "a GPU, then a CPU"
        return np.asarray(world.tables.footprint_bytes)

    assert (footprint_bytes(kv_type="q4_0") < footprint_bytes()).all()
    assert footprint_bytes("vllm")[0] == footprint_bytes()[0], "nobody has published vLLM's figures"


def test_only_a_gateway_s_scenario_needs_no_workload(tmp_path: Path) -> None:
    path = tmp_path / "box.yaml"
    models = "[{name: m, catalog: Qwen3-8B, quantization: Q4_K_M}]"
    path.write_text(
        f"name: box\nengine: llama-cpp\ndevices: [{{name: d, gpu: RTX 3090}}]\nmodels: {models}\n"
    )
    with pytest.raises(InputError, match=r"box\.yaml: workload must be given\. Nothing was given"):
        load_scenario(path)
    assumed = load_scenario(path, served=True)
    assert isinstance(assumed.workload, AssumedWorkload)
    with path.open("a") as file:
        file.write("workload: {rate_per_s: 2}\n")
    given = load_scenario(path, served=True)
    assert not isinstance(given.workload, AssumedWorkload)
    assert given.workload == load_scenario(path).workload


def test_a_policy_is_what_its_name_says() -> None:
    assert serving.policy_of("fifo-swap", None)[0].name == make_policy("fifo-swap").name  # type: ignore[arg-type]


def test_a_rehearsal_asks_the_policy_and_serves_a_request_to_its_end(monkeypatch: pytest.MonkeyPatch) -> None:
    cores: list[Core] = []

    class Watched(Core):
        def __post_init__(self) -> None:
            super().__post_init__()
            cores.append(self)

    monkeypatch.setattr(serving, "Core", Watched)
    world = small_world()
    before = world.tables.level.copy()
    serving.rehearse(world, make_policy("cost-greedy"))
    (core,) = cores
    assert core.totals.decisions > core.totals.fallbacks == 0
    assert (core.totals.served, core.totals.loads, core.totals.cancelled) == (1, 1, 1)
    assert not core.jobs
    assert np.array_equal(world.tables.level, before)
