"""What the gateway writes down, event by event."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from shunter.agents.base import Policy
from shunter.agents.registry import make_policy
from shunter.cli.verify import look
from shunter.envs.workload.gateway_record import read_gateway_requests
from shunter.envs.world.world import World, make_world
from shunter.errors import BrokenFileError, ShunterError
from shunter.eval.execution.event_log import read_event_log
from shunter.eval.traffic.record import read_events, run_starts
from shunter.eval.traffic.shadow import shadowed
from shunter.serve.boundary import Asked, Usage
from shunter.serve.core.core import Core
from shunter.serve.core.effects import Start
from shunter.serve.gateway.record import Recorder
from shunter.serve.lines import Lines
from tests.serve.test_core import WORLDS, Servers, small_world

WORLD = WORLDS[1]


def followed(
    folder: Path, world: World = WORLD, policy: Policy | str = "cost-greedy", shadow: str | None = None
) -> tuple[Recorder, Servers]:
    chosen = make_policy(policy) if isinstance(policy, str) else policy
    recorder = Recorder(folder, world, chosen.name)
    other = None if shadow is None else make_policy(shadow)
    core = Core(world, chosen, shadow=other, watch=recorder)
    recorder.follow(core, world)
    core.begin(0)
    servers = Servers(core)
    servers.obey()
    return recorder, servers


class _Still:
    """Does nothing of itself."""

    name = "still"
    oracle = False

    def act(self, observation: dict[str, np.ndarray]) -> int:
        return len(observation["action_mask"]) - 1

    def act_batch(self, observations: dict[str, np.ndarray]) -> np.ndarray:
        return np.full(len(observations["action_mask"]), observations["action_mask"].shape[-1] - 1)


def logged(folder: Path) -> pd.DataFrame:
    return pd.concat([read_event_log(path) for path in sorted(folder.glob("events-*.parquet"))])


def operations(folder: Path) -> list[tuple[str, str, str]]:
    """Loads and unloads: what, of which model, why."""
    rows = logged(folder).query("operation in ['load', 'evict', 'lose']")
    assert rows["end_s"].notna().all()
    return list(rows[["operation", "model", "cause"]].fillna("").itertuples(index=False, name=None))


def let_pass(servers: Servers, seconds: float) -> None:
    servers.pass_time(seconds)
    servers.core.tick(servers.now_ns)
    servers.obey()


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


def test_every_load_and_unload_has_a_row_that_says_why(tmp_path: Path) -> None:
    recorder, servers = followed(tmp_path, small_world(keys=True))
    small, other = 1, 2
    servers.pass_time(1.0)
    servers.end_operation(0)
    servers.core.unload(servers.now_ns, small)
    servers.obey()
    servers.end_operation(0)
    job = servers.arrive(other)
    assert job is not None
    servers.pass_time(2.0)
    servers.end_operation(0)
    servers.finish(job)
    let_pass(servers, 6.0)
    servers.end_operation(0)
    job = servers.arrive(small)
    assert job is not None
    servers.end_operation(0)
    servers.finish(job)
    servers.core.pause(servers.now_ns, {(0, small)})
    servers.obey()
    servers.pass_time(0.5)
    servers.end_operation(0)
    recorder.close()

    assert operations(tmp_path) == [
        ("load", "small", "preload"),
        ("evict", "small", "unload"),
        ("load", "other", "policy"),
        ("evict", "other", "ttl"),
        ("load", "small", "policy"),
        ("evict", "small", "reload"),
    ]
    lasted_s = logged(tmp_path).query("operation in ['load', 'evict']")
    assert (lasted_s["end_s"] - lasted_s["start_s"]).round(2).tolist() == [1.0, 0.0, 2.0, 0.0, 0.0, 0.5]


def test_what_is_always_to_be_there_and_what_the_guard_wants_is_named_so(tmp_path: Path) -> None:
    pinned = WORLD.scenario.models[1].model_copy(update={"pinned": True})
    models = [pinned if model.name == "small" else model for model in WORLD.scenario.models]
    recorder, servers = followed(
        tmp_path / "pinned", make_world(WORLD.scenario.model_copy(update={"models": models}))
    )
    servers.end_operation(0)
    servers.held.clear()
    servers.core.died(servers.now_ns, 0, 1, "crashed")
    servers.obey()
    servers.end_operation(0)
    recorder.close()
    assert operations(tmp_path / "pinned") == [
        ("load", "small", "pinned"),
        ("lose", "small", ""),
        ("load", "small", "pinned"),
    ]

    recorder, servers = followed(tmp_path / "guard", small_world(guard_s=30.0), _Still())
    servers.arrive(2)
    assert not servers.starting
    let_pass(servers, 31.0)
    servers.end_operation(0)
    recorder.close()
    assert operations(tmp_path / "guard") == [("load", "other", "guard")]


def test_a_server_that_ends_by_itself_has_a_row(tmp_path: Path) -> None:
    recorder, servers = followed(tmp_path)
    servers.arrive(1)
    servers.pass_time(1.0)
    servers.end_operation(0)
    servers.pass_time(4.0)
    servers.held.clear()
    servers.running.clear()
    servers.core.died(servers.now_ns, 0, 1, "killed by signal 9")
    servers.obey()
    recorder.close()
    (row,) = logged(tmp_path).query("operation == 'lose'").to_dict("records")
    assert (row["model"], row["fault"], row["fault_reason"]) == (
        "small",
        "server_ended",
        "killed by signal 9",
    )
    assert row["start_s"] == row["end_s"] == 5.0
    assert pd.isna(row["choice"])


def test_while_nothing_happens_nothing_is_written_twice(tmp_path: Path) -> None:
    recorder, servers = followed(tmp_path, shadow="lru-keepalive")
    job = servers.arrive(1)
    assert job is not None
    servers.end_operation(0)
    servers.finish(job)
    before = len(recorder._log.rows)
    decided = servers.core.totals.decisions
    for _ in range(100):
        let_pass(servers, 6.0)
    assert servers.core.totals.decisions >= decided + 100
    assert len(recorder._log.rows) <= before + 4
    assert not any(row["operation"] == "make-room" for row in recorder._log.rows), "it is kept"
    recorder.close()
    compared = shadowed(read_events(tmp_path))
    assert [one.decisions for one in compared] == [servers.core.totals.compared]


@pytest.mark.parametrize(("shadow", "otherwise"), [("cost-greedy", False), ("fifo-swap", True)])
def test_a_shadow_s_choices_are_in_the_log_and_counted(tmp_path: Path, shadow: str, otherwise: bool) -> None:
    recorder, servers = followed(tmp_path, policy="cost-greedy:load_weight=10", shadow=shadow)
    for model in (0, 2, 1, 0, 2, 1, 2, 0):
        servers.arrive(model)
        servers.work()
    recorder.close()
    (found,) = shadowed(read_events(tmp_path))
    totals = servers.core.totals
    assert (found.shadow, found.decisions, found.differed) == (
        make_policy(shadow).name,
        totals.compared,
        totals.differed,
    )
    assert bool(found.times) == (found.differed > 0)
    if otherwise:
        assert 0 < found.differed < found.decisions
        assert f"{found.differed} of {found.decisions} times" in found.words


def test_the_event_log_is_on_disk_while_the_gateway_runs(tmp_path: Path) -> None:
    recorder, servers = followed(tmp_path)
    for _ in range(4):
        job = servers.arrive(1)
        assert job is not None
        for device in sorted(servers.starting):
            servers.end_operation(device)
        servers.finish(job)
        servers.pass_time(400.0)
    assert "load" in set(logged(tmp_path)["operation"]), "a kill would lose ten minutes of it"
    recorder.close()


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
    line = json.loads(whole)
    (start_s,) = run_starts(read_events(tmp_path)).values()
    assert line["arrival_s"] == pytest.approx(start_s, abs=1e-5), "both are on one clock"
    assert (line["decode_tokens"], line["id"], line["device_name"]) == (3, 0, None)


def test_a_line_that_was_changed_is_refused_and_without_its_digest_it_is_meant(tmp_path: Path) -> None:
    recorder, servers = followed(tmp_path)
    job = servers.arrive(1)
    assert job is not None
    asked = Asked("small", "/v1/completions", 80)
    recorder.request(asked, job, "small", "done", Usage(20, 3), servers.now_ns)
    recorder.close()
    file = tmp_path / "requests.jsonl"
    assert read_gateway_requests(file)[0]["decode_tokens"].tolist() == [3]
    assert look(file) == ("record of a gateway", True)
    line = json.loads(file.read_text()) | {"decode_tokens": 7}
    file.write_text(json.dumps(line))
    with pytest.raises(BrokenFileError, match=r"line 1 .*take sha256 out of it.*it was changed"):
        read_gateway_requests(file)
    del line["sha256"]
    file.write_text(json.dumps(line))
    assert read_gateway_requests(file)[0]["decode_tokens"].tolist() == [7]
    assert look(file) == ("record of a gateway", False)


def test_a_record_of_no_request_is_whole(tmp_path: Path) -> None:
    followed(tmp_path)[0].close()
    assert look(tmp_path / "requests.jsonl") == ("record of a gateway", True)


def test_a_place_that_cannot_be_written_to_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ShunterError, match="cannot be written"):
        Recorder(tmp_path / "file" / "record", WORLD, "cost-greedy")


def test_lines_go_where_they_belong_or_it_is_said_that_they_do_not(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "record" / "requests.jsonl"
    path.parent.mkdir()
    lines = Lines(path)
    lines.add({"n": 1})
    path.rename(tmp_path / "put-aside.jsonl")
    lines.add({"n": 2})
    assert lines.broken is None
    assert path.read_text() == '{"n":2}\n'
    assert (tmp_path / "put-aside.jsonl").read_text() == '{"n":1}\n'
    shutil.rmtree(path.parent)
    for _ in range(2):
        lines.add({"n": 3})
    assert lines.broken is not None
    (said,) = caplog.messages
    assert said.startswith(f"Nothing more is written to {path}")
    lines.close()
    assert not path.parent.exists()
