from __future__ import annotations

import errno
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import optuna
import pandas as pd
import pytest
from optuna.pruners import MedianPruner

from shunter.agents.parameters import Choice, Number
from shunter.errors import InputError, ShunterError
from shunter.jobs import Job, Report, Runner, Work
from shunter.train.tune.search import ParameterSearch, Tuned, search_all

STEPS = 4


def make(parameters: Mapping[str, Any]) -> tuple[str, dict[str, Any]]:
    return ",".join(f"{name}={value}" for name, value in parameters.items()), dict(parameters)


def find_three(shared: float, report: Report, task: dict[str, Any]) -> float | None:
    """Lowest at x = 3 and kind = good; all steps but the last may give up."""
    value = math.log(shared + (task["x"] - 3) ** 2 + (task["kind"] == "bad"))
    for step in range(STEPS):
        if report([(step, value)]) and step < STEPS - 1:
            return None
    return value


SPACE = {"x": Number(0.1, 10.0), "kind": Choice(("good", "bad"))}
SEARCH = ParameterSearch(
    "three", SPACE, {"x": 9.0, "kind": "bad"}, make, "1", lambda: MedianPruner(2, 0), round=4
)


class Backwards(Runner):
    """Does jobs in another order, every one twice to its middle, as if a worker had been lost."""

    def run(self, work: Work, shared: Any, jobs: Sequence[Job]) -> None:
        for job in jobs:
            job.on_message([(0, work(shared, lambda message: False, job.task()))])
        super().run(work, shared, jobs[::-1])


def search(trials: int, runner: Runner | None = None, **options: Any) -> Tuned:
    return search_all([SEARCH], trials, find_three, 1.0, runner=runner, **options)["three"]


def test_it_finds_what_is_best_and_gives_up_what_is_not() -> None:
    result = search(40)
    assert result.score < 1.5 < result.default_score == pytest.approx(38)
    assert result.parameters["kind"] == "good"
    assert result.parameters["x"] == pytest.approx(3, abs=0.7)
    assert result.policy == make(result.parameters)[0]
    pruned = result.trials[result.trials.state == "pruned"]
    assert len(pruned) > 0
    assert (pruned.pairs < STEPS).all()
    assert pruned.score.isna().all()
    assert (result.trials[result.trials.state == "complete"].pairs == STEPS).all()


def test_the_order_in_which_trials_end_changes_nothing() -> None:
    one, other = search(24), search(24, Backwards())
    pd.testing.assert_frame_equal(one.trials, other.trials)
    assert one.parameters == other.parameters


def test_a_search_cut_off_between_rounds_is_the_uninterrupted_one(tmp_path: Path) -> None:
    whole = search(13)
    for trials in (5, 9, 13):  # the defaults and rounds of four
        part = search(trials, storage=tmp_path / "tune.journal")
        pd.testing.assert_frame_equal(part.trials, whole.trials[:trials])


class Killed(Exception):
    pass


class Dies(Runner):
    """Gives up after some jobs, as if the process had been killed."""

    def __init__(self, after: int) -> None:
        super().__init__()
        self.after = after

    def run(self, work: Work, shared: Any, jobs: Sequence[Job]) -> None:
        for job in jobs:
            if not self.after:
                raise Killed
            self.after -= 1
            super().run(work, shared, [job])


@pytest.mark.parametrize("each", [1, 2, 3])
def test_a_search_cut_off_anywhere_is_the_uninterrupted_one(each: int, tmp_path: Path) -> None:
    whole, storage = search(13), tmp_path / "tune.journal"
    for _ in range(12 // each):
        with pytest.raises(Killed):
            search(13, Dies(each), storage=storage)
        assert storage.read_bytes().endswith(b"\n")
        storage.write_bytes(storage.read_bytes() + b'{"op_code":4,"torn')
    found = search(13, storage=storage)
    pd.testing.assert_frame_equal(found.trials, whole.trials)
    assert (found.policy, found.score) == (whole.policy, whole.score)
    assert list(tmp_path.iterdir()) == [storage]


def test_a_shorter_search_that_is_made_longer_is_the_longer_one(tmp_path: Path) -> None:
    whole, storage = search(13), tmp_path / "tune.journal"
    for trials in (2, 7, 8, 13):
        part = search(trials, storage=storage)
        pd.testing.assert_frame_equal(part.trials, whole.trials[:trials])


def test_two_searches_do_not_write_one_storage(tmp_path: Path) -> None:
    storage = tmp_path / "tune.journal"

    class Twice(Runner):
        def run(self, work: Work, shared: Any, jobs: Sequence[Job]) -> None:
            with pytest.raises(InputError, match="--storage must not be written by another command"):
                search(13, storage=storage)
            super().run(work, shared, jobs)

    search(5, Twice(), storage=storage)


def test_a_full_disk_is_one_line_and_loses_no_trial(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole, storage = search(13), tmp_path / "tune.journal"
    search(3, storage=storage)
    before, add = storage.read_bytes(), optuna.Study.add_trial

    def full(study: optuna.Study, trial: Any) -> None:
        storage.write_bytes(storage.read_bytes() + b'{"op_code":4,"to')
        raise OSError(errno.ENOSPC, "full")

    with monkeypatch.context() as patched:
        patched.setattr(optuna.Study, "add_trial", lambda study, trial: journaled(study, trial, add, full))
        with pytest.raises(ShunterError, match=r"tune.journal: cannot be written: No space left on device"):
            search(13, storage=storage)
    assert storage.read_bytes().startswith(before)
    assert storage.read_bytes().endswith(b"\n")
    pd.testing.assert_frame_equal(search(13, storage=storage).trials, whole.trials)


def journaled(study: optuna.Study, trial: Any, add: Any, full: Any) -> None:
    """Only the study in the journal has a name of ours."""
    (full if study.study_name == "three" else add)(study, trial)


def test_parameters_that_were_tried_are_not_tried_again() -> None:
    tried: list[str] = []

    def count(shared: float, report: Report, task: dict[str, Any]) -> float | None:
        tried.append(task["kind"])
        return find_three(shared, report, {"x": 3.0, **task})

    words = ParameterSearch(
        "words", {"kind": SPACE["kind"]}, {"kind": "bad"}, make, "1", SEARCH.pruner, round=2
    )
    result = search_all([words], 12, count, 1.0)["words"]
    assert len(result.trials) == 12
    assert len(tried) <= 3
    assert set(tried) == {"good", "bad"}
    assert result.trials.groupby("policy").score.nunique().to_dict() == {"kind=bad": 1, "kind=good": 1}
