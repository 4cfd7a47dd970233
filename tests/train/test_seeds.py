from __future__ import annotations

from typing import Any

import pytest

from shunter.train import seeds
from shunter.train.result import Curve, TrainResult
from shunter.train.seeds import SeedsShared, SeedTask, TrainingTasks, train_seed
from shunter.train.settings import EvolutionSettings
from shunter.train.verdict import kept_words
from tests.networks import random_policy


def interrupt(*arguments: Any, **named: Any) -> None:
    raise KeyboardInterrupt


def test_ctrl_c_while_it_is_found_out_what_training_added_keeps_what_was_trained(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    trained = TrainResult(random_policy(), [Curve(10, 1.0, 0.5)], "cost-greedy", interrupted=False)
    monkeypatch.setattr(seeds, "train_policy", lambda *arguments, **named: trained)
    shared, task = SeedsShared([TrainingTasks([], [])], None), SeedTask(0, EvolutionSettings(), None)
    monkeypatch.setattr(seeds, "judge", lambda *arguments, **named: {"verdict": "better"})
    assert train_seed(shared, lambda message: None, task) is trained
    assert trained.policy.metadata.pop("verdict") == "better"
    monkeypatch.setattr(seeds, "judge", interrupt)
    kept = train_seed(shared, lambda message: None, task)
    assert (kept.policy, kept.interrupted) == (trained.policy, True)
    assert "verdict" not in kept.policy.metadata


@pytest.mark.parametrize(
    ("began", "words"),
    [("untrained", "the untrained ones"), ("start", "those that it was given to start from")],
)
def test_that_training_found_nothing_better_is_said(began: str, words: str) -> None:
    policy = random_policy()
    assert kept_words(policy) == ""
    policy.metadata["kept"] = began
    assert kept_words(policy) == f"no weights were better in validation than {words}, which were kept"
