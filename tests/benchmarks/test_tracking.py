from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks import tracking
from shunter.envs.world.world import World
from shunter.tracking import runs
from shunter.train.settings import EvolutionSettings


@pytest.fixture(autouse=True)
def elsewhere(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.setattr(runs, "_LINKS", {})


def test_processes_that_log_at_once_lose_nothing(tmp_path: Path) -> None:
    rows = tracking.hammered(tmp_path, processes=2, runs=2)
    assert [row.ok for row in rows if row.bar] == [True] * 4


def test_a_server_killed_in_a_training_costs_nothing(tmp_path: Path, fake_world: World) -> None:
    settings = EvolutionSettings(generations=2, pairs=2, episodes=1, validate_every=1, threads=1)
    rows = tracking.killed(tmp_path, 1, fake_world, settings)
    assert [row.ok for row in rows if row.bar] == [True] * 5, rows
