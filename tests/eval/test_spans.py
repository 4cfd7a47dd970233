from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from shunter.agents.registry import DEFAULT_POLICIES, make_policy
from shunter.envs.world.world import World
from shunter.errors import InputError
from shunter.eval.execution.runs import simulate
from shunter.eval.fidelity.spans import run_spans
from tests.eval.test_modes_agree import execute

TARGETS = {"load_s", "unload_s", "prefill_s", "decode_step_s", "kv_save_s", "kv_restore_s"}


@pytest.mark.parametrize("policy", DEFAULT_POLICIES)
def test_what_the_simulator_ran_took_what_it_should_have(fake_world: World, policy: str) -> None:
    run = simulate(fake_world, make_policy(policy), 0)

    spans = run_spans(fake_world, fake_world.draw(0), run.log.frame())

    predicted = np.array([span.predicted_s for span in spans])
    np.testing.assert_allclose(predicted, [span.measured_s for span in spans], rtol=1e-5)
    rows = run.log.frame()
    busy_s = (rows["end_s"] - rows["start_s"]).sum()
    assert sum(span.measured_s for span in spans) == pytest.approx(busy_s)


def test_spans_hold_every_kind_of_part(fake_world: World) -> None:
    runs = [
        (simulate(fake_world, make_policy(p), seed), seed)
        for p in (*DEFAULT_POLICIES, "random")
        for seed in range(3)
    ]
    spans = [s for run, seed in runs for s in run_spans(fake_world, fake_world.draw(seed), run.log.frame())]
    assert {part.target for span in spans for part in span.parts_s} == TARGETS
    alone = {next(iter(s.parts_s)).target for s in spans if len(s.parts_s) == 1}
    assert {"prefill_s", "decode_step_s", "load_s"} <= alone


def first(rows: pd.DataFrame, operation: str) -> int:
    return int(rows.index[rows["operation"] == operation][0])


@pytest.mark.parametrize(
    ("operation", "column", "value", "message"),
    [
        ("run", "device", "elsewhere", "device must be one of the scenario's"),
        ("load", "model", "huge", "model must be one of the scenario's"),
        ("load", "gpu_layers", 3, "gpu_layers must be one of the scenario's"),
        ("run", "steps", 999, "steps must be"),
        ("load", "evicted", ["large"], "evicted must be resident before"),
    ],
)
def test_rows_that_do_not_fit_are_refused(
    fake_world: World, operation: str, column: str, value: object, message: str
) -> None:
    rows = execute(fake_world, make_policy("cost-greedy"), 0).log.frame()
    rows.at[first(rows, operation), column] = value
    with pytest.raises(InputError, match=message):
        run_spans(fake_world, fake_world.draw(0), rows)


def test_requests_of_another_seed_are_refused(fake_world: World) -> None:
    rows = execute(fake_world, make_policy("cost-greedy"), 0).log.frame()
    with pytest.raises(InputError, match="lengths that the scenario draws"):
        run_spans(fake_world, fake_world.draw(1), rows)
    few = type(fake_world.draw(0))(*(values[:3] for values in fake_world.draw(0)))
    with pytest.raises(InputError, match="request_ids must be below 3"):
        run_spans(fake_world, few, rows)
