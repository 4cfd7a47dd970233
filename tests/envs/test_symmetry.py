"""What must change nothing: the order of models, and padding with models and levels that nobody can use."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pandas as pd
from hypothesis import given, settings
from hypothesis import strategies as st

from shunter.envs.scenario.model import Model
from shunter.envs.state.tables import Tables
from shunter.envs.world.world import World
from shunter.eval.execution.runs import Run
from tests.random_worlds import ByName, keyed_worlds, run_on, worlds

_BY_MODEL = ("weight_bytes", "model", "remaining_tokens")
_BY_DEVICE_AND_MODEL = ("level", "prefill_s", "step_s", "kv_save_s", "kv_restore_s", "offload_sensitivity")


def _by_model(tables: Tables) -> list[str]:
    """Tables with a row a model; of further tokens there may be one row for all."""
    return [name for name in _BY_MODEL if len(getattr(tables, name)) == len(tables.model)]


def with_models(world: World, order: list[int]) -> World:
    models = [world.scenario.models[m] for m in order]
    tables = world.tables
    changes = {name: np.ascontiguousarray(getattr(tables, name)[order]) for name in _by_model(tables)}
    for name in _BY_DEVICE_AND_MODEL:
        changes[name] = np.ascontiguousarray(getattr(world.tables, name)[:, order])
    return replace(
        world,
        scenario=world.scenario.model_copy(update={"models": models}),
        tables=world.tables._replace(**changes),
        gpu_layers=tuple(world.gpu_layers[m] for m in order),
    )


def padded(world: World, models: int, levels: int) -> World:
    """With so many more models that fit at no level, and levels that exist for no model."""

    def more(values: np.ndarray, axis: int, count: int) -> np.ndarray:
        filler = np.take(values, [0] * count, axis=axis)
        for name in {"level_ok", "start_device"} & set(values.dtype.names or ()):
            filler[name] = {"level_ok": 0, "start_device": -1}[name]
        return np.concatenate([values, filler], axis=axis)

    tables: Tables = world.tables
    changes = {name: more(getattr(tables, name), 0, models) for name in _by_model(tables)}
    for name in _BY_DEVICE_AND_MODEL:
        values = more(getattr(tables, name), 1, models)
        changes[name] = values if name == "offload_sensitivity" else more(values, 2, levels)
    extra = [Model(name=f"extra{i}") for i in range(models)]
    # Levels that both have are called alike.
    gpu_layers = tuple((*own, *range(90, 90 + levels)) for own in world.gpu_layers)
    return replace(
        world,
        scenario=world.scenario.model_copy(update={"models": [*world.scenario.models, *extra]}),
        tables=tables._replace(**changes),
        gpu_layers=gpu_layers + (gpu_layers[0],) * models,
    )


def assert_same(ours: Run, theirs: Run) -> None:
    pd.testing.assert_frame_equal(ours.requests, theirs.requests, check_exact=True)
    columns = ["device", "decided_s", "operation", "model", "request_ids", "steps", "start_s", "end_s"]
    pd.testing.assert_frame_equal(ours.log.frame()[columns], theirs.log.frame()[columns], check_exact=True)
    assert ours.counts == theirs.counts


@settings(max_examples=40, deadline=None)
@given(world=worlds(host_limit=False) | keyed_worlds(), seed=st.integers(0, 1000), data=st.data())
def test_the_order_of_models_changes_nothing(world: World, seed: int, data: st.DataObject) -> None:
    order = data.draw(st.permutations(range(world.models)))
    requests = world.draw(seed)
    other = with_models(world, order)
    place = np.argsort(order)
    renamed = requests._replace(model=place[requests.model])
    assert_same(run_on(world, requests, ByName(world, seed)), run_on(other, renamed, ByName(other, seed)))


@settings(max_examples=40, deadline=None)
@given(
    world=worlds(host_limit=False) | keyed_worlds(),
    seed=st.integers(0, 1000),
    models=st.integers(0, 3),
    levels=st.integers(0, 2),
)
def test_padding_changes_nothing(world: World, seed: int, models: int, levels: int) -> None:
    requests = world.draw(seed)
    larger = padded(world, models, levels)
    assert_same(run_on(world, requests, ByName(world, seed)), run_on(larger, requests, ByName(larger, seed)))
