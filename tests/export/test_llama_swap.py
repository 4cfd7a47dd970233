from __future__ import annotations

import itertools
import re
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import yaml

from shunter.envs.scenario.scenario import Scenario, load_scenario
from shunter.errors import InputError
from shunter.export.llama_swap import llama_swap_config, llama_swap_yaml
from shunter.export.placement import Home, homes_of
from shunter.models.published.performance import published_performance

MODELS = Path("/srv/some models")


@pytest.fixture(scope="module", params=["laptop", "two-gpu-unequal", "eight-gpu-forty-models"])
def exported(request: pytest.FixtureRequest) -> tuple[Scenario, list[Home], dict[str, Any]]:
    scenario = load_scenario(request.param)
    homes = homes_of(scenario, published_performance())
    text = llama_swap_yaml(scenario, homes, models_dir=MODELS)
    return scenario, homes, yaml.safe_load(text)


def expand(expression: str, sets: dict[str, str]) -> list[frozenset[str]]:
    """What llama-swap makes of an expression: & joins, | chooses, +NAME is another set."""
    tokens = re.findall(r"[&|()]|\+?[\w.-]+", expression)
    assert "".join(tokens) == expression.replace(" ", "")

    def either() -> list[frozenset[str]]:
        found = both()
        while tokens and tokens[0] == "|":
            tokens.pop(0)
            found = found + both()
        return found

    def both() -> list[frozenset[str]]:
        found = atom()
        while tokens and tokens[0] == "&":
            tokens.pop(0)
            found = [a | b for a, b in itertools.product(found, atom())]
        return list(dict.fromkeys(found))

    def atom() -> list[frozenset[str]]:
        token = tokens.pop(0)
        if token == "(":
            inner = either()
            assert tokens.pop(0) == ")"
            return inner
        return expand(sets[token[1:]], sets) if token.startswith("+") else [frozenset([token])]

    found = either()
    assert not tokens
    return found


def evicted(config: dict[str, Any], running: Sequence[str], wanted: str) -> set[str]:
    """What llama-swap's solver evicts: the cheapest set that holds the wanted model, the first of equals."""
    matrix = config["matrix"]
    short = {model: name for name, model in matrix["vars"].items()}
    have = {short[model] for model in running}
    choices = []
    for name, expression in matrix["sets"].items():
        if name == "all_devices":
            continue  # expanded by device below: all of them together are millions
        choices += [chosen for chosen in expand(expression, matrix["sets"]) if short[wanted] in chosen]
    best = min(choices, key=lambda c: sum(matrix["evict_costs"][m] for m in have & _device_of(matrix, c) - c))
    return {matrix["vars"][m] for m in have & _device_of(matrix, best) - best}


def _device_of(matrix: dict[str, Any], chosen: frozenset[str]) -> set[str]:
    for name, expression in matrix["sets"].items():
        names = set(re.findall(r"m\d+", expression))
        if name != "all_devices" and chosen <= names:
            return names
    raise AssertionError(chosen)


def test_it_obeys_llama_swaps_schema(exported: tuple[Scenario, list[Home], dict[str, Any]]) -> None:
    """The rules of its config-schema.json and of its own validation, for the fields that are used."""
    _, _, config = exported
    assert set(config) == {"healthCheckTimeout", "models", "matrix"}
    assert isinstance(config["healthCheckTimeout"], int)
    assert config["healthCheckTimeout"] >= 15
    for model in config["models"].values():
        assert set(model) <= {"cmd", "env", "metadata"}
        assert isinstance(model["cmd"], str)
        assert model["cmd"]
        assert all(re.match(r"^[A-Z_][A-Z0-9_]*=.*$", text) for text in model["env"])
    matrix = config["matrix"]
    assert set(matrix) == {"vars", "evict_costs", "sets"}
    assert sorted(matrix["vars"].values()) == sorted(config["models"])
    assert all(re.match(r"^[a-zA-Z0-9]{1,8}$", name) for name in matrix["vars"])
    assert set(matrix["evict_costs"]) == set(matrix["vars"])
    assert all(type(cost) is int and cost >= 1 for cost in matrix["evict_costs"].values())
    for name, expression in matrix["sets"].items():
        assert re.match(r"^[\w.-]+$", name)
        if name != "all_devices":
            assert set().union(*expand(expression, matrix["sets"])) <= set(matrix["vars"])


def test_commands_run_llama_server_at_the_level_that_was_costed(
    exported: tuple[Scenario, list[Home], dict[str, Any]],
) -> None:
    scenario, homes, config = exported
    limits = scenario.limits
    for home in homes:
        words = shlex.split(config["models"][home.model]["cmd"])
        options = dict(zip(words[1::2], words[2::2], strict=True))
        assert words[0] == "llama-server"
        assert options["--port"] == "${PORT}"
        assert options["--model"] == str(MODELS / f"{home.model}.gguf")
        assert int(options["--n-gpu-layers"]) == home.gpu_layers
        assert int(options["--parallel"]) == limits.max_batch
        assert int(options["--ctx-size"]) == limits.max_batch * limits.context_tokens
        assert config["models"][home.model]["env"] == [f"CUDA_VISIBLE_DEVICES={home.device}"]


