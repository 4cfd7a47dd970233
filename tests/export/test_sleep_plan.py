from __future__ import annotations

import itertools
import json
import shlex
import subprocess
import time
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import yaml

from shunter.envs.scenario.scenario import Scenario
from shunter.errors import InputError
from shunter.export.placement import Home, homes_of
from shunter.export.sleep_plan import SleepPlan, sleep_plan
from shunter.models.performance import PerformanceModel
from shunter.profiling.dataset.table import read_dataset
from tests import worlds


@pytest.fixture(scope="module")
def rows(fake_checkpoints: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> pd.DataFrame:
    folder = tmp_path_factory.mktemp("rows")
    worlds.fit_fake(fake_checkpoints, folder)
    return read_dataset(folder / "fake.parquet").assign(engine="vllm", device="cuda:0")


def fitted(rows: pd.DataFrame, version: str) -> PerformanceModel:
    return PerformanceModel().fit(rows.assign(engine_version=version))


def scenario_of(checkpoints: dict[str, Path], **changes: Any) -> Scenario:
    changes.setdefault("limits", {"context_tokens": 250, "max_batch": 4})
    models = [{"name": name, "checkpoint": str(path)} for name, path in checkpoints.items()]
    devices = [{"name": "gpu", "device": "cuda:0-65MB"}]
    return worlds.fake_scenario(
        checkpoints, **{"engine": "vllm", "models": models, "devices": devices, **changes}
    )


def planned(rows: pd.DataFrame, scenario: Scenario, version: str) -> tuple[SleepPlan, list[Home]]:
    performance = fitted(rows, version)
    homes = homes_of(scenario, performance)
    return sleep_plan(scenario, homes, performance), homes


def test_measured_sleep_is_predicted(rows: pd.DataFrame, fake_checkpoints: dict[str, Path]) -> None:
    made, homes = planned(rows, scenario_of(fake_checkpoints), "0.32.0 (sleep level 1)")
    assert made.plan["sleep_level_measured"] == 1
    for model, home in zip(made.plan["models"], homes, strict=True):
        assert model["sleep_level"] == 1
        assert model["wake_s"][0] == pytest.approx(home.load.seconds, rel=0.01)
        assert model["sleep_s"][0] == pytest.approx(home.unload.seconds, rel=0.01)
        assert model["wake_s"][1] <= model["wake_s"][0] <= model["wake_s"][2]
        assert model["reload_s"] is None
        assert model["host_mb_asleep"] == round(home.weight_bytes / 1e6)


def test_what_was_not_measured_is_said_and_not_invented(
    rows: pd.DataFrame, fake_checkpoints: dict[str, Path]
) -> None:
    made, homes = planned(rows, scenario_of(fake_checkpoints), "0.32.0")
    assert made.plan["sleep_level_measured"] is None
    for model, home in zip(made.plan["models"], homes, strict=True):
        assert (model["wake_s"], model["sleep_s"]) == (None, None)
        assert model["note"].startswith("not measured: ")
        assert model["reload_s"][0] == pytest.approx(home.load.seconds, rel=0.01)
    other, _ = planned(rows, scenario_of(fake_checkpoints), "0.32.0 (sleep level 2)")
    assert {model["wake_s"] for model in other.plan["models"]} == {None}
    assert {model["reload_s"] for model in other.plan["models"]} == {None}
    assert "only at level 2" in other.plan["models"][0]["note"]


def test_level_1_goes_where_it_gains_most_while_memory_lasts(
    rows: pd.DataFrame, fake_checkpoints: dict[str, Path]
) -> None:
    limits = {"context_tokens": 250, "max_batch": 4}
    made, homes = planned(rows, scenario_of(fake_checkpoints), "0.32.0")
    assert "not stated" in made.plan["host_memory_gb"]
    room_bytes = homes[0].weight_bytes + homes[1].weight_bytes
    short = scenario_of(fake_checkpoints, limits={**limits, "host_memory_gb": (room_bytes + 1e5) / 1e9})
    frame = pd.concat([rows, rows[rows.operation == "load"].assign(page_cache="cold")])
    made, homes = planned(frame, short, "0.32.0")
    levels = [model["sleep_level"] for model in made.plan["models"]]
    assert levels == [1, 1, 2]
    asleep = [model["host_mb_asleep"] for model in made.plan["models"]]
    assert sum(asleep) * 1e6 <= room_bytes + 1e6
    large = made.plan["models"][2]
    assert len(large["wake"]) == 3
    assert "tags=weights" in large["wake"][0]
    assert "reload_weights" in large["wake"][1]
    assert "tags=kv_cache" in large["wake"][2]


def test_servers_are_started_as_they_were_costed(
    rows: pd.DataFrame, fake_checkpoints: dict[str, Path]
) -> None:
    made, homes = planned(rows, scenario_of(fake_checkpoints), "0.32.0")
    for m, (model, home) in enumerate(zip(made.plan["models"], homes, strict=True)):
        words = shlex.split(model["serve"])
        assert words[:4] == ["VLLM_SERVER_DEV_MODE=1", "CUDA_VISIBLE_DEVICES=0", "vllm", "serve"]
        assert words[4] == str(fake_checkpoints[home.model])
        assert "--enable-sleep-mode" in words
        option = {a: b for a, b in itertools.pairwise(words) if a.startswith("--")}
        assert option["--served-model-name"] == home.model
        assert option["--port"] == str(8001 + m)
        assert (option["--max-model-len"], option["--max-num-seqs"]) == ("250", "4")
        kv_tokens = int(option["--kv-cache-memory-bytes"]) / home.kv_bytes_per_token
        assert 4 * 250 <= kv_tokens <= 4 * 250 + 5 * 16
    together = made.plan["awake_together"]["gpu"]
    size = {home.model: home.footprint_bytes for home in homes}
    assert all(sum(size[name] for name in names) <= 65e6 for names in together)
    assert {name for names in together for name in names} == set(size)


def test_the_file_is_the_plan_and_the_script_carries_it_out(
    rows: pd.DataFrame, fake_checkpoints: dict[str, Path], tmp_path: Path
) -> None:
    made, _ = planned(rows, scenario_of(fake_checkpoints), "0.32.0 (sleep level 1)")
    assert yaml.safe_load(made.to_yaml()) == json.loads(json.dumps(made.plan))
    calls = tmp_path / "calls"
    for tool in ("vllm", "curl"):
        (tmp_path / tool).write_text(f'#!/bin/sh\necho {tool} "$@" >>{calls}\n')
        (tmp_path / tool).chmod(0o755)
    script = tmp_path / "plan.sh"
    script.write_text(made.script)

    def run(*words: str) -> tuple[int, list[str]]:
        calls.write_text("")
        environment = {"PATH": f"{tmp_path}:/usr/bin:/bin"}
        done = subprocess.run(
            ["bash", str(script), *words], cwd=tmp_path, env=environment, capture_output=True, check=False
        )
        return done.returncode, calls.read_text().splitlines()

    assert run("wake", "medium") == (0, ["curl -fsS -X POST http://localhost:8002/wake_up"])
    assert run("sleep", "large") == (0, ["curl -fsS -X POST http://localhost:8003/sleep?level=1"])
    assert run("wake", "nobody") == (2, [])
    assert run() == (2, [])
    code, started = run("start")
    assert code == 0
    asleep = [line for line in started if "sleep?level" in line]
    assert asleep == [
        f"curl -fsS -X POST http://localhost:{port}/sleep?level=1" for port in (8001, 8002, 8003)
    ]
    served = 0
    for _ in range(200):  # servers start in the background
        served = sum(line.startswith("vllm serve ") for line in calls.read_text().splitlines())
        if served == 3:
            break
        time.sleep(0.05)
    assert served == 3


def test_what_cannot_be_planned_is_said(rows: pd.DataFrame, fake_checkpoints: dict[str, Path]) -> None:
    scenario, performance = scenario_of(fake_checkpoints), fitted(rows, "0.32.0")
    homes = homes_of(scenario, performance)
    with pytest.raises(InputError, match="engine must be vllm"):
        sleep_plan(scenario.model_copy(update={"engine": "llama-cpp"}), homes, performance)
    cpu = scenario.devices[0].model_copy(update={"device": "cpu:1-threads-65MB"})
    with pytest.raises(InputError, match=r"devices\.gpu\.device must be a GPU"):
        sleep_plan(scenario.model_copy(update={"devices": [cpu]}), homes, performance)
    models = [
        {"name": name, "checkpoint": str(path), "levels": ["50%"]} for name, path in fake_checkpoints.items()
    ]
    half = scenario_of(fake_checkpoints, models=models)
    with pytest.raises(InputError, match=r"models\.small\.levels must be all"):
        sleep_plan(half, homes_of(half, performance), performance)
