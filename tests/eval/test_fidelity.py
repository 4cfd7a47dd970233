from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from benchmarks.robust_names import read_markdown
from shunter.agents.registry import make_policy
from shunter.envs.world.world import World, with_footprints
from shunter.errors import InputError
from shunter.eval import evaluation as module
from shunter.eval.evaluation import Evaluation, evaluate
from shunter.eval.execution.runs import Run, as_repeat, simulate
from shunter.eval.fidelity.gap import fidelity
from shunter.eval.fidelity.tables import fidelity_markdown, fidelity_tables, fidelity_verdict
from shunter.eval.metrics.backlog import growth_of as growth
from shunter.eval.metrics.policies import policy_statistics
from shunter.eval.metrics.ranking import rank
from tests.eval.test_replay import Slower
from tests.fake_executor import execute

NAMES = ["fifo-swap", "lru-keepalive", "cost-greedy"]


@pytest.fixture(scope="module")
def slow(fake_world: World) -> Evaluation:
    """Three policies on engines whose decode steps take twice as long as predicted, each seed twice."""
    patch = pytest.MonkeyPatch()
    patch.setattr(module, "bind_footprints", lambda world, engines: world)
    patch.setattr(
        module, "run_real", lambda world, policy, seed, engines, **_: execute(world, policy, seed, Slower)
    )
    done = evaluate(
        fake_world.with_guard(None), [make_policy(name) for name in NAMES], [0, 1], engines=[], repeats=2
    )
    patch.undo()
    return done


def scaled(run: Run, factor: float) -> Run:
    """The same run with every time after arrival stretched."""
    r = run.requests
    times = {n: r.arrival_s + factor * (r[n] - r.arrival_s) for n in ("first_token_s", "finish_s")}
    return replace(run, requests=r.assign(**times))


def test_repeats_are_interleaved_over_policies_and_kept_apart(slow: Evaluation) -> None:
    assert [run.seed for run in slow.real["cost-greedy"]] == [0, 1, 0, 1]
    ids = [log.run["run_id"] for log in slow.logs()]
    assert len(set(ids)) == len(ids) == 3 * 2 + 3 * 4
    assert slow.real["fifo-swap"][2].log.frame().run_id.unique().tolist() == ["fifo-swap/0/real/1"]


def test_at_least_one_repeat(fake_world: World) -> None:
    with pytest.raises(InputError, match="repeats must be at least 1"):
        evaluate(fake_world, [make_policy("fifo-swap")], [0], repeats=0)


def test_each_operation_says_which_part_of_the_model_is_wrong(slow: Evaluation) -> None:
    rows = {(row.operation, row.devices): row for row in slow.fidelity().operations}
    assert rows["decode", "any"].error == pytest.approx(-0.5, abs=1e-6)
    assert rows["load", "any"].error == pytest.approx(0.0, abs=1e-6)
    assert rows["prefill", "any"].error == pytest.approx(0.0, abs=1e-6)
    parts = [rows["decode", which].spans for which in ("alone", "co-running")]
    assert sum(parts) == rows["decode", "any"].spans
    assert min(parts) > 0


def test_requests_are_compared_on_the_same_seed(slow: Evaluation) -> None:
    row = slow.fidelity().of("cost-greedy", "TPOT", "mean")
    assert row.error == pytest.approx(row.simulated_s / row.real_s - 1)
    assert row.error < -0.3
    assert row.noise == 0.0  # a virtual clock repeats itself


def test_noise_is_how_far_repeats_differ(fake_world: World) -> None:
    run = simulate(fake_world, make_policy("fifo-swap"), 0)
    other = simulate(fake_world, make_policy("fifo-swap"), 1)
    real = {"fifo-swap": [scaled(run, 0.9), other, scaled(run, 1.1)]}
    found = fidelity({"fifo-swap": [run, other]}, real)
    assert found.repeats == 1
    assert found.of("fifo-swap").noise == pytest.approx(0.2)
    assert found.of("fifo-swap").error == pytest.approx(0.0)
    assert fidelity({"fifo-swap": [run]}, {"fifo-swap": [run]}).of("fifo-swap").noise is None


