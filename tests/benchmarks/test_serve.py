from __future__ import annotations

import asyncio
import re
from pathlib import Path

import numpy as np
import pytest

from benchmarks import serve, serve_load
from benchmarks.fidelity_place import GRID
from benchmarks.serve_histories import histories_rows
from benchmarks.serve_place import SCENARIO, SITE, Cell, ServePlace
from benchmarks.serve_protocol import told
from benchmarks.serve_real import QUICK, Means, real_load_rows, rows_of
from benchmarks.serve_site import events_of
from benchmarks.serve_starvation import starvation_rows
from shunter.envs.scenario.scenario import load_scenario
from shunter.errors import UnknownNameError


def test_the_committed_scenario_is_for_servers_and_as_it_is_profiled() -> None:
    scenario = load_scenario(SCENARIO)
    assert scenario.limits.preemption == "drain"
    assert scenario.devices[0].spec.hardware_name == SITE.device
    assert scenario.limits.context_tokens == GRID.context_tokens
    assert scenario.limits.max_batch == max(GRID.batch)
    assert all(model.levels == list(SITE.levels) for model in scenario.models)


def test_runs_are_interleaved_over_policies_and_the_first_sequence_is_repeated(tmp_path: Path) -> None:
    cells = ServePlace(tmp_path, QUICK, "llama-server", print).cells()
    assert len(set(cells)) == len(cells) == 4 * (QUICK.sequences + QUICK.repeats - 1)
    assert [cell.policy for cell in cells[:4]] != [cell.policy for cell in cells[4:8]]
    assert {cell.policy for cell in cells[:4]} == {cell.policy for cell in cells[4:8]}
    assert Cell("learned", cells[0].seed, QUICK.repeats - 1) in cells


def test_gains_need_an_interval_clear_of_nothing_and_errors_are_judged_by_noise() -> None:
    served = {"fifo-swap": [4.0, 6.0], "lru-keepalive": [3.0, 5.0], "cost-greedy": [3.0, 4.0]}
    served["learned"] = [2.0, 3.0]
    simulated = {name: [1.1 * value for value in values] for name, values in served.items()}
    again = {name: [1.1 * values[0]] for name, values in served.items()}
    rows = {row.metric: row for row in rows_of(Means(served, simulated, again))}
    gain = rows["learned against fifo-swap, in the gateway"]
    assert gain.value == pytest.approx(-0.5)
    assert gain.ok
    assert gain.note.startswith("in simulation -50.0 %")
    error = rows["simulation's error of the mean response, learned"]
    assert error.value == pytest.approx(0.1)
    assert error.ok, "twice the noise, which is 10 %, is more"
    worse = rows_of(Means(served | {"learned": [1.0, 20.0]}, simulated, again))
    assert worse[0].ok is False


def test_without_a_binary_the_real_load_says_so(tmp_path: Path) -> None:
    (row,) = asyncio.run(real_load_rows(tmp_path, None, QUICK, print))
    assert row.value is None
    assert "--llama-server" in row.note


def test_a_failed_history_is_counted_and_told(monkeypatch: pytest.MonkeyPatch) -> None:
    played, failed = histories_rows(8, ["cost-greedy"])
    assert played.ok
    assert failed.value == 0

    def broken(*_: object) -> int:
        raise AssertionError("somebody was lost")

    monkeypatch.setattr("benchmarks.serve_histories.play", broken)
    _, failed = histories_rows(8, ["cost-greedy"])
    assert failed.ok is False
    assert "somebody was lost" in failed.note


def test_a_rare_model_waits_no_longer_than_its_bound() -> None:
    (row,) = starvation_rows([("cost-greedy", "cost-greedy:load_weight=10")], horizon_s=600.0)
    assert row.ok
    assert row.value is not None
    assert row.value > 0


def test_what_differs_by_nature_is_left_out_and_nothing_else() -> None:
    first = b'data: {"id":"1","created":2,"choices":[{"text":"a"}],"timings":{"x":1}}\n\ndata: [DONE]\n\n'
    second = b'data: {"id":"3","created":4,"choices":[{"text":"a"}],"timings":{"x":2}}\n\ndata: [DONE]\n\n'
    assert told(first) == told(second)
    assert told(first) != told(second.replace(b'"a"', b'"b"'))
    assert [event["id"] for event in events_of(first)] == ["1"]


def test_added_time_is_that_of_pairs() -> None:
    direct = np.random.default_rng(0).uniform(0.002, 0.02, 400)
    p50, p99 = serve_load._added(direct + 0.001, direct, "note")
    assert p50.value == pytest.approx(1.0)
    assert p99.value == pytest.approx(1.0)
    assert p50.ok
    assert p99.ok


def test_groups_are_known_by_name() -> None:
    with pytest.raises(UnknownNameError, match=re.escape("did you mean crowd?")):
        serve.run(True, only=["croud"])
