from __future__ import annotations

import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from shunter.agents.base import Policy
from shunter.agents.heuristics.cost_greedy import CostGreedy
from shunter.agents.heuristics.fifo.swap import FifoSwap
from shunter.agents.learned.file import (
    distance_from_training,
    load_of,
    training_of,
    training_record,
    world_facts,
)
from shunter.agents.learned.inputs import KINDS
from shunter.agents.learned.policy import LearnedPolicy
from shunter.agents.learned.score_card import ScoreCard, score_card_of
from shunter.agents.learned.shipped import shipped_policy
from shunter.agents.registry import make_policy
from shunter.envs.observation.features import feature
from shunter.envs.scenario.workload import Workload
from shunter.envs.workload.shares import popularity
from shunter.envs.world.world import World, make_world
from shunter.errors import BrokenFileError, InputError, UnknownNameError
from shunter.models.performance import PerformanceModel
from shunter.train.selection import mean_responses, played, score_card
from tests.agents.test_policies import observations
from tests.networks import random_policy
from tests.worlds import fake_scenario

KIND_FLAGS = [feature(f"is_{kind}") for kind in KINDS]


@pytest.fixture
def trained(fake_world: World) -> LearnedPolicy:
    """A policy that says it was trained on the fake world at loads 0.35 and 0.7."""
    lighter = replace(fake_world, rate_per_s=fake_world.rate_per_s / 2)
    policy = random_policy()
    settings = {"learning_rate": 5e-4, "noise": False, "loads": [0.35, 0.7]}
    policy.metadata.update(training_record([fake_world, lighter], steps=1000, seed=7, settings=settings))
    return policy


def test_the_file_keeps_what_it_was_trained_on(trained: LearnedPolicy, tmp_path: Path) -> None:
    trained.save(tmp_path / "p.safetensors")
    training = training_of(LearnedPolicy.load(tmp_path / "p.safetensors"))
    assert training is not None
    assert training.scenarios == ["fake"]
    assert training.models == ["large", "medium", "small"]
    assert training.devices == ["cpu:1-threads-50MB", "cpu:1-threads-65MB"]
    assert training.loads == [0.35, 0.7]
    assert (training.steps, training.seed) == (1000, 7)
    assert training.settings == {"learning_rate": 5e-4, "noise": False, "loads": [0.35, 0.7]}
    assert training.ranges["device_bytes"] == (50e6, 65e6)
    assert training.ranges["capacity_share"] == pytest.approx((0.35, 0.7))


def test_facts_are_of_the_tables(fake_world: World) -> None:
    facts = world_facts(fake_world)
    weights = fake_world.tables.weight_bytes
    assert facts["model_bytes"] == (weights.min(), weights.max())
    assert facts["weights_over_memory"][0] == pytest.approx(weights.sum() / 115e6)
    loads = weights / fake_world.tables.load_s[:, :, 0]
    assert facts["load_bytes_per_s"] == pytest.approx((loads.min(), loads.max()))
    assert facts["devices"] == (2, 2)


def asked(world: World, **changes: object) -> World:
    """The world with another workload, arriving at the same rate."""
    data = world.scenario.workload.model_dump() | changes
    workload = Workload.model_validate(data)
    return replace(world, scenario=world.scenario.model_copy(update={"workload": workload}))


def test_facts_say_who_is_asked_for_and_how_often(fake_world: World) -> None:
    facts = world_facts(asked(fake_world, popularity_zipf=3.0))
    shares = popularity(3, 3.0)
    assert facts["popularity_top"] == (shares[0], shares[0])
    assert facts["popularity_least"] == (shares[2], shares[2])
    gap_s = 1 / (shares[2] * fake_world.rate_per_s)
    assert facts["rarest_gap"][0] * fake_world.time_scale_s == pytest.approx(gap_s)
    assert facts["models_per_device"] == (1.5, 1.5)


def test_shares_that_are_not_known_are_left_out(fake_world: World) -> None:
    sessions = asked(fake_world, sessions={"turns": 4, "models": 2, "gap_s": 1.0})
    trace = {"rate_per_s": 1.0, "load": None, "replay": {"file": "t.csv", "models": "session"}}
    for world in (sessions, asked(fake_world, **trace)):
        assert not {"popularity_top", "popularity_least", "rarest_gap"} & set(world_facts(world))
    record = training_record([sessions, fake_world], steps=1, seed=0, settings={})
    policy = random_policy()
    policy.metadata.update(record)
    training = training_of(policy)
    assert training is not None
    assert training.ranges["popularity_top"] == world_facts(fake_world)["popularity_top"]


