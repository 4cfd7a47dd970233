"""Engines that fail in the middle of their work: no request is lost or answered twice."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shunter.agents.registry import DEFAULT_POLICIES, make_policy
from shunter.envs.world.world import World
from shunter.eval.execution.runs import Run, simulate
from shunter.eval.fidelity.replay import replay_exactly, replay_predicted
from shunter.eval.fidelity.spans import run_spans
from shunter.eval.metrics.metrics import summarize
from shunter.eval.timeline import read_timeline
from tests.fake_executor import execute
from tests.faulty_engines import START_S, Fate, execute_faulty
from tests.random_worlds import ByName, sleeping_worlds, worlds

MIXED = {"killed": 0.1, "hung": 0.03, "out of memory": 0.03, "error": 0.03}


def with_attempts(world: World, attempts: int) -> World:
    limits = world.scenario.limits.model_copy(update={"attempts": attempts})
    return replace(world, scenario=world.scenario.model_copy(update={"limits": limits}))


def check_answers(run: Run) -> None:
    """Every request was answered once, or given up once and listed; never both."""
    finishes: Counter[int] = Counter()
    for row in run.log.frame().itertuples():
        pairs = zip(row.request_ids, row.finish_s, strict=True) if len(row.finish_s) else ()
        finishes.update(int(i) for i, finish_s in pairs if not np.isnan(finish_s or np.nan))
    failed = Counter(i for failure in run.failures for i in failure.failed)
    requests = run.requests.set_index("request_id")
    assert set(finishes.values()) | set(failed.values()) <= {1}
    assert set(finishes) == set(requests.index[requests.finish_s.notna()])
    assert set(finishes) | set(failed) == set(requests.index)
    assert not set(finishes) & set(failed)


def test_many_random_failures_lose_no_request_and_change_no_token(fake_world: World) -> None:
    patient = with_attempts(fake_world, 1000)
    failures = 0
    for seed in range(6):
        policy = make_policy(list(DEFAULT_POLICIES)[seed % len(DEFAULT_POLICIES)])
        undisturbed, tokens = execute_faulty(patient, policy, seed, Fate({}))
        assert undisturbed.failures == []
        run, after = execute_faulty(patient, policy, seed, Fate(MIXED, seed))
        check_answers(run)
        assert run.requests.finish_s.notna().all()
        assert after == tokens
        failures += len(run.failures)
    assert failures >= 100


def test_every_failure_is_logged_with_what_became_of_its_requests(fake_world: World) -> None:
    fate = Fate(MIXED, 1)
    run, _ = execute_faulty(fake_world, make_policy("cost-greedy"), 0, fate)
    # A failure while the engines are emptied after the run is no part of it.
    assert Counter(f.fault.kind for f in run.failures) <= Counter(fate.struck)
    assert {f.fault.kind for f in run.failures} == set(MIXED)
    rows = run.log.frame()
    rows = rows[rows.fault.notna()].sort_values("end_s")
    assert rows.fault.tolist() == [f.fault.kind for f in run.failures]
    assert rows.model.tolist() == [f.model for f in run.failures]
    for row, failure in zip(rows.itertuples(), run.failures, strict=True):
        assert tuple(row.requeued_ids) == failure.requeued
        assert sum(row.tokens) == 0
        assert failure.fault.restart_s >= START_S - 1e-6
        assert row.end_s - row.start_s >= failure.fault.restart_s - 1e-6
        if failure.operation == "run":
            assert set(row.request_ids) == {*failure.requeued, *failure.failed}


@settings(max_examples=15, deadline=None)
@given(world=sleeping_worlds(), seed=st.integers(0, 1000))
def test_engines_that_fail_asleep_or_waking_lose_no_request(world: World, seed: int) -> None:
    limits = world.scenario.limits.model_copy(update={"max_time_s": 1e6, "attempts": 1000})
    scenario = world.scenario.model_copy(update={"limits": limits})
    world = replace(world, scenario=scenario, tables=world.tables.changed(host_bytes=np.inf))
    run, after = execute_faulty(world, ByName(world, seed), seed, Fate(MIXED, seed, most=30))
    _, tokens = execute_faulty(world, ByName(world, seed), seed, Fate({}))
    assert run.requests.finish_s.notna().all()
    assert after == tokens


def test_a_request_is_given_up_after_so_many_attempts_and_violates_its_slo(fake_world: World) -> None:
    objective = {"metric": "slo", "slo": {"ttft_s": 1e6}}
    scenario = fake_world.scenario.model_validate(
        {**fake_world.scenario.model_dump(), "objective": objective}
    )
    world = with_attempts(replace(fake_world, scenario=scenario), 2)
    run, _ = execute_faulty(world, make_policy("fifo-swap"), 0, Fate({"killed": 0.3}, 3))
    check_answers(run)
    failed = {i for failure in run.failures for i in failure.failed}
    assert failed
    assert set(run.requests.request_id[run.requests.finish_s.isna()]) == failed
    summary = summarize([run])
    assert summary["unfinished"] == len(failed)
    assert summary["slo_attainment"] == pytest.approx(1 - len(failed) / len(run.requests))


def test_where_a_load_always_fails_its_requests_are_given_up(
    fake_world: World,
) -> None:
    fate = Fate({"out of memory": 1.0}, calls=("load",))
    run, _ = execute_faulty(fake_world, make_policy("fifo-swap"), 0, fate)
    check_answers(run)
    assert run.requests.finish_s.isna().all()
    assert all(failure.operation == "load" for failure in run.failures)


def test_who_waits_in_a_closed_loop_hears_that_a_request_was_given_up(fake_world: World) -> None:
    workload = {"requests": 30, "prompt_scale": 0.05, "decode_scale": 0.1}
    workload["closed_loop"] = {"users": 3, "think_s": 0.1}
    scenario = fake_world.scenario.model_validate({**fake_world.scenario.model_dump(), "workload": workload})
    world = with_attempts(replace(fake_world, scenario=scenario), 1)
    run, _ = execute_faulty(world, make_policy("cost-greedy"), 0, Fate({"killed": 0.1}, 5))
    check_answers(run)
    assert run.requests.arrival_s.notna().all()
    assert any(failure.failed for failure in run.failures)


def test_a_replay_of_the_log_gives_every_event_again(fake_world: World) -> None:
    run, _ = execute_faulty(fake_world, make_policy("cost-greedy"), 2, Fate(MIXED, 2))
    assert run.failures
    again = replay_exactly(fake_world, fake_world.draw(2), run.log.frame())
    events = ["first_token_s", "finish_s", "preemptions"]
    pd.testing.assert_frame_equal(again.requests[events], run.requests[events], check_exact=True)
    assert again.counts == run.counts
    assert sorted(f.failed for f in again.failures) == sorted(f.failed for f in run.failures)


def test_what_reads_a_log_understands_failures(fake_world: World) -> None:
    run, _ = execute_faulty(fake_world, make_policy("cost-greedy"), 2, Fate(MIXED, 2))
    rows = run.log.frame()
    spans = run_spans(fake_world, fake_world.draw(2), rows)
    for span in spans:
        assert span.measured_s == pytest.approx(span.predicted_s, rel=1e-3, abs=1e-6)
    timeline = read_timeline(rows)
    for failure in run.failures:
        here = timeline.residents[timeline.residents.device == failure.device]
        assert not ((here.start_s < failure.time_s - 1e-6) & (here.end_s > failure.time_s + 1e-6)).any()
    replayed = replay_predicted(fake_world, fake_world.draw(2), rows)
    assert replayed.run.requests.finish_s.notna().all()
    assert replayed.run.failures == []


def test_without_failures_the_worlds_agree_as_before(fake_world: World) -> None:
    simulated, executed = (f(fake_world, make_policy("cost-greedy"), 5) for f in (simulate, execute))
    np.testing.assert_allclose(executed.requests.finish_s, simulated.requests.finish_s, atol=1e-5)


@settings(max_examples=25, deadline=None)
@given(world=worlds(host_limit=False, requests=24), seed=st.integers(0, 1000))
def test_random_worlds_keep_their_books_through_failures(world: World, seed: int) -> None:
    limits = world.scenario.limits.model_copy(update={"max_time_s": 1e4})
    world = replace(world, scenario=world.scenario.model_copy(update={"limits": limits}))
    run, _ = execute_faulty(world, ByName(world, seed), seed, Fate(MIXED, seed))
    check_answers(run)
