"""An evaluation's folder: report, results, requests, events and traces."""

from __future__ import annotations

import gzip
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from shunter.eval.evaluation import Evaluation
from shunter.eval.execution.event_log import write_event_logs
from shunter.eval.fidelity.machine_words import machine_summary
from shunter.eval.timeline import read_timeline
from shunter.export.perfetto import perfetto_trace
from shunter.files import finite, replaced, write_bytes, write_json
from shunter.models.performance import PerformanceModel
from shunter.outputs import replaced_folder
from shunter.parquet import write_frame
from shunter.report.evaluation.report import write_report
from shunter.seals import sealed
from shunter.sinks import file_name

__all__ = ["FILES", "RESULTS_VERSION", "save_evaluation"]

FILES = {
    "report": "report.html",
    "markdown": "report.md",
    "results": "results.json",
    "requests": "requests.parquet",
    "events": "events.parquet",
    "performance": "performance.json",
    "traces": "traces",
}
"""Names in the folder; ``performance`` only where the performance model is known, ``traces`` is a folder of
gzipped JSON that ui.perfetto.dev opens."""

RESULTS_VERSION = 3
"""Version of ``results.json`` and ``requests.parquet``. In version 1 the latter called ``mode`` ``world``;
before version 3 results might lack a digest."""

OLDER_VERSIONS = (1, 2)
"""Other versions that are read."""


def save_evaluation(
    evaluation: Evaluation,
    folder: Path,
    *,
    title: str,
    performance: PerformanceModel | None = None,
    provenance: Mapping[str, Any] | None = None,
    sources: Mapping[str, str] | None = None,
) -> dict[str, Path]:
    """Writes everything that there is to say of an evaluation, whole or not at all, the results last.

    Args:
        evaluation: An evaluation with at least one run.
        folder: Made if need be.
        title: Title of the report.
        performance: The model that predicted, for the report's pictures; kept beside it.
        provenance: From ``shunter.eval.provenance``.
        sources: What each policy was made of, as the user wrote it, by name.

    Returns:
        Paths by the keys of ``FILES``, of what was written.
    """
    names = {name: text for name, text in FILES.items() if performance or name != "performance"}
    made = {"results_version": RESULTS_VERSION, "provenance": dict(provenance or {})}
    result = {**made, **evaluation.to_dict(), "sources": dict(sources or {})}
    if evaluation.real:
        result["fidelity"]["summary"] = {**machine_summary(result), **evaluation.fidelity().summary()}
    with replaced_folder(folder, last=FILES["results"]) as staged:
        files = {name: staged / text for name, text in names.items()}
        write_event_logs(evaluation.logs(), files["events"])
        _write_requests(evaluation, files["requests"])
        if performance is not None:
            performance.save(files["performance"])
        _write_traces(evaluation, files["traces"])
        write_report(evaluation, files["report"], title=title, performance=performance, result=result)
        write_json(files["results"], sealed(finite(result)))
    return {name: folder / text for name, text in names.items()}


def _write_requests(evaluation: Evaluation, path: Path) -> None:
    """A row per request and run: policy, seed, mode and the columns of ``Run.requests``."""
    runs = [r for runs in (*evaluation.simulated.values(), *evaluation.real.values()) for r in runs]
    frames = [run.requests.assign(policy=run.policy, seed=run.seed, mode=run.mode) for run in runs]
    with replaced(path) as temporary:
        write_frame(pd.concat(frames, ignore_index=True), temporary)


def _write_traces(evaluation: Evaluation, folder: Path) -> None:
    """One for each policy, of its first run; ``shunter timeline`` writes any other."""
    folder.mkdir(exist_ok=True)
    for run in (runs[0] for runs in (evaluation.real or evaluation.simulated).values() if runs):
        name = file_name(f"{run.policy}-{run.seed}-{run.mode}")
        trace = json.dumps(perfetto_trace(read_timeline(run.log.frame())), allow_nan=False)
        write_bytes(folder / f"{name}.json.gz", gzip.compress(trace.encode(), compresslevel=5, mtime=0))
