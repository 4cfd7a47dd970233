from __future__ import annotations

import pytest


@pytest.fixture(scope="session")
def store_of_commands(tmp_path_factory: pytest.TempPathFactory) -> str:
    """An MLflow store for commands whose runs no test looks at, laid out once."""
    return f"sqlite:///{tmp_path_factory.mktemp('mlflow') / 'mlflow.db'}"


@pytest.fixture(autouse=True)
def tracked_apart(store_of_commands: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is logged into the folder that tests are started in; some tests take this back."""
    monkeypatch.setenv("MLFLOW_TRACKING_URI", store_of_commands)
