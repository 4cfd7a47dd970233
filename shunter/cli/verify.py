"""``shunter verify``: whether files are what shunter wrote."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Annotated

import pyarrow.parquet as pq
import typer

from shunter.agents.learned.policy import LearnedPolicy
from shunter.cli.options import open_console, say
from shunter.envs.scenario.scenario import load_scenario
from shunter.envs.workload.gateway_record import TRACE_NAME, is_sealed_record, read_gateway_requests
from shunter.envs.workload.traces import read_trace
from shunter.errors import BrokenFileError, InputError, ShunterError
from shunter.eval.execution.event_log import read_event_log
from shunter.eval.read_back import read_requests, read_results
from shunter.eval.saved import FILES
from shunter.models.performance import PerformanceModel
from shunter.models.state import FittedState
from shunter.parquet import DIGEST as PARQUET_DIGEST
from shunter.profiling.dataset.table import read_dataset
from shunter.reading import read_json, reading
from shunter.seals import DIGEST
from shunter.tensors import read_tensors
from shunter.train.search.checkpoint import read_search

Read = Callable[[Path], object]

_PARQUET: dict[str, tuple[str, Read]] = {
    "event_log_version": ("event log", read_event_log),
    "shunter_profile_schema": ("profile dataset", read_dataset),
}
"""Kinds of Parquet files by a key of their metadata."""

_BEGUN_OTHERWISE = (".parquet", ".safetensors")
"""Endings of files that are known by how they begin."""

_LONGEST_HEADER = 100_000
_KEYS_OF_A_MODEL = 3
"""Fewer, and a JSON file is not taken for a performance model."""

_OF_EVALUATION = ("results", "requests", "events", "performance")


class UnknownKindError(InputError):
    """A file is of no kind that is checked, which says nothing of whether it is whole."""

    def __init__(self, path: Path) -> None:
        super().__init__("FILE", "be of a kind that is checked (see --help)", str(path))


def verify(
    files: Annotated[
        list[Path],
        typer.Argument(metavar="FILE...", help="Files, and folders that commands wrote.", show_default=False),
    ],
) -> None:
    """Say whether files are as shunter wrote them.

    Policies, checkpoints of a search, performance models, evaluations, datasets, event logs and traces in
    Parquet hold a digest of all that they say, and a gateway's record one in each line. What people write by
    hand (scenarios, CSV) has none, and is read like anywhere else. A digest holds off accidents: whoever
    changes a file on purpose can write its digest too.

    Examples:

    shunter verify policy.safetensors perf runs/eval
    """
    console = open_console()
    bad = 0
    for path in (file for given in files for file in _within(given)):
        try:
            kind, is_sealed = look(path)
        except UnknownKindError as error:
            bad += path in files
            say(console, f"not checked: {error}")
            continue
        except ShunterError as error:
            bad += 1
            say(console, f"DAMAGED: {error}")
            continue
        said = "as it was written" if is_sealed else "can be read; not all of it has a digest"
        say(console, f"{path}: {kind}, {said}")
    if bad:
        raise typer.Exit(InputError.exit_code)


def look(path: Path) -> tuple[str, bool]:
    """What a file is, and whether a digest says that it is as it was written.

    Raises:
        InputError: There is no such file, it is of no kind of ours, or a value in it cannot be.
        BrokenFileError: It is damaged.
        VersionError: It was written for another version.
    """
    if not os.path.isfile(path):  # no error where a name is too long
        raise InputError("FILE", "be a file, or a folder that shunter wrote", str(path))
    with reading(path), path.open("rb") as file:
        begin = file.read(16)
    if begin.startswith(b"PAR1"):
        return _parquet(path)
    if begin[8:9] == b"{":
        return _tensors(path)
    if path.suffix in _BEGUN_OTHERWISE:
        raise BrokenFileError(path, "it is not what its name says, from its first bytes on")
    if path.suffix == ".json":
        return _json(path)
    if path.suffix == ".jsonl":
        if path.stat().st_size:  # a gateway that no request has ended at leaves an empty one
            read_gateway_requests(path)
        return "record of a gateway", is_sealed_record(path)
    kinds: dict[str, tuple[str, Read]] = {
        ".yaml": ("scenario", load_scenario),
        ".csv": ("profile dataset", read_dataset),
    }
    if path.suffix not in kinds or (path.suffix == ".csv" and not _is_dataset(path)):
        raise UnknownKindError(path)
    kind, read = kinds[path.suffix]
    read(path)
    return kind, False


def _is_dataset(path: Path) -> bool:
    with reading(path), path.open("rb") as file:
        return b"schema_version" in file.readline(_LONGEST_HEADER)


def _within(path: Path) -> Iterator[Path]:
    """A file; of a folder, the files that a command wrote there.

    Raises:
        InputError: It holds none.
    """
    if not os.path.isdir(path):
        yield path
        return
    known = [path / FILES[name] for name in _OF_EVALUATION]
    found = [file for file in (*known, path / TRACE_NAME) if os.path.lexists(file)]
    if path / FILES["requests"] in found and path / FILES["results"] not in found:
        found = [path / FILES["results"], *found]  # what stands for all of an evaluation: it was cut off
    found += sorted(path.glob("events-*.parquet"))
    if not found:
        raise InputError("FILE", "be a file, or a folder that shunter wrote", str(path))
    yield from found


def _parquet(path: Path) -> tuple[str, bool]:
    with reading(path):
        schema = pq.read_schema(path)
    keys = {key.decode(errors="replace") for key in schema.metadata or {}}
    kind, read = next((_PARQUET[key] for key in _PARQUET if key in keys), ("trace", read_trace))
    if {"policy", "finish_s"} <= set(schema.names) and kind == "trace":
        kind, read = "requests of an evaluation", read_requests
    read(path)
    return kind, PARQUET_DIGEST in (schema.metadata or {})


def _tensors(path: Path) -> tuple[str, bool]:
    _, header, is_sealed = read_tensors(path)
    if "state" in header:
        read_search(path, {})
        return "checkpoint of a search", is_sealed
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that it has no digest is said anyway
        LearnedPolicy.load(path)
    return "policy", is_sealed


def _json(path: Path) -> tuple[str, bool]:
    content = read_json(path)
    if "results_version" in content:
        read_results(path)
        return "results of an evaluation", DIGEST in content
    if len(set(content) & set(FittedState.model_fields)) < _KEYS_OF_A_MODEL:
        raise UnknownKindError(path)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        PerformanceModel.load(path)
    return "performance model", DIGEST in content
