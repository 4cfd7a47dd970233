from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from shunter.agents.registry import make_policy
from shunter.envs.world.world import World
from shunter.errors import InputError, UnknownNameError
from shunter.eval.execution.runs import Run, simulate
from shunter.eval.timeline import Timeline, pick_run, queue_lengths, read_timeline
from shunter.report.timeline import timeline_figure, write_timeline


@pytest.fixture(scope="module")
def run(fake_world: World) -> Run:
    return simulate(fake_world, make_policy("cost-greedy"), 0)


@pytest.fixture(scope="module")
def timeline(run: Run) -> Timeline:
    return read_timeline(run.log.frame())


def test_the_log_alone_tells_what_became_of_each_request(run: Run, timeline: Timeline) -> None:
    columns = ["request_id", "model", "arrival_s", "first_token_s", "finish_s"]
    pd.testing.assert_frame_equal(
        timeline.requests, run.requests[columns], check_dtype=False, check_column_type=False
    )
    assert timeline.end_s == run.makespan_s
    assert timeline.title == "cost-greedy, simulated, workload seed 0"


def test_every_quantum_runs_a_resident_at_its_level(timeline: Timeline) -> None:
    quanta = timeline.operations[timeline.operations.operation == "run"]
    assert len(quanta) > 10
    for quantum in quanta.itertuples():
        there = timeline.residents[
            (timeline.residents.device == quantum.device)
            & (timeline.residents.model == quantum.model)
            & (timeline.residents.gpu_layers == quantum.gpu_layers)
            & (timeline.residents.start_s <= quantum.start_s)
            & (timeline.residents.end_s >= quantum.end_s)
        ]
        assert len(there) == 1


def test_queues_are_those_that_the_decisions_saw(timeline: Timeline) -> None:
    times, lengths = queue_lengths(timeline)
    totals = np.sum(list(lengths.values()), axis=0)
    rows = timeline.decisions
    seen = totals[np.searchsorted(times, rows.decided_s.to_numpy(), side="right") - 1]
    # A request leaves within a quantum, but the executor learns of it at the quantum's end.
    assert (seen <= rows.in_system).all()
    assert totals[-1] == 0


def test_a_log_that_was_cut_off_leaves_requests_open(run: Run) -> None:
    rows = run.log.frame()
    cut = read_timeline(rows.iloc[: int((rows.in_system >= 3).argmax()) + 1])
    assert cut.requests.finish_s.isna().any()
    assert (cut.residents.end_s <= cut.end_s).all()


def test_a_run_must_be_named_where_there_are_several(run: Run, fake_world: World) -> None:
    other = simulate(fake_world, make_policy("fifo-swap"), 0)
    both = pd.concat([run.log.frame(), other.log.frame()], ignore_index=True)
    assert len(pick_run(both, "fifo-swap/0/simulated")) == len(other.log.rows)
    assert len(pick_run(run.log.frame(), None)) == len(run.log.rows)
    with pytest.raises(InputError, match="cost-greedy/0/simulated, fifo-swap/0/simulated"):
        pick_run(both, None)
    with pytest.raises(UnknownNameError, match="did you mean fifo-swap/0/simulated"):
        pick_run(both, "fifo-swap/0/real")
    with pytest.raises(InputError, match="at least one decision"):
        pick_run(both.iloc[:0], None)


def test_the_picture_draws_every_operation_once(timeline: Timeline) -> None:
    figure = timeline_figure(timeline)
    bars = [trace for trace in figure.data if trace.type == "bar"]
    drawn = sum(len(bar.x) for bar in bars if not bar.name.startswith("resident"))
    assert drawn == len(timeline.operations)
    hatched = {bar.name.split()[0]: bar.marker.pattern.shape for bar in bars}
    assert hatched["load"] == "/"
    assert not hatched["run"]
    heights = {bar.name: set(bar.width) for bar in bars}
    assert all(0 < height < 1 for values in heights.values() for height in values)


def test_a_long_run_is_drawn_in_part_and_says_so(
    timeline: Timeline, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    page = tmp_path / "page.html"
    monkeypatch.setattr("shunter.report.timeline.MAX_OPERATIONS", 10)
    write_timeline(timeline, page)
    assert "at most 10 operations" in page.read_text(encoding="utf-8")
    monkeypatch.undo()
    write_timeline(timeline, page)
    assert "at most" not in page.read_text(encoding="utf-8").split("<div>")[0]
    with pytest.raises(InputError, match="--from must be before"):
        write_timeline(timeline, page, from_s=1e6)
    assert [path.name for path in page.parent.iterdir()] == ["page.html"]
