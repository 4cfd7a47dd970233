from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from shunter.agents.registry import DEFAULT_POLICIES, make_policy
from shunter.envs.world.world import World
from shunter.errors import InputError
from shunter.eval.execution.event_log import read_event_log, write_event_logs
from shunter.eval.execution.runs import simulate
from shunter.eval.fidelity.replay import replay_exactly, replay_predicted
from tests.fake_executor import TableDurations, execute

EVENTS = ["first_token_s", "finish_s", "preemptions"]


class Slower(TableDurations):
    """Engines of which the tables know half the truth."""

    def decode_step_s(self, model: str, gpu_layers: int, batch: int, context_tokens: float) -> float:
        return 2.0 * super().decode_step_s(model, gpu_layers, batch, context_tokens)


@pytest.mark.parametrize("policy", DEFAULT_POLICIES)
@pytest.mark.parametrize("seed", range(2))
def test_logged_decisions_and_durations_give_every_event_again(
    fake_world: World, policy: str, seed: int, tmp_path: Path
) -> None:
    run = execute(fake_world, make_policy(policy), seed, Slower)
    write_event_logs([run.log], tmp_path / "events.parquet")

    again = replay_exactly(fake_world, fake_world.draw(seed), read_event_log(tmp_path / "events.parquet"))

    pd.testing.assert_frame_equal(again.requests[EVENTS], run.requests[EVENTS], check_exact=True)
    ours, theirs = again.log.frame(), run.log.frame()
    same = [c for c in ours if c not in ("run_id", "mode", "decision_s")]
    pd.testing.assert_frame_equal(ours[same], theirs[same], check_exact=True)
    assert again.counts == run.counts


@pytest.mark.parametrize("policy", DEFAULT_POLICIES)
def test_where_durations_are_as_predicted_so_is_the_replay(fake_world: World, policy: str) -> None:
    run = simulate(fake_world, make_policy(policy), 1)

    replayed = replay_predicted(fake_world, fake_world.draw(1), run.log.frame())

    assert (replayed.infeasible, replayed.missing) == (0, 0)
    pd.testing.assert_frame_equal(replayed.run.requests[EVENTS], run.requests[EVENTS], check_exact=True)


def test_the_same_decisions_on_faster_predictions_end_sooner_and_misfits_are_counted(
    fake_world: World,
) -> None:
    run = execute(fake_world, make_policy("cost-greedy"), 0, Slower)

    replayed = replay_predicted(fake_world, fake_world.draw(0), run.log.frame())

    def mean_response_s(requests: pd.DataFrame) -> float:
        return float((requests["finish_s"] - requests["arrival_s"]).mean())

    assert replayed.run.requests["finish_s"].notna().all()
    assert mean_response_s(replayed.run.requests) < mean_response_s(run.requests)
    assert replayed.infeasible + replayed.missing > 0


def test_a_run_under_a_guard_replays_under_it_and_without(fake_world: World) -> None:
    world = fake_world.with_guard(0.3)
    run = execute(world, make_policy("sjf"), 0, Slower)
    rows, requests = run.log.frame(), world.draw(0)
    assert [m for m, c in zip(rows["mask"], rows["choice_name"], strict=True) if sum(m) == 1 and c != "wait"]
    for again in (
        replay_exactly(world, requests, rows),
        replay_exactly(world.with_guard(None), requests, rows),
    ):
        pd.testing.assert_frame_equal(again.requests[EVENTS], run.requests[EVENTS], check_exact=True)
    same = replay_exactly(world, requests, rows).log.frame()
    assert [list(m) for m in same["mask"]] == [list(m) for m in rows["mask"]]
    simulated = simulate(world, make_policy("sjf"), 0)
    replayed = replay_predicted(world, requests, simulated.log.frame())
    assert (replayed.infeasible, replayed.missing) == (0, 0)


def test_a_run_without_guard_does_not_replay_under_one(fake_world: World) -> None:
    rows = simulate(fake_world.with_guard(None), make_policy("sjf"), 0).log.frame()
    with pytest.raises(InputError, match="hold legal decisions only"):
        replay_exactly(fake_world.with_guard(0.2), fake_world.draw(0), rows)


def test_a_log_of_another_world_is_refused(fake_world: World) -> None:
    rows = simulate(fake_world, make_policy("fifo-swap"), 0).log.frame()
    swapped = rows.assign(device=np.where(rows["device"] == rows["device"].iloc[0], "d1", "d0"))
    with pytest.raises(InputError, match="event log must be this world's: at decision 0, d0 asks"):
        replay_exactly(fake_world, fake_world.draw(0), swapped)
    wrong = rows.assign(choice=fake_world.actions - 2)
    with pytest.raises(InputError, match="hold legal decisions only"):
        replay_exactly(fake_world, fake_world.draw(0), wrong)
