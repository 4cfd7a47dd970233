from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shunter.envs.scenario.library import scenario_names
from shunter.envs.scenario.scenario import Scenario, load_scenario
from shunter.errors import InputError
from shunter.export.llama_swap import MAX_QUEUE, PROCESS_BYTES, llama_swap_config, llama_swap_yaml
from shunter.export.placement import Home, homes_of
from shunter.models.published.performance import published_performance
from shunter.serve.gateway.gateway import GatewaySettings
from tests.export.swap_reader import Configuration, read

MODELS = Path("/srv/some models")


def exported(scenario: Scenario, replicas: int | None = None, **options: Any) -> Configuration:
    homes = homes_of(scenario, published_performance(), process_bytes=PROCESS_BYTES, replicas=replicas)
    return read(llama_swap_yaml(scenario, homes, models_dir=MODELS, **options))


def changed(name: str, models: dict[int, dict[str, Any]], **changes: Any) -> Scenario:
    """A scenario of the library with other fields of some models."""
    data = load_scenario(name).model_dump()
    for m, fields in models.items():
        data["models"][m] |= fields
    return Scenario.parse({**data, **changes})


@pytest.fixture(scope="module", params=["laptop", "two-gpu-unequal", "eight-gpu-forty-models"])
def case(request: pytest.FixtureRequest) -> tuple[Scenario, list[Home], Configuration]:
    scenario = load_scenario(request.param)
    homes = homes_of(scenario, published_performance(), process_bytes=PROCESS_BYTES)
    return scenario, homes, read(llama_swap_yaml(scenario, homes, models_dir=MODELS))


def evicted(config: Configuration, running: Sequence[str], wanted: str) -> set[str]:
    """What llama-swap's solver evicts: the cheapest set that holds the wanted model, the first of equals."""
    cost = {config.vars[short]: value for short, value in config.evict_costs.items()}
    sets = [chosen for name in config.sets for chosen in config.together(name) if wanted in chosen]
    best = min(sets, key=lambda chosen: sum(cost[model] for model in running if model not in chosen))
    return {model for model in running if model not in best}


@pytest.mark.parametrize("name", scenario_names()[::6])
def test_llama_swap_takes_scenarios_of_the_library(name: str) -> None:
    scenario = load_scenario(name)
    assert set(exported(scenario).models) == {model.name for model in scenario.models}


def test_commands_run_llama_server_at_the_level_that_was_costed(
    case: tuple[Scenario, list[Home], Configuration],
) -> None:
    scenario, homes, config = case
    limits = scenario.limits
    for home in homes:
        entry = config.models[home.model]
        assert entry.words[0] == "llama-server"
        assert entry.after("--port").isdigit()
        assert entry.after("--model") == str(MODELS / f"{home.model}.gguf")
        assert int(entry.after("--n-gpu-layers")) == home.gpu_layers
        assert int(entry.after("--parallel")) == limits.max_batch
        assert int(entry.after("--ctx-size")) == limits.max_batch * limits.context_tokens


def test_gpus_are_numbered_as_people_see_them(case: tuple[Scenario, list[Home], Configuration]) -> None:
    _, homes, config = case
    for home in homes:
        pins = {"CUDA_DEVICE_ORDER": "PCI_BUS_ID", "CUDA_VISIBLE_DEVICES": str(home.device)}
        assert config.models[home.model].environment == pins


def test_every_set_fits_its_device_with_its_processes_and_every_model_is_in_one(
    case: tuple[Scenario, list[Home], Configuration],
) -> None:
    scenario, homes, config = case
    size = {home.model: home.footprint_bytes + PROCESS_BYTES for home in homes}
    device = {home.model: home.device for home in homes}
    seen: set[str] = set()
    for name in config.sets:
        for models in config.together(name) if name != "all_devices" else ():
            (d,) = {device[model] for model in models}
            together = sum(size[model] for model in models)
            assert len(models) == 1 or together <= scenario.devices[d].memory_bytes
            seen |= models
    assert seen == set(config.models)


