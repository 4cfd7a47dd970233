"""Event by event: the executor on virtual clocks equals the kernel on random small scenarios.

``SHUNTER_EXAMPLES=1000`` runs as many as the claim is made for; by default fewer are run.
"""

from __future__ import annotations

import os
from functools import partial

import numpy as np
import pandas as pd
from hypothesis import given, settings
from hypothesis import strategies as st

from shunter.envs.world.world import World
from shunter.eval.execution.runs import Run, simulate
from tests.fake_executor import execute
from tests.random_worlds import BookedDurations, ByName, filled_host, keyed_worlds, sleeping_worlds, worlds

EXAMPLES = int(os.environ.get("SHUNTER_EXAMPLES", "60"))
DISCRETE = ["device", "choice", "choice_name", "operation", "model", "gpu_layers", "steps", "in_system"]
LISTS = ["mask", "evicted", "request_ids", "tokens", "servers"]
TIMES = ["arrival_s", "first_token_s", "finish_s"]


def both(world: World, seed: int) -> tuple[Run, Run]:
    durations = partial(BookedDurations, host=filled_host(world))
    return simulate(world, ByName(world, seed), seed), execute(world, ByName(world, seed), seed, durations)


@settings(max_examples=EXAMPLES, deadline=None)
@given(world=worlds() | keyed_worlds() | sleeping_worlds(books=True), seed=st.integers(0, 1000))
def test_the_executor_equals_the_kernel_event_by_event(world: World, seed: int) -> None:
    simulated, executed = both(world, seed)
    ours, theirs = simulated.log.frame(), executed.log.frame()
    pd.testing.assert_frame_equal(ours[DISCRETE], theirs[DISCRETE])
    for column in LISTS:
        assert [list(x) for x in ours[column]] == [list(x) for x in theirs[column]]
    times = ["decided_s", "start_s", "end_s", "device_bytes"]
    np.testing.assert_allclose(ours[times], theirs[times], atol=1e-5)
    np.testing.assert_allclose(simulated.requests[TIMES], executed.requests[TIMES], atol=1e-5)
    for name in ("loading_ns", "running_ns"):
        assert abs(simulated.counts.pop(name) - executed.counts.pop(name)) < 1e5
    assert simulated.counts == executed.counts
    np.testing.assert_allclose(simulated.cost, executed.cost, rtol=1e-5, atol=1e-5)


@settings(max_examples=EXAMPLES, deadline=None)
@given(
    world=worlds(requests=40) | keyed_worlds(requests=40) | sleeping_worlds(requests=40),
    seed=st.integers(0, 1000),
)
def test_nothing_is_lost_served_twice_or_over_budget(world: World, seed: int) -> None:
    run = simulate(world, ByName(world, seed), seed)
    rows = run.log.frame()
    requests = run.requests.set_index("request_id")
    gained = pd.Series(0, index=requests.index)
    finishes = pd.Series(0, index=requests.index)
    for row in rows[rows.operation == "run"].itertuples():
        assert len(set(row.request_ids)) == len(row.request_ids)
        for i, tokens, finish_s in zip(row.request_ids, row.tokens, row.finish_s, strict=True):
            assert requests.model[i] == row.model
            gained[i] += tokens
            finishes[i] += finish_s is not None and not np.isnan(finish_s)
    served = requests.finish_s.notna()
    # What a quantum under way at the cut-off would have served is logged, but not served.
    assert (finishes[served] == 1).all()
    assert (finishes <= 1).all()
    assert (gained[finishes == 1] == requests.decode_tokens[finishes == 1]).all()
    assert (gained <= requests.decode_tokens).all()
    assert (requests.arrival_s <= requests.first_token_s + 1e-9)[served].all()
    assert (requests.first_token_s <= requests.finish_s + 1e-9)[served].all()
    assert served.all() or run.makespan_s > world.scenario.limits.max_time_s
    assert rows.decided_s.is_monotonic_increasing
    capacity = dict(zip((d.name for d in world.scenario.devices), world.tables.capacity_bytes, strict=True))
    for device, own in rows[rows.start_s.notna()].groupby("device"):
        assert (own.device_bytes <= capacity[device]).all()
        assert (own.start_s.to_numpy()[1:] >= own.end_s.to_numpy()[:-1] - 1e-9).all()
        assert (own.end_s >= own.start_s).all()
