from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
import pytest

from benchmarks.policy_cells import Cell
from benchmarks.policy_results import Results, quantile_of_longest
from benchmarks.policy_rows import bar_rows, lower_row, specialist_rows
from benchmarks.policy_runs import Contender, Figures, Waits

SEEDS = 20
NOISE = np.random.default_rng(0).normal(1.0, 0.05, SEEDS)
CELLS = [Cell("paper-a6000", 0.7), Cell("two-gpu-unequal", 0.7), Cell("unseen-pair", 0.9)]
KINDS = {
    "paper-a6000": ("replicas", "starvation"),
    "two-gpu-unequal": ("several devices", "replicas"),
    "unseen-pair": ("skew", "held out"),
}


def figures(mean_s: float, *, stable: bool = True, wait_s: float = 1.0) -> Figures:
    return Figures(
        response_s=tuple((mean_s * NOISE).tolist()),
        stable=(stable,) * SEEDS,
        requests=(100,) * SEEDS,
        top_waits_s=tuple((wait_s * 3, wait_s * 2) for _ in range(SEEDS)),
        waits=Waits(wait_s * 2, wait_s * 3, wait_s * 3),
        model_waits={"m": Waits(wait_s * 2, wait_s * 3, wait_s * 3)},
        allowed_waits_s={"m": np.inf},
        guard_s=np.inf,
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


def test_a_cell_is_worse_if_that_is_significant_and_could_be_more_than_1_percent() -> None:
    some = results({"mine": (9, 10.05, 10.2), "greedy": (10, 10, 10)})
    # The seeds' ratios are all alike, so that the interval is the change itself.
    verdicts = some.verdicts("mine", CELLS)
    assert [v.worse for v in verdicts] == [False, False, True]
    assert [v.significantly_worse for v in verdicts] == [False, True, True]


def test_a_cell_that_only_the_policy_does_not_drain_is_worse() -> None:
    some = results({"mine": (9, 9, 9), "greedy": (10, 10, 10)}, [(CELLS[2], "mine")])
    assert [v.worse for v in some.verdicts("mine", CELLS)] == [False, False, True]


def test_bars_are_met_by_a_policy_that_is_much_better_and_missed_by_the_baseline_itself() -> None:
    means = {"mine": (5, 5, 5), "greedy": (10, 10, 10), "fifo": (20, 20, 20), "lru": (15, 15, 15)}
    some = results(means)
    good = {row.metric: row for row in bar_rows(some, "mine", "greedy", "fifo", "lru") if row.bar}
    assert len(good) == 8
    assert all(row.ok for row in good.values())
    assert good["all cells: mine lower than greedy by"].value == pytest.approx(0.5)
    assert "goal 20 %" in good["all cells: mine lower than greedy by"].note
    bad = {row.metric: row.ok for row in bar_rows(some, "greedy", "greedy", "fifo", "lru") if row.bar}
    assert [name.partition(":")[0] for name, ok in bad.items() if not ok] == [
        "all cells",
        "several devices",
        "one device",
        "held-out models, GPUs, trace",
        "each cell",
    ]


def test_against_the_best_of_each_cell_the_best_is_another_in_each() -> None:
    some = results({"mine": (9, 9, 9), "greedy": (10, 12, 10), "sjf": (11, 10, 10)})
    found = some.compare_best("mine", CELLS)
    assert found.paired is not None
    assert found.paired.change == pytest.approx(-0.1)
    row = next(r for r in bar_rows(some, "mine", "greedy", "sjf", "sjf") if r.metric.startswith("each cell"))
    assert (row.bar, row.ok) == (">= 0.06", True)


def test_kinds_that_must_not_lose_are_corrected_among_themselves(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("benchmarks.policy_rows.kinds", lambda name: KINDS[name])
    some = results({"mine": (10.05, 9, 10), "greedy": (10, 10, 10), "fifo": (8, 20, 10)})
    rows = {row.metric: row for row in bar_rows(some, "mine", "greedy", "fifo", "greedy")}
    worse = rows["replicas: cells where mine is significantly worse than the best baseline there"]
    assert (worse.value, worse.ok) == (1, False)
    assert "paper-a6000 at 0.7" in worse.note
    gain = rows["replicas: mine lower than the best baseline of each cell by"]
    assert gain.value == pytest.approx(1 - (10.05 / 8 * 0.9) ** 0.5)
    assert rows["skew: cells where mine is significantly worse than the best baseline there"].ok
    starved = rows["starvation: mine lower than fifo by"]
    assert starved.value == pytest.approx(1 - 10.05 / 8)
    assert (starved.bar, starved.ok) == (">= 0", False)


def test_specialists_have_a_bar_of_their_own() -> None:
    (row,) = specialist_rows(results({"mine": (8.1, 8.1, 8.1), "greedy": (10, 10, 10)}), "mine", "greedy")
    assert row.value == pytest.approx(0.19)
    assert (row.bar, row.ok) == (">= 0.2", False)


def test_the_quantile_of_resampled_waits_is_that_of_all_waits() -> None:
    rng = np.random.default_rng(5)
    waits = [np.sort(rng.exponential(1.0, 500))[::-1] for _ in range(SEEDS)]
    top = tuple(tuple(w[:10].tolist()) for w in waits)
    kept = replace(figures(1.0), requests=(500,) * SEEDS, top_waits_s=top)
    counts = rng.multinomial(SEEDS, np.full(SEEDS, 1 / SEEDS), size=5).astype(float)
    for row, found in zip(counts, quantile_of_longest(kept, counts), strict=True):
        pooled = np.concatenate([np.repeat(w, int(n)) for w, n in zip(waits, row, strict=True)])
        assert found == np.quantile(pooled, 0.999, method="higher")


def test_a_resample_that_needs_more_than_was_kept_of_a_seed_takes_the_least_kept() -> None:
    few = replace(figures(1.0), requests=(1000,) * SEEDS, top_waits_s=((3.0, 2.0),) + ((1.0,),) * (SEEDS - 1))
    (found,) = quantile_of_longest(few, np.array([[SEEDS] + [0] * (SEEDS - 1)], float), share=0.99)
    assert found == 1.0
