"""Small files of every kind that shunter reads, what reads them, and how they are damaged.

Most are made here: what is in them is not the point, that every reader looks at it is.
"""

from __future__ import annotations

import io
import json
import random
import shutil
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import safetensors.numpy

from shunter.agents.learned.file import training_of
from shunter.agents.learned.policy import LearnedPolicy
from shunter.agents.learned.score_card import score_card_of
from shunter.agents.learned.shipped import shipped_policy
from shunter.catalog.checkpoints import read_checkpoint
from shunter.catalog.models import ModelSpec
from shunter.envs.scenario.scenario import load_scenario
from shunter.envs.workload.gateway_record import read_gateway_requests
from shunter.envs.workload.traces import read_trace, write_trace
from shunter.envs.world.world import World
from shunter.eval.compare import compare
from shunter.eval.execution.event_log import EVENT_COLUMNS, EventLog, read_event_log, write_event_logs
from shunter.eval.read_back import read_evaluation
from shunter.eval.saved import RESULTS_VERSION
from shunter.eval.timeline import pick_run, read_timeline
from shunter.files import write_json
from shunter.models.performance import PerformanceModel
from shunter.models.published.performance import published_performance
from shunter.parquet import content_digest, write_frame, write_table
from shunter.profiling.checkpoints.synthetic import write_checkpoint
from shunter.profiling.dataset.journal import Journal, journal_path
from shunter.profiling.dataset.schema import COLUMNS, SCHEMA_VERSION, frame_of
from shunter.profiling.dataset.table import read_dataset, write_dataset
from shunter.profiling.measurements.read import read_measurements
from shunter.seals import DIGEST, sealed
from shunter.serve.http.body import read_asked
from shunter.tensors import packed_tensors
from shunter.train.search.checkpoint import ARRAYS, SearchCheckpoint, read_search, write_search
from shunter.train.settings import load_config

__all__ = ["OWN", "READERS", "Kind", "damaged", "flipped", "make_files"]

ROOT = Path(__file__).parents[1]
CORPUS = ROOT / "tests" / "corpus"
SHAPE = ModelSpec(
    name="tiny",
    layers=1,
    hidden_size=64,
    attn_heads=2,
    kv_heads=2,
    head_dim=32,
    intermediate_size=64,
    vocab_size=300,
)


@dataclass(frozen=True)
class Kind:
    """A kind of file.

    Attributes:
        files: Names in the folder of files; those that are damaged.
        read: What reads one; gives what it says, to be set beside what it said whole.
    """

    files: tuple[str, ...]
    read: Callable[[Path], Any]


def dataset_rows(count: int = 12) -> pd.DataFrame:
    """A dataset whose rows keep all rules."""
    plain: Mapping[str, Any] = {"str": "x", "int64": 4, "float64": 2.0, "bool": False}
    rows = []
    for i in range(count):
        row = {column.name: plain[column.dtype] for column in COLUMNS}
        row |= {column.name: column.choices[0] for column in COLUMNS if column.choices}
        row |= {c.name: c.minimum for c in COLUMNS if c.minimum and c.minimum > row[c.name]}
        rows.append({**row, "schema_version": SCHEMA_VERSION, "row_id": f"r{i}", "hardware": "{}"})
    return frame_of(rows)


def event_rows(count: int = 8) -> list[dict[str, Any]]:
    """The rows of a run: a load, then quanta of a request each."""
    rows = []
    for i in range(count):
        row: dict[str, Any] = {n: [] if pa.types.is_list(t) else None for n, t in EVENT_COLUMNS.items()}
        row |= {"run_id": "p/0/simulated", "policy": "p", "seed": 0, "mode": "simulated", "decision_id": i}
        row |= {"device": "gpu", "decided_s": float(i), "in_system": 1, "model": "m", "gpu_layers": 4}
        row |= {"start_s": float(i), "end_s": i + 0.5, "steps": 3, "device_bytes": 1e9, "mask": [True, False]}
        row |= {"operation": "run" if i else "load", "choice": 0, "choice_name": "m", "decision_s": 1e-4}
        row |= {"arrived_ids": [i], "arrived_models": ["m"], "arrived_s": [float(i)], "evicted": []}
        if i:
            row |= {"request_ids": [i - 1], "tokens": [3], "first_s": [i + 0.25], "finish_s": [i + 0.5]}
        rows.append(row)
    return rows


