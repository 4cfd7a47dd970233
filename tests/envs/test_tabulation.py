from __future__ import annotations

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from shunter.envs.rules.durations import interpolate
from shunter.envs.world import tabulation
from shunter.envs.world.world import World, make_world
from shunter.models.performance import PerformanceModel


def direct_s(
    world: World, performance: PerformanceModel, operation: str, **configuration: object
) -> np.ndarray:
    model = world.scenario.models[0].name
    asked = performance.configurations("fake", "cpu:1-threads", model, operation=operation, **configuration)
    predicted: pd.Series = performance.predict(asked)["duration_s_mean"]
    return predicted.to_numpy()


def test_tables_are_the_predictions_to_within_the_stated_error(
    fake_world: World, fake_performance: PerformanceModel
) -> None:
    world, tokens = fake_world, np.arange(1, 257)
    tables, gpu_layers = world.tables, world.gpu_layers[0][1]
    assert 0 <= world.interpolation_error <= tabulation.TOLERANCE
    limits = {"max_batch": 4, "max_context_tokens": 256, "gpu_layers": gpu_layers}

    prefill = direct_s(world, fake_performance, "prefill", tokens=tokens, **limits)
    table = [interpolate(float(n), tables.prefill_tokens, tables.prefill_s[0, 0, 1]) for n in tokens]
    # Between grid points the error may be a little larger than midway, where it is stated.
    np.testing.assert_allclose(table, prefill, rtol=1.5 * max(world.interpolation_error, 1e-9))

    step = direct_s(world, fake_performance, "decode", context_tokens=tokens, batch=3, **limits)
    table = [interpolate(float(n), tables.context_tokens, tables.step_s[0, 0, 1, 2]) for n in tokens]
    np.testing.assert_allclose(table, step, rtol=1.5 * max(world.interpolation_error, 1e-9))


SECONDS = ["duration_s_predicted", "duration_s_low", "duration_s_high", "duration_s_mean"]


class Uneven(PerformanceModel):
    """A model in which three of four short prompts cost a pass more."""

    def predict(self, frame: pd.DataFrame) -> pd.DataFrame:
        predicted = super().predict(frame)
        is_prefill = (predicted["operation"] == "prefill").to_numpy()
        tokens = predicted.loc[is_prefill, "tokens"].to_numpy(dtype=float)
        seconds = 1e-3 * tokens + 0.1 * np.where(tokens > 128, 0.75, tokens % 4 > 0)
        predicted.loc[is_prefill, SECONDS] = np.repeat(seconds[:, None], len(SECONDS), axis=1)
        return predicted


def test_a_token_more_may_cost_less(fake_world: World, fake_performance: PerformanceModel) -> None:
    world = make_world(fake_world.scenario, Uneven()._set(fake_performance.state_))
    table = world.tables.prefill_s[0, 0, 0]
    found = [interpolate(float(n), world.tables.prefill_tokens, table) for n in (7, 8, 9, 128, 129, 200)]
    np.testing.assert_allclose(found, [0.107, 0.008, 0.109, 0.128, 0.204, 0.275], rtol=0.01)


class Curved(PerformanceModel):
    """A model whose prefill grows with the square of the tokens."""

    def predict(self, frame: pd.DataFrame) -> pd.DataFrame:
        predicted = super().predict(frame)
        is_prefill = (predicted["operation"] == "prefill").to_numpy()
        squares = 1e-6 * predicted.loc[is_prefill, "tokens"].to_numpy(dtype=float) ** 2 + 1e-4
        predicted.loc[is_prefill, SECONDS] = np.repeat(squares[:, None], len(SECONDS), axis=1)
        return predicted


def test_a_curved_prediction_gets_a_finer_grid_or_its_error_said(
    fake_world: World, fake_performance: PerformanceModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    curved = Curved()._set(fake_performance.state_)
    scenario = replace(fake_world).scenario

    fine = make_world(scenario, curved)
    assert len(fine.tables.context_tokens) > len(fake_world.tables.context_tokens)
    assert fine.interpolation_error <= tabulation.TOLERANCE

    monkeypatch.setattr(tabulation, "MOST_POINTS", tabulation.FIRST_POINTS)
    coarse = make_world(scenario, curved)
    assert len(coarse.tables.context_tokens) == tabulation.FIRST_POINTS
    assert coarse.interpolation_error > tabulation.TOLERANCE