def test_facts_say_how_unequal_devices_are_and_whether_all_fits(fake_world: World) -> None:
    facts = world_facts(fake_world)
    assert facts["memory_ratio"][0] == pytest.approx(65 / 50)
    assert facts["speed_ratio"][0] >= 1.0
    tables = fake_world.tables
    assert facts["all_fit"] == (1.0, 1.0)
    for size, fit in ((30e6, 1.0), (40e6, 0.0)):  # of 65 and 50 MB
        sizes = np.full_like(tables.footprint_bytes, size)
        world = replace(fake_world, tables=tables.changed(footprint_bytes=sizes))
        assert world_facts(world)["all_fit"] == (fit, fit)


def test_a_load_is_a_share_of_what_scenarios_take_it_to_be_of() -> None:
    world = make_world("two-gpu-unequal")
    assert world.scenario.workload.capacity_rate_per_s is not None
    assert load_of(world.at_load(0.5)) == pytest.approx(0.5)
    stated = world.scenario.workload.model_copy(update={"capacity_rate_per_s": None})
    bare = replace(world, scenario=world.scenario.model_copy(update={"workload": stated}))
    assert load_of(bare.at_load(0.5)) == pytest.approx(0.5)
    assert bare.at_load(0.5).rate_per_s != pytest.approx(world.at_load(0.5).rate_per_s)


def test_within_the_training_distribution_nothing_is_said(trained: LearnedPolicy, fake_world: World) -> None:
    between = replace(fake_world, rate_per_s=fake_world.rate_per_s * 0.8)
    assert distance_from_training(trained, fake_world) == []
    assert distance_from_training(trained, between) == []
    assert distance_from_training(CostGreedy(), between) == []


def test_beyond_it_every_fact_says_how_far(
    trained: LearnedPolicy,
    fake_world: World,
    fake_checkpoints: dict[str, Path],
    fake_performance: PerformanceModel,
) -> None:
    busier = replace(fake_world, rate_per_s=fake_world.rate_per_s * 1.5)
    line, gap = distance_from_training(trained, busier)
    assert line == "load: 1.05, trained up to 0.7 (50% above)"
    assert gap.startswith("time between requests of the least popular model: ")
    assert gap.endswith("(33% below)")
    devices = [{"name": f"d{d}", "device": "cpu:1-threads-25MB"} for d in range(3)]
    smaller = make_world(fake_scenario(fake_checkpoints, devices=devices), fake_performance)
    lines = distance_from_training(trained, smaller)
    assert "devices: 3, trained up to 2 (1 more)" in lines
    assert "device memory: 0.025 GB, trained from 0.05 GB (50% below)" in lines


def test_skew_and_crowds_that_training_never_had_are_said(trained: LearnedPolicy, fake_world: World) -> None:
    skewed = asked(fake_world, popularity_zipf=4.0)
    lines = distance_from_training(trained, skewed)
    said = [line.split(":")[0] for line in lines]
    assert said == [
        "most popular model's share of requests",
        "least popular model's share of requests",
        "time between requests of the least popular model",
    ]
    tables = fake_world.tables
    crowded = replace(fake_world, tables=tables.changed(footprint_bytes=tables.footprint_bytes * 4))
    assert distance_from_training(trained, crowded) == ["all models fit at once: no, never so in training"]


def test_a_file_of_before_compares_what_it_has(trained: LearnedPolicy, fake_world: World) -> None:
    training = training_of(trained)
    assert training is not None
    known = {"devices": (2.0, 2.0), "load": (0.1, 0.2)}
    trained.metadata["training"] = training.model_copy(update={"ranges": known}).model_dump_json()
    assert distance_from_training(trained, asked(fake_world, popularity_zipf=4.0)) == []


def test_a_file_that_does_not_say_is_not_trusted(fake_world: World) -> None:
    (line,) = distance_from_training(random_policy(), fake_world)
    assert "does not say" in line


def test_damaged_records_are_refused(fake_world: World) -> None:
    policy = random_policy()
    policy.metadata["training"] = "{"
    with pytest.raises(BrokenFileError, match="training is no JSON"):
        training_of(policy)
    policy.metadata["score_card"] = '{"seeds": [1], "cells": [{"scenario": 3}]}'
    with pytest.raises(InputError, match=r"random-net: score_card: cells\.0"):
        score_card_of(policy)


def make_score_card(
    policy: Policy, worlds: Sequence[World], baselines: Mapping[str, Policy], seeds: Sequence[int]
) -> ScoreCard:
    theirs = {name: played(worlds, baseline, seeds) for name, baseline in baselines.items()}
    return score_card(worlds, played(worlds, policy, seeds), theirs, seeds)


