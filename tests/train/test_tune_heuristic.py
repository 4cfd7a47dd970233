from __future__ import annotations

import math
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from benchmarks.sim_worlds import synthetic_world
from shunter.agents.heuristics.cost_greedy import CostGreedy
from shunter.agents.heuristics.fifo.collated import FifoCollated
from shunter.agents.heuristics.fifo.swap import FifoSwap
from shunter.agents.registry import make_policy
from shunter.envs.world.world import World
from shunter.errors import BrokenFileError, InputError
from shunter.eval.execution.batched import evaluate_batched
from shunter.train.tune.heuristic import log_responses, tune

SEEDS = range(10, 16)


@pytest.fixture(scope="module")
def world() -> World:
    return synthetic_world(4, 1, rate_per_s=0.25, requests=60)


def test_the_best_is_found_named_and_no_worse_than_the_defaults(world: World) -> None:
    result = tune(FifoCollated, [world], SEEDS, 6)
    assert len(result.trials) == 6
    assert result.trials.policy[0] == "fifo-collated"
    assert result.score <= result.default_score
    again = log_responses(make_policy(result.policy), [world], SEEDS)  # type: ignore[arg-type]
    assert sum(again) / len(again) == pytest.approx(math.log(result.score))


def test_scores_are_logarithms_of_mean_responses_seeds_outermost(world: World) -> None:
    other = synthetic_world(3, 2, rate_per_s=0.3, requests=40)
    pairs = log_responses(CostGreedy(), [world, other], [1, 2, 3])
    means = [evaluate_batched(w, CostGreedy(), [1, 2, 3]).response_mean_s for w in (world, other)]
    np.testing.assert_allclose(np.exp(pairs), np.stack(means, axis=1).ravel())


def test_a_policy_without_parameters_is_scored_once(world: World) -> None:
    result = tune(FifoSwap, [world], SEEDS, 6)
    assert len(result.trials) == 1
    assert (result.policy, result.score) == ("fifo-swap", result.default_score)


def test_what_is_hopeless_is_given_up_early(world: World) -> None:
    result = tune(CostGreedy, [world], range(10, 26), 12)
    pruned = result.trials[result.trials.state == "pruned"]
    assert len(pruned) > 0
    assert (pruned.pairs < 16).all()
    assert pruned.score.isna().all()


def test_a_search_goes_on_where_it_stopped(world: World, tmp_path: Path) -> None:
    storage = tmp_path / "runs" / "tune.journal"
    first = tune(FifoCollated, [world], SEEDS, 3, storage=storage)
    more: list[int] = []
    second = tune(
        FifoCollated, [world], SEEDS, 5, storage=storage, on_trial=lambda done, _: more.append(done)
    )
    assert more == [4, 5]
    assert second.trials[:3].equals(first.trials)
    assert len(tune(FifoCollated, [world], SEEDS, 5, storage=storage).trials) == 5
    assert len(tune(CostGreedy, [world], SEEDS, 2, storage=storage).trials) == 2


KILLED = """
import os, signal, sys
from benchmarks.sim_worlds import synthetic_world
from shunter.agents.heuristics.fifo.collated import FifoCollated
from shunter.train.tune.heuristic import tune
world = synthetic_world(4, 1, rate_per_s=0.25, requests=60)
def die(done, best):
    if done == 2:
        os.kill(os.getpid(), signal.SIGKILL)
tune(FifoCollated, [world], range(10, 16), 6, storage=sys.argv[1], on_trial=die)
"""


def test_killed_it_loses_nothing_finished(world: World, tmp_path: Path) -> None:
    storage = tmp_path / "tune.journal"
    killed = subprocess.run([sys.executable, "-c", KILLED, str(storage)], check=False)
    assert killed.returncode == -signal.SIGKILL
    result = tune(FifoCollated, [world], SEEDS, 4, storage=storage)
    assert len(result.trials) == 4


def test_another_search_in_the_storage_is_refused(world: World, tmp_path: Path) -> None:
    storage = tmp_path / "tune.journal"
    tune(FifoSwap, [world], SEEDS, 1, storage=storage)
    with pytest.raises(InputError, match="hold a search over the same worlds, seeds and features"):
        tune(FifoSwap, [world], range(3), 1, storage=storage)


def test_a_storage_that_is_no_journal(world: World, tmp_path: Path) -> None:
    storage = tmp_path / "notes.txt"
    storage.write_text("not a journal\nat all\n")
    with pytest.raises(BrokenFileError, match="no Optuna journal"):
        tune(FifoSwap, [world], SEEDS, 1, storage=storage)
    assert storage.read_text() == "not a journal\nat all\n"
