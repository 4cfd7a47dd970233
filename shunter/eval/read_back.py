"""Evaluations read back: from the folder that ``shunter eval`` wrote, or from MLflow."""

from __future__ import annotations

import math
import re
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import pandas as pd
import pyarrow as pa
from pydantic import BaseModel, ConfigDict, field_validator, model_validator

from shunter.envs.scenario.fields import checked
from shunter.errors import BrokenFileError, InputError, VersionError
from shunter.eval.execution.event_log import with_mode
from shunter.eval.possible import check_given, check_order, check_range
from shunter.eval.saved import FILES, OLDER_VERSIONS, RESULTS_VERSION
from shunter.parquet import as_frame, read_table, typed
from shunter.reading import read_json
from shunter.report.words import MODES
from shunter.seals import unsealed
from shunter.tracking.store import open_store, said_uri, store_uri, talking

__all__ = ["read_evaluation", "read_requests", "read_results"]

_KEYS = ("results_version", "provenance", "scenario", "seeds", "metrics", "policies", "changes_against")
_TIMES = ("arrival_s", "first_token_s", "finish_s")
_COLUMNS = {
    **dict.fromkeys(("policy", "mode", "model"), pa.string()),
    **dict.fromkeys(("seed", "request_id", "prompt_tokens", "decode_tokens"), pa.int64()),
    **dict.fromkeys(_TIMES, pa.float64()),
}
_RUN_ID = re.compile(r"[0-9a-f]{32}")


class _Provenance(BaseModel):
    """What comparing reads of where an evaluation was made."""

    model_config = ConfigDict(extra="ignore")

    performance: dict[str, Any] | None = None
    versions: dict[str, Any] = {}
    engine_version: str | None = None
    machine_id: str | None = None
    commit: str | None = None
    created_utc: str | None = None


class _Result(BaseModel):
    """What comparing reads of ``results.json``; the rest may be anything."""

    model_config = ConfigDict(extra="ignore")

    provenance: _Provenance
    scenario: dict[str, Any]
    seeds: list[int]
    metrics: dict[str, str]
    policies: dict[str, dict[str, Any]]
    changes_against: str | None
    rate_per_s: float | None = None

    @field_validator("scenario")
    @classmethod
    def _comparable(cls, scenario: dict[str, Any]) -> dict[str, Any]:
        workload = scenario.get("workload")
        texts = (scenario.get("name"), scenario.get("engine"))
        if not isinstance(workload, dict) or not all(isinstance(text, str) for text in texts):
            raise ValueError("have a name, an engine and a workload")
        return scenario

    @model_validator(mode="after")
    def _figures(self) -> Self:
        for policy, found in self.policies.items():
            for mode in set(found) & set(MODES):
                figures = found[mode]
                values = (
                    [figures.get(name) for name in self.metrics] if isinstance(figures, dict) else ["none"]
                )
                if not all(value is None or _is_finite(value) for value in values):
                    raise ValueError(f"hold numbers for {policy}, {mode}")
        return self


def _is_finite(value: Any) -> bool:
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    return is_number and abs(value) < math.inf


@dataclass(frozen=True)
class RecordedRun:
    """What is kept of a ``Run``.

    Attributes:
        seed: Seed of the workload.
        requests: One row per request, as ``Run.requests``.
    """

    seed: int
    requests: pd.DataFrame


@dataclass(frozen=True)
class Recorded:
    """An evaluation that was written earlier.

    Attributes:
        source: The folder, or MLflow's run id.
        result: What ``results.json`` holds; missing numbers are None.
        requests: A row per request of each run; see ``shunter.eval.saved``.
    """

    source: str
    result: dict[str, Any]
    requests: pd.DataFrame

    @property
    def policies(self) -> list[str]:
        """Names, in order."""
        return list(self.result["policies"])

    def metric(self, policy: str, mode: str, metric: str) -> float:
        """A metric; NaN where it, the mode or the policy is missing."""
        value = self.result["policies"].get(policy, {}).get(mode, {}).get(metric)
        return math.nan if value is None else float(value)

    def runs(self, policy: str, mode: str) -> list[RecordedRun]:
        """A policy's runs, repeats of a seed in order."""
        rows = self.requests[(self.requests["policy"] == policy) & (self.requests["mode"] == mode)]
        return list(_split(rows))


