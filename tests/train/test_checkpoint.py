from __future__ import annotations

import pickle
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("sb3_contrib", reason="needs the extra train")

import torch

from shunter.envs.world.world import World
from shunter.errors import BrokenFileError, InputError
from shunter.train.algorithms import train_policy
from shunter.train.ppo.checkpoint import read_checkpoint
from shunter.train.result import Curve
from shunter.train.settings import PpoSettings

SETTINGS = PpoSettings(
    steps=384, environments=2, rollout_steps=64, batch_size=64, width=8, validate_every=1, warm_start=False
)


def test_a_resumed_training_is_the_uninterrupted_one(fake_world: World, tmp_path: Path) -> None:
    courses = [fake_world]
    whole = train_policy(courses, SETTINGS, checkpoint=tmp_path / "whole.pt")
    assert not whole.curve[0].diagnostics  # nothing was learned yet
    wanted = ("approx_kl", "entropy_loss", "explained_variance", "learning_rate", "policy_gradient_loss")
    for point in whole.curve[1:]:
        assert {f"train/{name}" for name in (*wanted, "value_loss")} <= set(point.diagnostics)
        assert np.isfinite(list(point.diagnostics.values())).all()
    path = tmp_path / "checkpoint.pt"

    def stop(steps: int, curve: Curve) -> None:
        if curve.steps >= 256:
            raise KeyboardInterrupt

    assert train_policy(courses, SETTINGS, checkpoint=path, on_progress=stop).interrupted
    resumed = train_policy(courses, SETTINGS, checkpoint=path)
    assert [(c.steps, c.ratio) for c in resumed.curve] == [(c.steps, c.ratio) for c in whole.curve]
    for key, weights in whole.policy.weights.items():
        np.testing.assert_array_equal(weights, resumed.policy.weights[key])
    # What is best may be older than the kill, so the last weights must be the same too.
    last, again = (read_checkpoint(tmp_path / n, asdict(SETTINGS)) for n in ("whole.pt", "checkpoint.pt"))
    assert last.steps == again.steps == SETTINGS.steps
    for key, tensor in last.policy.items():
        np.testing.assert_array_equal(tensor, again.policy[key])


def test_a_checkpoint_of_other_settings_is_refused(fake_world: World, tmp_path: Path) -> None:
    path = tmp_path / "checkpoint.pt"
    courses = [fake_world]
    train_policy(courses, SETTINGS, checkpoint=path)
    with pytest.raises(InputError, match=r"--width must be that of the checkpoint .*, 8,"):
        train_policy(courses, PpoSettings(**{**SETTINGS.__dict__, "width": 16}), checkpoint=path)


class Malice:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return print, ("code ran",)


def test_a_strangers_checkpoint_runs_no_code(
    fake_world: World, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "checkpoint.pt"
    path.write_bytes(pickle.dumps({"settings": Malice()}))
    with pytest.raises(BrokenFileError):
        train_policy([fake_world], SETTINGS, checkpoint=path)
    assert "code ran" not in capsys.readouterr().out
    pickle.loads(path.read_bytes())
    assert "code ran" in capsys.readouterr().out, "it would have been seen"


def test_what_is_no_state_of_this_training_is_refused(fake_world: World, tmp_path: Path) -> None:
    path = tmp_path / "checkpoint.pt"
    train_policy([fake_world], SETTINGS, checkpoint=path)
    whole = torch.load(path, weights_only=True)
    nowhere = {key: torch.full_like(value, torch.nan) for key, value in whole["policy"].items()}
    changes: list[dict[str, Any]] = [
        {"curve": [(0, 0.0)]},
        {"steps": "many"},
        {"policy": {}},
        {"policy": nowhere},
        {"best": {}},
        {"elapsed_s": -1.0},
    ]
    for change in changes:
        torch.save(whole | change, path)
        with pytest.raises(InputError, match=r"checkpoint\.pt: "):
            train_policy([fake_world], SETTINGS, checkpoint=path)


def test_a_training_that_gets_no_better_stops_early(fake_world: World) -> None:
    idle = PpoSettings(**{**SETTINGS.__dict__, "learning_rate": 1e-12, "patience": 2})
    curve = train_policy([fake_world], idle).curve
    assert [point.steps for point in curve] == [0, 128, 256]