def test_processes_take_room_from_models() -> None:
    laptop = load_scenario("laptop")
    homes = homes_of(laptop, published_performance(), process_bytes=PROCESS_BYTES)
    two = [home for home in homes if home.model in ("qwen2.5-3b", "qwen3-1.7b")]
    weights = sum(home.footprint_bytes for home in two)
    tight = laptop.devices[0].model_copy(update={"device": f"cuda:0-{round(weights / 1e6) + 500}MB"})
    scenario = laptop.model_copy(update={"devices": [tight]})
    free = [*llama_swap_config(scenario, two, models_dir=MODELS)["routing"]["router"]["settings"].values()]
    assert free[0]["sets"] == {"on0_gpu0": "m1 | m2"}


def test_the_solver_evicts_what_is_cheapest_to_bring_back() -> None:
    config = exported(load_scenario("two-gpu-unequal"))
    assert evicted(config, ["qwen3-8b", "qwen2.5-14b"], "llama-3-8b") == set()
    assert evicted(config, ["qwen3-8b", "qwen2.5-14b"], "qwen2.5-32b") == {"qwen2.5-14b"}
    assert frozenset({"qwen3-8b", "llama-3-8b", "qwen2.5-14b"}) in config.together("all_devices")


def test_costs_are_the_predictions_and_may_be_weighed() -> None:
    scenario = load_scenario("laptop")
    homes = homes_of(scenario, published_performance())
    plain = exported(scenario).evict_costs
    weighed = exported(scenario, by_demand=True).evict_costs
    for m, home in enumerate(homes, start=1):
        assert plain[f"m{m}"] == round(1e3 * (home.load.seconds + home.unload.seconds))
        assert weighed[f"m{m}"] == pytest.approx(plain[f"m{m}"] * home.share, abs=1)
    assert max(plain, key=plain.__getitem__) == "m4"
    assert max(weighed, key=weighed.__getitem__) == "m1"


def test_as_many_may_wait_as_for_shunter_serve() -> None:
    laptop = load_scenario("laptop")
    assert GatewaySettings().max_queue == MAX_QUEUE
    for entry in exported(laptop).models.values():
        assert entry.fields["concurrencyLimit"] == laptop.limits.max_batch + MAX_QUEUE
    few = exported(changed("laptop", {0: {"max_batch": 2}}), max_queue=3).models["llama-3-8b"]
    assert few.fields["concurrencyLimit"] == 5


def test_what_the_scenario_says_of_models_is_kept() -> None:
    fields = {
        "aliases": ["gpt-4o"],
        "priority": 2,
        "kv_type": "q8_0",
        "args": ["--rope-scaling", "no ne"],
    }
    config = exported(changed("laptop", {0: fields, 1: {"ttl_s": 59.5}, 2: {"preload": True}}))
    first = config.models["llama-3-8b"]
    assert first.fields["aliases"] == ["gpt-4o"]
    assert first.words[-2:] == ["--rope-scaling", "no ne"]
    assert first.after("--cache-type-v") == "q8_0"
    assert first.after("--flash-attn") == "on"
    assert config.priority == {"llama-3-8b": 2}
    assert config.models["qwen2.5-3b"].fields["ttl"] == 60
    assert config.preload == ["qwen3-1.7b"]


def test_what_is_pinned_is_never_evicted() -> None:
    config = exported(changed("laptop", {2: {"pinned": True}}))
    assert config.preload == ["qwen3-1.7b"]
    assert all("qwen3-1.7b" in chosen for chosen in config.together("on0_gpu0"))
    assert {model for chosen in config.together("on0_gpu0") for model in chosen} == set(config.models)
    everywhere = exported(changed("two-gpu-unequal", {2: {"pinned": "small"}}), replicas=2)
    assert everywhere.preload == ["qwen3-8b@small"]
    assert all("qwen3-8b@small" in chosen for chosen in everywhere.together("on1_small"))


