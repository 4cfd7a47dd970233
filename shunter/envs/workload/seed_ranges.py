"""Workload seeds by what they are for, in one place: no two ranges share a seed.

Requests that chose something cannot judge it. Training needs no range: it draws requests by keys of 63 bits
that are hashed from the training's seed, the environment and the episode.
"""

from __future__ import annotations

from typing import Final

__all__ = ["SEED_RANGES"]

SEED_RANGES: Final[dict[str, range]] = {
    "validation": range(1_000_000, 1_000_012),
    "reference": range(2_000_000, 2_000_004),
    "selection": range(3_000_000, 3_000_020),
    "score card": range(4_000_000, 4_000_010),
    "tuning": range(5_000_000, 5_000_004),
    "prior": range(5_100_000, 5_100_012),
    "phase choice": range(6_000_000, 6_000_004),
    "phase": range(6_100_000, 6_100_012),
    "capacity": range(7_000_000, 7_000_016),
    "benchmark": range(8_000_000, 8_000_020),
    "explanation": range(9_000_000, 9_000_040),
}
"""Which checkpoint to keep; the unit of training costs; which registered policy is better; score cards in
policy files; parameters of heuristics; what a training begins as; which rule stands for its kind in
``benchmarks.preemption_phase``, and what is judged there; a scenario's capacity; what
``benchmarks.policies`` judges on; what ``shunter policy explain`` and ``benchmarks.search_ablation`` show."""
