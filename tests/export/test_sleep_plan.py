from __future__ import annotations

import itertools
import json
import shlex
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import yaml

from shunter.catalog.gpus import get_gpu
from shunter.envs.scenario.scenario import Scenario
from shunter.errors import InputError
from shunter.export.placement import Home, homes_of
from shunter.export.sleep_plan import MOST_UTILIZATION, SleepPlan, sleep_plan
from shunter.export.sleep_script import sleep_script
from shunter.models.performance import PerformanceModel
from shunter.profiling.dataset.table import read_dataset
from tests import worlds


@pytest.fixture(scope="module")
def rows(fake_checkpoints: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> pd.DataFrame:
    folder = tmp_path_factory.mktemp("rows")
    worlds.fit_fake(fake_checkpoints, folder)
    return read_dataset(folder / "fake.parquet").assign(engine="vllm", device="cuda:0")


_FITTED: dict[tuple[int, str], PerformanceModel] = {}


def fitted(rows: pd.DataFrame, version: str) -> PerformanceModel:
    """Fits once: tests differ in versions, and by whether rows of cold loads come with the others."""
    key = len(rows), version
    if key not in _FITTED:
        _FITTED[key] = PerformanceModel().fit(rows.assign(engine_version=version))
    return _FITTED[key]


def scenario_of(checkpoints: dict[str, Path], **changes: Any) -> Scenario:
    changes.setdefault("limits", {"context_tokens": 250, "max_batch": 4})
    models = [{"name": name, "checkpoint": str(path)} for name, path in checkpoints.items()]
    devices = [{"name": "gpu", "device": "cuda:0-65MB"}]
    return worlds.fake_scenario(
        checkpoints, **{"engine": "vllm", "models": models, "devices": devices, **changes}
    )


ASLEEP_BYTES = 1e6
"""What a server keeps asleep in most of these tests, whose devices are as small as their models."""


def planned(
    rows: pd.DataFrame, scenario: Scenario, version: str, asleep_bytes: float = ASLEEP_BYTES
) -> tuple[SleepPlan, list[Home]]:
    performance = fitted(rows, version)
    homes = homes_of(scenario, performance)
    return sleep_plan(scenario, homes, performance, asleep_bytes=asleep_bytes), homes


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
    assert "tags=weights" in large["wake"][0]


def test_servers_are_started_as_they_were_costed(
    rows: pd.DataFrame, fake_checkpoints: dict[str, Path]
) -> None:
    made, homes = planned(rows, scenario_of(fake_checkpoints), "0.32.0")
    for m, (model, home) in enumerate(zip(made.plan["models"], homes, strict=True)):
        words = shlex.split(model["serve"])
        variables = ["VLLM_SERVER_DEV_MODE=1", "CUDA_DEVICE_ORDER=PCI_BUS_ID", "CUDA_VISIBLE_DEVICES=0"]
        assert words[:5] == [*variables, "vllm", "serve"]
        assert words[5] == str(fake_checkpoints[home.model])
        assert words[6] == f"--served-model-name={home.model}"
        assert "--enable-sleep-mode" in words
        option = {a: b for a, b in itertools.pairwise(words) if a.startswith("--")}
        assert (option["--host"], option["--port"]) == ("127.0.0.1", str(8001 + m))
        assert (option["--max-model-len"], option["--max-num-seqs"]) == ("250", "4")
        assert "--gpu-memory-utilization" not in option
        kv_tokens = int(option["--kv-cache-memory-bytes"]) / home.kv_bytes_per_token
        assert 4 * 250 <= kv_tokens <= 4 * 250 + 5 * 16


def test_what_sleepers_keep_is_room_for_nobody(rows: pd.DataFrame, fake_checkpoints: dict[str, Path]) -> None:
    sizes = {}
    for asleep_mb in (0, 4):
        made, homes = planned(rows, scenario_of(fake_checkpoints), "0.32.0", asleep_mb * 1e6)
        assert made.plan["room_mb"] == {"gpu": 65 - 3 * asleep_mb}
        sizes = {model["name"]: model["device_mb"] for model in made.plan["models"]}
        together = made.plan["awake_together"]["gpu"]
        assert all(sum(sizes[name] for name in names) <= 65 - 3 * asleep_mb for names in together)
        assert {name for names in together for name in names} == set(sizes)
        assert all(
            size * 1e6 >= home.footprint_bytes for size, home in zip(sizes.values(), homes, strict=True)
        )
    most = (65 - max(sizes.values())) // 3 + 1
    with pytest.raises(
        InputError, match=rf"devices\.gpu must have \d+ MB for large: 3 servers keep {most} MB"
    ):
        planned(rows, scenario_of(fake_checkpoints), "0.32.0", most * 1e6)


def test_a_server_of_a_known_gpu_wants_no_more_than_it_needs(
    rows: pd.DataFrame, fake_checkpoints: dict[str, Path]
) -> None:
    scenario, performance = scenario_of(fake_checkpoints), fitted(rows, "0.32.0")
    (known,) = [device.model_copy(update={"gpu": "RTX 3090"}) for device in scenario.devices]
    scenario, homes = scenario.model_copy(update={"devices": [known]}), homes_of(scenario, performance)

    def share(footprint_bytes: float, asleep_bytes: float = 0.0) -> str:
        sized = [Home(**{**vars(home), "footprint_bytes": footprint_bytes}) for home in homes]
        roomy = known.model_copy(update={"device": "cuda:0-100GB"})
        plan = sleep_plan(
            scenario.model_copy(update={"devices": [roomy]}), sized, performance, asleep_bytes=asleep_bytes
        ).plan
        words = shlex.split(plan["models"][0]["serve"])
        return words[words.index("--gpu-memory-utilization") + 1]

    total_bytes = get_gpu("RTX 3090").memory_bytes
    assert share(0.5 * total_bytes) == "0.55"
    assert share(0.9 * total_bytes) == f"{MOST_UTILIZATION:.2f}"
    # Two others sleep when the third starts: what they keep is not free.
    assert share(0.7 * total_bytes, 0.1 * total_bytes) in ("0.77", "0.78")
    assert share(0.7 * total_bytes, 0.15 * total_bytes) in ("0.69", "0.70")


def test_names_and_arguments_reach_the_server(rows: pd.DataFrame, fake_checkpoints: dict[str, Path]) -> None:
    models = [
        {"name": name, "checkpoint": str(path), "args": ["--seed", "it's $(x)"]}
        for name, path in fake_checkpoints.items()
    ]
    models[0] |= {"aliases": ["gpt 4", "$HOME"], "kv_type": "f16"}
    made, _ = planned(rows, scenario_of(fake_checkpoints, models=models), "0.32.0")
    words = shlex.split(made.plan["models"][0]["serve"])
    at = words.index("--served-model-name")
    assert words[at : at + 4] == ["--served-model-name", "small", "gpt 4", "$HOME"]
    assert words[-2:] == ["--seed", "it's $(x)"]
    models[0] |= {"aliases": ["--trust-remote-code"]}
    with pytest.raises(InputError, match=r"models\.small\.aliases must begin with no dash"):
        planned(rows, scenario_of(fake_checkpoints, models=models), "0.32.0")


CURL = """#!/bin/bash
# Answers for servers that a file says are up, and remembers who sleeps.
for word; do case $word in http*) url=$word;; esac; done
echo "$url" >>{folder}/calls
port=${{url#*:*:}}; port=${{port%%/*}}
[[ -f {folder}/up-$port ]] || exit 7
case $url in
*/sleep*) touch {folder}/asleep-$port;;
*/wake_up*) rm -f {folder}/asleep-$port;;
*/is_sleeping)
  [[ -f {folder}/asleep-$port ]] && says=true || says=false
  echo "{{\"is_sleeping\":$says}}";;
esac
"""

VLLM = """#!/bin/bash
while [[ $1 != --port ]]; do shift; done
port=$2
trap 'rm -f {folder}/up-$port; exit' TERM
touch {folder}/up-$port
sleep 600 &
wait
"""


class Machine:
    """A folder with a plan's script, and a vllm and a curl that only seem to serve."""

    def __init__(self, folder: Path, made: SleepPlan) -> None:
        self.folder = folder
        for name, text in (("curl", CURL), ("vllm", VLLM)):
            (folder / name).write_text(text.format(folder=shlex.quote(str(folder))))
            (folder / name).chmod(0o755)
        (folder / "plan.sh").write_text(made.script)

    def run(self, *words: str) -> tuple[int, list[str]]:
        """Exit code and URLs that were called; said is what it printed as an error."""
        calls = self.folder / "calls"
        calls.write_text("")
        path = {"PATH": f"{self.folder}:/usr/bin:/bin"}
        done = subprocess.run(
            ["bash", str(self.folder / "plan.sh"), *words],
            env=path,
            capture_output=True,
            text=True,
            check=False,
        )
        self.said = done.stderr
        return done.returncode, calls.read_text().splitlines()

    def up(self) -> list[str]:
        return sorted(path.name for path in self.folder.glob("up-*"))


@pytest.fixture
def machine(
    rows: pd.DataFrame, fake_checkpoints: dict[str, Path], tmp_path: Path
) -> Iterator[tuple[Machine, SleepPlan]]:
    made, _ = planned(rows, scenario_of(fake_checkpoints), "0.32.0 (sleep level 1)", 5e6)
    machine = Machine(tmp_path, made)
    yield machine, made
    machine.run("stop")


def test_the_file_is_the_plan_and_the_script_carries_it_out(machine: tuple[Machine, SleepPlan]) -> None:
    box, made = machine
    assert yaml.safe_load(made.to_yaml()) == json.loads(json.dumps(made.plan))
    assert box.run("wake", "nobody") == (2, [])
    assert box.run() == (2, [])
    code, called = box.run("start")
    assert code == 0, box.said
    urls = [f"http://127.0.0.1:{port}/sleep?level=1&mode=wait" for port in (8001, 8002, 8003)]
    assert [url for url in called if "sleep" in url] == urls
    assert box.up() == ["up-8001", "up-8002", "up-8003"]
    assert box.run("start")[0] == 1
    assert "port 8001 is taken" in box.said
    code, called = box.run("wake", "medium")
    assert (code, called[-1]) == (0, "http://127.0.0.1:8002/wake_up")
    assert box.run("sleep", "medium") == (0, [urls[1]])
    assert box.run("stop")[0] == 0
    assert box.up() == []


def test_a_wake_that_has_no_room_is_refused(machine: tuple[Machine, SleepPlan]) -> None:
    box, made = machine
    assert box.run("start")[0] == 0, box.said
    sizes = {model["name"]: model["device_mb"] for model in made.plan["models"]}
    together = [set(names) for names in made.plan["awake_together"]["gpu"]]
    pair = next(
        {a, b} for a, b in itertools.combinations(sizes, 2) if not any({a, b} <= names for names in together)
    )
    first, second = sorted(pair, key=list(sizes).index)
    assert box.run("wake", first)[0] == 0, box.said
    code, called = box.run("wake", second)
    assert code == 3
    assert not [url for url in called if "wake_up" in url]
    free = made.plan["room_mb"]["gpu"] - sizes[first]
    assert box.said.startswith(f"{second} takes {sizes[second]} MB, but {free} MB of gpu are free")
    assert box.said.endswith(f"put to sleep first some of {first}\n")
    assert box.run("wake", first)[0] == 0, "one that is awake is not in its own way"
    assert box.run("sleep", first)[0] == 0
    assert box.run("wake", second)[0] == 0, box.said


def test_stop_ends_no_process_of_others(machine: tuple[Machine, SleepPlan]) -> None:
    box, _ = machine
    with subprocess.Popen(["sleep", "60"]) as other:
        (box.folder / "vllm-8001.pid").write_text(f"{other.pid}\n")
        assert box.run("stop")[0] == 0
        assert other.poll() is None
        other.kill()
    assert not list(box.folder.glob("*.pid"))


def test_level_2_reads_its_weights_again(rows: pd.DataFrame, fake_checkpoints: dict[str, Path]) -> None:
    limits = {"context_tokens": 250, "max_batch": 4, "host_memory_gb": 1e-6}
    frame = pd.concat([rows, rows[rows.operation == "load"].assign(page_cache="cold")])
    made, _ = planned(frame, scenario_of(fake_checkpoints, limits=limits), "0.32.0")
    wake = made.plan["models"][0]["wake"]
    asked = ("wake_up?tags=weights", "collective_rpc", "wake_up?tags=kv_cache", "reset_prefix_cache")
    assert [part in line for part, line in zip(asked, wake, strict=True)] == [True] * 4


HOSTILE = ["it's `x` $(touch owned)", "-rf", "a b;touch owned", "${HOME}", '"; touch owned #', "*", "é|&"]


def test_no_name_is_more_than_a_name_to_the_shell(machine: tuple[Machine, SleepPlan]) -> None:
    box, made = machine
    (box.folder / "up-8001").touch()
    for name in HOSTILE:
        first, *others = made.plan["models"]
        plan = {**made.plan, "models": [{**first, "name": name}, *others]}
        (box.folder / "plan.sh").write_text(sleep_script(plan))
        code, called = box.run("sleep", name)
        assert (code, len(called)) == (0, 1), box.said
    assert not (box.folder / "owned").exists()


def test_no_name_is_more_than_a_name_to_vllm(rows: pd.DataFrame, fake_checkpoints: dict[str, Path]) -> None:
    scenario, performance = scenario_of(fake_checkpoints), fitted(rows, "0.32.0")
    homes = homes_of(scenario, performance)
    for name in HOSTILE:
        models = [scenario.models[0].model_copy(update={"name": name}), *scenario.models[1:]]
        renamed = [Home(**{**vars(homes[0]), "model": name}), *homes[1:]]
        plan = sleep_plan(
            scenario.model_copy(update={"models": models}), renamed, performance, asleep_bytes=0
        )
        assert f"--served-model-name={name}" in shlex.split(plan.plan["models"][0]["serve"])
        assert yaml.safe_load(plan.to_yaml())["models"][0]["name"] == name
    models = [scenario.models[0].model_copy(update={"name": "a\nb"}), *scenario.models[1:]]
    renamed = [Home(**{**vars(homes[0]), "model": "a\nb"}), *homes[1:]]
    with pytest.raises(InputError, match=r"models\.a\\nb\.name must have no line breaks"):
        sleep_plan(scenario.model_copy(update={"models": models}), renamed, performance, asleep_bytes=0)


def test_what_cannot_be_planned_is_said(rows: pd.DataFrame, fake_checkpoints: dict[str, Path]) -> None:
    scenario, performance = scenario_of(fake_checkpoints), fitted(rows, "0.32.0")
    homes = homes_of(scenario, performance)

    def refused(**changes: Any) -> str:
        with pytest.raises(InputError) as caught:
            sleep_plan(
                scenario.model_copy(update=changes), homes, performance, asleep_bytes=0, first_port=8001
            )
        return str(caught.value)

    assert refused(engine="llama-cpp").startswith("engine must be vllm")
    cpu = scenario.devices[0].model_copy(update={"device": "cpu:1-threads-65MB"})
    assert refused(devices=[cpu]).startswith("devices.gpu.device must be a GPU")
    q4 = scenario.models[0].model_copy(update={"kv_type": "q4_0"})
    expected = "models.small.kv_type must be f16 or q8_0 for vLLM"
    assert refused(models=[q4, *scenario.models[1:]]).startswith(expected)
    with pytest.raises(InputError, match=r"--port must leave 3 ports up to 65535\. Got 65534"):
        sleep_plan(scenario, homes, performance, asleep_bytes=0, first_port=65534)
    models = [
        {"name": name, "checkpoint": str(path), "levels": ["50%"]} for name, path in fake_checkpoints.items()
    ]
    half = scenario_of(fake_checkpoints, models=models)
    with pytest.raises(InputError, match=r"models\.small\.levels must be all"):
        sleep_plan(half, homes_of(half, performance), performance, asleep_bytes=0)
