from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from benchmarks.policies import GENERALIST, trained, untrained, with_bound
from benchmarks.policy_cells import LOADS, Cell, cells, kinds
from benchmarks.policy_runs import Contender, Job, evaluate, job_key, run_all
from benchmarks.policy_tuning import Baselines, read_tuned
from shunter.agents.learned import LearnedPolicy, greedy_prior
from shunter.envs.features import CONTEXT_FEATURES, FEATURES
from shunter.envs.scenario_library import scenario_names
from shunter.errors import BrokenFileError, UnknownNameError

JOB = Job(Cell("trivial-two-models", 0.7), Contender("greedy", "cost-greedy", "cost-greedy"), (1, 2))


def test_keys_tell_apart_whatever_changes_a_result() -> None:
    others = [
        replace(JOB, cell=Cell("trivial-two-models", 0.9)),
        replace(JOB, cell=Cell("laptop", 0.7)),
        replace(JOB, seeds=(1, 3)),
        replace(JOB, contender=replace(JOB.contender, digest="another")),
    ]
    assert len({job_key(job) for job in [JOB, *others]}) == 5
    assert job_key(replace(JOB, contender=replace(JOB.contender, label="renamed"))) == job_key(JOB)


def test_what_was_evaluated_is_not_evaluated_again(tmp_path: Path) -> None:
    said: list[str] = []
    first = run_all([JOB], tmp_path)
    again = run_all([JOB], tmp_path, say=said.append)
    assert again == first == {(JOB.cell, "greedy"): evaluate(JOB)}
    assert said == [f"1 evaluations, 1 of them in {tmp_path}"]


def test_a_damaged_result_is_evaluated_again(tmp_path: Path) -> None:
    first = run_all([JOB], tmp_path)
    next(tmp_path.iterdir()).write_text('{"response_s": [1')
    assert run_all([JOB], tmp_path) == first


def test_what_never_drains_is_unstable_and_cut_off() -> None:
    figures = evaluate(replace(JOB, cell=Cell("laptop", 0.9), contender=Contender("random", "random", "")))
    assert not figures.drained
    assert figures.mean_s == np.inf


def test_cells_are_all_scenarios_at_all_loads_and_each_is_of_some_kind() -> None:
    assert len(cells()) == len(LOADS) * len(scenario_names())
    assert len(cells("train")) + len(cells("test")) == len(cells())
    assert all(kinds(name) for name in scenario_names())
    assert set(kinds("prefetch")) == {"several devices", "prefetch", "alternation and drift"}


def test_policies_to_judge_are_labelled_and_bounded() -> None:
    plain, twin, tuned = trained(["cost-greedy", "cost-greedy", "cost-greedy:copy_share=0.2"])
    assert (plain.label, twin.label) == ("judged cost-greedy", "judged cost-greedy #2")
    assert with_bound(plain).text == "cost-greedy:max_age=30"
    assert with_bound(tuned).text == "cost-greedy:copy_share=0.2,max_age=30"
    with pytest.raises(UnknownNameError):
        trained(["nothing"])


def test_each_prior_is_judged_once_without_training(tmp_path: Path) -> None:
    path = str(GENERALIST)
    assert untrained(trained(["cost-greedy"]), tmp_path) == []
    (alone,) = untrained(trained([path, path]), tmp_path)
    mine, bare = LearnedPolicy.load(path), LearnedPolicy.load(alone.text)
    assert bare.prior == mine.prior
    rows = np.random.default_rng(0).exponential(size=(5, len(FEATURES)))
    rows[:, [FEATURES.index(name) for name in ("is_load", "is_evict", "is_wait")]] = 0
    context, mask = np.zeros(len(CONTEXT_FEATURES)), np.ones(5, dtype=bool)
    scores = bare.scores(rows, context, mask)
    shown = np.isfinite(scores)
    assert shown.any()
    np.testing.assert_allclose(scores[shown], greedy_prior(rows, mine.prior)[shown], rtol=1e-6)
    assert not np.allclose(mine.scores(rows, context, mask)[shown], scores[shown])


def test_the_best_single_baseline_has_the_lowest_score(tmp_path: Path) -> None:
    assert Baselines({"a": "a", "b": "b:x=1"}, {"a": 2.0, "b": 1.0}).best == "b"
    assert read_tuned().best in read_tuned().policies
    with pytest.raises(BrokenFileError):
        read_tuned(tmp_path / "missing.json")
