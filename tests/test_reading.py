"""Files from strangers: damaged, changed by a bit, or of a few bytes that stand for gigabytes."""

from __future__ import annotations

import gzip
import json
import os
import random
import shutil
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import shunter.reading
from benchmarks.robust_files import (
    OWN,
    READERS,
    damaged,
    event_rows,
    flipped,
    make_files,
    request_rows,
)
from shunter.agents.learned.policy import LearnedPolicy
from shunter.agents.learned.shipped import shipped_policy
from shunter.cli.main import main
from shunter.engines.base import EngineError
from shunter.engines.headers import HeaderError, read_gguf_header, read_safetensors_header
from shunter.engines.headers import read_tensors as read_tensor_table
from shunter.envs.scenario.fields import read_checked
from shunter.envs.scenario.scenario import Scenario, load_scenario
from shunter.envs.workload.formats.tables import Table
from shunter.envs.workload.gateway_record import read_gateway_requests
from shunter.envs.workload.traces import read_trace
from shunter.errors import BrokenFileError, InputError, ShunterError, ShunterWarning
from shunter.eval.execution.event_log import EVENT_COLUMNS, read_event_log
from shunter.eval.read_back import read_requests, read_results
from shunter.parquet import DIGEST, read_table, write_frame, write_table
from shunter.profiling.dataset.table import read_dataset
from shunter.reading import from_json, read_json, read_text, read_yaml
from shunter.tensors import read_tensors, write_tensors

LONGEST_LINE = 2_500
ALIASES = "a0: &a0 [x, x]\n" + "".join(f"a{i + 1}: &a{i + 1} [{f'*a{i}, ' * 9}]\n" for i in range(9))
"""Some 500 bytes that stand for a billion values."""


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("files")
    make_files(folder)
    return folder


def read_changed(kind: str, path: Path, data: bytes) -> Any:
    """What a reader makes of other content in a file's place; None: it is refused, by an error of ours."""
    whole = path.read_bytes()
    path.write_bytes(data)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return READERS[kind].read(path)
    except (ShunterError, EngineError) as error:
        said = str(error)
    finally:
        path.write_bytes(whole)
    assert said.isprintable()
    assert len(said) <= LONGEST_LINE
    return None


