from __future__ import annotations

from dataclasses import fields
from pathlib import Path

import pandas as pd
import pytest

from shunter.agents.heuristics.fifo.collated import FifoCollated
from shunter.agents.heuristics.fifo.cost_table import CostTable
from shunter.agents.parameters import Choice, for_world
from shunter.agents.registry import HEURISTICS, make_policy
from shunter.envs.world.world import World
from shunter.errors import InputError, UnknownNameError
from shunter.eval.execution.batched import evaluate_batched
from shunter.eval.execution.runs import simulate


@pytest.mark.parametrize("name", HEURISTICS)
def test_defaults_lie_in_the_space_and_names_read_back(name: str) -> None:
    cls = HEURISTICS[name]
    assert cls().name == name
    for f in fields(cls):
        if f.name == "seconds":  # no parameter: says which of the others are in seconds
            continue
        space = cls.space()[f.name]
        if isinstance(space, Choice):
            assert space.options[0] == f.default
            other: float | str = space.options[1]
        else:
            assert space.low <= f.default <= space.high
            other = 3
        changed = cls(**{f.name: other})
        assert changed.name == f"{name}:{f.name}={other}"
        assert make_policy(changed.name) == changed


def test_parameters_are_read_with_their_types() -> None:
    policy = make_policy("cost-table:max_wait=30,per=byte,popularity=0")
    assert policy.name == "cost-table:max_wait=30.0,popularity=0.0,per=byte"
    assert make_policy("fifo-collated:max_wait=10") == FifoCollated()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "fifo-collated:max_wait=soon",
            "--policy fifo-collated: max_wait must be a number of at least 0. Got 'soon'",
        ),
        ("fifo-collated:max_wait=-1", "max_wait must be a number of at least 0. Got '-1'"),
        ("fifo-collated:max_wait=nan", "max_wait must be a number"),
        ("count-lru:most=0", "most must be a whole number of at least 1. Got '0'"),
        ("count-lru:most=1.5", "most must be a whole number"),
        ("cost-table:per=layer", "per: unknown name 'layer'"),
        ("fifo-collated:max_wiat=3", "parameter: unknown name 'max_wiat'; did you mean max_wait"),
        ("fifo-collated:max_wait", "give parameters as name:key=value"),
        ("fifo-collated:max_wait=1,max_wait=2", "each once"),
        ("lookahead:copy_share=3", "be given without parameters"),
        ("cost-gredy:copy_share=3", "unknown name 'cost-gredy'; did you mean cost-greedy"),
    ],
)
def test_what_is_wrong_is_named(text: str, message: str) -> None:
    with pytest.raises((InputError, UnknownNameError), match=message):
        make_policy(text)


def test_a_file_takes_no_parameters(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="be given without parameters"):
        make_policy(f"{tmp_path / 'none.safetensors'}:copy_share=3")


def test_times_in_seconds_become_the_worlds_time_scales(fake_world: World) -> None:
    scale_s = fake_world.time_scale_s
    policy = make_policy(f"cost-table:max_wait_s={3 * scale_s!r},per=byte")
    ready = for_world(policy, fake_world)
    assert isinstance(ready, CostTable)
    assert ready.max_wait == pytest.approx(3.0)
    assert ready.per == "byte"
    assert ready.name == policy.name == f"cost-table:per=byte,max_wait_s={3 * scale_s!r}"
    assert for_world(ready, fake_world) is ready
    same = simulate(fake_world, make_policy("cost-table:max_wait=3,per=byte"), 1)
    pd.testing.assert_frame_equal(simulate(fake_world, policy, 1).requests, same.requests)
    batched = evaluate_batched(fake_world, policy, [1])
    pd.testing.assert_frame_equal(batched.requests[0], same.requests)


@pytest.mark.parametrize(
    "text", ["fifo-collated:max_wait_s=9", "lru-keepalive:patience_s=9", "pressure-greedy:horizon_s=9"]
)
def test_every_time_has_a_spelling_in_seconds_that_needs_a_world(text: str) -> None:
    policy = make_policy(text)
    assert policy.name == text + ".0"
    with pytest.raises(InputError, match="observations know no seconds"):
        policy.act({})


def test_a_time_is_given_once() -> None:
    with pytest.raises(
        InputError, match="fifo-collated: max_wait must be left out where max_wait_s is given"
    ):
        make_policy("fifo-collated:max_wait=1,max_wait_s=2")