def test_every_set_fits_its_device_and_every_model_is_in_one(
    exported: tuple[Scenario, list[Home], dict[str, Any]],
) -> None:
    scenario, homes, config = exported
    matrix = config["matrix"]
    size = {home.model: home.footprint_bytes for home in homes}
    device = {home.model: home.device for home in homes}
    seen: set[str] = set()
    for name, expression in matrix["sets"].items():
        for chosen in expand(expression, matrix["sets"]) if name != "all_devices" else ():
            models = {matrix["vars"][short] for short in chosen}
            (d,) = {device[model] for model in models}
            assert sum(size[model] for model in models) <= scenario.devices[d].memory_bytes
            seen |= models
    assert seen == set(config["models"])


def test_the_solver_evicts_what_is_cheapest_to_bring_back() -> None:
    scenario = load_scenario("two-gpu-unequal")
    homes = homes_of(scenario, published_performance())
    config = llama_swap_config(scenario, homes, models_dir=MODELS)
    assert evicted(config, ["qwen3-8b", "qwen2.5-14b"], "llama-3-8b") == set()
    assert evicted(config, ["qwen3-8b", "qwen2.5-14b"], "qwen2.5-32b") == {"qwen2.5-14b"}
    union = expand(config["matrix"]["sets"]["all_devices"], config["matrix"]["sets"])
    assert frozenset({"m1", "m2", "m3"}) in union


def test_costs_are_the_predictions_and_may_be_weighed() -> None:
    scenario = load_scenario("laptop")
    homes = homes_of(scenario, published_performance())
    plain = llama_swap_config(scenario, homes, models_dir=MODELS)["matrix"]["evict_costs"]
    weighed = llama_swap_config(scenario, homes, models_dir=MODELS, by_demand=True)["matrix"]["evict_costs"]
    for m, home in enumerate(homes, start=1):
        assert plain[f"m{m}"] == round(1e3 * (home.load.seconds + home.unload.seconds))
        assert weighed[f"m{m}"] == pytest.approx(plain[f"m{m}"] * home.share, abs=1)
    assert max(plain, key=plain.__getitem__) == "m4"
    assert max(weighed, key=weighed.__getitem__) == "m1"


def test_too_many_sets_become_any_that_always_fit() -> None:
    laptop = load_scenario("laptop").model_dump()
    small = laptop["models"][2]
    laptop["models"] = [{**small, "name": f"tuned-{i}"} for i in range(30)]
    laptop["devices"][0]["gpu"] = "RTX 3090"
    scenario = Scenario.parse(laptop)
    homes = homes_of(scenario, published_performance())
    expression = llama_swap_config(scenario, homes, models_dir=MODELS)["matrix"]["sets"]["on0_gpu0"]
    together = expression.count("&") + 1
    assert together * homes[0].footprint_bytes <= scenario.devices[0].memory_bytes
    assert (together + 1) * homes[0].footprint_bytes > scenario.devices[0].memory_bytes
    assert expression.count("m30") == together


def test_what_cannot_be_exported_is_said() -> None:
    laptop = load_scenario("laptop")
    homes = homes_of(laptop, published_performance())
    with pytest.raises(InputError, match=r"models\.llama-3-8b\.checkpoint must be given, or --models-dir"):
        llama_swap_config(laptop, homes)
    with pytest.raises(InputError, match="engine must be llama-cpp"):
        llama_swap_config(laptop.model_copy(update={"engine": "vllm"}), homes, models_dir=MODELS)
    loopback = laptop.devices[0].model_copy(update={"device": "loopback:1-threads-8GB"})
    with pytest.raises(InputError, match=r"devices\.gpu0\.device must be a GPU or the CPU"):
        llama_swap_config(laptop.model_copy(update={"devices": [loopback]}), homes, models_dir=MODELS)


@pytest.mark.parametrize(
    ("device", "words", "variables"),
    [
        ("cuda:3-8GB", [], ["CUDA_VISIBLE_DEVICES=3"]),
        ("vulkan:1-8GB", ["--device", "Vulkan1"], None),
        ("cpu:4-threads-8GB", ["--device", "none", "--threads", "4"], None),
    ],
)
def test_devices_become_options(device: str, words: list[str], variables: list[str] | None) -> None:
    laptop = load_scenario("laptop")
    homes = homes_of(laptop, published_performance())
    bound = laptop.devices[0].model_copy(update={"device": device})
    config = llama_swap_config(laptop.model_copy(update={"devices": [bound]}), homes, models_dir=MODELS)
    model = config["models"]["llama-3-8b"]
    found = shlex.split(model["cmd"])
    assert found[found.index("--parallel") + 2 :] == words
    assert model.get("env") == variables
    layers = found[found.index("--n-gpu-layers") + 1]
    assert layers == ("0" if device.startswith("cpu") else str(homes[0].gpu_layers))