@pytest.mark.parametrize("kind", READERS)
@settings(max_examples=12, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(seed=st.integers(0, 2**32))
def test_a_damaged_file_is_refused_in_a_line_or_read(kind: str, files: Path, seed: int) -> None:
    drawn = random.Random(seed)
    path = files / drawn.choice(READERS[kind].files)
    read_changed(kind, path, damaged(path.read_bytes(), drawn))


@pytest.mark.parametrize("kind", OWN)
def test_a_bit_that_changes_what_a_file_says_is_refused(kind: str, files: Path) -> None:
    refused = 0
    for name in READERS[kind].files:
        path, drawn = files / name, random.Random(name)
        said, data = READERS[kind].read(path), path.read_bytes()
        for _ in range(12):
            found = read_changed(kind, path, flipped(data, drawn))
            refused += found is None
            assert found is None or found == said
    assert refused


def parquet_of_values(path: Path, values: Any) -> Path:
    pq.write_table(pa.table({"arrival_s": values, "prompt_tokens": values, "decode_tokens": values}), path)
    return path


def test_what_never_ends_or_never_begins_is_no_file(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "zeros").symlink_to("/dev/zero")
    readers: list[Any] = [read_text, read_yaml, read_json, read_table, read_tensors, read_gguf_header]
    for path in (tmp_path / "pipe", tmp_path / "zeros"):
        for read in [*readers, read_safetensors_header, lambda path: Table(path).rows]:
            with pytest.raises((BrokenFileError, HeaderError), match="no file"):
                read(path)


def test_a_text_that_fills_the_memory_is_refused_before_it_is_read(tmp_path: Path) -> None:
    path = tmp_path / "long"
    with path.open("wb") as file:
        file.truncate(2**40)
    readers: list[Any] = [read_text, read_yaml, read_json, lambda path: Table(path).rows]
    for read in readers:
        with pytest.raises(InputError, match="its size must be at most"):
            read(path)


@pytest.mark.parametrize("text", ['{"model": "\\ud800"}', '{"\\uDFFF": 1}', '[["\\udc00x"]]'])
def test_half_a_character_is_no_text_for_any_output(text: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="half a character"):
        from_json(text)
    path = tmp_path / "requests.jsonl"
    path.write_text(text + "\n")
    with pytest.raises(BrokenFileError, match="no line is a whole request"):
        read_gateway_requests(path)
    assert from_json('"\\ud83d\\ude00 \\\\ud800"') == "\U0001f600 \\ud800"


@pytest.mark.parametrize("index", ["[" * 100_000, '{"weight_map": {"a": "x\\u0000"}}', '{"weight_map": [1]}'])
def test_an_index_of_weights_that_names_no_files_is_refused(index: str, tmp_path: Path) -> None:
    (tmp_path / "model.safetensors.index.json").write_text(index)
    with pytest.raises(HeaderError):
        read_tensor_table(tmp_path)


def test_rows_that_a_few_bytes_stand_for_are_not_expanded(tmp_path: Path) -> None:
    path = parquet_of_values(tmp_path / "t.parquet", np.zeros(20_000_000, np.int64))
    assert path.stat().st_size < 1_000_000
    with pytest.raises(BrokenFileError, match="20000000 rows stand for more than"):
        read_trace(path)
    long = pa.DictionaryArray.from_arrays(np.zeros(20_000, np.int32), ["x" * 100_000])
    pq.write_table(pa.table({"model": long}), tmp_path / "long.parquet")
    with pytest.raises(BrokenFileError, match="stand for more than"):
        read_table(tmp_path / "long.parquet")


def test_a_gzip_that_stands_for_far_more_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shunter.reading, "_LEAST_TEXT_BYTES", 2**20)
    path = tmp_path / "t.csv.gz"
    path.write_bytes(gzip.compress(bytes(8 * 2**20)))
    with pytest.raises(BrokenFileError, match="gzipped bytes stand for more than"):
        read_trace(path)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (
            "a: &a [x,x]\n"
            + "".join(
                f"{chr(98 + i)}: &{chr(98 + i)} [{', '.join([f'*{chr(97 + i)}'] * 9)}]\n" for i in range(9)
            ),
            "stand for more",
        ),
        ("a: &a [*a]", "alias names what it stands in"),
        ("[" * 100, "nested deeper"),
        ("a: " + "9" * 5000, "more than 100 digits"),
        ("a: 0x" + "f" * 5000, "more than 100 digits"),
        ("a: 1" + ":59" * 1000, "more than 100 digits"),
        ("a: 1" + ":59" * 1000 + ".0", "more than 100 digits"),
        ("a: {b: 1}\nname: x\nname: y", "line 3: name stands there twice"),
        ("a: 2023-99-99", "no YAML"),
        ("!!bool x", "no YAML"),
        ("!!python/object/apply:os.system [id]", "no YAML"),
        ("a: " + "x" * 600_000, "at most"),
    ],
)
def test_yaml_that_stands_for_more_or_for_nothing(text: str, said: str, tmp_path: Path) -> None:
    path = tmp_path / "s.yaml"
    path.write_text(text)
    with pytest.raises(InputError, match=said) as caught:
        load_scenario(path)
    assert len(str(caught.value)) < LONGEST_LINE


def test_a_few_aliases_are_fine(tmp_path: Path) -> None:
    path = tmp_path / "a.yaml"
    path.write_text("a: &a {b: 1}\nc: *a\nd: {<<: *a, e: 2}\n")
    assert read_yaml(path) == {"a": {"b": 1}, "c": {"b": 1}, "d": {"b": 1, "e": 2}}


def test_messages_show_a_line_of_a_value(tmp_path: Path) -> None:
    deep: list[Any] = []
    for _ in range(50):
        deep = [deep] * 50
    for value in (
        "x" * 10**6,
        list(range(10**6)),
        10**6000,
        deep,
        {"a" * 10**5: "b" * 10**5},
        np.zeros(10**6),
    ):
        assert len(str(InputError("field", "be short", value))) < 1_000
    (tmp_path / "s.yaml").write_text(f"{'k' * 10_000}: 1\nname: [{'1, ' * 10_000}]\n")
    with pytest.raises(InputError) as caught:
        read_checked(Scenario, tmp_path / "s.yaml", whole="scenario")
    assert len(str(caught.value)) < 1_500


