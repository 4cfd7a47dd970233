from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from shunter.agents.learned.base_policy import BasePolicy
from shunter.agents.learned.inputs import KINDS, candidate_inputs, input_names, kind_of
from shunter.agents.learned.policy import LearnedPolicy
from shunter.agents.learned.weights import untrained_weights
from shunter.envs.observation.features import CONTEXT_FEATURES, FEATURES
from shunter.envs.world.world import World
from shunter.errors import InputError
from shunter.eval.execution.runs import Run, simulate
from shunter.eval.explain.example import after
from shunter.eval.explain.explain import SEEDS, Explanation, explain, without
from shunter.eval.explain.replay import Followed, differences, played
from shunter.eval.explain.words import PHRASES, difference_words, group_of, input_words
from shunter.report.explain import explanation_lines, write_explanation

UNTRAINED = LearnedPolicy("untrained", untrained_weights(BasePolicy()), {})
NAMES = input_names()


def policy_of(width: int = 0, **weights: float) -> LearnedPolicy:
    """Untrained but for single weights: kind__input = weight."""
    arrays = untrained_weights(BasePolicy(), width)
    for name, weight in weights.items():
        kind, _, feature = name.partition("__")
        arrays["linear"][KINDS.index(kind), NAMES.index(feature)] = weight
    return LearnedPolicy("one-weight", arrays, {})


SLOW_TO_LOAD = policy_of(load__swap_time=-6.0)


class Asked:
    """Decides as a policy, and keeps what another one would have chosen."""

    name, oracle = "asked", False

    def __init__(self, policy: LearnedPolicy, other: LearnedPolicy) -> None:
        self.policy, self.other = policy, other
        self.chosen: list[tuple[int, int]] = []
        self.variances: list[float] = []

    def act(self, observation: dict[str, NDArray[Any]]) -> int:
        candidates, mask = observation["candidates"], observation["action_mask"].astype(np.bool_)
        listed = np.isfinite(self.policy.scores(candidates, observation["context"], mask))
        loads = kind_of(candidates[listed]) == KINDS.index("load")
        values = candidate_inputs(candidates[listed])[:, NAMES.index("swap_time")]
        self.variances.append(float(np.where(loads, values, 0.0).var()))
        self.chosen.append((self.policy.act(observation), self.other.act(observation)))
        return self.chosen[-1][0]

    def act_batch(self, observations: dict[str, NDArray[Any]]) -> NDArray[np.int64]:
        raise NotImplementedError


@pytest.fixture(scope="module")
def explained(fake_world: World) -> Explanation:
    return explain(fake_world, SLOW_TO_LOAD, SEEDS[:3])


@pytest.fixture(scope="module")
def followed(fake_world: World) -> Followed:
    return played(fake_world, SLOW_TO_LOAD, UNTRAINED, SEEDS[:3])


@pytest.fixture(scope="module")
def asked(fake_world: World) -> list[Asked]:
    found = [Asked(SLOW_TO_LOAD, UNTRAINED) for _ in range(3)]
    for seed, policy in zip(SEEDS, found, strict=False):
        simulate(fake_world, policy, seed)
    return found


def response_sum_s(run: Run) -> float:
    return float((run.requests.finish_s - run.requests.arrival_s).sum())


def test_the_only_weight_is_named(explained: Explanation) -> None:
    [weight] = explained.weights
    assert (weight.kind, weight.input, weight.feature, weight.weight) == (
        "load",
        "swap_time",
        "swap_time",
        -6,
    )
    assert weight.words == "less ready to load a model, the longer its load takes (small values told apart)"
    assert {group.name for group in explained.groups} == {"swap_time", "every weight of load"}
    alone, untrained = explained.contenders[1:3]
    np.testing.assert_array_equal(alone.response_s, untrained.response_s)
    back = untrained.response_s.mean() / explained.contenders[0].response_s.mean() - 1
    assert [group.worse.value for group in explained.groups] == pytest.approx([back, back])


def test_a_weight_counts_by_what_it_does(
    explained: Explanation, followed: Followed, asked: list[Asked]
) -> None:
    variance = np.mean([one for policy in asked for one in policy.variances])
    assert followed.spread[KINDS.index("load"), NAMES.index("swap_time")] == pytest.approx(variance**0.5)
    assert explained.weights[0].spread == pytest.approx(6 * variance**0.5)


