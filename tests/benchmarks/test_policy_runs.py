from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from benchmarks import policy_runs
from benchmarks.policies import trained, trained_apart, untrained, with_noise, without_guard
from benchmarks.policy_cells import LOADS, Cell, cell_world, cells, kinds
from benchmarks.policy_runs import Contender, Job, evaluate, job_key, run_all
from benchmarks.policy_tuning import Baselines, read_tuned
from shunter.agents.learned.base_policy import base_scores
from shunter.agents.learned.policy import LearnedPolicy
from shunter.agents.registry import make_policy
from shunter.envs.observation.features import CONTEXT_FEATURES, FEATURES
from shunter.envs.scenario.library import scenario_names
from shunter.errors import BrokenFileError, InputError, UnknownNameError
from shunter.eval.execution.batched import evaluate_batched
from shunter.eval.metrics.starvation import waits
from tests.networks import random_policy

JOB = Job(Cell("trivial-two-models", 0.7), Contender("greedy", "cost-greedy", "cost-greedy"), (1, 2))


def test_keys_tell_apart_whatever_changes_a_result() -> None:
    others = [
        replace(JOB, cell=Cell("trivial-two-models", 0.9)),
        replace(JOB, cell=Cell("laptop", 0.7)),
        replace(JOB, seeds=(1, 3)),
        replace(JOB, contender=replace(JOB.contender, digest="another")),
        replace(JOB, contender=without_guard(JOB.contender)),
        replace(JOB, contender=with_noise(JOB.contender)),
    ]
    assert len({job_key(job) for job in [JOB, *others]}) == 1 + len(others)
    assert job_key(replace(JOB, contender=replace(JOB.contender, label="renamed"))) == job_key(JOB)


def test_results_are_not_kept_over_changes_of_what_decides_how_runs_go() -> None:
    package = policy_runs._PACKAGE
    found = {path.relative_to(package).as_posix() for path in policy_runs.source_files()}
    assert {
        "envs/rules/serving.py",
        "agents/heuristics/cost_greedy.py",
        "eval/execution/batched.py",
        "eval/bounds/clairvoyant.py",
    } <= found


def test_what_was_evaluated_is_not_evaluated_again(tmp_path: Path) -> None:
    said: list[str] = []
    first = run_all([JOB], tmp_path)
    again = run_all([JOB], tmp_path, say=said.append)
    assert again == first == {(JOB.cell, "greedy"): evaluate(JOB)}
    assert said == [f"1 of 1 evaluations: trivial-two-models, 1 of its 1 from {tmp_path}"]


def test_jobs_of_a_scenario_are_done_together_and_processes_find_the_same(tmp_path: Path) -> None:
    jobs = [JOB, replace(JOB, cell=Cell("paper-a6000", 0.5)), replace(JOB, cell=Cell("paper-a6000", 0.7))]
    said: list[str] = []
    found = run_all(jobs, tmp_path / "a", say=said.append)
    assert [line.partition(":")[0] for line in said] == ["2 of 3 evaluations", "3 of 3 evaluations"]
    assert list(found) == [(job.cell, "greedy") for job in jobs]
    assert run_all(jobs, tmp_path / "b", workers=2) == found


def test_a_damaged_result_is_evaluated_again(tmp_path: Path) -> None:
    first = run_all([JOB], tmp_path)
    next(tmp_path.iterdir()).write_text('{"response_s": [1')
    assert run_all([JOB], tmp_path) == first


def test_what_never_drains_is_unstable_and_cut_off() -> None:
    figures = evaluate(
        replace(JOB, cell=Cell("laptop", 0.9), contender=Contender("random", "random", "", guard=False))
    )
    assert not figures.drained
    assert figures.mean_s == np.inf


def test_cells_are_all_scenarios_at_all_loads_and_each_is_of_some_kind() -> None:
    assert len(cells()) == len(LOADS) * len(scenario_names())
    assert len(cells("train")) + len(cells("test")) == len(cells())
    assert all(kinds(name) for name in scenario_names())
    assert set(kinds("prefetch")) == {"several devices", "prefetch", "alternation and drift"}