def events(path: Path, **change: Any) -> Path:
    rows = event_rows()
    rows[3].update(change)
    table = pa.Table.from_pylist(rows, pa.schema(list(EVENT_COLUMNS.items())))
    write_table(table.replace_schema_metadata({"event_log_version": "6"}), path)
    return path


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"end_s": -1e9}, r"row 3, column end_s must be a number from 0"),
        ({"finish_s": [float("inf")]}, r"column finish_s must be a number from 0"),
        ({"end_s": 0.5}, r"row 3, column end_s must not be before start_s, 3"),
        ({"first_s": [1.0, 2.0]}, "row 3: request_ids, first_s, finish_s must be of one length"),
        ({"tokens": [-4]}, "column tokens must be a number from 0"),
    ],
)
def test_events_that_cannot_be_are_refused(change: dict[str, Any], said: str, tmp_path: Path) -> None:
    assert len(read_event_log(events(tmp_path / "e.parquet"))) == len(event_rows())
    with pytest.raises(InputError, match=said):
        read_event_log(events(tmp_path / "e.parquet", **change))


@pytest.mark.parametrize(
    ("column", "values", "said"),
    [
        ("lost", pa.array([1.5] * 8), "column lost is of another type"),
        ("servers", pa.nulls(8), "column servers lacks a list in 8 of its rows"),
        ("in_system", pa.array(["many"] * 8), "column in_system is of another type"),
    ],
)
def test_columns_of_events_that_are_of_another_type_are_refused(
    column: str, values: Any, said: str, tmp_path: Path
) -> None:
    table = pq.read_table(events(tmp_path / "e.parquet"))
    held = {key: text for key, text in table.schema.metadata.items() if key != DIGEST}
    changed = table.set_column(table.column_names.index(column), column, values)
    pq.write_table(changed.replace_schema_metadata(held), tmp_path / "e.parquet")
    with pytest.raises(BrokenFileError, match=said):
        read_event_log(tmp_path / "e.parquet")
    model = table["model"].dictionary_encode()
    alike = table.set_column(table.column_names.index("model"), "model", model)
    pq.write_table(alike.replace_schema_metadata(held), tmp_path / "e.parquet")
    assert read_event_log(tmp_path / "e.parquet")["model"].tolist() == ["m"] * 8


@pytest.mark.parametrize(
    ("column", "value", "said"),
    [
        ("finish_s", -1e9, "column finish_s must be a number from 0"),
        ("finish_s", 0.1, "column finish_s must not be before first_token_s"),
        ("arrival_s", float("inf"), "column arrival_s must be a number"),
        ("prompt_tokens", -1, "column prompt_tokens must be a number from 0"),
        ("decode_tokens", "many", "column decode_tokens is of another type"),
    ],
)
def test_requests_that_cannot_be_are_refused(column: str, value: Any, said: str, tmp_path: Path) -> None:
    frame = request_rows()
    write_frame(
        frame.assign(**{column: [*frame[column][:-1], value]} if value != "many" else {column: "many"}),
        tmp_path / "r.parquet",
    )
    with pytest.raises(InputError, match=said):
        read_requests(tmp_path / "r.parquet")


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda w: w.astype(np.int32), "must be float32. Got float32, int32"),
        (lambda w: w + np.float32(3e38), "must hold numbers of at most"),
        (lambda w: np.float32(1), "finite numbers of shape"),
    ],
)
def test_weights_that_no_training_finds_are_refused(change: Any, said: str, tmp_path: Path) -> None:
    policy, path = shipped_policy(), tmp_path / "p.safetensors"
    policy.weights["linear"] = np.asarray(change(policy.weights["linear"]))
    policy.save(path)
    with pytest.raises(BrokenFileError, match=said):
        LearnedPolicy.load(path)


def test_a_policy_of_before_is_read_with_a_note_and_a_new_one_needs_its_digest(tmp_path: Path) -> None:
    policy, path = shipped_policy(), tmp_path / "p.safetensors"
    policy.save(path)
    arrays, header, is_sealed = read_tensors(path)
    assert is_sealed
    write_tensors(path, arrays, {**header, "format_version": "4"})
    without = path.read_bytes().replace(b'"sha256"', b'"sha-no"')
    path.write_bytes(without)
    with pytest.warns(ShunterWarning, match="an older shunter wrote it, without a digest"):
        assert LearnedPolicy.load(path).act is not None
    policy.save(path)
    path.write_bytes(path.read_bytes().replace(b'"sha256"', b'"sha-no"'))
    with pytest.raises(BrokenFileError, match="its digest is missing"):
        LearnedPolicy.load(path)