def test_the_ranking_counts_significant_pairs_and_their_signs(fake_world: World) -> None:
    run = simulate(fake_world, make_policy("fifo-swap"), 0)
    simulated = {"a": [run] * 3, "b": [scaled(run, 1.5)] * 3, "c": [scaled(run, 1.4)] * 3}
    real = {"a": [run] * 3, "b": [scaled(run, 1.2)] * 3, "c": [scaled(run, 1.3)] * 3}
    ranking = rank(simulated, real)
    assert ranking is not None
    assert (ranking.real, ranking.simulated) == (("a", "b", "c"), ("a", "c", "b"))
    assert ranking.tau.value == pytest.approx(1 / 3)
    assert (ranking.significant, ranking.agreeing) == (3, 2)
    assert rank({"a": [run]}, {"a": [run]}) is None


def test_warm_up_and_saturation_stand_apart(fake_world: World) -> None:
    run = simulate(fake_world, make_policy("fifo-swap"), 0)
    requests = run.requests.copy()
    late = requests.index >= len(requests) // 2
    requests.loc[late, ["first_token_s", "finish_s"]] += 1000.0
    found = fidelity({"p": [run]}, {"p": [replace(run, requests=requests)]})
    phases = {row.phase: row for row in found.phases}
    assert phases["warm-up"].error == 0.0
    assert phases["steady"].error < -0.9
    assert found.loads[0].saturated
    assert growth(run) < 0.1 < growth(replace(run, requests=requests))
    assert any("saturated" in note for note in found.notes)


def test_unlike_budgets_are_not_compared(fake_world: World) -> None:
    policy = make_policy("fifo-swap")
    more = with_footprints(fake_world, np.full_like(fake_world.tables.footprint_bytes, 4e7))
    ours, theirs = simulate(fake_world, policy, 0), execute(more, policy, 0)
    evaluation = Evaluation(more, ["fifo-swap"], [0])
    evaluation.simulated["fifo-swap"], evaluation.real["fifo-swap"] = [ours], [theirs]
    result = evaluation.to_dict()
    assert any("small@16 on d0 counts" in reason for reason in result["fidelity"]["refused"])
    assert "simulation_error" not in result["policies"]["fifo-swap"]
    assert fidelity_tables(result) == []
    assert fidelity_verdict(result)[0].startswith("Simulation and reality are not compared: ")


def test_residents_that_measure_more_than_they_count_are_refused(fake_world: World) -> None:
    """A process may need memory of its own; a model that takes more than its budget is another thing."""
    policy = make_policy("fifo-swap")
    run, ours = execute(fake_world, policy, 0), simulate(fake_world, policy, 0)
    measured = [row for row in run.log.rows if row["device"] == "d0" and row["device_bytes"] is not None]
    for row in measured:
        row["device_bytes"] += 4e8
    assert fidelity({"p": [ours]}, {"p": [run]}).refused == ()
    large = [row for row in measured if row["model"] == "large"]
    for row in large:
        row["device_bytes"] -= 2e7
    assert fidelity({"p": [ours]}, {"p": [run]}).refused == ()
    for row in large:
        row["device_bytes"] += 4e7
    found = fidelity({"p": [ours]}, {"p": [run]})
    assert found.refused
    assert "large takes 20.0 MB of its 50.0 MB more than is counted" in found.refused[0]
    assert found.requests == ()


def test_what_is_written_is_plain_and_says_what_words_mean(slow: Evaluation) -> None:
    result: dict[str, Any] = json.loads(json.dumps(slow.to_dict(), allow_nan=False))
    row = result["policies"]["cost-greedy"]["real"]
    assert row["statistics"]["sequences"] == 2
    assert set(row["waits"]) == {"small", "medium", "large", "all models"}
    assert {budget["device"] for budget in result["budgets"]} == {"d0", "d1"}
    page = fidelity_markdown(result, "A title")
    assert page.startswith("# A title")
    for text in (
        "Kendall's tau",
        "| decode |",
        "| decode, co-running |",
        "**goodput**",
        "may share a host",
        "| cost-greedy, real |",
    ):
        assert text in page