def test_figures_are_those_of_the_requests() -> None:
    batched = evaluate_batched(cell_world(JOB.cell, JOB.seeds), make_policy("cost-greedy"), JOB.seeds)
    figures, table = evaluate(JOB), waits(batched)
    assert figures.response_s == pytest.approx(batched.response_mean_s)
    assert figures.waits.p99_9_s == table.p99_9_s["all models"]
    assert figures.waits.max_s == table.max_s["all models"] == figures.longest[1]
    for model, found in figures.model_waits.items():
        assert (found.p99_9_s, found.max_s) == (table.p99_9_s[model], table.max_s[model])
        assert found.p99_s <= found.p99_9_s
    assert figures.longest[1] == figures.model_waits[figures.longest[0]].max_s


def test_each_family_of_skewed_demand_is_trained_and_judged() -> None:
    families = ("starvation", "replicas", "skew", "steady plus rare")
    found = {
        split: {name: set(kinds(name)) & set(families) for name in {cell.scenario for cell in cells(split)}}
        for split in ("train", "test")
    }
    for family in families:
        assert sum(family in kind for kind in found["train"].values()) >= 1
        assert sum(family in kind for kind in found["test"].values()) >= 2
    assert found["test"]["starved-l4"] == {"starvation"}
    assert found["test"]["replicas-l40s"] == found["test"]["one-model-two-l4s"] == {"replicas"}
    assert found["test"]["skewed-unequal"] == {"skew"}
    assert found["test"]["busy-and-rare-4080"] == {"steady plus rare"}
    usual = ("two-half-resident", "prefetch", "eight-gpu-forty-models", "bursts", "drift")
    assert not set.union(*(found["train"][name] for name in usual))


def test_policies_to_judge_are_labelled() -> None:
    plain, twin = trained(["cost-greedy", "cost-greedy"])
    assert (plain.label, twin.label) == ("judged cost-greedy", "judged cost-greedy #2")
    free = without_guard(plain)
    assert (free.label, free.guard, free.heuristic) == ("judged cost-greedy, guard off", False, False)
    with pytest.raises(UnknownNameError):
        trained(["nothing"])


def test_specialists_are_one_contender_that_plays_each_scenario_by_its_own_file(tmp_path: Path) -> None:
    for seed, name in enumerate(("laptop", "paper-a6000")):
        random_policy(seed).save(tmp_path / f"{name}.safetensors")
    special = trained_apart(tmp_path, ["laptop", "paper-a6000"])
    one, other = (special.in_scenario(name) for name in ("laptop", "paper-a6000"))
    assert one.label == other.label == "specialists"
    assert one.text == str(tmp_path / "laptop.safetensors")
    assert one.digest != other.digest
    job = replace(JOB, cell=Cell("paper-a6000", 0.7), contender=special)
    assert evaluate(job) == evaluate(replace(job, contender=other))
    assert job_key(job) == job_key(replace(job, contender=other))
    with pytest.raises(InputError, match="bursts"):
        trained_apart(tmp_path, ["laptop", "bursts"])


def test_each_prior_is_judged_once_without_training(tmp_path: Path) -> None:
    mine = random_policy(0)
    mine.save(tmp_path / "mine.safetensors")
    path = str(tmp_path / "mine.safetensors")
    assert untrained(trained(["cost-greedy"]), tmp_path) == []
    (alone,) = untrained(trained([path, path]), tmp_path)
    bare = LearnedPolicy.load(alone.text)
    assert bare.prior == mine.prior
    rows = np.random.default_rng(0).exponential(size=(5, len(FEATURES)))
    rows[:, [FEATURES.index(name) for name in ("is_load", "is_evict", "is_wait")]] = 0
    context, mask = np.zeros(len(CONTEXT_FEATURES)), np.ones(5, dtype=bool)
    scores = bare.scores(rows, context, mask)
    shown = np.isfinite(scores)
    assert shown.any()
    np.testing.assert_allclose(scores[shown], base_scores(rows, mine.prior)[shown], rtol=1e-6)
    assert not np.allclose(mine.scores(rows, context, mask)[shown], scores[shown])


def test_the_best_single_baseline_has_the_lowest_score(tmp_path: Path) -> None:
    assert Baselines({"a": "a", "b": "b:x=1"}, {"a": 2.0, "b": 1.0}).best == "b"
    assert read_tuned().best in read_tuned().policies
    with pytest.raises(BrokenFileError):
        read_tuned(tmp_path / "missing.json")