def test_a_damaged_name_of_a_digest_is_no_file_of_before(files: Path, tmp_path: Path) -> None:
    text = (files / "evaluation" / "results.json").read_text()
    (tmp_path / "results.json").write_text(text.replace('"sha256"', '"sha25>"'))
    with pytest.raises(BrokenFileError, match="its digest is missing"):
        read_results(tmp_path / "results.json")
    before = json.loads(text) | {"results_version": 2}
    del before["sha256"]
    (tmp_path / "results.json").write_text(json.dumps(before))
    assert read_results(tmp_path / "results.json")["results_version"] == 2


@pytest.mark.parametrize("name", ["dataset.csv", "dataset.parquet"])
def test_columns_of_one_name_are_refused(name: str, files: Path, tmp_path: Path) -> None:
    if name.endswith(".csv"):
        text = (files / name).read_text()
        (tmp_path / name).write_text(text.replace("row_id", "cell_id", 1))
    else:
        table = pq.read_table(files / name)
        held = {key: text for key, text in table.schema.metadata.items() if key != DIGEST}
        columns = [{"row_id": "cell_id"}.get(column, column) for column in table.column_names]
        renamed = table.rename_columns(columns).replace_schema_metadata(held)
        pq.write_table(renamed, tmp_path / name)
    with pytest.raises(BrokenFileError, match="2 of its columns are named 'cell_id'"):
        read_dataset(tmp_path / name)


def test_verify_names_what_was_changed(
    files: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    copy = tmp_path / "own"
    shutil.copytree(files / "evaluation", copy)
    names = ("policy.safetensors", "performance.json", "dataset.parquet", "events.parquet", "trace.parquet")
    whole = [str(files / name) for name in names]
    main_ends(0, "verify", *whole, str(copy))
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == len(names) + 2
    assert all(line.endswith("as it was written") for line in lines)
    results = json.loads((copy / "results.json").read_text())
    results["policies"]["p"]["simulated"]["response_mean_s"] = 0.4
    (copy / "results.json").write_text(json.dumps(results))
    main_ends(2, "verify", str(copy), str(files / "dataset.csv"), str(tmp_path / ("n" * 5000)))
    said = capsys.readouterr().out
    assert "results.json: cannot be read: it was changed since it was written" in said
    assert "dataset.csv: profile dataset, can be read; not all of it has a digest" in said


def test_verify_misses_no_file_that_is_not_what_its_name_says(
    files: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    copy = tmp_path / "own"
    shutil.copytree(files / "evaluation", copy)
    whole = (copy / "requests.parquet").read_bytes()
    (copy / "requests.parquet").write_bytes(b"X" + whole[1:])
    main_ends(2, "verify", str(copy))
    assert "DAMAGED: " in capsys.readouterr().out
    (copy / "requests.parquet").write_bytes(whole)
    (copy / "results.json").unlink()  # it is written last: without it the rest was cut off
    main_ends(2, "verify", str(copy))
    assert "DAMAGED: FILE must be a file" in capsys.readouterr().out


def main_ends(code: int, *words: str) -> None:
    with pytest.raises(SystemExit) as ended:
        main(list(words))
    assert ended.value.code == code


def test_what_is_of_no_kind_that_is_checked_is_not_called_damaged(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    files = {"page.html": "<p>", "p3.run": "key", "table.csv": "a,b\n1,2\n", "other.json": '{"loads": [1]}'}
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    main_ends(2, "verify", *(str(tmp_path / name) for name in files))
    said = capsys.readouterr().out.splitlines()
    assert len(said) == len(files)
    assert all(line.startswith("not checked: FILE must be of a kind that is checked") for line in said)
    (tmp_path / "results.json").write_text(files["other.json"])
    main_ends(0, "verify", str(tmp_path))


@pytest.mark.parametrize(
    "words",
    [
        ("policy", "show"),
        ("timeline",),
        ("compare", "."),
        ("fit",),
        ("workload", "show"),
        ("scenarios", "show"),
    ],
)
def test_a_name_that_no_file_can_have_is_one_line(
    words: tuple[str, ...],
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    main_ends(2, *words, "n" * 5000 + ".yaml")
    seen = capsys.readouterr()
    said = seen.out if words == "verify" else seen.err
    assert said.count("\n") == 1
    assert said.startswith("DAMAGED: " if words == "verify" else "shunter: ")
    assert len(said) < LONGEST_LINE
