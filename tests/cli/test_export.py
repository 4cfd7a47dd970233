from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from shunter.cli.main import main
from shunter.envs.scenario.limits import ASLEEP_BYTES
from shunter.envs.scenario.scenario import load_scenario
from shunter.export.llama_swap import MAX_QUEUE, PROCESS_BYTES
from shunter.models.performance import PerformanceModel
from shunter.profiling.dataset.table import read_dataset
from tests import worlds


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "200")


def run(capsys: pytest.CaptureFixture[str], *arguments: str, code: int = 0) -> str:
    with pytest.raises(SystemExit) as ended:
        main(["export", *arguments])
    captured = capsys.readouterr()
    assert ended.value.code == code, captured.err
    return captured.err if code else captured.out


LAPTOP = ("llama-swap", "--scenario", "laptop", "--models-dir", "gguf")


@pytest.mark.parametrize("name", ["llama-swap", "vllm"])
def test_help_has_examples(capsys: pytest.CaptureFixture[str], name: str) -> None:
    assert f"shunter export {name} --scenario" in run(capsys, name, "--help")


def test_defaults_are_those_of_the_exporters(capsys: pytest.CaptureFixture[str]) -> None:
    swap, vllm = (" ".join(run(capsys, name, "--help").split()) for name in ("llama-swap", "vllm"))
    assert f"[default: {MAX_QUEUE}; " in swap
    assert f"[default: {PROCESS_BYTES // 10**6}; " in swap
    assert f"[default: {round(ASLEEP_BYTES / 1e6)}; " in vllm


def test_llama_swap_is_written_once(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    Path("gguf").mkdir()
    Path("gguf/qwen3-1.7b.gguf").touch()
    answer, *rest = run(capsys, *LAPTOP).splitlines()
    assert answer == (
        "llama-swap.yaml: 4 models on 1 device; llama-swap --config llama-swap.yaml serves them"
    )
    note = f"note: {tmp_path}/gguf/llama-3-8b.gguf is not on this machine, nor are 2 more"
    assert [line for line in rest if line.startswith("note:")] == [note]
    assert any(line.startswith("qwen2.5-14b: 34/49 layers on gpu0") for line in rest)
    first = Path("llama-swap.yaml").read_text()
    assert list(yaml.safe_load(first)["models"]) == ["llama-3-8b", "qwen2.5-3b", "qwen3-1.7b", "qwen2.5-14b"]
    error = run(capsys, *LAPTOP, "--by-demand", code=2)
    assert "--out must not exist yet (or give --overwrite). Got 'llama-swap.yaml'" in error
    assert Path("llama-swap.yaml").read_text() == first
    run(capsys, *LAPTOP, "--by-demand", "--overwrite")
    weighed = yaml.safe_load(Path("llama-swap.yaml").read_text())
    assert costs(weighed) != costs(yaml.safe_load(first))


def costs(config: dict[str, Any]) -> dict[str, int]:
    found: dict[str, int] = config["routing"]["router"]["settings"]["matrix"]["evict_costs"]
    return found


def test_what_is_said_of_many_models_is_short(capsys: pytest.CaptureFixture[str]) -> None:
    words = ("llama-swap", "--scenario", "skewed-fourteen", "--models-dir", "gguf", "--replicas", "2")
    lines = run(capsys, *words).splitlines()
    assert len(lines) == 10
    assert lines[0].startswith("llama-swap.yaml: 14 models on 4 devices; ")
    assert "name no device: taken for the GPUs in the order of nvidia-smi" in lines[1]
    assert len(run(capsys, *words, "--overwrite", "--verbose").splitlines()) > 20
    assert yaml.safe_load(Path("llama-swap.yaml").read_text())["selectors"]


def test_options_reach_the_file(capsys: pytest.CaptureFixture[str]) -> None:
    run(capsys, *LAPTOP, "--max-queue", "7", "--process-mb", "5000")
    config = yaml.safe_load(Path("llama-swap.yaml").read_text())
    assert {model["concurrencyLimit"] for model in config["models"].values()} == {
        load_scenario("laptop").limits.max_batch + 7
    }
    sets = config["routing"]["router"]["settings"]["matrix"]["sets"]
    assert sets == {"on0_gpu0": "m1 | m2 | m3 | m4"}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (LAPTOP[:3], "models.llama-3-8b.checkpoint must be given, or --models-dir"),
        (
            (*LAPTOP, "--out", "no/folder.yaml"),
            "--out must be a file in an existing folder. Got 'no/folder.yaml'",
        ),
        (("vllm", "--scenario", "laptop"), "engine must be vllm"),
        (("vllm", "--scenario", "laptop", "--out", "plan.sh"), "--out must not end in .sh"),
        (("llama-swap", "--scenario", "labtop"), "did you mean laptop"),
        (("ollama",), "unknown name 'export ollama'"),
    ],
)
def test_bad_input_is_one_line(
    capsys: pytest.CaptureFixture[str], arguments: tuple[str, ...], message: str
) -> None:
    error = run(capsys, *arguments, code=2)
    assert message in error
    assert error.count("\n") == 1
    assert not Path("llama-swap.yaml").exists()
    assert not Path("vllm-sleep.yaml").exists()


