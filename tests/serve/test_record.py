"""What the gateway writes down, event by event."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pandas as pd

from shunter.agents.registry import make_policy
from shunter.eval.execution.event_log import read_event_log
from shunter.serve.boundary import Asked, Usage
from shunter.serve.core.core import Core
from shunter.serve.core.effects import Start
from shunter.serve.gateway.record import Recorder
from tests.serve.test_core import WORLDS, Servers

WORLD = WORLDS[1]


def followed(folder: Path) -> tuple[Recorder, Servers]:
    recorder = Recorder(folder, WORLD, "cost-greedy")
    core = Core(WORLD, make_policy("cost-greedy"), on_decision=lambda _, *chosen: recorder.decision(*chosen))
    recorder.follow(core, WORLD)
    core.begin(0)
    return recorder, Servers(core)


def logged(folder: Path) -> pd.DataFrame:
    return pd.concat([read_event_log(path) for path in sorted(folder.glob("events-*.parquet"))])


def test_a_load_that_failed_is_none_that_took_so_long(tmp_path: Path) -> None:
    recorder, servers = followed(tmp_path)
    servers.arrive(1)
    started = next(iter(servers.starting.values()))
    assert isinstance(started, Start)
    servers.pass_time(2.0)
    recorder.failed(started.device, "no such file")
    servers.end_operation(started.device, "no such file")
    servers.pass_time(30.0)
    servers.core.tick(servers.now_ns)
    servers.arrive(1)
    servers.pass_time(3.0)
    servers.end_operation(started.device)
    recorder.close()

    loads = logged(tmp_path).query("operation == 'load'")
    assert loads["fault"].fillna("").tolist() == ["load_failed", ""]
    assert loads["fault_reason"].fillna("").tolist() == ["no such file", ""]
    assert (loads["end_s"] - loads["start_s"]).round(2).tolist() == [2.0, 3.0]


def test_the_log_names_the_policy_that_decided_and_numbers_each_world_s_requests_anew(tmp_path: Path) -> None:
    recorder, servers = followed(tmp_path)
    servers.arrive(1)
    recorder.change_policy("better")
    servers.end_operation(0)
    other = replace(WORLD, rate_per_s=WORLD.rate_per_s / 2)
    recorder.follow(Core(other, make_policy("cost-greedy")), other)
    recorder._log.decide(servers.core.state, 0, servers.core.mask, 0, 0.0)
    recorder.close()

    log = logged(tmp_path)
    assert log["policy"].unique().tolist() == ["cost-greedy", "better"]
    first, second = log["run_id"].unique()
    assert second == f"{first}.1"


def test_half_a_line_that_a_kill_left_spoils_no_other(tmp_path: Path) -> None:
    (tmp_path / "requests.jsonl").write_text('{"arrival_s":17')
    recorder, servers = followed(tmp_path)
    job = servers.arrive(1)
    assert job is not None
    recorder.request(
        Asked("small", "/v1/completions", 80), job, "small", "done", Usage(20, 3), servers.now_ns
    )
    recorder.close()

    half, whole = (tmp_path / "requests.jsonl").read_text().splitlines()
    assert half == '{"arrival_s":17'
    assert json.loads(whole)["decode_tokens"] == 3
