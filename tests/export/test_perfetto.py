from __future__ import annotations

import json
from collections import defaultdict
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from shunter.agents.registry import make_policy
from shunter.envs.world.world import World
from shunter.eval.execution.runs import Run, simulate
from shunter.eval.timeline import read_timeline
from shunter.export.perfetto import perfetto_trace, write_perfetto

Event = dict[str, Any]


@pytest.fixture(scope="module")
def run(fake_world: World) -> Run:
    return simulate(fake_world, make_policy("cost-greedy"), 0)


@pytest.fixture(scope="module")
def events(run: Run) -> list[Event]:
    made: list[Event] = perfetto_trace(read_timeline(run.log.frame()))["traceEvents"]
    return made


def check_format(events: list[Event]) -> None:
    """The rules of the Trace Event Format that these kinds of events must keep."""
    named = {(e["pid"], e["args"]["name"]) for e in events if e["name"] == "process_name"}
    assert {e["pid"] for e in events} == {pid for pid, _ in named}
    slices: dict[tuple[int, int], list[tuple[float, float]]] = defaultdict(list)
    open_: dict[tuple[int, str, str], list[str]] = defaultdict(list)
    for event in events:
        assert event["ph"] in "MXCibe"
        assert event["name"]
        assert event["ts"] >= 0
        assert isinstance(event["pid"], int)
        assert isinstance(event["tid"], int)
        if event["ph"] == "X":
            assert event["dur"] >= 0
            slices[event["pid"], event["tid"]].append((event["ts"], event["ts"] + event["dur"]))
        if event["ph"] == "C":
            assert all(isinstance(value, int | float) for value in event["args"].values())
        if event["ph"] == "i":
            assert event["s"] in "gpt"
    for event in sorted((e for e in events if e["ph"] in "be"), key=lambda e: e["ts"]):
        stack = open_[event["pid"], event["cat"], event["id2"]["local"]]
        if event["ph"] == "b":
            stack.append(event["name"])
        else:
            assert stack.pop() == event["name"]
    assert not any(open_.values())
    for spans in slices.values():
        spans.sort()
        for (_, end), (start, _) in pairwise(spans):
            assert start >= end - 1e-6  # a femtosecond of rounding


def test_it_keeps_the_format(events: list[Event]) -> None:
    check_format(events)


def test_a_log_that_was_cut_off_keeps_the_format_too(run: Run) -> None:
    rows = run.log.frame()
    some = rows.iloc[: int((rows.in_system >= 3).argmax()) + 1]
    cut = perfetto_trace(read_timeline(some))["traceEvents"]
    check_format(cut)
    assert any(e["ph"] == "b" and not e["args"]["finished"] for e in cut)


def test_every_operation_is_a_slice_of_its_device(run: Run, events: list[Event]) -> None:
    frame = run.log.frame().dropna(subset=["end_s"])
    slices = [e for e in events if e["ph"] == "X" and e["cat"] in ("run", "load", "evict")]
    assert len(slices) == len(frame)
    quanta = frame[frame.operation == "run"]
    runs = [e for e in slices if e["cat"] == "run"]
    assert sum(e["dur"] for e in runs) == pytest.approx((quanta.end_s - quanta.start_s).sum() * 1e6)
    assert sum(e["args"]["tokens"] for e in runs) == run.requests.decode_tokens.sum()
    assert {e["args"]["batch"] for e in runs} == set(quanta.request_ids.map(len))


def test_every_request_is_a_slice_from_arrival_to_last_token(run: Run, events: list[Event]) -> None:
    begins = {e["args"]["request"]: e["ts"] for e in events if e["ph"] == "b" and "token" not in e["name"]}
    ends = {e["args"]["request"]: e["ts"] for e in events if e["ph"] == "e" and "token" not in e["name"]}
    for row in run.requests.itertuples():
        assert begins[row.request_id] == pytest.approx(row.arrival_s * 1e6)
        assert ends[row.request_id] == pytest.approx(row.finish_s * 1e6)


def test_counters_end_empty(events: list[Event]) -> None:
    counted = [e["args"]["all"] for e in events if e["name"] == "in the system"]
    assert max(counted) > 1
    assert counted[-1] == 0


def test_the_file_is_json_and_whole(run: Run, tmp_path: Path) -> None:
    timeline = read_timeline(run.log.frame())
    write_perfetto(timeline, tmp_path / "trace.json")
    assert json.loads((tmp_path / "trace.json").read_text(encoding="utf-8")) == perfetto_trace(timeline)
    assert [path.name for path in tmp_path.iterdir()] == ["trace.json"]