def request_rows(count: int = 10) -> pd.DataFrame:
    """Requests of an evaluation."""
    i = np.arange(count)
    times = {"arrival_s": i * 1.0, "first_token_s": i + 0.25, "finish_s": i + 0.5}
    tokens = {"prompt_tokens": i + 8, "decode_tokens": i + 3, "request_id": i, "seed": 0 * i}
    return pd.DataFrame({**times, **tokens, "policy": "p", "mode": "simulated", "model": "m"})


def results() -> dict[str, Any]:
    """What an evaluation found."""
    scenario = {
        "name": "s",
        "engine": "llama-cpp",
        "workload": {"rate_per_s": 1.0},
        "models": [{"name": "m"}],
    }
    return {
        "results_version": RESULTS_VERSION,
        "provenance": {"commit": "abc", "versions": {"shunter": "0"}, "performance": {"digest": "d"}},
        "scenario": scenario,
        "seeds": [0],
        "metrics": {"response_mean_s": "mean response"},
        "policies": {"p": {"simulated": {"response_mean_s": 0.5, "response_change": {"low": 0.0}}}},
        "changes_against": "p",
        "rate_per_s": 1.0,
    }


def make_files(folder: Path) -> None:
    """Writes a file of every kind."""
    shipped_policy().save(folder / "policy.safetensors")
    published_performance().save(folder / "performance.json")
    write_dataset(dataset_rows(), folder / "dataset.parquet")
    write_dataset(dataset_rows(), folder / "dataset.csv")
    log = EventLog(cast(World, None), {})  # what only its rows are asked of
    log.rows = event_rows()
    write_event_logs([log], folder / "events.parquet")
    with Journal(folder / "journaled.parquet", plan_id="p", session_id="s") as journal:
        for row in dataset_rows(3).to_dict("records"):
            journal.append({str(key): value for key, value in row.items()})
    evaluation = folder / "evaluation"
    evaluation.mkdir()
    write_frame(request_rows(), evaluation / "requests.parquet")
    write_json(evaluation / "results.json", sealed(results()))
    trace = request_rows(40)[["arrival_s", "prompt_tokens", "decode_tokens", "model"]].assign(session="")
    write_trace(trace, folder / "trace.parquet")
    vectors = {name: np.arange(6.0) for name in ARRAYS}
    counts = {"width": 0, "generation": 4, "generations": 9, "decisions": 800, "elapsed_s": 2.5}
    state = {"settings": {"seed": 0}, "curve": [(800, 2.5, 0.9)], **counts}
    write_search(SearchCheckpoint(vectors, state), folder / "search")
    write_checkpoint(SHAPE, folder / "tiny.gguf", format="gguf", quantization="F16")
    write_checkpoint(SHAPE, folder / "tiny", format="safetensors", quantization="F16")
    shutil.copytree(CORPUS / "traces", folder / "traces")
    shutil.copytree(CORPUS / "measurements", folder / "measurements")
    shutil.copytree(ROOT / "shunter" / "data" / "scenarios", folder / "scenarios")
    shutil.copyfile(ROOT / "shunter" / "data" / "azure2023_conv.csv.gz", folder / "azure.csv.gz")
    shutil.copyfile(ROOT / "results" / "policies" / "generalist.yaml", folder / "training.yaml")
    body = {"model": "m", "prompt": ["a", "b"], "max_tokens": 3, "metadata": {"user_id": "u"}, "n": 2}
    write_json(folder / "body.json", body)


def _frame(frame: pd.DataFrame) -> str:
    return content_digest(pa.Table.from_pandas(frame, preserve_index=False))


def _policy(path: Path) -> Any:
    policy = LearnedPolicy.load(path)
    training_of(policy), score_card_of(policy), policy.number("elapsed_s", np.nan)
    return {name: array.tobytes() for name, array in policy.weights.items()}, policy.metadata


def _events(path: Path) -> Any:
    frame = read_event_log(path)
    read_timeline(pick_run(frame, None))
    return _frame(frame)


def _journal(path: Path) -> Any:
    dataset = path.with_name(path.name.removesuffix(".journal.jsonl"))
    with Journal(dataset, plan_id="p", session_id="s") as journal:
        return json.dumps(journal.rows)


