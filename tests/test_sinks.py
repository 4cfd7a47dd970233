"""Hostile names in every output, from one list: see ``shunter.sinks``."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from mlflow.utils.validation import _validate_metric_name, _validate_model_name, _validate_param_name

from benchmarks.robust_names import HOSTILE, SINKS, wrong
from shunter.envs.scenario.scenario import Scenario, load_scenario
from shunter.errors import InputError
from shunter.sinks import (
    csv_text,
    file_name,
    from_csv_text,
    plain_name,
    registry_name,
    registry_name_of,
    store_key,
)


@pytest.mark.parametrize("sink", SINKS)
def test_hostile_names_come_out_as_themselves_or_are_refused_in_a_line(sink: str) -> None:
    assert {name: said for name in HOSTILE if (said := wrong(sink, name))} == {}


@pytest.mark.parametrize("place", ["name", "models", "aliases", "devices"])
def test_names_of_a_scenario_are_checked_where_they_enter(place: str) -> None:
    data = load_scenario("laptop").model_dump(mode="json")
    for name in ("a\nb", "\x1b[2J", "", "x" * 300, "\u202ea"):
        changed = {**data, "models": [dict(model) for model in data["models"]]}
        if place == "name":
            changed["name"] = name
        elif place == "devices":
            changed["devices"] = [{**data["devices"][0], "name": name}]
        elif place == "models":
            changed["models"][0]["name"] = name
        else:
            changed["models"][0]["aliases"] = [name]
        with pytest.raises(InputError, match=r"must be (1 to 200 characters|of printable)") as caught:
            Scenario.parse(changed)
        assert str(caught.value).isprintable()


@given(st.text())
def test_a_cell_reads_back_and_is_no_formula(text: str) -> None:
    for begun in (text, f"={text}", f"-{text}", f"'={text}"):
        cell = csv_text(begun)
        assert from_csv_text(cell) == begun
        if cell.startswith(("=", "+", "-", "@", "\t", "\r")):
            float(cell)  # a number, which is none


@given(st.text(), st.text())
def test_strange_names_of_files_stay_apart(one: str, other: str) -> None:
    names = {file_name(one), file_name(other)}
    assert len(names) == len({one, other}) or {one.replace(":", "_")} == {other.replace(":", "_")}
    assert all(name and "/" not in name and name[0] != "." and len(name.encode()) <= 109 for name in names)


@given(st.text(max_size=300), st.text(max_size=300))
def test_strange_names_stay_apart_in_the_registry_too(one: str, other: str) -> None:
    names = {registry_name_of(one), registry_name_of(other)}
    assert len(names) == len({one, other})
    for name in names:
        assert registry_name("name", name) == name
        _validate_model_name(name)


def test_default_names_of_plain_titles_stay_as_they_are() -> None:
    assert registry_name_of("two-gpu-unequal") == "shunter-two-gpu-unequal"


@given(st.text(max_size=300))
def test_a_name_of_the_registry_is_one_that_mlflow_takes_and_ends_no_filter(text: str) -> None:
    try:
        registry_name("name", text)
    except InputError:
        return
    _validate_model_name(text)
    assert not set(text) & set("'\"`\\@")


def test_names_that_people_give_are_names_of_the_registry() -> None:
    for name in ("shunter-box", "my box", "Büro 2", "v1.2", "日本"):
        assert registry_name("name", name) == name


@given(st.text(max_size=300) | st.from_regex(r"[a./ ]{0,6}", fullmatch=True))
def test_any_text_makes_a_key_that_mlflow_takes(text: str) -> None:
    _validate_metric_name(store_key(text))
    _validate_param_name(store_key(text))


def test_keys_that_mlflow_refuses_stay_apart() -> None:
    refused = ["", ".", "..", "../a", "/a", "a/", "a//b", "a/../b", "x" * 300, "x" * 301]
    assert len({store_key(text) for text in refused}) == len(refused)
    assert store_key("verdict/change") == "verdict/change"


def test_a_plain_name_is_any_that_people_give() -> None:
    for name in ("Qwen3-8B Q4_K_M", "@cf/meta/llama", "café", "a:b", "日本"):
        assert plain_name(name) == name
