from __future__ import annotations

import math

import numpy as np
import pytest

from benchmarks.search_ablation import VARIANTS, Variant, missing, rows_of, search
from shunter.agents.learned.base_policy import TUNED_COST_GREEDY
from shunter.envs.world.world import World
from shunter.eval.execution.batched import evaluate_batched
from shunter.train.settings import EvolutionSettings

SETTINGS = EvolutionSettings(generations=3, pairs=2, episodes=1, validation_seeds=2, threads=1)
RUNNABLE = [variant for variant in VARIANTS if not missing(variant)]


@pytest.mark.parametrize("variant", RUNNABLE, ids=lambda variant: variant.name)
def test_every_search_finds_a_policy(variant: Variant, fake_world: World) -> None:
    mine, took_s = search(variant, [fake_world], SETTINGS, 1, [0, 1])
    assert mine.shape == (1, 2)
    assert np.isfinite(mine).all()
    assert took_s > 0


def test_rows_compare_with_tuned_cost_greedy_and_with_the_full_search(fake_world: World) -> None:
    tuned = evaluate_batched(fake_world, TUNED_COST_GREEDY, [0, 1, 2]).response_mean_s[None]
    [alone] = rows_of(VARIANTS[0], tuned, 1.0, tuned, tuned)
    assert alone.value == pytest.approx(1.0)
    worse, change = rows_of(VARIANTS[1], 1.1 * tuned, 1.0, 0.9 * tuned, tuned)
    assert worse.value == pytest.approx(1.1)
    assert change.value == pytest.approx(1.1 / 0.9 - 1)
    [unfinished] = rows_of(VARIANTS[1], np.full((1, 3), math.nan), 1.0, tuned, tuned)
    assert unfinished.value is None
