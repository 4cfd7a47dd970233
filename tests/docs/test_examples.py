"""Files and programs that pages show are ones that shunter takes; those that can be run here are run."""

from __future__ import annotations

import ast
import asyncio
import importlib
import inspect
import json
import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

import shunter
from shunter.envs.scenario.limits import Limits
from shunter.envs.scenario.scenario import Scenario, load_scenario
from shunter.envs.scenario.workload import Workload
from shunter.envs.world.world import make_world
from shunter.errors import InputError
from shunter.train.settings import load_config
from tests.docs.pages import PAGES, README, ROOT, Block, blocks, code_spans, name_of
from tests.serve import gateways

_KINDS = {
    "sh": r"shunter |make |pip install |python -m benchmarks\.|llama-bench |(MLFLOW\S+ )?mlflow ",
    "": r"shunter |curl ",  # after a prompt; what else such a block has is output, or a drawing
}
"""How command lines begin that a test here or in test_commands looks at, by the language of their block."""

WHOLE = {
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
"""What a part of a scenario on a page is a part of."""


def every_block() -> Iterator[tuple[str, Block]]:
    for page in PAGES:
        for block in blocks(page.read_text("utf-8")):
            yield name_of(page), block


def examples(language: str) -> list[Any]:
    """Blocks of a language, each with its page's name."""
    found = [(name, block.text) for name, block in every_block() if block.language == language]
    assert found
    return [pytest.param(text, id=f"{name}-{i}") for i, (name, text) in enumerate(found)]


def commands(block: Block) -> list[str]:
    """Command lines of a block, those that go on in the next line as one."""
    text = re.sub(r"\\\n\s*", " ", block.text)
    if block.language == "sh":
        return [line for line in text.splitlines() if line and not line.startswith("#")]
    return [found.strip() for found in re.findall(r"^\$ (.*?)(?=^\S|\Z)", text, re.MULTILINE | re.DOTALL)]


def test_no_block_is_of_a_kind_that_nothing_looks_at() -> None:
    assert {block.language for _, block in every_block()} == {"yaml", "python", *_KINDS}
    unknown = [
        line
        for _, block in every_block()
        if block.language in _KINDS
        for line in commands(block)
        if not re.match(_KINDS[block.language], line)
    ]
    assert unknown == []


@pytest.mark.parametrize("text", examples("yaml"))
def test_yaml_is_a_scenario_a_part_of_one_or_a_training(text: str, tmp_path: Path) -> None:
    data = yaml.safe_load(text)
    if "scenarios" in data:
        path = tmp_path / "training.yaml"
        path.write_text(text, encoding="utf-8")
        load_config(path)
    elif "name" in data:
        path = tmp_path / "scenario.yaml"
        path.write_text(text, encoding="utf-8")
        scenario = load_scenario(path, served="workload" not in data)
        if all(model.catalog for model in scenario.models):
            make_world(scenario)
    else:
        part_of_a_scenario(data)


def part_of_a_scenario(data: dict[str, Any]) -> None:
    workload = {**WHOLE["workload"], **data.pop("workload", {})}
    if "load" in workload:
        del workload["rate_per_s"]
        workload.setdefault("capacity_rate_per_s", 1.0)
    Scenario.parse({**WHOLE, **data, "workload": workload})


def parts_in_sentences() -> list[Any]:
    """Inline spans that are a key of a scenario with braces or brackets behind it."""
    found = []
    for page in PAGES:
        for span in code_spans(page.read_text("utf-8")):
            if re.match(r"\w+: [\[{]", span) and "…" not in span and not re.search(r"\b[A-Z]{3,}\b", span):
                found.append(pytest.param(span, id=f"{name_of(page)}: {span[:30]}"))
    assert found
    return found


@pytest.mark.parametrize("span", parts_in_sentences())
def test_yaml_in_a_sentence_is_a_part_of_a_scenario(span: str) -> None:
    ((key, value),) = yaml.safe_load(span).items()
    if key in Workload.model_fields:
        whole = {"closed_loop": {"requests": 10}}.get(key, WHOLE["workload"])
        Scenario.parse({**WHOLE, "workload": {**whole, key: value}})
    elif key in Limits.model_fields:
        Scenario.parse({**WHOLE, "limits": {**WHOLE["limits"], key: value}})
    else:
        part_of_a_scenario({key: value})


@pytest.mark.parametrize("text", examples("python"))
def test_python_calls_what_there_is_with_arguments_that_it_takes(text: str) -> None:
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Call) and is_shunters(node.func):
            called = getattr(shunter, node.func.attr)
            named = {word.arg: None for word in node.keywords if word.arg}
            inspect.signature(called).bind_partial(*node.args, **named)
        elif is_shunters(node):
            assert hasattr(shunter, node.attr), node.attr


def is_shunters(node: ast.AST) -> bool:
    return isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "shunter"


def test_the_readmes_client_gets_an_answer(capsys: pytest.CaptureFixture[str]) -> None:
    (text,) = [block.text for block in blocks(README.read_text("utf-8")) if block.language == "python"]
    asked = re.search(r"http://[\d.:]+", text)
    assert asked

    async def scene() -> None:
        async with gateways.running(gateways.world("small", small={"aliases": ["chat"]})) as run:
            here = str(run.client._base_url).rstrip("/")
            program = compile(text.replace(asked[0], here), "README.md", "exec")
            await asyncio.to_thread(exec, program, {})

    gateways.play(scene)
    assert capsys.readouterr().out.strip()


def test_the_environments_of_the_page_are_made() -> None:
    text = (ROOT / "docs" / "environment.md").read_text("utf-8")
    program, _ = [block.text for block in blocks(text) if block.language == "python"]
    made: dict[str, Any] = {}
    exec(compile(program, "docs/environment.md", "exec"), made)
    for name in ("env", "envs"):
        _, info = made[name].reset(seed=0)
        assert info is not None
        made[name].close()


def test_curl_sends_json_to_an_address_that_the_page_lists() -> None:
    lines = [
        (name, line) for name, block in every_block() for line in commands(block) if line.startswith("curl ")
    ]
    assert lines
    for name, line in lines:
        words = shlex.split(line)
        path = re.sub(r"^http://[\d.:]+", "", next(word for word in words if word.startswith("http")))
        assert f"`{path}`" in (ROOT / name).read_text("utf-8").replace("POST ", ""), path
        assert json.loads(words[words.index("-d") + 1])["model"]


def test_benchmarks_take_the_options_that_pages_give_them() -> None:
    form = (ROOT / "benchmarks" / "form.py").read_text("utf-8")
    lines = [
        line for _, block in every_block() for line in commands(block) if line.startswith("python -m bench")
    ]
    assert lines
    for line in lines:
        words = shlex.split(line)
        source = inspect.getsource(importlib.import_module(words[2])) + form
        assert [word for word in words if word.startswith("--") and f'"{word}"' not in source] == []


def test_a_wrong_example_is_seen() -> None:
    with pytest.raises(InputError, match="engine must be given"):
        Scenario.parse({key: value for key, value in WHOLE.items() if key != "engine"})
    with pytest.raises(TypeError, match="loud"):
        test_python_calls_what_there_is_with_arguments_that_it_takes("shunter.evaluate(world, loud=1)")
    with pytest.raises(AssertionError):
        test_python_calls_what_there_is_with_arguments_that_it_takes("shunter.no_such_thing")
    drawn = Block("", "$ shunter a \\\n  --b\nout\n$ curl c -d '{\n  }'\n")
    assert [line.split() for line in commands(drawn)] == [
        ["shunter", "a", "--b"],
        ["curl", "c", "-d", "'{", "}'"],
    ]