def test_replicas_are_filled_one_after_the_other() -> None:
    scenario = changed("two-gpu-unequal", {2: {"replicas_max": 2, "aliases": ["chat"]}})
    config = exported(scenario, replicas=1)
    targets = config.selectors["qwen3-8b"]["targets"]
    assert sorted(targets) == ["qwen3-8b@big", "qwen3-8b@small"]
    assert config.selectors["chat"] == config.selectors["qwen3-8b"]
    assert config.selectors["chat"]["settings"] == {"spillover": scenario.limits.max_batch}
    assert set(config.selectors) == {"qwen3-8b", "chat"}
    assert {config.models[name].environment["CUDA_VISIBLE_DEVICES"] for name in targets} == {"0", "1"}
    assert any(set(targets) <= chosen for chosen in config.together("all_devices"))
    every = exported(changed("two-gpu-unequal", {2: {"replicas_max": 1}}), replicas=2)
    assert "qwen3-8b" in every.models
    assert "llama-3-8b" in every.selectors
    shares = [config.models[name].fields["metadata"]["shunter"]["share_of_requests"] for name in targets]
    whole = exported(load_scenario("two-gpu-unequal")).models["qwen3-8b"]
    assert sum(shares) == pytest.approx(whole.fields["metadata"]["shunter"]["share_of_requests"], abs=1e-3)


def test_a_replica_takes_nobodys_name() -> None:
    models = {2: {"replicas_max": 2}, 1: {"aliases": ["qwen3-8b@big"]}}
    config = exported(changed("two-gpu-unequal", models), replicas=1)
    assert "qwen3-8b@big@" in config.selectors["qwen3-8b"]["targets"]


def test_too_many_sets_become_any_that_always_fit() -> None:
    laptop = load_scenario("laptop").model_dump()
    small = laptop["models"][2]
    laptop["models"] = [{**small, "name": f"tuned-{i}"} for i in range(30)]
    laptop["devices"][0]["gpu"] = "RTX 3090"
    scenario = Scenario.parse(laptop)
    homes = homes_of(scenario, published_performance(), process_bytes=PROCESS_BYTES)
    config = llama_swap_config(scenario, homes, models_dir=MODELS)
    expression = config["routing"]["router"]["settings"]["matrix"]["sets"]["on0_gpu0"]
    together, size = expression.count("&") + 1, homes[0].footprint_bytes + PROCESS_BYTES
    assert together * size <= scenario.devices[0].memory_bytes
    assert (together + 1) * size > scenario.devices[0].memory_bytes
    assert expression.count("m30") == together


def test_what_cannot_be_exported_is_said() -> None:
    laptop = load_scenario("laptop")
    homes = homes_of(laptop, published_performance())
    with pytest.raises(InputError, match=r"models\.llama-3-8b\.checkpoint must be given, or --models-dir"):
        llama_swap_config(laptop, homes)
    for other in ({"engine": "vllm"}, {"models": [laptop.models[0].model_copy(update={"engine": "vllm"})]}):
        with pytest.raises(InputError, match="engine must be llama-cpp"):
            llama_swap_config(laptop.model_copy(update=other), homes, models_dir=MODELS)
    for device, message in (
        ("loopback:1-threads-8GB", "must be a GPU or the CPU"),
        ("cuda:0000:65:00.0-8GB", r"must have an index or a UUID \(nvidia-smi -L lists them\)"),
    ):
        bound = laptop.devices[0].model_copy(update={"device": device})
        with pytest.raises(InputError, match=rf"devices\.gpu0\.device {message}"):
            llama_swap_config(laptop.model_copy(update={"devices": [bound]}), homes, models_dir=MODELS)


UUID = "GPU-01234567-89ab-cdef-0123-456789abcdef"


