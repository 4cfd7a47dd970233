"""Adding data touches what docs/recipes.md says: one row, or one file."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from importlib.resources import files
from pathlib import Path

import pytest

from shunter.agents.registry import make_policy
from shunter.catalog import gpus, models
from shunter.envs.scenario import library
from shunter.envs.world.world import make_world
from shunter.eval.execution.runs import simulate

SCENARIO = """
name: {name}
description: Two models on one GPU.
engine: llama-cpp
devices: [{{name: gpu0, gpu: {gpu}}}]
models:
  - {{name: a, catalog: {model}, quantization: Q8_0}}
  - {{name: b, catalog: Qwen2.5-3B, quantization: Q8_0}}
workload: {{requests: 5, rate_per_s: 0.1}}
limits: {{max_batch: 2, context_tokens: 2048}}
"""


@pytest.fixture
def data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A copy of the shipped data, from which catalogues and library are read meanwhile."""
    folder = tmp_path / "data"
    shutil.copytree(str(files("shunter.data")), folder, ignore=shutil.ignore_patterns("__pycache__"))
    for module in (gpus, models):
        monkeypatch.setattr(module, "files", lambda package: folder)
    monkeypatch.setattr(library, "_FOLDER", folder / "scenarios")
    forget()
    yield folder
    forget()


def forget() -> None:
    for read in (gpus.catalog_gpus, models.catalog_models, gpus.gpu_name):
        read.cache_clear()


def add_row(path: Path, old: str, new: str) -> None:
    """Repeats a row of a table under another name."""
    text = path.read_text(encoding="utf-8")
    row = next(line for line in text.splitlines() if line.startswith(f"{old},"))
    path.write_text(text.rstrip("\n") + "\n" + row.replace(old, new, 1) + "\n", encoding="utf-8")


def mean_response_s(scenario: str | Path) -> float:
    responses = simulate(make_world(scenario), make_policy("cost-greedy"), 0).requests
    assert responses.finish_s.notna().all()
    return float((responses.finish_s - responses.arrival_s).mean())


def write(path: Path, **names: str) -> Path:
    known = {"name": "new", "gpu": "RTX 3090", "model": "Llama-3-8B"}
    path.write_text(SCENARIO.format(**{**known, **names}), encoding="utf-8")
    return path


def test_a_gpu_is_one_row(data: Path, tmp_path: Path) -> None:
    add_row(data / "gpus.csv", "RTX 3090", "NPU 9000")
    new, old = write(tmp_path / "new.yaml", gpu="NPU 9000"), write(tmp_path / "old.yaml")
    assert mean_response_s(new) == pytest.approx(mean_response_s(old), rel=0.05)


def test_a_model_is_one_row(data: Path, tmp_path: Path) -> None:
    add_row(data / "models.csv", "Llama-3-8B", "Vicugna-8B")
    new, old = write(tmp_path / "new.yaml", model="Vicugna-8B"), write(tmp_path / "old.yaml")
    assert mean_response_s(new) == pytest.approx(mean_response_s(old))


def test_a_scenario_is_one_file(data: Path) -> None:
    write(data / "scenarios" / "brand-new.yaml", name="brand-new")
    assert "brand-new" in library.scenario_names()
    assert mean_response_s("brand-new") > 0
