from dataclasses import replace
from pathlib import Path

import pytest

from shunter.catalog.checkpoints import Checkpoint
from shunter.catalog.devices import parse_device
from shunter.catalog.models import ModelSpec
from shunter.errors import InputError
from shunter.profiling.sweep.pace import Pace
from shunter.profiling.sweep.plan import SweepSettings, Unit, make_plan, parse_level


def checkpoint(name, layers=4):
    spec = ModelSpec(name, layers, 128, 2, 2, 64, 256, 300)
    return Checkpoint(
        name, Path(f"/nowhere/{name}"), "gguf", spec, "F32", 4 * spec.params, 4 * spec.params_per_layer
    )


SETTINGS = SweepSettings(
    gpu_layers=("0", "50%", "all"), cut_tokens=(32,), page_cache=("warm", "cold"), repeats=2
)


def plan(settings=SETTINGS, models=("a", "b")):
    checkpoints = [checkpoint(name) for name in models]
    return make_plan(checkpoints, engine="fake", device=parse_device("cpu"), settings=settings)


def test_every_combination_is_planned_once_under_one_load_per_level():
    made = plan()
    places = [(name, level) for name in "ab" for level in (0, 2, 5)]
    for repeat in range(2):
        one_pass = made.groups[6 * repeat : 6 * repeat + 6]
        assert sorted((g.checkpoint.name, g.gpu_layers) for g in one_pass) == places
        assert {u.repeat for g in one_pass for u in g.units} == {repeat}
    for group in made.groups:
        runs = {(u.prompt_tokens, u.batch) for u in group.units if u.kind == "run"}
        swaps = {(u.cut_tokens, u.page_cache, u.max_batch) for u in group.units if u.kind == "swap"}
        assert runs == {(p, b) for p in (15, 61, 250) for b in (1, 2, 4)}
        assert swaps == {(32, "warm", 4), (32, "cold", 4), (0, "warm", 1), (0, "cold", 1)}
        assert [u.max_batch for u in group.units[-2:]] == [1, 1]
        assert len(group.units) == len(runs) + len(swaps)
    assert (made.units, made.loads) == (12 * 13, 12 * 5)
    assert (made.max_batch, made.max_context_tokens) == (4, 250 + 32 + 1)


def test_order_is_random_but_fixed_by_the_seed():
    assert plan() == plan()
    other = plan(replace(SETTINGS, seed=1))
    assert other.groups != plan().groups
    assert {g.units[0] for g in other.groups} != {g.units[0] for g in plan().groups}
    sizes = [u.prompt_tokens for u in plan().groups[0].units]
    assert sizes != sorted(sizes)


def test_row_keys_depend_on_what_is_asked_and_not_on_the_order():
    first, second = plan(), plan(replace(SETTINGS, seed=1, gpu_layers=("50%",)))
    keys = {key for g in first.groups for u in g.units for key in first.row_keys(g, u, kv_save=True)}
    some = {key for g in second.groups for u in g.units for key in second.row_keys(g, u, kv_save=True)}
    assert some < keys
    longer = plan(replace(SETTINGS, context_tokens=1000))
    assert keys.isdisjoint(
        k for g in longer.groups for u in g.units for k in longer.row_keys(g, u, kv_save=True)
    )


def test_a_swap_without_cut_or_kv_save_only_reloads():
    made = plan(replace(SETTINGS, cut_tokens=()))
    group = made.groups[0]
    swap = next(u for u in group.units if u.kind == "swap")
    assert [key.split("/")[1] for key in made.row_keys(group, swap, kv_save=True)] == ["unload0", "load0"]
    cut = replace(swap, cut_tokens=32)
    assert len(made.row_keys(group, cut, kv_save=False)) == 2
    assert len(made.row_keys(group, cut, kv_save=True)) == 5


def test_repeated_values_are_measured_once():
    made = plan(replace(SETTINGS, batch=(1, 1), gpu_layers=("all", "100%", "5")))
    assert len(made.groups) == 2 * 2
    assert len(set(made.groups[0].units)) == len(made.groups[0].units)


@pytest.mark.parametrize(
    ("text", "level"), [("all", 5), ("0", 0), ("5", 5), ("0%", 0), ("50%", 2), ("100%", 5), (" 30.5% ", 2)]
)
def test_levels(text, level):
    assert parse_level(text, 5) == level


@pytest.mark.parametrize("text", ["6", "-1", "101%", "half", "", "2.5", "1..5%", "%"])
def test_levels_that_a_model_does_not_have_are_refused(text):
    with pytest.raises(InputError, match="--gpu-layers must be all, a percentage from 0% to 100%"):
        parse_level(text, 5)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"batch": (0,)}, "--batch must be numbers of at least 1"),
        ({"prompt_tokens": ()}, "--prompt must be numbers of at least 1"),
        ({"cut_tokens": (2,)}, "--cuts must be numbers of at least 3"),
        ({"repeats": 0}, "--repeats must be numbers of at least 1"),
        ({"page_cache": ("hot",)}, "--page-cache must be warm, cold or both"),
        ({"context_tokens": 100}, "--context must hold the longest request of the sweep, 283 tokens"),
    ],
)
def test_an_impossible_grid_is_refused(changes, message):
    with pytest.raises(InputError, match=message):
        plan(replace(SETTINGS, **changes))


@pytest.mark.parametrize("models", [(), ("a", "a")])
def test_models_must_be_named_apart(models):
    with pytest.raises(InputError, match="each with another name"):
        plan(models=models)


def test_the_eta_follows_the_measured_pace():
    made = plan()
    pace = Pace(made)
    guess_s = pace.eta_s()
    assert guess_s > 0
    (group, *rest) = made.groups
    for unit in group.units:
        pace.measured(group, unit, 10.0 if unit.kind == "swap" else 1.0)
    swaps_left = sum(u.kind == "swap" for g in rest for u in g.units)
    runs_left = sum(u.kind == "run" for g in rest for u in g.units)
    assert pace.eta_s() == pytest.approx(10 * swaps_left + runs_left, rel=0.5)
    for other in made.groups:
        pace.opened(other)
        for unit in other.units if other in rest else ():
            pace.skipped(other, unit)
    assert pace.eta_s() == pytest.approx(0.0, abs=1e-6)


def test_units_are_values():
    assert Unit("run", 0, 16, 8, 1) == Unit("run", 0, 16, 8, 1)


def test_the_pace_of_a_part_is_learned_from_what_the_engine_measured():
    made = plan()
    pace, group = Pace(made), made.groups[0]
    runs = [u for u in group.units if u.kind == "run"]
    one, other = runs[:2]
    rows = [{"operation": "decode", "duration_s": 0.5, "steps": one.decode_tokens}]
    pace.measured(group, one, 0.5 * one.decode_tokens, rows)
    assert pace.unit_s(group, one) == pytest.approx(0.5 * one.decode_tokens)
    assert pace.unit_s(group, other) == pytest.approx(0.5 * other.decode_tokens, rel=0.2)
