from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from shunter.cli.main import main
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


def test_llama_swap_is_written_once(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    Path("gguf").mkdir()
    Path("gguf/qwen3-1.7b.gguf").touch()
    out = run(capsys, *LAPTOP)
    assert "qwen2.5-14b: 34/49 layers on gpu0" in out
    assert f"note: {tmp_path}/gguf/llama-3-8b.gguf is not on this machine" in out
    assert "qwen3-1.7b.gguf is not" not in out
    first = Path("llama-swap.yaml").read_text()
    assert list(yaml.safe_load(first)["models"]) == ["llama-3-8b", "qwen2.5-3b", "qwen3-1.7b", "qwen2.5-14b"]
    error = run(capsys, *LAPTOP, "--by-demand", code=2)
    assert "--out must not exist yet (or give --overwrite). Got 'llama-swap.yaml'" in error
    assert Path("llama-swap.yaml").read_text() == first
    run(capsys, *LAPTOP, "--by-demand", "--overwrite")
    weighed = yaml.safe_load(Path("llama-swap.yaml").read_text())
    assert weighed["matrix"]["evict_costs"] != yaml.safe_load(first)["matrix"]["evict_costs"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (LAPTOP[:3], "models.llama-3-8b.checkpoint must be given, or --models-dir"),
        ((*LAPTOP, "--out", "no/folder.yaml"), "--out must be in an existing folder. Got 'no/folder.yaml'"),
        (("vllm", "--scenario", "laptop"), "engine must be vllm"),
        (("vllm", "--scenario", "laptop", "--out", "plan.sh"), "--out must not end in .sh"),
        (("llama-swap", "--scenario", "labtop"), "did you mean laptop"),
        (("ollama",), "unknown name 'export'"),
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
    out = run(capsys, "vllm", "--scenario", "s.yaml", "--performance", "perf")
    assert "small: sleeps at level 1 on gpu; not measured" in out
    assert yaml.safe_load(Path("vllm-sleep.yaml").read_text())["models"][0]["wake_s"] is None
    assert Path("vllm-sleep.sh").read_text().startswith("#!/usr/bin/env bash")
    Path("vllm-sleep.yaml").unlink()
    error = run(capsys, "vllm", "--scenario", "s.yaml", "--performance", "perf", code=2)
    assert "must not exist yet (or give --overwrite). Got 'vllm-sleep.sh'" in error
