from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from benchmarks.form import Row
from benchmarks.policy_page import conclusions, write_picture, write_tables
from benchmarks.policy_results import Results
from benchmarks.policy_runs import Contender, Figures, Waits, longest_waits
from benchmarks.policy_wait_rows import guard_rows, longest_rows, starved_rows, wait_rows
from benchmarks.policy_waits import allowed_waits_s, beyond_guard_s
from benchmarks.sim_worlds import synthetic_world
from shunter.envs.world.world import World
from tests.benchmarks.test_policy_results import CELLS, KINDS, figures

OFF = "mine, guard off"


@pytest.fixture(autouse=True)
def kinds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("benchmarks.policy_rows.kinds", lambda name: KINDS[name])


def waiting(rare_s: float, *, mean_s: float = 10.0, allowed_s: float = 25.0, stable: bool = True) -> Figures:
    """A busy model beside a rare one."""
    waits = {"busy": Waits(1.0, 2.0, 3.0), "rare": Waits(rare_s / 2, rare_s, rare_s)}
    allowed = {"busy": 20.0, "rare": allowed_s}
    some = figures(mean_s, stable=stable, wait_s=rare_s / 3)
    return replace(some, model_waits=waits, allowed_waits_s=allowed, guard_s=12.0)


def results(found: Mapping[str, tuple[Figures, Figures, Figures]]) -> Results:
    contenders = tuple(Contender(label, label, label, guard=label != OFF) for label in found)
    table = {(c, label): f for label, row in found.items() for c, f in zip(CELLS, row, strict=True)}
    return Results(table, contenders, "greedy")


def test_long_waits_have_bars_over_all_cells_and_are_reported_by_kind() -> None:
    some = results(
        {
            "mine": (waiting(9.0), waiting(12.0), waiting(12.0)),
            "greedy": (waiting(12.0), waiting(12.0), waiting(12.0)),
        }
    )
    rows = wait_rows(some, "mine", "greedy")
    assert [(row.metric.partition(":")[0], row.bar, row.ok) for row in rows[:2]] == [
        ("p99 wait for a first token", "<= 1", True),
        ("p99.9 wait for a first token", "<= 1", True),
    ]
    assert rows[1].value == pytest.approx(0.75 ** (1 / 3))
    by_kind = {row.metric: row.value for row in rows[2:]}
    assert by_kind["starvation (1 scenarios): p99.9 wait, mine × of greedy"] == pytest.approx(0.75)
    assert by_kind["skew (1 scenarios): p99 wait, mine × of greedy"] == pytest.approx(1.0)
    back = wait_rows(some, "greedy", "mine")
    assert [row.ok for row in back[:2]] == [False, False]


def test_the_longest_wait_says_whose_it_was() -> None:
    some = results({"mine": (waiting(9.0), waiting(15.0), waiting(99.0, stable=False))})
    (row,) = longest_rows(some)
    assert (row.value, row.unit) == (15.0, "s")
    assert row.note == "rare in two-gpu-unequal at 0.7; of 2 stable cells"


def test_every_policy_that_is_guarded_has_a_bar_where_a_model_would_starve() -> None:
    some = results(
        {
            "mine": (waiting(24.0), waiting(99.0), waiting(99.0)),
            "greedy": (waiting(27.5), waiting(9.0), waiting(9.0)),
            OFF: (waiting(500.0), waiting(9.0), waiting(9.0)),
        }
    )
    kept, broken = starved_rows(some)
    assert (kept.value, kept.bar, kept.ok) == (-1.0, "<= 0", True)
    assert (broken.value, broken.ok) == (2.5, False)
    assert "rare in paper-a6000 at 0.7: 27.5 s of 25.0 s allowed, guard 12.0 s" in broken.note
    assert "above: paper-a6000 at 0.7 rare +2.5 s" in broken.note


def test_without_a_guard_there_is_nothing_to_hold_a_wait_against() -> None:
    some = results({"mine": (waiting(24.0, allowed_s=np.inf), waiting(9.0), waiting(9.0))})
    free = replace(some.figures[CELLS[0], "mine"], allowed_waits_s={"busy": np.inf, "rare": np.inf})
    (row,) = starved_rows(replace(some, figures={**some.figures, (CELLS[0], "mine"): free}))
    assert (row.value, row.ok) == (None, False)


