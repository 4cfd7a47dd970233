from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from shunter.agents.age_guard import AgeGuard
from shunter.agents.cost_greedy import CostGreedy
from shunter.agents.fifo_swap import FifoSwap
from shunter.agents.learned import LearnedPolicy
from shunter.agents.policy_file import distance_from_training, training_of, training_record, world_facts
from shunter.agents.score_card import score_card_of
from shunter.envs.world import World, make_world
from shunter.errors import BrokenFileError, InputError
from shunter.models.performance import PerformanceModel
from shunter.train.selection import make_score_card, mean_responses
from tests.agents.test_policies import observations
from tests.networks import random_policy
from tests.worlds import fake_scenario


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
    assert training.ranges["load"] == pytest.approx((0.35, 0.7))


def test_facts_are_of_the_tables(fake_world: World) -> None:
    facts = world_facts(fake_world)
    weights = fake_world.tables.weight_bytes
    assert facts["model_bytes"] == (weights.min(), weights.max())
    assert facts["weights_over_memory"][0] == pytest.approx(weights.sum() / 115e6)
    loads = weights / fake_world.tables.load_s[:, :, 0]
    assert facts["load_bytes_per_s"] == pytest.approx((loads.min(), loads.max()))
    assert facts["devices"] == (2, 2)


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
    line = "load: 1.05, trained up to 0.7 (50% above)"
    assert distance_from_training(trained, busier) == [line]
    assert distance_from_training(AgeGuard(trained, 10.0), busier) == [line]
    devices = [{"name": f"d{d}", "device": "cpu:1-threads-25MB"} for d in range(3)]
    smaller = make_world(fake_scenario(fake_checkpoints, devices=devices), fake_performance)
    lines = distance_from_training(trained, smaller)
    assert "devices: 3, trained up to 2 (1 more)" in lines
    assert "device memory: 0.025 GB, trained from 0.05 GB (50% below)" in lines


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


def test_onnx_scores_are_the_policys(fake_world: World, tmp_path: Path) -> None:
    pytest.importorskip("onnx", reason="needs the extra onnx")
    onnxruntime = pytest.importorskip("onnxruntime", reason="needs the extra onnx")
    from shunter.agents.onnx_export import export_onnx

    policy = random_policy(seed=3)
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
