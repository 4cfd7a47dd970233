from __future__ import annotations

import json
import math
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from shunter.envs.world.world import make_world
from shunter.errors import BrokenFileError, InputError, VersionError
from shunter.eval.compare import compare
from shunter.eval.evaluation import Evaluation
from shunter.eval.metrics.changes import interleaved_change, paired_change
from shunter.eval.metrics.load_curves import load_curves
from shunter.eval.provenance import provenance
from shunter.eval.read_back import Recorded, read_evaluation
from shunter.eval.saved import FILES, save_evaluation
from shunter.models.performance import PerformanceModel
from shunter.parquet import write_frame
from shunter.report.compare import comparison_words, write_comparison
from shunter.seals import sealed
from tests import worlds
from tests.browser import BROWSER, look
from tests.fake_evaluation import evaluate_fake


@pytest.fixture(scope="module")
def folder(
    evaluation: Evaluation, fake_performance: PerformanceModel, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    path = tmp_path_factory.mktemp("saved") / "first"
    made = provenance(fake_performance)
    save_evaluation(evaluation, path, title="first", provenance=made)
    return path


@pytest.fixture
def changed(folder: Path, tmp_path: Path) -> Callable[..., Recorded]:
    """The same evaluation with other results, or with other requests."""

    def change(
        change_result: Callable[[dict[str, Any]], None] = lambda result: None,
        change_requests: Callable[[pd.DataFrame], pd.DataFrame] = lambda frame: frame,
    ) -> Recorded:
        copy = tmp_path / "changed"
        shutil.copytree(folder, copy)
        result = json.loads((copy / FILES["results"]).read_text())
        change_result(result)
        (copy / FILES["results"]).write_text(json.dumps(sealed(result)))
        change_requests(pd.read_parquet(copy / FILES["requests"])).to_parquet(copy / FILES["requests"])
        return read_evaluation(str(copy))

    return change


def test_what_is_read_back_is_what_was_written(folder: Path, evaluation: Evaluation) -> None:
    recorded = read_evaluation(str(folder))
    assert recorded.policies == evaluation.policies
    for policy in evaluation.policies:
        for mode, runs in (("simulated", evaluation.simulated), ("real", evaluation.real)):
            back = recorded.runs(policy, mode)
            assert [run.seed for run in back] == [run.seed for run in runs[policy]]
            for ours, theirs in zip(back, runs[policy], strict=True):
                pd.testing.assert_frame_equal(ours.requests[theirs.requests.columns], theirs.requests)
            change = interleaved_change if mode == "real" else paired_change
            assert change(back, recorded.runs("fifo-swap", mode)) == pytest.approx(
                change(runs[policy], runs["fifo-swap"]), nan_ok=True
            )


def test_an_evaluation_is_exactly_like_itself(folder: Path) -> None:
    comparison = compare([read_evaluation(str(folder))] * 2)
    assert comparison.marks == ()
    assert {(c.change, c.low, c.high, c.refused, c.sequences) for c in comparison.changes} == {
        (0.0, 0.0, 0.0, "", 2)
    }
    assert "exactly as in run 1: fifo-swap" in comparison_words(comparison)[0]


def test_a_policy_that_answers_later_is_seen_and_by_how_much(
    folder: Path, changed: Callable[..., Recorded]
) -> None:
    def later(frame: pd.DataFrame) -> pd.DataFrame:
        slow = (frame["policy"] == "cost-greedy") & (frame["mode"] == "real")
        response_s = frame["finish_s"] - frame["arrival_s"]
        return frame.assign(finish_s=frame["finish_s"] + response_s.where(slow, 0.0) * 0.5)

    comparison = compare([read_evaluation(str(folder)), changed(change_requests=later)])
    by = {(c.policy, c.mode): c for c in comparison.changes}
    slow = by["cost-greedy", "real"]
    assert slow.change == pytest.approx(0.5)
    assert math.isnan(slow.low)  # of two times at which engines ran, nobody knows how far they differ anyway
    assert slow.marked == ("the time at which engines ran",)
    assert by["cost-greedy", "simulated"].change == 0.0
    assert "undecided against run 1: cost-greedy" in comparison_words(comparison)[0]


def test_what_is_unlike_is_marked_where_it_touches(folder: Path, changed: Callable[..., Recorded]) -> None:
    def other(result: dict[str, Any]) -> None:
        result["provenance"]["performance"]["digest"] = "another"
        result["provenance"]["engine_version"] = "2.0"
        result["scenario"]["description"] = "said differently"
        result["scenario"]["models"][0]["checkpoint"] = "elsewhere/small"

    comparison = compare([read_evaluation(str(folder)), changed(other)])
    assert {(mark.what, mark.touches) for mark in comparison.marks} == {
        ("performance model", ("simulated",)),
        ("engine version", ("real",)),
    }
    marked = {c.mode: c.marked for c in comparison.changes}
    assert marked == {"simulated": ("performance model",), "real": ("engine version",)}


@pytest.mark.parametrize(("slowdown", "marked"), [(1.7, True), (1.03, False), (None, False)])
def test_a_machine_of_another_speed_is_marked(
    changed: Callable[..., Recorded], slowdown: float | None, marked: bool
) -> None:
    first = changed(lambda result: result.update(machine={"slowdown": 1.0}))
    other = replace(first, result={**first.result, "machine": {"slowdown": slowdown}})
    marks = {mark.what: mark for mark in compare([first, other]).marks}
    assert set(marks) == ({"machine's speed"} if marked else set())
    if marked:
        assert marks["machine's speed"].touches == ("real",)
        assert marks["machine's speed"].other == "1.70 × as long as profiled"


def test_other_seeds_are_refused(folder: Path, changed: Callable[..., Recorded]) -> None:
    def shift(result: dict[str, Any]) -> None:
        result["seeds"] = [10, 11]

    other = changed(shift, lambda frame: frame.assign(seed=frame["seed"] + 10))
    comparison = compare([read_evaluation(str(folder)), other])
    assert {c.refused for c in comparison.changes} == {"no request sequence in common: other workload seeds"}
    assert [mark.what for mark in comparison.marks] == ["workload seeds"]
    json.dumps(comparison.to_dict())


@pytest.mark.parametrize("columns", [["arrival_s", "first_token_s", "finish_s"], ["decode_tokens"]])
def test_other_requests_under_the_same_seeds_are_refused(
    folder: Path, changed: Callable[..., Recorded], columns: list[str]
) -> None:
    other = changed(change_requests=lambda frame: frame.assign(**{name: frame[name] + 1 for name in columns}))
    comparison = compare([read_evaluation(str(folder)), other])
    assert {c.refused for c in comparison.changes} == {"other requests under the same seeds"}


def with_policy(folder: Path, first: list[Any]) -> None:
    """Puts something else for the policy of the first request, and signs it, as a stranger can."""
    frame = pd.read_parquet(folder / "requests.parquet").iloc[:1]
    write_frame(frame.assign(policy=first), folder / "requests.parquet")


@pytest.mark.parametrize(
    ("spoil", "error", "said"),
    [
        (lambda f: (f / "results.json").unlink(), InputError, "hold results.json"),
        (lambda f: (f / "requests.parquet").unlink(), InputError, "hold requests.parquet"),
        (lambda f: (f / "results.json").write_text("{"), BrokenFileError, "no JSON"),
        (lambda f: (f / "results.json").write_text("{}"), BrokenFileError, "lacks results_version"),
        (lambda f: (f / "requests.parquet").write_bytes(b"PAR1"), BrokenFileError, "requests.parquet"),
        (lambda f: with_policy(f, [["a"]]), BrokenFileError, "column policy is of another type"),
        (lambda f: with_policy(f, [None]), BrokenFileError, "row 0 lacks policy"),
    ],
)
def test_folders_that_hold_no_evaluation(
    folder: Path, tmp_path: Path, spoil: Callable[[Path], object], error: type[Exception], said: str
) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(folder, copy)
    spoil(copy)
    with pytest.raises(error, match=said):
        read_evaluation(str(copy))


def test_results_of_version_1_called_the_mode_world(folder: Path, changed: Callable[..., Recorded]) -> None:
    older = changed(
        lambda result: result.update(results_version=1), lambda frame: frame.rename(columns={"mode": "world"})
    )
    pd.testing.assert_frame_equal(older.requests, read_evaluation(str(folder)).requests)


def test_results_of_another_version(changed: Callable[..., Recorded]) -> None:
    with pytest.raises(VersionError, match="results_version must be version 3"):
        changed(lambda result: result.update(results_version=99))


def test_load_curves_of_one_scenario_at_two_loads(
    fake_checkpoints: dict[str, Path], fake_performance: PerformanceModel, evaluation: Evaluation
) -> None:
    workload = {"requests": 20, "load": 0.3, "prompt_scale": 0.05, "decode_scale": 0.1}
    results = []
    for load in (0.3, 0.6):
        scenario = worlds.fake_scenario(fake_checkpoints, workload={**workload, "load": load})
        results.append(evaluate_fake(make_world(scenario, fake_performance), seeds=(0,)).to_dict())
    section = load_curves(results)
    traces = {t.name: t for t in section.figures[0].data if t.showlegend}
    real = traces["fifo-swap, real"]
    assert list(real.x) == [result["rate_per_s"] for result in results]
    assert list(real.y) == [r["policies"]["fifo-swap"]["real"]["response_mean_s"] for r in results]
    assert "only one arrival rate" in load_curves(results[:1]).notes[0]
    other = load_curves([results[0], evaluation.to_dict()])
    assert "differ in more than their load" in other.notes[0]
    assert not other.figures


@pytest.mark.skipif(BROWSER is None, reason="needs chromium or chrome on PATH")
def test_a_browser_draws_the_comparison(folder: Path, tmp_path: Path) -> None:
    page = tmp_path / "compare.html"
    write_comparison(compare([read_evaluation(str(folder))] * 2), page, title="compare")
    seen = look(page, tmp_path / "profile")
    assert seen.console == []
    assert seen.figures == seen.drawn == 1
    assert "exactly as in run 1" in page.with_suffix(".md").read_text(encoding="utf-8")
