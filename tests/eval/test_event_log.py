from __future__ import annotations

from pathlib import Path

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from shunter.agents.registry import make_policy
from shunter.envs.world.world import World
from shunter.errors import BrokenFileError, InputError, VersionError
from shunter.eval.execution.event_log import (
    EVENT_COLUMNS,
    EVENT_LOG_VERSION,
    read_event_log,
    write_event_logs,
)
from shunter.eval.execution.runs import Run, simulate


@pytest.fixture(scope="module")
def run(fake_world: World) -> Run:
    return simulate(fake_world, make_policy("cost-greedy"), 0)


def test_it_reads_back_whole(run: Run, tmp_path: Path) -> None:
    write_event_logs([run.log, run.log], tmp_path / "e.parquet")
    frame = read_event_log(tmp_path / "e.parquet")
    assert list(frame.columns) == list(EVENT_COLUMNS)
    assert len(frame) == 2 * len(run.log.rows)
    assert [p.name for p in tmp_path.iterdir()] == ["e.parquet"]


def test_every_token_is_in_it_once(run: Run) -> None:
    frame = run.log.frame()
    quanta = frame[frame.operation == "run"]
    gained = quanta[["request_ids", "tokens"]].explode(["request_ids", "tokens"]).astype(int)
    total = gained.groupby("request_ids").tokens.sum()
    assert total.tolist() == run.requests.decode_tokens.tolist()


def test_every_request_arrives_in_it_once(run: Run) -> None:
    columns = ["arrived_ids", "arrived_models", "arrived_s"]
    arrived = run.log.frame()[columns].explode(columns).dropna()
    assert arrived.arrived_ids.tolist() == run.requests.request_id.tolist()
    assert arrived.arrived_models.tolist() == run.requests.model.tolist()
    assert arrived.arrived_s.tolist() == run.requests.arrival_s.tolist()


def test_operations_of_a_device_do_not_overlap(run: Run) -> None:
    for _, rows in run.log.frame().dropna(subset=["end_s"]).groupby("device"):
        assert (rows.end_s >= rows.start_s).all()
        assert (rows.start_s.to_numpy()[1:] >= rows.end_s.to_numpy()[:-1]).all()


def test_choices_were_legal(run: Run) -> None:
    frame = run.log.frame()
    assert all(mask[choice] for mask, choice in zip(frame["mask"], frame["choice"], strict=True))


def test_logs_of_version_4_called_the_mode_world(run: Run, tmp_path: Path) -> None:
    table = run.log.table()
    older = table.rename_columns(["world" if name == "mode" else name for name in table.column_names])
    pq.write_table(older.replace_schema_metadata({"event_log_version": "4"}), tmp_path / "e.parquet")
    pd.testing.assert_frame_equal(read_event_log(tmp_path / "e.parquet"), run.log.frame())


def test_logs_of_version_5_named_no_cause_and_no_shadow(run: Run, tmp_path: Path) -> None:
    table = run.log.table().drop_columns(["cause", "shadow", "shadow_choice_name", "servers"])
    pq.write_table(table.replace_schema_metadata({"event_log_version": "5"}), tmp_path / "e.parquet")
    read = read_event_log(tmp_path / "e.parquet")
    assert list(read.columns) == list(EVENT_COLUMNS)
    assert read["cause"].isna().all()
    assert read["servers"].map(len).sum() == 0


def test_files_that_cannot_be_read(run: Run, tmp_path: Path) -> None:
    path = tmp_path / "e.parquet"
    with pytest.raises(InputError, match="be an existing Parquet file"):
        read_event_log(path)
    write_event_logs([run.log], path)
    path.write_bytes(path.read_bytes()[:-50])
    with pytest.raises(BrokenFileError):
        read_event_log(path)
    pq.write_table(pa.table({"a": [1]}), path)
    with pytest.raises(BrokenFileError, match="it is no event log"):
        read_event_log(path)
    rows = run.log.table().to_pylist()
    begun = next(i for i, row in enumerate(rows) if row["operation"] == "run")
    for name, value, said in (
        ("gpu_layers", None, f"row {begun} lacks gpu_layers"),
        ("model", None, f"row {begun} lacks model"),
        ("run_id", None, f"row {begun} lacks run_id"),
        ("servers", [None], "column servers lacks a text"),
        ("evicted", None, "column evicted lacks a list in 1 of its rows"),
    ):
        changed = [*rows[:begun], {**rows[begun], name: value}, *rows[begun + 1 :]]
        table = pa.Table.from_pylist(changed, run.log.table().schema)
        pq.write_table(table, path)
        with pytest.raises(BrokenFileError, match=said):
            read_event_log(path)
    pq.write_table(run.log.table().replace_schema_metadata({"event_log_version": "9"}), path)
    with pytest.raises(VersionError, match=f"the event log schema must be version {EVENT_LOG_VERSION}"):
        read_event_log(path)
