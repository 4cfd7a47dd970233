from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
import pytest

from benchmarks.policy_cells import Cell
from benchmarks.policy_results import Results, quantile_of_longest
from benchmarks.policy_rows import bar_rows, lower_row
from benchmarks.policy_runs import Contender, Figures

SEEDS = 20
NOISE = np.random.default_rng(0).normal(1.0, 0.05, SEEDS)
CELLS = [Cell("paper-a6000", 0.7), Cell("two-gpu-unequal", 0.7), Cell("unseen-pair", 0.9)]


def figures(mean_s: float, *, stable: bool = True, wait_s: float = 1.0) -> Figures:
    return Figures(
        response_s=tuple((mean_s * NOISE).tolist()),
        stable=(stable,) * SEEDS,
        requests=(100,) * SEEDS,
        top_waits_s=tuple((wait_s * 3, wait_s * 2) for _ in range(SEEDS)),
        p99_9_wait_s=wait_s * 3,
        max_wait_s=wait_s * 3,
        waits_s={},
        slo_attainment=(),
        swaps=0.0,
        preemptions=0.0,
        time_scale_s=1.0,
    )


def results(means: Mapping[str, Sequence[float]], unstable: Sequence[tuple[Cell, str]] = ()) -> Results:
    table = {
        (cell, label): figures(mean, stable=(cell, label) not in unstable)
        for label, row in means.items()
        for cell, mean in zip(CELLS, row, strict=True)
    }
    contenders = tuple(Contender(label, label, label, heuristic=label != "mine") for label in means)
    return Results(table, contenders, "greedy")


def test_the_change_is_the_geometric_mean_over_cells() -> None:
    found = results({"mine": (9, 8, 10), "greedy": (10, 10, 10)}).compare("mine", "greedy", CELLS)
    assert found.paired is not None
    assert found.paired.change == pytest.approx((0.9 * 0.8) ** (1 / 3) - 1)


def test_what_is_unstable_is_named_and_kept_out_of_means() -> None:
    some = results({"mine": (9, 8, 10), "greedy": (10, 10, 10)}, [(CELLS[1], "greedy")])
    row = lower_row("all", some, "mine", "greedy", CELLS, 0.05)
    assert row.value == pytest.approx(1 - 0.9**0.5)
    assert "two-gpu-unequal at 0.7" in row.note
    assert row.ok


def test_nothing_to_compare_misses_the_bar() -> None:
    none = results({"mine": (9, 8, 10), "greedy": (10, 10, 10)}, [(cell, "mine") for cell in CELLS])
    row = lower_row("all", none, "mine", "greedy", CELLS, 0.05)
    assert (row.value, row.ok) == (None, False)


def test_the_best_baseline_of_a_cell_is_a_stable_heuristic() -> None:
    some = results({"mine": (1, 1, 1), "greedy": (10, 10, 10), "sjf": (9, 11, 9)}, [(CELLS[0], "sjf")])
    assert [some.best_of(cell) for cell in CELLS] == ["greedy", "greedy", "sjf"]


def test_a_cell_is_worse_if_that_is_significant_and_could_be_more_than_2_percent() -> None:
    some = results({"mine": (9, 10.1, 11), "greedy": (10, 10, 10)})
    # The seeds' ratios are all alike, so that the interval is the change itself.
    assert [v.worse for v in some.verdicts("mine", CELLS)] == [False, False, True]


def test_a_cell_that_only_the_policy_does_not_drain_is_worse() -> None:
    some = results({"mine": (9, 9, 9), "greedy": (10, 10, 10)}, [(CELLS[2], "mine")])
    assert [v.worse for v in some.verdicts("mine", CELLS)] == [False, False, True]


def test_bars_are_met_by_a_policy_that_is_much_better_and_missed_by_the_baseline_itself() -> None:
    means = {"mine": (5, 5, 5), "greedy": (10, 10, 10), "fifo": (20, 20, 20), "lru": (15, 15, 15)}
    some = results(means)
    asked = ("several devices", "where stable", "held-out", "all cells")
    good = [r for r in bar_rows(some, "mine", "greedy", "fifo", "lru") if r.metric.startswith(asked)]
    assert [row.ok for row in good] == [True] * 5
    bad = [r for r in bar_rows(some, "greedy", "greedy", "fifo", "lru") if r.metric.startswith(asked)]
    assert [row.ok for row in bad] == [False, False, True, True, False]


def test_the_quantile_of_resampled_waits_is_that_of_all_waits() -> None:
    rng = np.random.default_rng(5)
    waits = [np.sort(rng.exponential(1.0, 500))[::-1] for _ in range(SEEDS)]
    top = tuple(tuple(w[:10].tolist()) for w in waits)
    kept = replace(figures(1.0), requests=(500,) * SEEDS, top_waits_s=top)
    counts = rng.multinomial(SEEDS, np.full(SEEDS, 1 / SEEDS), size=5).astype(float)
    for row, found in zip(counts, quantile_of_longest(kept, counts), strict=True):
        pooled = np.concatenate([np.repeat(w, int(n)) for w, n in zip(waits, row, strict=True)])
        assert found == np.quantile(pooled, 0.999, method="higher")