def test_the_cost_of_the_guard_is_paired_and_its_largest_is_named() -> None:
    some = results(
        {
            "mine": (waiting(12.0, mean_s=11.0), waiting(12.0, mean_s=10.0), waiting(12.0, mean_s=10.5)),
            OFF: (waiting(48.0), waiting(12.0), waiting(12.0)),
        }
    )
    rows = {row.metric: row for row in guard_rows(some, "mine", OFF)}
    assert set(rows) == {
        f"guard, {where}: mine × of {OFF}, mean response"
        for where in (
            "all cells",
            "replicas (2 scenarios)",
            "starvation (1 scenarios)",
            "several devices (1 scenarios)",
            "skew (1 scenarios)",
            "held out (1 scenarios)",
            "most of 3 cells, paper-a6000 at 0.7",
        )
    }
    every = rows[f"guard, all cells: mine × of {OFF}, mean response"]
    assert every.value == pytest.approx((1.1 * 1.05) ** (1 / 3))
    most = rows[f"guard, most of 3 cells, paper-a6000 at 0.7: mine × of {OFF}, mean response"]
    assert most.value == pytest.approx(1.1)
    assert most.interval == pytest.approx((1.1, 1.1))
    assert "p99.9 wait × 0.25" in most.note


def test_tables_and_picture_show_waits_of_models_and_the_cost_of_the_guard(tmp_path: Path) -> None:
    some = results(
        {
            "mine": (waiting(12.0, mean_s=11.0), waiting(12.0), waiting(12.0)),
            OFF: (waiting(48.0), waiting(12.0), waiting(12.0)),
            "greedy": (waiting(15.0), waiting(15.0), waiting(15.0)),
        }
    )
    write_tables(tmp_path / "out.json", some, {"mine": OFF})
    cells = pd.read_csv(tmp_path / "out.cells.csv").query("scenario == 'paper-a6000'").set_index("policy")
    assert cells.guard_on_over_off["mine"] == pytest.approx(1.1)
    assert cells.guard_on_over_off.notna().tolist() == [True, False, False]
    assert cells.max_wait_model.tolist() == ["rare"] * 3
    waits = pd.read_csv(tmp_path / "out.waits.csv").query("scenario == 'paper-a6000' and model == 'rare'")
    columns = ["p99_wait_s", "p99_9_wait_s", "max_wait_s", "allowed_wait_s"]
    assert waits[columns].to_numpy().tolist()[0] == [6.0, 12.0, 12.0, 25.0]
    write_picture(tmp_path / "out.html", some, ["mine"], 20)
    page = (tmp_path / "out.html").read_text()
    assert all(title in page for title in ("Mean response", "p99.9 wait", "Longest wait of any model"))


@pytest.mark.parametrize(
    ("interval", "said"),
    [((0.05, 0.15), "-10.0% [-15.0%, -5.0%]"), ((-0.02, 0.22), "-10.0% [-22.0%, +2.0%], undecided")],
)
def test_the_page_is_titled_by_what_came_of_it(interval: tuple[float, float], said: str) -> None:
    rows = [
        Row("all cells: mine lower than greedy by", 0.1, interval=interval),
        Row("one device: mine lower than greedy by", 0.2),
        Row("cells where mine is significantly worse than the best baseline there", 2.0, note="a at 0.5"),
    ]
    title, lines = conclusions(rows, ["mine", "other"], "greedy")
    assert title == f"Mean response against greedy: mine {said}"
    assert lines == [
        f"mine against greedy: all cells {said}; one device -20.0% (no interval).",
        "mine against the best baseline of each cell, chosen with hindsight: significantly worse than it in "
        "2 (a at 0.5).",
    ]
    assert conclusions([], ["mine"], "greedy") == ("Policies in cells", [])


def test_quantiles_of_waits_are_observed_ones() -> None:
    assert longest_waits(np.arange(1.0, 1001.0)) == (991.0, 1000.0, 1000.0)
    assert longest_waits(np.zeros(0)) == (0.0, 0.0, 0.0)


def plain_world() -> World:
    world = synthetic_world(2, rate_per_s=0.1)
    t = world.tables
    tables = t.changed(load_s=2.0, unload_s=0.3, quantum_steps=32, quantum_ns=10**9, decision_ns=10**6)
    constant = {"prefill_s": 1.0, "step_s": 0.1, "kv_save_s": 0.5, "kv_restore_s": 0.5}
    arrays = {name: np.full_like(getattr(t, name), x) for name, x in constant.items()}
    return replace(world, tables=tables._replace(**arrays))


def test_what_a_guard_leaves_possible_is_one_operation_an_unload_a_load_and_a_batch_of_prefills() -> None:
    world = plain_world()
    quantum_s = 8 * 1.0 + 1.1  # a full batch is prefilled, and no step starts after one second
    unload_s = 8 * 0.5 + 0.3
    expected = quantum_s + unload_s + 2.0 + 8 * 1.0 + 0.003
    assert beyond_guard_s(world, 512) == {name: pytest.approx(expected) for name in ("m0", "m1")}
    assert allowed_waits_s(world.with_guard(30.0), 512)["m0"] == pytest.approx(30.0 + expected)
    assert allowed_waits_s(world.with_guard(None), 512)["m0"] == np.inf
    slow = replace(world, tables=world.tables.changed(load_s=6.0))
    operation_s = 6.0 + unload_s  # loading another model takes longer than a quantum
    assert beyond_guard_s(slow, 512)["m0"] == pytest.approx(operation_s + unload_s + 6.0 + 8.003)