def test_a_score_card_is_against_the_best_baseline(fake_world: World, tmp_path: Path) -> None:
    heavier = replace(fake_world, rate_per_s=fake_world.rate_per_s * 1.4)
    policy = random_policy(scale=0.3)
    baselines = {"fifo-swap": FifoSwap(), "cost-greedy": CostGreedy()}
    card = make_score_card(policy, [fake_world, heavier], baselines, range(4))
    assert [(c.scenario, c.load) for c in card.cells] == [("fake", 0.7), ("fake", 0.98)]
    for cell, world in zip(card.cells, [fake_world, heavier], strict=True):
        means = {name: mean_responses([world], b, range(4)).mean() for name, b in baselines.items()}
        assert cell.baseline_response_s == pytest.approx(min(means.values()))
        assert means[cell.baseline] == min(means.values())
        assert cell.response_s is not None
        assert cell.change == pytest.approx(cell.response_s / cell.baseline_response_s - 1)
        assert cell.low is not None
        assert cell.low < cell.change
    alone = {"cost-greedy": CostGreedy()}
    same = make_score_card(CostGreedy(), [fake_world], alone, range(4))
    assert (same.cells[0].change, same.cells[0].low, same.cells[0].high) == (0.0, 0.0, 0.0)
    policy.metadata.update(card.record())
    policy.save(tmp_path / "p.safetensors")
    assert score_card_of(LearnedPolicy.load(tmp_path / "p.safetensors")) == card


def test_what_was_left_unfinished_has_no_figure(fake_world: World) -> None:
    limits = fake_world.scenario.limits.model_copy(update={"max_time_s": 1.0})
    short = replace(fake_world, scenario=fake_world.scenario.model_copy(update={"limits": limits}))
    card = make_score_card(random_policy(), [short], {"cost-greedy": CostGreedy()}, range(2))
    (cell,) = card.cells
    assert cell.unfinished > 0
    assert cell.response_s is None
    assert cell.change is None
    assert card.change is None


def test_acting_needs_neither_torch_nor_mlflow(fake_world: World, tmp_path: Path) -> None:
    random_policy().save(tmp_path / "p.safetensors")
    observation = observations(fake_world, 3)[-1]
    np.savez(tmp_path / "o.npz", **observation)
    code = (
        "import sys, numpy as np\n"
        "from shunter.agents.registry import make_policy\n"
        "policy = make_policy(sys.argv[1])\n"
        "print(policy.act(dict(np.load(sys.argv[2]))))\n"
        "heavy = {'torch', 'stable_baselines3', 'sb3_contrib', 'mlflow', 'onnx'} & set(sys.modules)\n"
        "assert not heavy, heavy"
    )
    files = [str(tmp_path / "p.safetensors"), str(tmp_path / "o.npz")]
    done = subprocess.run([sys.executable, "-c", code, *files], check=True, capture_output=True, text=True)
    assert int(done.stdout) == random_policy().act(observation)


@pytest.mark.parametrize("width", [0, 8])
def test_onnx_scores_are_the_policys(fake_world: World, tmp_path: Path, width: int) -> None:
    pytest.importorskip("onnx", reason="needs the extra onnx")
    onnxruntime = pytest.importorskip("onnxruntime", reason="needs the extra onnx")
    from shunter.agents.learned.onnx import export_onnx

    policy = random_policy(seed=3, width=width)
    export_onnx(policy, tmp_path / "p.onnx")
    assert [path.name for path in tmp_path.iterdir()] == ["p.onnx"]
    session = onnxruntime.InferenceSession(tmp_path / "p.onnx", providers=["CPUExecutionProvider"])
    seen = observations(fake_world)
    batch = {key: np.stack([o[key] for o in seen]) for key in seen[0]}
    few = np.r_[0:4, -1]  # other numbers of decisions and of candidates
    fewer = {"candidates": batch["candidates"][:5, few], "context": batch["context"][:5]}
    fewer["action_mask"] = batch["action_mask"][:5, few]
    rng = np.random.default_rng(0)  # several devices, and what no world holds
    drawn = {key: rng.exponential(size=values.shape).astype(np.float32) for key, values in batch.items()}
    drawn["candidates"] *= rng.random(drawn["candidates"].shape) < 0.5
    kinds = rng.integers(len(KINDS), size=drawn["candidates"].shape[:2])
    drawn["candidates"][..., KIND_FLAGS] = np.eye(len(KINDS))[kinds]
    drawn["action_mask"] = np.ones_like(batch["action_mask"])
    for inputs in (batch, fewer, drawn, {key: values[:1] for key, values in batch.items()}):
        mask = inputs["action_mask"].astype(bool)
        scores, choice = session.run(["scores", "choice"], {**inputs, "action_mask": mask})
        expected = policy.scores(inputs["candidates"], inputs["context"], mask)
        assert scores.shape == expected.shape
        np.testing.assert_allclose(scores[mask], expected[mask], rtol=1e-5, atol=1e-5)
        np.testing.assert_array_equal(choice, policy.act_batch(inputs))
    properties = session.get_modelmeta().custom_metadata_map
    assert properties["name"] == "random-net"
    assert '"is_run"' in properties["features"]


def test_the_shipped_policy_has_a_name() -> None:
    policy = make_policy("shipped")
    assert isinstance(policy, LearnedPolicy)
    assert policy.metadata == shipped_policy().metadata == make_policy(policy.name).metadata
    with pytest.raises(UnknownNameError, match="did you mean shipped"):
        make_policy("shiped")
