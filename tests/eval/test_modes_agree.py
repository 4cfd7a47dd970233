"""The real executor on the fake engine's virtual clock is the slow reference of the simulator."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import replace
from pathlib import Path
from typing import ClassVar

import numpy as np
import pandas as pd
import pytest

from shunter.agents.registry import DEFAULT_POLICIES, make_policy
from shunter.envs.world.world import World
from shunter.eval.execution.real import bind_footprints
from shunter.eval.execution.runs import simulate
from tests.fake_executor import TableDurations, execute, execute_on, fake_device_executor


@pytest.mark.parametrize("policy", DEFAULT_POLICIES)
@pytest.mark.parametrize("seed", range(3))
def test_kernel_and_executor_agree_event_by_event(fake_world: World, policy: str, seed: int) -> None:
    simulated, executed = (
        simulate(fake_world, make_policy(policy), seed),
        execute(fake_world, make_policy(policy), seed),
    )
    assert executed.counts == pytest.approx(simulated.counts, rel=1e-6)
    times = ["first_token_s", "finish_s"]
    np.testing.assert_allclose(executed.requests[times], simulated.requests[times], atol=1e-5)
    ours, theirs = simulated.log.frame(), executed.log.frame()
    discrete = ["device", "choice", "choice_name", "operation", "model", "gpu_layers", "steps", "in_system"]
    pd.testing.assert_frame_equal(ours[discrete], theirs[discrete])
    for column in ("mask", "evicted", "request_ids", "tokens"):
        assert [list(x) for x in ours[column]] == [list(x) for x in theirs[column]]
    np.testing.assert_allclose(ours[["decided_s", "end_s"]], theirs[["decided_s", "end_s"]], atol=1e-5)


def test_preemption_and_reload_happen_in_what_was_compared(fake_world: World) -> None:
    runs = [
        simulate(fake_world, make_policy(policy), seed) for policy in DEFAULT_POLICIES for seed in range(3)
    ]
    assert sum(run.counts["evictions"] for run in runs) > 0
    assert sum(run.counts["preemptions"] for run in runs) > 0


def test_a_run_that_is_cut_off_leaves_the_engines_empty(
    fake_world: World, fake_checkpoints: dict[str, Path]
) -> None:
    limits = fake_world.scenario.limits.model_copy(update={"max_time_s": 2.0})

    short = replace(fake_world, scenario=fake_world.scenario.model_copy(update={"limits": limits}))
    run = execute(short, make_policy("cost-greedy"), 0)
    assert run.requests.finish_s.isna().any()


def test_a_real_run_counts_memory_as_its_engines_do(fake_world: World) -> None:
    """Engines that need half as much again than was predicted never have to refuse a load."""
    larger = TableDurations(world=fake_world)

    class Larger(TableDurations):
        def device_bytes(self, model: str, gpu_layers: int) -> int:
            return int(1.5 * larger.device_bytes(model, gpu_layers))

    device_executors = [
        fake_device_executor(fake_world, d, Larger(world=fake_world, device=d))
        for d in range(fake_world.devices)
    ]
    bound = bind_footprints(fake_world, device_executors)
    exists = fake_world.tables.footprint_bytes > 0
    np.testing.assert_allclose(
        bound.tables.footprint_bytes[exists], 1.5 * fake_world.tables.footprint_bytes[exists], atol=2
    )
    run = execute_on(bound, make_policy("fifo-swap"), 0, device_executors)
    assert run.requests.finish_s.notna().all()


class CachedDurations(TableDurations):
    """Books of its own: an ordered dict of what the host holds, shared by the devices."""

    host: ClassVar[OrderedDict[str, float]] = OrderedDict()
    limit_bytes: ClassVar[float] = 0.0
    cold: ClassVar[int] = 0

    def load_s(self, model: str, checkpoint: str, gpu_layers: int) -> float:
        tables, at = self.world.tables, self.at(model, gpu_layers)
        warm = model in self.host
        self.host[model] = tables.weight_bytes[at[1]]
        self.host.move_to_end(model)
        while sum(self.host.values()) > self.limit_bytes:
            self.host.popitem(last=False)
        if not warm:
            CachedDurations.cold += 1
        return float((tables.load_s if warm else tables.cold_load_s)[at])


@pytest.mark.parametrize("policy", DEFAULT_POLICIES)
def test_both_worlds_keep_the_same_books_of_the_hosts_memory(fake_world: World, policy: str) -> None:
    weights = fake_world.tables.weight_bytes
    limit_bytes = float(weights[0] + weights[2])
    tables = fake_world.tables.changed(host_bytes=limit_bytes, cold_load_s=3 * fake_world.tables.load_s)
    small = replace(fake_world, tables=tables)
    names = [m.name for m in small.scenario.models]
    CachedDurations.host, CachedDurations.limit_bytes, CachedDurations.cold = OrderedDict(), limit_bytes, 0
    total = 0.0
    for name, size in zip(names, weights, strict=True):
        total += size
        if total <= limit_bytes:
            CachedDurations.host[name] = size
    simulated, executed = (
        simulate(small, make_policy(policy), 0),
        execute(small, make_policy(policy), 0, CachedDurations),
    )
    assert CachedDurations.cold > 0
    times = ["first_token_s", "finish_s"]
    np.testing.assert_allclose(executed.requests[times], simulated.requests[times], atol=1e-5)
    roomy = simulate(fake_world, make_policy(policy), 0)
    assert simulated.requests.finish_s.mean() > roomy.requests.finish_s.mean()
