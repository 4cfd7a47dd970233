"""Files and programs that pages show are ones that shunter takes."""

from __future__ import annotations

import ast
from pathlib import Path
from typing import Any

import pytest
import yaml

from shunter.envs.scenario.scenario import Scenario
from shunter.train.settings import load_config
from tests.docs.pages import PAGES, blocks, name_of
from tests.docs.test_paths import is_there


def examples(language: str) -> list[Any]:
    """Blocks of a language, each with its page's name."""
    found = [
        (name_of(p), b.text) for p in PAGES for b in blocks(p.read_text("utf-8")) if b.language == language
    ]
    assert found
    return [pytest.param(text, id=f"{name}-{i}") for i, (name, text) in enumerate(found)]


@pytest.mark.parametrize("text", examples("yaml"))
def test_yaml_is_a_scenario_a_part_of_one_or_a_training(text: str, tmp_path: Path) -> None:
    data = yaml.safe_load(text)
    if "scenarios" in data:
        path = tmp_path / "training.yaml"
        path.write_text(text, encoding="utf-8")
        load_config(path)
    else:
        whole = {
            "name": "x",
            "engine": "llama-cpp",
            "devices": [{"name": "a", "gpu": "RTX A6000"}],
            "models": [
                {"name": "m", "catalog": "Llama-3-8B", "quantization": "Q8_0"},
                {"name": "n", "catalog": "Qwen2.5-3B", "quantization": "Q8_0"},
            ],
            "workload": {"requests": 10, "rate_per_s": 1.0},
            "limits": {"max_batch": 4, "context_tokens": 4096},
        }
        workload = {**whole["workload"], **data.pop("workload", {})}
        if "load" in workload:
            del workload["rate_per_s"]
            workload.setdefault("capacity_rate_per_s", 1.0)
        Scenario.parse({**whole, **data, "workload": workload})


@pytest.mark.parametrize("text", examples("python"))
def test_python_names_what_there_is(text: str) -> None:
    for node in ast.walk(ast.parse(text)):
        if (
            isinstance(node, ast.Attribute)
            and isinstance(node.value, ast.Name)
            and node.value.id == "shunter"
        ):
            assert is_there(f"shunter.{node.attr}"), node.attr