def _split(rows: pd.DataFrame) -> Iterator[RecordedRun]:
    for seed, of_seed in rows.groupby("seed", sort=False):
        # The nth row of a request is of the nth repeat.
        repeat = of_seed.groupby("request_id").cumcount()
        for _, run in of_seed.groupby(repeat):
            yield RecordedRun(int(str(seed)), run.reset_index(drop=True))


def read_evaluation(text: str, *, store: str | None = None) -> Recorded:
    """Reads an evaluation.

    Args:
        text: A folder that ``shunter eval`` or ``shunter demo`` wrote, or an MLflow run id.
        store: MLflow's, a URI or a folder that holds ``mlflow.db``; None: as ``store_uri`` says.

    Raises:
        InputError: There is neither, or it holds no evaluation.
        BrokenFileError: A file is truncated or not what it should be.
        VersionError: It was written by another version.
    """
    if Path(text).is_dir():
        return _read_folder(Path(text), text)
    if not _RUN_ID.fullmatch(text):
        rule = "be a folder that shunter eval wrote, or an MLflow run id (32 hexadecimal digits)"
        raise InputError("RUN", rule, text)
    with tempfile.TemporaryDirectory() as folder:
        return _read_folder(_downloaded(text, _uri(store), Path(folder)), text)


def _read_folder(folder: Path, source: str) -> Recorded:
    results, requests = folder / FILES["results"], folder / FILES["requests"]
    for path in (results, requests):
        if not path.is_file():
            raise InputError("RUN", f"hold {path.name}, as shunter eval writes it", source)
    return Recorded(source, read_results(results), read_requests(requests))


def read_results(path: Path) -> dict[str, Any]:
    """What an evaluation found.

    Raises:
        BrokenFileError: It is damaged, was changed since it was written, or lacks a field.
        VersionError: It was written by another version.
        InputError: A field has another form.
    """
    result, is_sealed = unsealed(path, read_json(path))
    missing = [key for key in _KEYS if key not in result]
    if missing:
        raise BrokenFileError(path, f"it lacks {', '.join(missing)}")
    if result["results_version"] not in (*OLDER_VERSIONS, RESULTS_VERSION):
        raise VersionError(path, "results_version", result["results_version"], RESULTS_VERSION)
    if not is_sealed and result["results_version"] not in OLDER_VERSIONS:
        raise BrokenFileError(path, "its digest is missing")
    checked(_Result, result, source=str(path), whole="results")
    return result


def read_requests(path: Path) -> pd.DataFrame:
    """The table of requests of an evaluation.

    Raises:
        BrokenFileError: It is damaged, or lacks a column.
        InputError: A time or a number of tokens cannot be.
    """
    frame = with_mode(as_frame(path, typed(path, read_table(path), _COLUMNS)))
    lacking = set(_COLUMNS) - set(frame)
    if lacking:
        raise BrokenFileError(path, f"it lacks {', '.join(sorted(lacking))}")
    check_given(path, frame, set(_COLUMNS) - {"first_token_s", "finish_s"})
    check_range(path, frame, [*_TIMES, "prompt_tokens", "decode_tokens", "request_id", "seed"])
    check_order(path, frame, _TIMES)
    return frame


def _uri(store: str | None) -> str:
    return store_uri(store) if store is not None and Path(store).is_dir() else store or store_uri()


def _downloaded(run_id: str, uri: str, folder: Path) -> Path:
    """Fetches what is needed of a run's artefacts.

    Raises:
        InputError: There is no such store, or no such run in it.
    """
    database = Path(uri.removeprefix("sqlite:///"))
    if uri.startswith("sqlite:///") and not database.exists():
        raise InputError("RUN", f"be in an MLflow store, and there is none at {database}", run_id)
    client = open_store(uri)
    from mlflow.artifacts import download_artifacts
    from mlflow.exceptions import MlflowException

    with talking(uri):
        try:
            client.get_run(run_id)
        except MlflowException as error:
            raise InputError(
                "RUN", f"be a run of the MLflow store {said_uri(uri)} ({error})", run_id
            ) from None
        present = {artifact.path for artifact in client.list_artifacts(run_id)}
        for name in {FILES["results"], FILES["requests"]} & present:
            try:
                download_artifacts(run_id=run_id, artifact_path=name, dst_path=str(folder), tracking_uri=uri)
            except (MlflowException, OSError) as error:
                raise BrokenFileError(f"MLflow run {run_id}", f"{name} cannot be had: {error}") from None
    return folder
