"""Simulation against what a gateway recorded."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from shunter.agents.learned.shipped import shipped_policy
from shunter.agents.registry import make_policy
from shunter.envs.workload.traces import read_trace, write_trace
from shunter.envs.world.served import served_world
from shunter.envs.world.world import World
from shunter.errors import InputError, UnknownNameError
from shunter.eval.execution.batched import evaluate_batched
from shunter.eval.execution.event_log import write_event_logs
from shunter.eval.execution.runs import simulate
from shunter.eval.fidelity.recalibration import recalibrate
from shunter.eval.timeline import read_timeline
from shunter.eval.traffic.record import good_loads, read_events, read_record, requests_of
from shunter.eval.traffic.replay import ran_policy, replay_record
from shunter.eval.traffic.timeline import record_timeline
from shunter.eval.traffic.world import SequencesWorld, StretchesWorld
from shunter.export.perfetto import write_perfetto
from shunter.models.performance import PerformanceModel
from shunter.report.replay import replay_words
from shunter.report.request_lanes import MOST_LANES, WAITING, request_lanes
from shunter.report.timeline import timeline_figure, write_timeline
from tests.browser import BROWSER, look
from tests.serve.records import NOON, WORLD, add_line, write_record


def test_what_was_simulated_is_replayed_as_it_was(tmp_path: Path) -> None:
    run = write_record(tmp_path, slower=1.0)
    replayed = replay_record(read_record(tmp_path), WORLD, make_policy("cost-greedy"))

    assert abs(replayed.error.value) < 0.02
    assert replayed.error.low <= 0.02
    assert len(replayed.requests) == 200
    assert replayed.real_loads == len(good_loads(read_record(tmp_path).events))
    assert abs(replayed.loads["cost-greedy"] - replayed.real_loads) <= 2
    assert replayed.figures().loc["mean response", "real_s"] == pytest.approx(
        float((run.requests.finish_s - run.requests.arrival_s).mean())
    )


def test_real_answers_that_take_twice_as_long_are_an_error_of_a_half(tmp_path: Path) -> None:
    write_record(tmp_path, slower=2.0)
    replayed = replay_record(read_record(tmp_path), WORLD, make_policy("cost-greedy"))
    assert replayed.error.value == pytest.approx(-0.5, abs=0.01)
    assert replayed.error.high < -0.4
    assert replayed.to_dict()["figures"]["p99"]["requests"] == 200


def test_loads_take_what_they_took(tmp_path: Path) -> None:
    slow = replace(WORLD, tables=WORLD.tables.changed(load_s=3.0 * WORLD.tables.load_s))
    write_record(tmp_path, world=slow)
    replayed = replay_record(read_record(tmp_path), WORLD, make_policy("cost-greedy"))
    for load in replayed.measured:
        assert load.measured_s == pytest.approx(3 * load.predicted_s, rel=0.02)
    assert abs(replayed.error.value) < 0.05


def test_others_are_set_beside_the_one_that_ran(tmp_path: Path) -> None:
    write_record(tmp_path)
    others = [make_policy("fifo-swap"), make_policy("random")]
    replayed = replay_record(read_record(tmp_path), WORLD, make_policy("cost-greedy"), others)
    assert replayed.change("random").value > 0.1
    answer, _, *would = replay_words(replayed)
    assert "s simulated" in answer
    assert [line.split(" would have been ")[0] for line in would] == ["fifo-swap", "random"]
    with pytest.raises(InputError, match="differ in name"):
        replay_record(read_record(tmp_path), WORLD, make_policy("random"), [make_policy("random")])
    with pytest.raises(InputError, match="no oracle"):
        replay_record(read_record(tmp_path), WORLD, make_policy("sjf-oracle"))


def test_every_run_of_a_gateway_begins_anew_and_what_was_cut_short_is_not_compared(tmp_path: Path) -> None:
    write_record(tmp_path, count=40)
    write_record(tmp_path, count=50, start=NOON + timedelta(hours=20), seed=1)
    add_line(tmp_path, status="cancelled")
    add_line(tmp_path, status="waited_too_long", decode_tokens=0)
    record = read_record(tmp_path)

    assert record.requests["run"].value_counts().sort_index().tolist() == [40, 51]
    assert record.notes == ("1 of 92 requests were not answered and are left out",)
    replayed = replay_record(record, WORLD, make_policy("cost-greedy"))
    assert len(replayed.requests) == 90
    assert replayed.left_out == 1
    assert replayed.span_s < 3600 * 10


def test_the_policy_that_ran_is_found_or_asked_for(tmp_path: Path) -> None:
    write_record(tmp_path, count=30)
    assert ran_policy(read_record(tmp_path)).name == "cost-greedy"
    assert ran_policy(read_record(tmp_path), "fifo-swap").name == "fifo-swap"

    shipped = shipped_policy()
    write_record(tmp_path / "shipped", shipped, count=30)
    assert ran_policy(read_record(tmp_path / "shipped")).name == shipped.name

    shipped.name = "mine"
    write_record(tmp_path / "mine", shipped, count=30)
    with pytest.raises(InputError, match=r"--ran must be the policy that ran.* Got 'mine'"):
        ran_policy(read_record(tmp_path / "mine"))
    for path in (tmp_path / "mine").glob("events-*"):
        path.unlink()
    with pytest.raises(InputError, match="the record does not say"):
        ran_policy(read_record(tmp_path / "mine"))


def test_records_that_cannot_be_used_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"folder with requests\.jsonl"):
        read_record(tmp_path)
    write_record(tmp_path, count=30)
    add_line(tmp_path, model="gone")
    with pytest.raises(UnknownNameError, match="gone"):
        replay_record(read_record(tmp_path), WORLD, make_policy("cost-greedy"))


def test_given_episodes_are_played_alike_one_by_one_and_side_by_side(tmp_path: Path) -> None:
    write_record(tmp_path, count=90)
    rows = read_record(tmp_path).requests
    parts = [rows[:20], rows[20:50], rows[50:]]
    world = SequencesWorld.of(WORLD, [requests_of(part, WORLD.scenario) for part in parts])
    policy = make_policy("cost-greedy")
    batched = evaluate_batched(world, policy, world.seeds)
    for seed, frame in zip(world.seeds, batched.requests, strict=True):
        np.testing.assert_array_equal(simulate(world, policy, seed).requests["finish_s"], frame["finish_s"])


def test_stretches_are_of_the_record_and_hold_no_long_pause(tmp_path: Path) -> None:
    write_record(tmp_path, count=60)
    write_record(tmp_path, count=60, start=NOON + timedelta(days=2), seed=1)
    trace = requests_of(read_record(tmp_path).requests, WORLD.scenario)
    world = StretchesWorld.of(WORLD, trace, 10)
    drawn = [world.draw(seed) for seed in range(200)]
    assert {len(one.model) for one in drawn} == {10}
    assert max(float(one.arrival_ns[-1]) for one in drawn) * 1e-9 < 86_400
    np.testing.assert_array_equal(world.draw(3).arrival_ns, drawn[3].arrival_ns)
    assert len({one.arrival_ns.tobytes() for one in drawn}) > 20


def test_a_gateway_s_timeline_has_its_requests_as_clients_saw_them(tmp_path: Path) -> None:
    write_record(tmp_path, count=40)
    run = write_record(tmp_path, count=50, start=NOON + timedelta(hours=20), seed=1)
    seen = record_timeline(tmp_path)
    assert seen.run_id == "20261128T080000"
    assert seen.title == "cost-greedy, gateway, run 20261128T080000"
    assert len(seen.requests) == 50
    assert seen.requests["finish_s"].sum() == pytest.approx(run.requests["finish_s"].sum(), abs=1e-3)
    assert len(record_timeline(tmp_path, "20261127T120000").requests) == 40
    with pytest.raises(UnknownNameError, match="did you mean 20261127T120000"):
        record_timeline(tmp_path, "20261127T120001")
    assert (seen.operations["operation"] == "load").any()


def test_a_trace_made_of_a_record_says_what_was_asked_for_and_no_more(tmp_path: Path) -> None:
    write_record(tmp_path / "record", count=40)
    record, trace = read_record(tmp_path / "record"), tmp_path / "trace.parquet"
    write_trace(read_trace(tmp_path / "record").frame, trace)
    read = read_record(trace)
    for name in ("model", "prompt_tokens", "decode_tokens"):
        assert read.requests[name].tolist() == record.requests[name].tolist()
    assert read.policy is None
    assert "is a trace" in read.notes[0]
    with pytest.raises(InputError, match="RECORD must say when requests ended"):
        replay_record(read, WORLD, make_policy("cost-greedy"))
    with pytest.raises(InputError, match="the record does not say which policy ran"):
        ran_policy(read, option="--against")


def test_all_scenarios_of_a_run_are_one_timeline(tmp_path: Path) -> None:
    run = write_record(tmp_path, count=40)
    whole, (file,) = record_timeline(tmp_path), tmp_path.glob("events-*")
    half = len(run.log.rows) // 2
    for row in run.log.rows[half:]:
        row["run_id"] += ".1"
    write_event_logs([run.log], file)
    seen = record_timeline(tmp_path)
    assert seen.run_id == whole.run_id
    pd.testing.assert_frame_equal(seen.residents, whole.residents)
    rows = record_timeline(tmp_path, f"{whole.run_id}.1").decisions
    assert set(rows["run_id"]) == {f"{whole.run_id}.1"}
    assert len(rows) < len(seen.decisions)


def test_what_a_shadow_would_have_done_is_said(tmp_path: Path) -> None:
    run = write_record(tmp_path, count=40)
    rows = run.log.rows
    for k, row in enumerate(rows):
        row.update(shadow="other", shadow_choice_name="wait" if k % 4 == 0 else row["choice_name"])
    write_event_logs([run.log], next(tmp_path.glob("events-*")))
    replayed = replay_record(read_record(tmp_path), WORLD, make_policy("cost-greedy"))
    (found,) = replayed.shadows
    differed = sum(row["choice_name"] != "wait" for row in rows[::4])
    assert (found.decisions, found.differed) == (len(rows), differed)
    assert f"other would have decided {differed} of {len(rows)} times" in " ".join(replay_words(replayed))
    assert replayed.to_dict()["shadows"][0]["instead"] == "wait"


def test_requests_that_ran_at_once_have_lanes(tmp_path: Path) -> None:
    write_record(tmp_path, count=60)
    seen = record_timeline(tmp_path)
    lanes = request_lanes(seen.requests, seen.end_s)
    device = WORLD.scenario.devices[0].name
    assert set(lanes["device"]) == {device, WAITING}
    assert set(lanes["phase"]) == {"wait", "first token", "answer"}
    for _, rows in lanes.groupby(["device", "lane"]):
        spans = rows.groupby("request_id").agg(start_s=("start_s", "min"), end_s=("end_s", "max"))
        spans = spans.sort_values("start_s")
        assert (spans["start_s"].to_numpy()[1:] >= spans["end_s"].to_numpy()[:-1]).all()
    served = lanes[lanes["device"] == device]
    at_once = max(int(((served["start_s"] <= at) & (served["end_s"] > at)).sum()) for at in served["start_s"])
    assert served["lane"].max() + 1 <= at_once
    drawn = [bar for bar in timeline_figure(seen).data if bar.type == "bar"]
    pieces = sum(len(bar.x) for bar in drawn if bar.name.split()[0] in ("wait", "first", "answer"))
    assert pieces == int((lanes["lane"] < MOST_LANES).sum())


def test_a_server_that_ended_by_itself_is_no_resident_any_more(tmp_path: Path) -> None:
    run = write_record(tmp_path, count=40)
    loads = [row for row in run.log.rows if row["operation"] == "load" and row["end_s"] is not None]
    last = loads[-1]
    gone = {
        "operation": "lose",
        "lost": [last["model"]],
        "evicted": [],
        "fault": "server_ended",
        **dict.fromkeys(("choice", "choice_name", "decision_s")),
    }
    run.log.rows.append({**last, **gone, "start_s": last["end_s"] + 1.0, "end_s": last["end_s"] + 1.0})
    seen = read_timeline(run.log.frame())
    ends = seen.residents[seen.residents["model"] == last["model"]]["end_s"]
    assert ends.max() == pytest.approx(last["end_s"] + 1.0)
    assert write_perfetto(seen, tmp_path / "t.json").exists()


@pytest.mark.skipif(BROWSER is None, reason="no Chromium")
def test_chromium_draws_a_record_and_complains_of_nothing(tmp_path: Path) -> None:
    write_record(tmp_path / "record", count=60)
    page = write_timeline(record_timeline(tmp_path / "record"), tmp_path / "t.html")
    seen = look(page, tmp_path / "profile")
    assert seen.drawn == seen.figures == 1
    assert seen.console == []
    assert "(waiting)" in seen.dom


def test_a_gateway_s_loads_move_a_performance_model_s(
    fake_world: World, fake_performance: PerformanceModel, tmp_path: Path
) -> None:
    world = served_world(fake_world.scenario, fake_performance)
    slow = replace(world, tables=world.tables.changed(load_s=2.0 * world.tables.load_s))
    write_record(tmp_path, "fifo-swap", world=slow, count=150)
    found = recalibrate(fake_performance, world.scenario, [read_events(tmp_path)])
    assert {move.target for move in found.moves} == {"load_s", "unload_s"}
    assert all(move.after > move.before for move in found.moves if move.target == "load_s")
    every = next(errors for errors in found.errors if errors.target == "all")
    assert every.after is not None
    assert every.after < every.before  # four loads move it part of the way
