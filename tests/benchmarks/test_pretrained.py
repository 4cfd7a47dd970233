"""Pretrained models in the gateway: prompts, requests as served, and the rows of the length predictor."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from benchmarks import pretrained
from benchmarks.prompts import prompts
from shunter.envs.world.world import World


def answer(model: str, arrival_s: float, completion: int) -> dict[str, object]:
    return {"model": model, "arrival_s": arrival_s, "prompt": 7, "completion": completion}


def test_prompts_are_of_the_seed_and_vary() -> None:
    found = prompts(3, 200)
    assert prompts(3, 5) == found[:5]
    assert prompts(4, 5) != found[:5]
    assert len(set(found)) > 100
    assert min(len(one.split()) for one in found) <= 5
    assert max(len(one.split()) for one in found) > 40


def test_requests_are_as_they_were_served(fake_world: World) -> None:
    first, second = (model.name for model in fake_world.scenario.models[:2])
    requests = pretrained.as_served(fake_world, [answer(second, 2.0, 9), answer(first, 0.5, 4)])
    assert requests.arrival_ns.tolist() == [500_000_000, 2_000_000_000]
    assert requests.model.tolist() == [0, 1]
    assert requests.decode_tokens.tolist() == [4, 9]


def test_the_length_predictor_is_judged_on_what_is_left(fake_world: World) -> None:
    name = fake_world.scenario.models[0].name
    expected = np.full((1, 200), 10.0)
    world = replace(fake_world, tables=fake_world.tables._replace(remaining_tokens=expected))
    rows = list(pretrained.length_rows(world, [answer(name, 0.0, 8), answer(name, 0.0, 40)]))
    at_arrival, later = rows
    assert at_arrival.value == pytest.approx((2 + 30) / 2 / 24)
    assert later.metric.endswith("after 32 tokens")
    assert later.value == pytest.approx(2 / 8)
