"""A scenario says where the bytes of loads come from, and its tables have what that takes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from shunter.envs.scenario.scenario import Scenario
from shunter.envs.world.residency import residency
from shunter.envs.world.tabulation import Tabulation
from shunter.envs.world.world import make_world
from shunter.errors import InputError
from shunter.eval.execution.real import check_binding
from shunter.models.performance import PerformanceModel
from shunter.models.published.performance import published_performance
from tests.worlds import fake_scenario


def _scenario(**limits: object) -> Scenario:
    text = {
        "name": "on-paper",
        "engine": "llama-cpp",
        "devices": [{"name": "a", "gpu": "RTX A6000"}],
        "models": [{"name": "m", "catalog": "Llama-3-8B", "quantization": "Q8_0"}],
        "workload": {"requests": 20, "rate_per_s": 0.3},
        "limits": {"max_batch": 1, "context_tokens": 64, **limits},
    }
    return Scenario.model_validate(text)


@pytest.fixture(scope="module")
def tables() -> dict[str, object]:
    asked = {
        "": {},
        "page-cache": {"load_source": "page-cache"},
        "pinned": {"load_source": "pinned"},
        "staged": {"load_source": "pinned", "host_memory_gb": 1.0},
        "unknown": {"load_source": "unknown"},
        "slow disk": {"load_source": "disk", "disk_gb_s": 0.07},
    }
    performance = published_performance()
    return {name: Tabulation(_scenario(**limits), performance).tables for name, limits in asked.items()}


def test_loads_and_nothing_else_change_with_their_source(tables: dict) -> None:
    cached, pinned = tables["page-cache"], tables["pinned"]
    assert pinned.load_s[0, 0, 0] < cached.load_s[0, 0, 0]
    for name in cached.level.dtype.names:
        same = bool(np.all(cached.level[name] == pinned.level[name]))
        assert same == (name not in ("load_s", "cold_load_s", "load_halfwidth")), name
    np.testing.assert_array_equal(cached.step_s, pinned.step_s)
    np.testing.assert_array_equal(cached.prefill_s, tables[""].prefill_s)


def test_what_is_staged_is_fast_and_what_is_not_comes_from_the_disk(tables: dict) -> None:
    staged = tables["staged"]
    assert staged.load_s[0, 0, 0] == tables["pinned"].load_s[0, 0, 0]
    assert staged.cold_load_s[0, 0, 0] > 3 * staged.load_s[0, 0, 0]
    assert tables["unknown"].load_halfwidth[0, 0, 0] > tables["pinned"].load_halfwidth[0, 0, 0]
    # 8.5 GB take two minutes at 70 MB/s, whatever else is guessed.
    assert tables["slow disk"].load_s[0, 0, 0] > 60


@pytest.mark.parametrize(
    ("limits", "said"),
    [
        ({"load_source": "floppy"}, "load_source"),
        ({"disk_gb_s": 3.0}, "load_source beside disk_gb_s"),
        ({"load_source": "disk", "host_memory_gb": 8.0}, "what memory holds is not read from disk"),
    ],
)
def test_sources_that_make_no_sense_are_refused(limits: dict, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        _scenario(**limits)


def test_measured_loads_count_before_published_ones_and_real_engines_stage_nothing(
    fake_checkpoints: dict[str, Path], fake_performance: PerformanceModel
) -> None:
    limits = {"context_tokens": 256}
    plain, warm, pinned = (
        make_world(fake_scenario(fake_checkpoints, limits={**limits, **more}), fake_performance)
        for more in ({}, {"load_source": "page-cache"}, {"load_source": "pinned"})
    )
    np.testing.assert_array_equal(plain.tables.load_s, warm.tables.load_s)
    assert not np.array_equal(plain.tables.load_s, pinned.tables.load_s)
    assert len(check_binding(warm)) == warm.models
    with pytest.raises(InputError, match=r"limits\.load_source must be page-cache, or left out"):
        check_binding(pinned)


def test_what_a_scenario_shows_is_what_its_tables_have(tables: dict) -> None:
    shown = residency(_scenario(load_source="pinned"), published_performance()).iloc[0]
    assert shown["load_s"] == tables["pinned"].load_s[0, 0, 0]
    assert shown["load_out_of_range"]
