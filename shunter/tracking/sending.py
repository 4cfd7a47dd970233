"""A run's journal into MLflow's store: as far as it goes, and from there when it is tried again."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from shunter.tracking.experiment import open_experiment
from shunter.tracking.journal import Journal
from shunter.tracking.store import talking

KEY = "shunter.key"
"""Tag that says which run it is, in whatever store: a run that was begun is found again."""

_MOST = 1000
"""Metrics that MLflow takes at once."""


def send(journal: Journal, client: Any, uri: str) -> str:
    """Sends what a store lacks of a run, in order; sending again what is there changes nothing.

    Args:
        journal: The run's.
        client: From ``open_store``.
        uri: The store.

    Returns:
        MLflow's id of the run.

    Raises:
        StoreError: It went as far as the journal now says.
    """
    with talking(uri):
        run_id, done = journal.sent(uri)
        if run_id is None or (journal.reopened and not _is_there(client, run_id)):
            done, run_id = 0, _begun(journal.header, client, uri)
            journal.mark(uri, run_id, 0)
        for count, record in _batches(journal.records[done:]):
            _ACTIONS[record["kind"]](client, run_id, record, journal)
            done += count
            journal.mark(uri, run_id, done)
    return run_id


def _is_there(client: Any, run_id: str) -> bool:
    """Whether a store has a run; it may be another store by now, at the same address."""
    from mlflow.exceptions import MlflowException

    try:
        return client.get_run(run_id) is not None
    except MlflowException as error:
        if error.error_code != "RESOURCE_DOES_NOT_EXIST":
            raise
        return False


def run_of(key: str, client: Any, experiment: str) -> str | None:
    """MLflow's id of the run with a key; None if there is none."""
    found = client.search_runs([experiment], f"tags.`{KEY}` = '{key}'", max_results=1)
    return str(found[0].info.run_id) if found else None


def _begun(header: dict[str, Any], client: Any, uri: str) -> str:
    """The run, begun if it is not there."""
    experiment = open_experiment(header["experiment"], client, uri)
    known = run_of(header["key"], client, experiment)
    if known is not None:
        client.update_run(known, status="RUNNING")
        return known
    tags = {**header["tags"], KEY: header["key"]}
    if header["parent"] is not None:
        parent = run_of(header["parent"], client, experiment)
        tags |= {} if parent is None else {"mlflow.parentRunId": parent}
    run = client.create_run(experiment, start_time=header["start_ms"], tags=tags, run_name=header["name"])
    return str(run.info.run_id)


def _batches(records: list[dict[str, Any]]) -> Iterator[tuple[int, dict[str, Any]]]:
    """Records with how many each stands for: metrics that follow each other go together."""
    together: list[Any] = []
    count = 0
    for record in records:
        if record["kind"] == "metrics" and len(together) + len(record["metrics"]) <= _MOST:
            together, count = [*together, *record["metrics"]], count + 1
            continue
        if count:
            yield count, {"kind": "metrics", "metrics": together}
            together, count = [], 0
        if record["kind"] == "metrics":
            together, count = record["metrics"], 1
        else:
            yield 1, record
    if count:
        yield count, {"kind": "metrics", "metrics": together}


def _params(client: Any, run_id: str, record: dict[str, Any], journal: Journal) -> None:
    from mlflow.entities import Param

    known = client.get_run(run_id).data.params  # those of a run that is gone on with stay as they are
    found = [Param(name, text) for name, text in record["params"].items() if name not in known]
    for first in range(0, len(found), 100):
        client.log_batch(run_id, params=found[first : first + 100])


def _metrics(client: Any, run_id: str, record: dict[str, Any], journal: Journal) -> None:
    from mlflow.entities import Metric

    found = [Metric(name, value, at_ms, step) for name, value, at_ms, step in record["metrics"]]
    for first in range(0, len(found), _MOST):
        client.log_batch(run_id, metrics=found[first : first + _MOST])


def _tags(client: Any, run_id: str, record: dict[str, Any], journal: Journal) -> None:
    for name, text in record["tags"].items():
        client.set_tag(run_id, name, text)


def _inputs(client: Any, run_id: str, record: dict[str, Any], journal: Journal) -> None:
    from mlflow.entities import Dataset, DatasetInput, InputTag
    from mlflow.utils.mlflow_tags import MLFLOW_DATASET_CONTEXT

    found = []
    for one in record["inputs"]:
        source, profile = json.dumps({"uri": one["source"]}), json.dumps(one["profile"])
        dataset = Dataset(one["name"], one["digest"], "local", source, profile=profile)
        found.append(DatasetInput(dataset, [InputTag(MLFLOW_DATASET_CONTEXT, one["context"])]))
    client.log_inputs(run_id, found)


def _file(client: Any, run_id: str, record: dict[str, Any], journal: Journal) -> None:
    path = journal.file(record["file"])
    if path.is_dir():
        client.log_artifacts(run_id, str(path), path.name)
    else:
        client.log_artifact(run_id, str(path))


def _table(client: Any, run_id: str, record: dict[str, Any], journal: Journal) -> None:
    """A table as ``MlflowClient.log_table`` leaves it, which would double one that is there."""
    from mlflow.utils.mlflow_tags import MLFLOW_LOGGED_ARTIFACTS as TAG

    _file(client, run_id, record, journal)
    listed = json.loads(client.get_run(run_id).data.tags.get(TAG, "[]"))
    table = {"path": Path(record["file"]).name, "type": "table"}
    if table not in listed:
        client.set_tag(run_id, TAG, json.dumps([*listed, table]))


def _policy(client: Any, run_id: str, record: dict[str, Any], journal: Journal) -> None:
    from shunter.tracking.versions import create_version

    create_version(client, run_id, journal.file(record["file"]), record["name"], record["why"])


def _end(client: Any, run_id: str, record: dict[str, Any], journal: Journal) -> None:
    # Another process may have begun the run, by a clock that was set back since.
    begun_ms = client.get_run(run_id).info.start_time
    client.set_terminated(run_id, record["status"], max(record["at_ms"], begun_ms))


_ACTIONS = {
    "params": _params,
    "metrics": _metrics,
    "tags": _tags,
    "inputs": _inputs,
    "file": _file,
    "table": _table,
    "policy": _policy,
    "end": _end,
}
