"""``shunter serve`` as a function."""

from __future__ import annotations

import numpy as np
import pytest

from benchmarks.serve_histories import small_world
from shunter.agents.registry import make_policy
from shunter.serve import serving
from shunter.serve.core import Core


def test_a_rehearsal_asks_the_policy_and_serves_a_request_to_its_end(monkeypatch: pytest.MonkeyPatch) -> None:
    cores: list[Core] = []

    class Watched(Core):
        def __post_init__(self) -> None:
            super().__post_init__()
            cores.append(self)

    monkeypatch.setattr(serving, "Core", Watched)
    world = small_world()
    before = world.tables.level.copy()
    serving.rehearse(world, make_policy("cost-greedy"))
    (core,) = cores
    assert core.totals.decisions > core.totals.fallbacks == 0
    assert (core.totals.served, core.totals.loads, core.totals.cancelled) == (1, 1, 1)
    assert not core.jobs
    assert np.array_equal(world.tables.level, before)