def test_names_from_anywhere_are_text_on_the_page(slow: Evaluation) -> None:
    plain = json.dumps(slow.to_dict(), allow_nan=False)
    read = []
    for name in ("cost-greedy", "` *a* <b> [c](javascript:d) | &lt; `"):
        result = json.loads(plain.replace("cost-greedy", name))
        read.append(read_markdown(fidelity_markdown(result, name)))
    (elements, lines), (theirs, found) = read
    assert theirs == elements
    assert sum(name in line for line in found) == sum("cost-greedy" in line for line in lines) > 5


def test_statistics_are_over_sequences_not_over_repeats(fake_world: World) -> None:
    runs = [simulate(fake_world, make_policy("fifo-swap"), seed) for seed in range(5)]
    factors = [0.5, 0.8, 0.9, 1.0, 3.0]
    mine = [scaled(run, factor) for run, factor in zip(runs, factors, strict=True)]
    found = policy_statistics([*mine, *mine], [*runs, *runs])
    assert found["sequences"] == 5
    assert found["iqm"]["value"] == pytest.approx(0.9)  # the odd ones at both ends are left out
    assert found["iqm"]["low"] < 0.9 < found["iqm"]["high"]
    assert found["probability_of_improvement"] == (1 + 1 + 1 + 0.5 + 0) / 5
    profile = found["profile"]
    assert (profile["0.25"], profile["0.6"], profile["1.0"], profile["2.0"]) == (0.0, 0.2, 0.8, 0.8)
    few = policy_statistics(mine[:4], runs[:4])["iqm"]
    assert (few["low"], few["high"]) == (None, None)


def test_the_summary_is_of_the_mean_response(slow: Evaluation) -> None:
    found = slow.fidelity()
    summary = found.summary()
    errors = [abs(found.of(name).error) for name in NAMES]
    assert summary["response_error_median"] == pytest.approx(np.median(errors))
    assert summary["response_error_largest"] == max(errors)
    assert summary["response_noise_median"] == 0.0
    assert found.ranking is not None
    assert summary["kendall_tau"] == found.ranking.tau.value
    assert all(np.isnan(value) for value in fidelity({}, {}).summary().values())


def test_runs_of_an_interrupted_round_rank_nobody(fake_world: World) -> None:
    a, b = (simulate(fake_world, make_policy(name), 0) for name in NAMES[:2])
    more = simulate(fake_world, make_policy(NAMES[0]), 1)
    found = fidelity({"a": [a, more], "b": [b]}, {"a": [a, more], "b": [b]})
    assert found.ranking is not None
    assert as_repeat(a, 0) is a


def paces(**ratios: float) -> str:
    rows = [
        {"operation": name, "devices": "any", "measured_s": r, "predicted_s": 1.0}
        for name, r in ratios.items()
    ]
    found = {"refused": [], "requests": [], "operations": rows, "ranking": None, "notes": []}
    return " ".join(fidelity_verdict({"fidelity": found}))


def test_a_machine_that_was_slower_than_when_profiled_is_said_first_and_told_from_a_wrong_model() -> None:
    assert paces(load=1.1, decode=0.95, all=1.02) == ""
    slow = paces(load=1.68, prefill=1.58, decode=1.63, all=1.63)
    assert slow.startswith(
        "Operations took 1.63 times as long as predicted (load 1.68, prefill 1.58, decode 1.63): "
    )
    assert "all kinds alike" in slow
    assert "all kinds alike" in paces(load=0.6, decode=0.65, all=0.63)
    assert "a busy machine alone does not explain it" in paces(load=3.0, decode=1.0, all=1.5)