@pytest.mark.parametrize(
    ("device", "words", "environment"),
    [
        ("cuda:3-8GB", [], {"CUDA_DEVICE_ORDER": "PCI_BUS_ID", "CUDA_VISIBLE_DEVICES": "3"}),
        (f"cuda:{UUID}-8GB", [], {"CUDA_VISIBLE_DEVICES": UUID}),
        ("vulkan:1-8GB", ["--device", "Vulkan1"], {}),
        ("cpu:4-threads-8GB", ["--device", "none", "--threads", "4"], {}),
    ],
)
def test_devices_become_options(device: str, words: list[str], environment: dict[str, str]) -> None:
    laptop = load_scenario("laptop")
    homes = homes_of(laptop, published_performance())
    bound = laptop.devices[0].model_copy(update={"device": device})
    scenario = laptop.model_copy(update={"devices": [bound]})
    entry = read(llama_swap_yaml(scenario, homes, models_dir=MODELS)).models["llama-3-8b"]
    assert entry.words[entry.words.index("--parallel") + 2 :] == words
    assert entry.environment == environment
    assert entry.after("--n-gpu-layers") == ("0" if device.startswith("cpu") else str(homes[0].gpu_layers))


AWKWARD = st.text(
    st.sampled_from("ab${}PORTenv.'\"\\ \n\r\t#:-&*!|>%@`,[]?~0e_é\u2028\x1b\ud800"), min_size=1
)


@settings(max_examples=200, deadline=None)
@given(name=AWKWARD, alias=AWKWARD, folder=AWKWARD, argument=AWKWARD, device=AWKWARD, title=AWKWARD)
def test_any_name_comes_out_as_itself_or_is_refused_in_one_line(
    name: str, alias: str, folder: str, argument: str, device: str, title: str
) -> None:
    laptop = load_scenario("laptop")
    homes = _laptop_homes()
    path = Path("/srv") / folder / "model.gguf"
    fields = {"name": name, "aliases": [alias], "checkpoint": path, "args": [argument]}
    first = laptop.models[0].model_copy(update=fields)
    place = laptop.devices[0].model_copy(update={"name": device})
    changes = {"name": title, "models": [first, *laptop.models[1:]], "devices": [place]}
    scenario = laptop.model_copy(update=changes)
    renamed = [home if i else _renamed(home, name) for i, home in enumerate(homes)]
    text, refused = "", ""
    try:
        text = llama_swap_yaml(scenario, renamed, models_dir=MODELS)
    except InputError as error:
        refused = str(error)
    assert refused.isprintable()
    assert text.encode().decode() == text
    if refused:
        return
    entry = read(text).models[name]
    assert entry.after("--model") == str(path)
    assert entry.words[-1] == argument
    assert entry.fields["aliases"] == [alias]
    assert entry.fields["metadata"]["shunter"]["device"] == device


def _renamed(home: Home, name: str) -> Home:
    return Home(**{**vars(home), "model": name})


@cache
def _laptop_homes() -> list[Home]:
    return homes_of(load_scenario("laptop"), published_performance())


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"name": "a${PORT}"}, r"models\.a\$\{PORT\}\.name must have no \$\{: llama-swap would fill in"),
        ({"aliases": ["${env.HOME}"]}, r"models\.llama-3-8b\.aliases must have no \$\{"),
        ({"args": ["a\nb"]}, r"models\.llama-3-8b\.args must have no line breaks or control characters"),
        ({"name": "../up"}, r"models\.\.\./up\.checkpoint must be given: \.\./up leads out of --models-dir"),
        ({"name": "/etc/x"}, "leads out of --models-dir"),
    ],
)
def test_what_llama_swap_cannot_carry_is_refused(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        exported(changed("laptop", {0: fields}))


def test_a_folder_may_be_called_as_a_macro_is() -> None:
    laptop = load_scenario("laptop")
    text = llama_swap_yaml(laptop, _laptop_homes(), models_dir=Path("/srv/${PORT}/it's ${env.HOME}"))
    entry = read(text).models["llama-3-8b"]
    assert entry.after("--model") == "/srv/${PORT}/it's ${env.HOME}/llama-3-8b.gguf"


def test_a_title_is_no_way_out_of_the_comment() -> None:
    laptop = load_scenario("laptop").model_copy(update={"name": "a\nmodels: {evil: {cmd: rm}}\u2028#"})
    config = read(llama_swap_yaml(laptop, _laptop_homes(), models_dir=MODELS))
    assert set(config.models) == {model.name for model in laptop.models}
