from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import settings

from shunter.envs.world.world import World, make_world
from shunter.eval.evaluation import Evaluation
from shunter.models.performance import PerformanceModel
from shunter.tracking.store import open_store, store_uri
from tests import worlds
from tests.fake_evaluation import evaluate_fake

# `make test` tries the same inputs each time, `make fuzz` others.
settings.register_profile("same", derandomize=True, deadline=None)
settings.register_profile("others", print_blob=True, deadline=None)
settings.load_profile("same")


@pytest.fixture(scope="session")
def fake_checkpoints(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return worlds.make_checkpoints(tmp_path_factory.mktemp("checkpoints"))


@pytest.fixture(scope="session")
def fake_performance(
    fake_checkpoints: dict[str, Path], tmp_path_factory: pytest.TempPathFactory
) -> PerformanceModel:
    return worlds.fit_fake(fake_checkpoints, tmp_path_factory.mktemp("fit"))


@pytest.fixture(scope="session")
def fake_world(fake_checkpoints: dict[str, Path], fake_performance: PerformanceModel) -> World:
    return make_world(worlds.fake_scenario(fake_checkpoints), fake_performance)


@pytest.fixture(scope="session")
def empty_store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The database of an MLflow store with nothing in it: laying one out takes seconds, copying none."""
    folder = tmp_path_factory.mktemp("empty")
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("MLFLOW_TRACKING_URI", raising=False)
        open_store(store_uri(folder))
    return folder / "mlflow.db"


@pytest.fixture(scope="session")
def evaluation(fake_world: World) -> Evaluation:
    return evaluate_fake(fake_world)


@pytest.fixture(scope="session")
def simulated_only(evaluation: Evaluation) -> Evaluation:
    return Evaluation(evaluation.world, evaluation.policies, evaluation.seeds, evaluation.simulated)