def _evaluation(path: Path) -> Any:
    read = read_evaluation(str(path.parent))
    compare([read, read]).to_dict()
    return json.dumps(read.result, sort_keys=True), _frame(read.requests)


def _body(path: Path) -> Any:
    return read_asked(path.read_bytes(), "/v1/completions", {})


def _names(*folders: str) -> tuple[str, ...]:
    within = {"traces": CORPUS, "measurements": CORPUS, "scenarios": ROOT / "shunter" / "data"}
    paths = (path for name in folders for path in sorted((within[name] / name).iterdir()))
    return tuple(f"{path.parent.name}/{path.name}" for path in paths if path.suffix not in (".md", ""))


READERS: dict[str, Kind] = {
    "policy": Kind(("policy.safetensors",), _policy),
    "performance model": Kind(
        ("performance.json",), lambda path: PerformanceModel.load(path).state_.model_dump_json()
    ),
    "dataset": Kind(("dataset.parquet",), lambda path: _frame(read_dataset(path))),
    "dataset as CSV": Kind(("dataset.csv",), lambda path: _frame(read_dataset(path))),
    "journal": Kind((journal_path("journaled.parquet").name,), _journal),
    "event log": Kind(("events.parquet",), _events),
    "evaluation": Kind(("evaluation/results.json", "evaluation/requests.parquet"), _evaluation),
    "trace": Kind(("trace.parquet",), lambda path: _frame(read_trace(path).frame)),
    "foreign trace": Kind((*_names("traces"), "azure.csv.gz"), lambda path: read_trace(path, mend=True)),
    "record": Kind(("traces/gateway.jsonl",), read_gateway_requests),
    "measurement": Kind(_names("measurements"), lambda path: read_measurements([path])),
    "scenario": Kind(_names("scenarios"), load_scenario),
    "training file": Kind(("training.yaml",), load_config),
    "search checkpoint": Kind(
        ("search",), lambda path: {k: v.tobytes() for k, v in read_search(path, {}).arrays.items()}
    ),
    "GGUF": Kind(("tiny.gguf",), read_checkpoint),
    "safetensors": Kind(
        ("tiny/model.safetensors", "tiny/config.json"), lambda path: read_checkpoint(path.parent)
    ),
    "body of a request": Kind(("body.json",), _body),
}

OWN = (
    "policy",
    "performance model",
    "dataset",
    "event log",
    "evaluation",
    "trace",
    "search checkpoint",
)
"""Kinds that have a digest: no change of them is believed."""

_TOKENS = (
    b"9" * 5000,
    b"[" * 100_000,
    b'{"a":' * 2000,
    b"NaN",
    b"1e999",
    b"-1",
    b"null",
    b"true",
    b'"x"',
    b"[]",
    b"{}",
    b"\x00",
    b"\xff\xfe",
    b"\r\n",
    b"&a [*a]",
    b"!!bool x",
    b"2023-99-99",
    b"=cmd",
    b"A" * 100_000,
)
_VALUES: tuple[Any, ...] = (None, True, -1, 1e300, 10**40, "x", "", [], {}, [[]], {"a": {}}, "9" * 5000)


def flipped(data: bytes, drawn: random.Random) -> bytes:
    """The data with one bit changed."""
    at = drawn.randrange(len(data))
    return data[:at] + bytes([data[at] ^ (1 << drawn.randrange(8))]) + data[at + 1 :]


def damaged(data: bytes, drawn: random.Random) -> bytes:
    """The data damaged in one of many ways, now and then in several."""
    for _ in range(1 + (drawn.random() < 0.2)):
        data = drawn.choice((_cut, _block, _insert, _replace, _value, flipped))(data or b"0", drawn)
    return data


def _cut(data: bytes, drawn: random.Random) -> bytes:
    return data[: drawn.randrange(len(data))]


def _block(data: bytes, drawn: random.Random) -> bytes:
    first, last = sorted((drawn.randrange(len(data)), drawn.randrange(len(data))))
    middle = drawn.choice((b"", data[first:last] * 2, bytes(last - first), drawn.randbytes(last - first)))
    return data[:first] + middle + data[last:]