def test_differing_decisions_are_counted(
    explained: Explanation, followed: Followed, asked: list[Asked]
) -> None:
    for decisions, policy in zip(followed.decisions, asked, strict=True):
        pairs = zip(decisions["chosen"].tolist(), decisions["other"].tolist(), strict=True)
        assert list(pairs) == policy.chosen
    differing = sum(one != other for policy in asked for one, other in policy.chosen)
    assert 0 < differing == sum(kind.count for kind in explained.kinds)
    assert explained.differing == differing / sum(len(policy.chosen) for policy in asked)
    assert "waits instead of loading a second copy" in {kind.words for kind in explained.kinds}


def test_a_difference_is_worth_what_two_whole_simulations_differ_by(
    fake_world: World, followed: Followed
) -> None:
    decisions, seed = followed.decisions[0], SEEDS[0]
    numbers = np.flatnonzero(decisions["chosen"] != decisions["other"])[[0, -1]].tolist()
    whole = response_sum_s(simulate(fake_world, SLOW_TO_LOAD, seed))
    tried = differences(fake_world, SLOW_TO_LOAD, UNTRAINED, seed, decisions, numbers, 1e6)
    for one, number in zip(tried, numbers, strict=True):
        branches = [
            response_sum_s(after(fake_world, SLOW_TO_LOAD, seed, number, int(decisions[number][who])))
            for who in ("chosen", "other")
        ]
        assert branches[0] == whole
        assert one.gain_s == pytest.approx(branches[1] - branches[0], abs=1e-6)
        assert one.near_s == pytest.approx(one.gain_s)
    at_once = differences(fake_world, SLOW_TO_LOAD, UNTRAINED, seed, decisions, numbers, 0.0)
    assert [one.near_s for one in at_once] == [0.0, 0.0]


def test_examples_are_played_out_on_the_same_requests(explained: Explanation) -> None:
    assert explained.examples
    for example in explained.examples:
        both = [branch.run.requests for branch in (example.chosen, example.other)]
        np.testing.assert_array_equal(both[0].arrival_s, both[1].arrival_s)
        gain = example.rest * (example.other.rest_s - example.chosen.rest_s)
        assert gain == pytest.approx(example.difference.gain_s, abs=1e-6)
        assert example.candidates[0].words == example.chosen.words
        assert max(example.candidates, key=lambda one: one.untrained).words == example.other.words


def test_the_untrained_policy_has_nothing_to_explain(fake_world: World, tmp_path: Path) -> None:
    nothing = explain(fake_world, UNTRAINED, SEEDS[:2])
    assert (nothing.weights, nothing.groups, nothing.kinds, nothing.examples) == ((), (), (), ())
    assert nothing.contenders[2].response_change == (0.0, 0.0, 0.0)
    assert "otherwise than the untrained policy in 0.0%" in "\n".join(explanation_lines(nothing))
    assert write_explanation(nothing, tmp_path / "page.html").exists()


def test_a_network_is_one_group(fake_world: World) -> None:
    policy = policy_of(width=4)
    policy.weights["score_2.bias"][:] = 1.0
    assert [group.name for group in explain(fake_world, policy, SEEDS[:2]).groups] == ["the network"]
    assert not without(policy, "the network").weights["score_2.bias"].any()
    assert policy.weights["score_2.bias"].any()


def test_the_page_and_the_figures_hold_it_all(explained: Explanation, tmp_path: Path) -> None:
    page = write_explanation(explained, tmp_path / "page.html").read_text(encoding="utf-8")
    for text in (
        "Is it better?",
        "less ready to load a model",
        "waits instead of loading a second copy",
        "Example 1",
    ):
        assert text in page
    figures = json.loads(json.dumps(explained.to_dict(), allow_nan=False))
    assert figures["weights"][0]["input"] == "swap_time"
    assert figures["groups"][0]["worse"].keys() == {"value", "low", "high"}
    assert figures["seeds"] == list(SEEDS[:3])
    assert figures["prior"]["after"] == pytest.approx(figures["prior"]["before"])


def test_every_feature_has_words() -> None:
    of_candidates = [name for name in FEATURES if name.removeprefix("is_") not in KINDS]
    assert list(PHRASES) == [*of_candidates, *(f"all: {name}" for name in CONTEXT_FEATURES), "constant"]
    assert {group_of(i) for i in range(len(NAMES))} == set(PHRASES)
    words = input_words("wait", NAMES.index("all: in_system × 0.05"), 1.0)
    assert words == "more ready to wait, the more requests are in the system (large values told apart)"
    assert difference_words("run", "prefetch") == "prefers prefetching to running a resident"


def test_one_sequence_is_too_few(fake_world: World) -> None:
    with pytest.raises(InputError, match="--seeds must be at least 2"):
        explain(fake_world, UNTRAINED, SEEDS[:1])
