"""The experiment that runs are in, and how MLflow's pages show it.

MLflow shows no parameter and no metric in its table of runs until somebody picks columns. A view of ours, one
of those that people share by a link, has those that say what a run is of, and how good what came of it is.
"""

from __future__ import annotations

import base64
import json
import os
import zlib
from typing import Any

from shunter.tracking.database import artifacts_of, database_of
from shunter.tracking.store import StoreError

VIEW = "shunter"
"""What the view is called in links: ``viewStateShareKey=shunter``."""

VIEW_TAG = f"mlflow.sharedViewState.{VIEW}"

COLUMNS = (
    "tags.`shunter.kind`",
    "tags.`shunter.file`",
    "params.`scenarios`",
    "params.`loads`",
    "params.`policy`",
    "params.`mode`",
    "metrics.`response_mean_s`",
    "metrics.`response_change/change`",
    "params.`changes_against`",
    "params.`best`",
    "metrics.`change_vs_untrained`",
    "metrics.`change_vs_best_heuristic`",
    "tags.`shunter.best_heuristic`",
)
"""What the table of runs shows: of an evaluation its best policy, and in the same columns of each run within
it its own."""

ABOUT = (
    "What shunter measured, fitted, trained, tuned and evaluated. Changes are relative: below 0 is better. "
    "For columns that say what each run is of and what came of it, put "
    f"`?workflowType=machine_learning&viewStateShareKey={VIEW}` behind the address of the table of runs, "
    "which ends in `/runs`."
)


def open_experiment(name: str, client: Any, uri: str) -> str:
    """The id of an experiment that is there or is made; it has the view.

    Args:
        name: Of the experiment. If that was deleted, the one that ``MLFLOW_EXPERIMENT_NAME`` names by now.
        client: From ``shunter.tracking.store.open_store``.
        uri: The store.

    Raises:
        StoreError: It was deleted.
    """
    found = client.get_experiment_by_name(name)
    if found is None:
        found = _made(name, client, uri)
    if found.lifecycle_stage != "active":
        instead = os.environ.get("MLFLOW_EXPERIMENT_NAME", name)
        if instead not in ("", name):
            return open_experiment(instead, client, uri)
        way = f"mlflow experiments restore --experiment-id {found.experiment_id}, or MLFLOW_EXPERIMENT_NAME"
        raise StoreError("MLFLOW_EXPERIMENT_NAME", f"name an experiment that is not deleted ({way})", name)
    if found.tags.get(VIEW_TAG) != (view := _view()):
        client.set_experiment_tag(found.experiment_id, VIEW_TAG, view)
    return str(found.experiment_id)


def _made(name: str, client: Any, uri: str) -> Any:
    from mlflow.exceptions import MlflowException

    database = database_of(uri)
    place = None if database is None else artifacts_of(database)
    tags = {
        "mlflow.experimentKind": "custom_model_development",
        "mlflow.note.content": ABOUT,
        VIEW_TAG: _view(),
    }
    try:
        return client.get_experiment(client.create_experiment(name, artifact_location=place, tags=tags))
    except MlflowException:
        found = client.get_experiment_by_name(name)  # somebody else may have made it just now
        if found is None:
            raise
        return found


def _view() -> str:
    """The view as MLflow's pages write one."""
    state = {
        "selectedColumns": COLUMNS,
        "columnOrder": COLUMNS,
        "searchFilter": "",
        "orderByKey": "attributes.start_time",
        "orderByAsc": False,
        "startTime": "ALL",
        "lifecycleFilter": "Active",
        "datasetsFilter": [],
        "modelVersionFilter": "All Runs",
    }
    return f"deflate;{base64.b64encode(zlib.compress(json.dumps(state).encode())).decode()}"