def _insert(data: bytes, drawn: random.Random) -> bytes:
    at = drawn.randrange(len(data))
    return data[:at] + drawn.choice(_TOKENS) + data[at:]


def _replace(data: bytes, drawn: random.Random) -> bytes:
    """Puts something else in place of a word."""
    words = list(_words(data))
    if not words:
        return flipped(data, drawn)
    first, last = drawn.choice(words)
    return data[:first] + drawn.choice(_TOKENS) + data[last:]


def _words(data: bytes) -> Iterator[tuple[int, int]]:
    start = None
    for i, byte in enumerate(data[:20_000]):
        is_word = chr(byte).isalnum() or byte in b".-_"
        if is_word and start is None:
            start = i
        elif not is_word and start is not None:
            yield start, i
            start = None


def _value(data: bytes, drawn: random.Random) -> bytes:
    """Puts another value somewhere: the file is still of its format, and sealed, as a stranger can."""
    if data.startswith(b"PAR1"):
        return _column(data, drawn)
    if data[8:9] == b"{":
        return _tensor(data, drawn)
    try:
        whole = json.loads(data)
    except (ValueError, RecursionError):
        return _replace(data, drawn)
    at: Any = whole
    for _ in range(drawn.randrange(1, 8)):
        keys = list(at) if isinstance(at, dict) else list(range(len(at))) if isinstance(at, list) else []
        if not keys:
            break
        key = drawn.choice(keys)
        if drawn.random() < 0.3 or not isinstance(at[key], dict | list):
            at[key] = drawn.choice(_VALUES)
            break
        at = at[key]
    return json.dumps(sealed(whole) if isinstance(whole, dict) and "sha256" in whole else whole).encode()


def _column(data: bytes, drawn: random.Random) -> bytes:
    """Puts another column into a table in the place of one, or takes one away."""
    try:
        table = pq.read_table(io.BytesIO(data))
    except Exception:  # damaged before
        return flipped(data, drawn)
    at = drawn.randrange(table.num_columns)
    kind = drawn.choice((None, *_COLUMNS))
    if kind is None:
        table = table.remove_column(at)
    else:
        values = pa.array([drawn.choice(_COLUMNS[kind]) for _ in range(table.num_rows)], type=kind)
        table = table.set_column(at, table.column_names[at], values)
    buffer = io.BytesIO()
    write_table(table, cast(Any, buffer))
    return buffer.getvalue()


_COLUMNS: dict[pa.DataType, tuple[Any, ...]] = {
    pa.null(): (None,),
    pa.bool_(): (True, None),
    pa.int64(): (-1, 2**62, None),
    pa.float64(): (float("nan"), 1e300, -1.0, None),
    pa.string(): ("", "\x1b[31m", "9" * 50, None),
    pa.dictionary(pa.int32(), pa.string()): ("m", "p", None),
    pa.binary(): (b"\xff", None),
    pa.timestamp("ns"): (0, 2**62, None),
    pa.duration("ns"): (-1, 2**62, None),
    pa.list_(pa.float64()): ([], [float("nan")], None),
    pa.list_(pa.string()): ([""], [None], None),
    pa.struct([("a", pa.int64())]): ({"a": 1}, None),
}
"""Types of columns with values of theirs."""


def _tensor(data: bytes, drawn: random.Random) -> bytes:
    """Puts another text into the header of a file of tensors, or another tensor into the place of one."""
    try:
        arrays = safetensors.numpy.load(data)
        length = int.from_bytes(data[:8], "little")
        header = dict(json.loads(data[8 : 8 + length]).get("__metadata__", {}))
    except Exception:  # damaged before
        return flipped(data, drawn)
    if header.pop(DIGEST, None) is None:  # weights of a model, whose header says nothing
        return flipped(data, drawn)
    if drawn.random() < 0.7:
        key = drawn.choice(sorted(header))
        header[key] = _value(header[key].encode(), drawn).decode(errors="replace")
    else:
        key, other = drawn.choice(sorted(arrays)), arrays[drawn.choice(sorted(arrays))]
        changes = (np.nan * arrays[key], arrays[key].astype(np.int64), arrays[key][None], other, other[:0])
        arrays[key] = drawn.choice(changes)
    return packed_tensors(arrays, header)
