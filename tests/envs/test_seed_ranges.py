from __future__ import annotations

from itertools import combinations

from shunter.envs.workload.seed_ranges import SEED_RANGES


def test_no_two_purposes_share_a_seed() -> None:
    for one, other in combinations(SEED_RANGES.values(), 2):
        assert not set(one) & set(other)