@pytest.mark.parametrize(
    ("arguments", "option"),
    [
        ((*LAPTOP, "--max-queue", "-1"), "--max-queue"),
        ((*LAPTOP, "--replicas", "0"), "--replicas"),
        ((*LAPTOP, "--process-mb", "-1"), "--process-mb"),
        (("vllm", "--scenario", "laptop", "--port", "70000"), "--port"),
        (("vllm", "--scenario", "laptop", "--asleep-mb", "-1"), "--asleep-mb"),
    ],
)
def test_a_number_out_of_range_is_said(
    capsys: pytest.CaptureFixture[str], arguments: tuple[str, ...], option: str
) -> None:
    assert f"Invalid value for '{option}'" in run(capsys, *arguments, code=2)
    assert not list(Path().iterdir())


def test_vllm_writes_plan_and_script(
    capsys: pytest.CaptureFixture[str], fake_checkpoints: dict[str, Path]
) -> None:
    worlds.fit_fake(fake_checkpoints, Path())
    rows = read_dataset("fake.parquet").assign(engine="vllm", device="cuda:0", engine_version="0.32.0")
    PerformanceModel().fit(rows).save("perf")
    models = [{"name": name, "checkpoint": str(path)} for name, path in fake_checkpoints.items()]
    devices = [{"name": "gpu", "device": "cuda:0-65MB"}]
    scenario = worlds.fake_scenario(fake_checkpoints, engine="vllm", models=models, devices=devices)
    Path("s.yaml").write_text(yaml.safe_dump(scenario.model_dump(mode="json")))
    words = ("vllm", "--scenario", "s.yaml", "--performance", "perf", "--asleep-mb")
    error = run(capsys, *words, "1140", code=2)
    assert "devices.gpu must have" in error
    assert "3 servers keep 1140 MB each asleep (--asleep-mb)" in error
    answer, *rest = run(capsys, *words, "1").splitlines()
    assert answer == (
        "vllm-sleep.yaml and vllm-sleep.sh: 3 models on 1 device; bash vllm-sleep.sh start starts them"
    )
    assert any(line.startswith("small: sleeps at level 1 on gpu; not measured") for line in rest)
    assert yaml.safe_load(Path("vllm-sleep.yaml").read_text())["models"][0]["wake_s"] is None
    assert Path("vllm-sleep.sh").read_text().startswith("#!/usr/bin/env bash")
    Path("vllm-sleep.yaml").unlink()
    error = run(capsys, *words, "1", code=2)
    assert "must not exist yet (or give --overwrite). Got 'vllm-sleep.sh'" in error
