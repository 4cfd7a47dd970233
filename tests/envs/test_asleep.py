"""Asleep as a state of residency: what it frees and keeps, how long it takes, and what it never breaks."""

from __future__ import annotations

import copy
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shunter.agents.registry import make_policy
from shunter.envs.gym.rendering import describe
from shunter.envs.gym.scheduling import empty_observation
from shunter.envs.observation.features import feature
from shunter.envs.observation.observe import observe
from shunter.envs.rules.candidates import is_legal, used_bytes
from shunter.envs.rules.dynamics import apply, complete, open_episode
from shunter.envs.rules.faults import fail
from shunter.envs.scenario.limits import ASLEEP_BYTES
from shunter.envs.scenario.scenario import Scenario
from shunter.envs.sim.simulation import advance, predict
from shunter.envs.state.state import LOAD, WAIT, State
from shunter.envs.state.tables import Tables
from shunter.envs.world.world import World, make_world, sleep_note, with_footprints
from shunter.errors import InputError
from shunter.eval.execution.batched import evaluate_batched
from shunter.eval.execution.real import check_binding
from shunter.eval.execution.runs import simulate
from shunter.models.performance import PerformanceModel
from shunter.models.published.performance import published_performance
from tests.cli.test_main import works
from tests.random_worlds import ByName, random_world, sleeping_worlds, with_sleep

EXAMPLE = Path(__file__).parents[2] / "examples" / "asleep.yaml"
A, B, C = 0, 1, 2
GB = 1e9
FIGURES = {"unload_s": 0.125, "load_s": 4.0, "cold_load_s": 9.0, "wake_s": 0.5, "fall_asleep_s": 0.25}
DATA: dict[str, Any] = {
    "name": "s",
    "engine": "vllm",
    "models": [{"name": "m", "catalog": "Llama-3-8B", "quantization": "Q8_0"}],
    "devices": [{"name": "d", "gpu": "RTX A6000"}],
    "workload": {"requests": 8, "rate_per_s": 1.0},
}


def small(level: int, *, host_gb: float | None = None, devices: int = 1, **changed: Any) -> World:
    """Three models of 4 GB, of 2 GB with half of their layers, on devices of 10 GB; asleep they keep 1 GB."""
    scenario = Scenario.parse(
        {
            "name": "small",
            "engine": "fake",
            "models": [{"name": name} for name in "abc"],
            "devices": [{"name": f"d{i}", "device": "cuda:0-10GB"} for i in range(devices)],
            "workload": {"requests": 8, "rate_per_s": 1.0},
            "limits": {"guard_s": "off", "decision_s": 0.0},
        }
    )
    world = with_sleep(random_world(scenario, 2, np.random.default_rng(0), False), level, 0)
    sizes = {
        "capacity_bytes": 10 * GB,
        "footprint_bytes": np.array([4 * GB, 2 * GB]),
        "gpu_share": np.array([1.0, 0.5]),
        "asleep_bytes": 1 * GB,
        "host_bytes": np.inf if host_gb is None else host_gb * GB,
    }
    tables = world.tables.changed(**FIGURES, **{**sizes, **changed}, level_ok=1, kv_can_save=0)
    return replace(world, tables=tables._replace(weight_bytes=np.full(3, 4 * GB)))


class Play:
    """A world's first device, driven by hand: nobody waits for anything."""

    def __init__(self, world: World) -> None:
        self.world, self.tables = world, world.tables
        self.state = world.state_of(world.draw(0))
        open_episode(self.tables, self.state)

    def do(self, action: int, d: int = 0) -> float:
        """Carries a legal action out, to its end; returns its seconds, -1 where room must be made."""
        assert is_legal(self.tables, self.state, d, action)
        if not apply(self.tables, self.state, d, action):
            return -1.0
        predict(self.tables, self.state, d)
        device = self.state.device[d]
        took_s = int(device["op_end_ns"] - device["op_start_ns"]) * 1e-9
        self.state.clock["now_ns"] = device["op_end_ns"]
        complete(self.state, d)
        return took_s

    def load(self, m: int, level: int = 0, d: int = 0) -> float:
        return self.do(m * 2 + level, d)

    def evict(self, m: int, d: int = 0) -> float:
        return self.do(6 + m, d)

    def legal(self, d: int = 0) -> list[str]:
        legal = np.flatnonzero(self._observe(d)["action_mask"]).tolist()
        assert legal == [a for a in range(self.world.actions) if is_legal(self.tables, self.state, d, a)]
        return [self.world.action_name(a) for a in legal]

    def used_gb(self, d: int = 0) -> float:
        return float(used_bytes(self.tables, self.state, d)) / GB

    def seen(self, action: int, d: int = 0) -> dict[str, float]:
        candidates = self._observe(d)["candidates"]
        names = ("is_load", "is_evict", "resident_here", "swap_time", "footprint", "preempt_time", "cached")
        return {name: float(candidates[action][feature(name)]) for name in (*names, "shortage")}

    def _observe(self, d: int) -> dict[str, Any]:
        seen = empty_observation(self.world.actions)
        mask = seen["action_mask"].view(np.bool_)
        observe(self.tables, self.state, d, seen["candidates"], seen["context"], mask)
        return seen

    def asleep(self, d: int = 0) -> str:
        return "".join("abc"[m] for m in np.flatnonzero(self.state.place["asleep"][d] >= 0))


@pytest.mark.parametrize("level", [1, 2])
def test_who_is_evicted_sleeps_wakes_and_is_ended(level: int) -> None:
    play = Play(small(level))
    assert play.load(A) == 4.0
    assert play.evict(A) == 0.25
    assert (play.used_gb(), play.asleep()) == (1.0, "a")
    assert play.load(A) == 0.5
    assert (play.used_gb(), play.asleep()) == (4.0, "")
    play.evict(A)
    assert play.evict(A) == 0.125
    assert (play.used_gb(), play.asleep()) == (0.0, "")
    assert "evict a" not in play.legal()
    assert play.load(A) == 4.0


def test_only_the_same_layers_on_the_same_device_wake() -> None:
    play = Play(small(1, devices=2))
    play.load(A)
    play.evict(A)
    assert play.load(A, d=1) == 4.0
    assert play.asleep() == "a"
    # At other layers the sleeper is ended first.
    assert play.load(A, level=1) == 4.125
    assert (play.used_gb(), play.asleep()) == (2.0, "")
    # A resident that changes its layers does not fall asleep in between.
    assert play.load(A, level=0) == 4.125
    assert play.asleep() == ""


def test_without_sleep_nothing_is_different() -> None:
    world = small(1)
    off = replace(world, tables=world.tables.changed(sleep=0))
    play = Play(off)
    play.load(A)
    assert play.evict(A) == 0.125
    assert (play.used_gb(), play.asleep()) == (0.0, "")
    assert play.load(A) == 4.0
    for name in ("wake_s", "fall_asleep_s", "asleep_bytes"):
        other = replace(off, tables=off.tables.changed(**{name: 77.0}))
        runs = [simulate(w, ByName(w, 3), 3).log.frame() for w in (off, other)]
        assert runs[0].drop(columns="decision_s").equals(runs[1].drop(columns="decision_s"))


def test_level_2_reads_again_what_the_host_does_not_hold_and_level_1_does_not() -> None:
    for level, took_s in (1, 0.5), (2, 5.5):
        play = Play(small(level))
        play.load(A)
        play.evict(A)
        play.state.model["cached"][A] = 0
        assert play.load(A) == took_s


def test_what_candidates_show_of_a_sleeper() -> None:
    play = Play(small(1))
    play.load(A)
    assert play.seen(6 + A)["preempt_time"] == 0.75
    play.evict(A)
    play.state.model["cached"][A] = 0
    wake, other, end = play.seen(0), play.seen(1), play.seen(6)
    assert (wake["swap_time"], wake["cached"], wake["is_load"]) == (0.5, 1.0, 1.0)
    assert (other["swap_time"], other["cached"]) == (9.125, 0.0)
    np.testing.assert_allclose(end["footprint"], 0.1, rtol=1e-6)
    assert (end["is_evict"], end["is_load"], end["resident_here"], end["shortage"]) == (1.0, 0.0, 0.0, 0.0)
    assert end["preempt_time"] == 0.125 + 9.0 - 0.5
    assert "a asleep" in describe(play.world, play.state)


def test_sleepers_are_spared_while_a_resident_must_go_and_the_load_itself_is_not_ended() -> None:
    play = Play(small(1, footprint_bytes=np.array([9.5 * GB, 2 * GB])))
    play.load(A, level=1)
    play.evict(A)
    play.load(B, level=1)
    # 9.5 GB beside 1 and 2: the sleeper alone would not do, so only the resident can go.
    assert play.load(C) == -1.0
    assert play.legal() == ["evict b"]
    assert play.evict(B) == -1.0
    assert play.legal() == ["evict a", "evict b"]
    assert play.evict(B) == -1.0
    assert play.evict(A) == 4.0 + 2 * 0.125
    assert (play.used_gb(), play.asleep()) == (9.5, "")
    play.evict(C)
    play.load(A, level=1)
    play.evict(A)
    # c wakes, and whoever makes room for it, it is not c.
    assert play.load(C) == -1.0
    assert play.legal() == ["evict a"]
    assert play.evict(A) == 0.125 + 0.5


def test_sleepers_alone_make_room_where_they_can() -> None:
    play = Play(small(1, capacity_bytes=7 * GB))
    play.load(A)
    play.evict(A)
    play.load(B)
    assert play.load(C, level=1) == 4.0  # 1 + 4 + 2
    play.evict(C)
    assert play.load(C, level=0) == -1.0  # c is ended, and 4 GB lack room beside 1 and 4
    assert play.legal() == ["evict b"]
    play = Play(small(1, capacity_bytes=6.5 * GB))
    play.load(A)
    play.evict(A)
    play.load(B)
    assert play.load(C, level=1) == -1.0  # 0.5 GB are lacking
    assert play.legal() == ["evict a", "evict b"]


def test_the_host_holds_as_many_sleepers_as_it_has_room_for() -> None:
    play = Play(small(1, host_gb=9))
    for m in (A, B, C):
        play.load(m)
        play.evict(m)
    # The least recently used is ended for the newcomer, and the page cache has what is left: nothing.
    assert play.asleep() == "bc"
    assert not play.state.model["cached"].any()
    assert play.load(A) == 9.0
    assert play.state.model["cached"].tolist() == [0, 0, 0]
    # Sleepers of other devices are not ended: then the newcomer is unloaded.
    play = Play(small(1, host_gb=9, devices=2))
    for m in (A, B):
        play.load(m, d=1)
        play.evict(m, d=1)
    play.load(C)
    assert play.evict(C) == 0.125
    assert (play.asleep(0), play.asleep(1)) == ("", "ab")
    # Level 2 keeps nothing there.
    play = Play(small(2, host_gb=9))
    for m in (A, B, C):
        play.load(m)
        play.evict(m)
    assert play.asleep() == "abc"


@settings(max_examples=30, deadline=None)
@given(world=sleeping_worlds(), seed=st.integers(0, 1000), drains=st.booleans())
def test_memory_is_kept_and_whatever_fits_can_be_loaded(world: World, seed: int, drains: bool) -> None:
    if drains:
        limits = world.scenario.limits.model_copy(update={"preemption": "drain"})
        scenario = world.scenario.model_copy(update={"limits": limits})
        world = replace(world, scenario=scenario, tables=world.tables.changed(drain=1, kv_can_save=0))
    tables, rng = world.tables, np.random.default_rng(seed)
    state = world.state_of(world.draw(seed))
    open_episode(tables, state)
    evictions = np.zeros(world.devices, np.int64)
    first = world.models * world.levels[2]
    for _ in range(200):
        d = int(advance(tables, state))
        if d < 0:
            break
        legal = [a for a in range(world.actions) if is_legal(tables, state, d, a)]
        if state.device["pending_model"][d] >= 0:
            # Whatever is chosen makes room in the end: each model is sent to sleep and ended once at most.
            assert legal
            assert all(first <= a < world.actions - 1 for a in legal)
            evictions[d] += 1
            assert evictions[d] <= 2 * world.models
        else:
            evictions[d] = 0
        if apply(tables, state, d, int(rng.choice(legal))) and state.device["op_kind"][d] != WAIT:
            predict(tables, state, d)
        check_memory(tables, state)


def check_memory(tables: Tables, state: State) -> None:
    """No device holds more than it has, nor the host, and nobody is in two states at once."""
    place, kept = state.place, 0.0
    assert not ((place["resident"] >= 0) & (place["asleep"] >= 0)).any()
    for d in range(len(state.device)):
        now, held = state.device[d], 0.0
        for m in range(len(state.model)):
            resident, asleep = int(place["resident"][d, m]), int(place["asleep"][d, m])
            held += tables.footprint_bytes[d, m, resident] if resident >= 0 else 0.0
            held += tables.asleep_bytes[d, m, asleep] if asleep >= 0 else 0.0
            if asleep >= 0 and tables.sleep[0] == 1:
                kept += tables.weight_bytes[m] * tables.gpu_share[d, m, asleep]
        np.testing.assert_allclose(used_bytes(tables, state, d), held)
        if now["op_kind"] == LOAD:
            held += tables.footprint_bytes[d, now["op_model"], now["op_level"]]
        assert held <= tables.capacity_bytes[d] + 1.0
        assert (place["asleep"][d, tables.pinned == d] < 0).all()
    kept += tables.weight_bytes[state.model["cached"] != 0].sum()
    assert kept <= tables.host_bytes[0] * (1 + 1e-12)


@settings(max_examples=20, deadline=None)
@given(world=sleeping_worlds(requests=40), seed=st.integers(0, 1000))
def test_heuristics_serve_everyone_and_compiled_code_decides_alike(world: World, seed: int) -> None:
    limits = world.scenario.limits.model_copy(update={"max_time_s": 1e5})
    scenario = world.scenario.model_copy(update={"limits": limits})
    world = replace(world, scenario=scenario, tables=world.tables.changed(max_time_ns=10**14))
    for name in ("lru-keepalive", "cost-greedy", "count-lru", "never-preempt"):
        run = simulate(world, make_policy(name), seed)
        assert run.requests.finish_s.notna().all()
        batched = evaluate_batched(world, make_policy(name), [seed])
        assert batched.counts[0] == run.counts
        np.testing.assert_array_equal(batched.requests[0].finish_s, run.requests.finish_s)


def test_the_log_says_who_sleeps_wakes_and_ends() -> None:
    world = small(1, capacity_bytes=5 * GB)
    rows = simulate(world, make_policy("fifo-swap"), 1).log.frame()
    words = [word for words in rows["servers"] for word in words]
    loads = rows[rows["operation"] == "load"]
    took_s = (loads["end_s"] - loads["start_s"]).to_numpy()
    wakes = np.array([any(word.startswith("wake ") for word in words) for words in loads["servers"]])
    assert wakes.any()
    assert (took_s[wakes] < 1.5).all()
    assert (took_s[~wakes] > 3.9).all()
    assert {word.split()[0] for word in words} == {
        "sleep",
        "wake",
        "end",
    }


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"limits": {"sleep": 3}}, r"limits\.sleep.* be 0 .*, 1 or 2"),
        ({"limits": {"sleep": "1"}}, r"limits\.sleep"),
        ({"limits": {"sleep": True}}, r"limits\.sleep"),
        ({"limits": {"sleep": None}}, r"limits\.sleep"),
        ({"limits": {"sleep": 1.5}}, r"limits\.sleep"),
        ({"limits": {"sleep": 1, "asleep_mb": -1}}, r"limits\.asleep_mb"),
        ({"limits": {"sleep": 1, "asleep_mb": float("nan")}}, r"limits\.asleep_mb"),
        ({"limits": {"asleep_mb": 900}}, "have sleep 1 or 2 beside asleep_mb"),
        ({"limits": {"sleep": 1, "load_source": "sleep-1"}}, "have sleep or load_source"),
        ({"limits": {"sleep": 1}, "engine": "llama-cpp"}, r"limits\.sleep must be 0: m runs on llama-cpp"),
        (
            {"limits": {"sleep": 2}, "devices": [{"name": "d", "device": "cpu:1-threads-9GB"}]},
            r"limits\.sleep must be 0: engines sleep on GPUs, and d is cpu:1-threads-9GB",
        ),
    ],
)
def test_what_makes_no_sense_is_refused_by_name(changes: dict, said: str) -> None:
    assert Scenario.parse({**DATA, "limits": {"sleep": 1, "asleep_mb": 0}}).limits.asleep_bytes == 0
    with pytest.raises(InputError, match=said):
        Scenario.parse({**DATA, **changes})


def test_waking_is_published_unless_it_was_measured_at_that_level() -> None:
    performance = published_performance()
    plain, one, two = (_world(performance, sleep) for sleep in (0, 1, 2))
    assert np.all(one.tables.wake_s < two.tables.wake_s)
    assert np.all(two.tables.wake_s < one.tables.load_s)
    np.testing.assert_array_equal(one.tables.asleep_bytes, ASLEEP_BYTES)
    assert sleep_note(plain) is None
    assert "limits.sleep: 1) is as others published it, not measured" in str(sleep_note(one))
    for name in plain.tables.level.dtype.names:
        np.testing.assert_array_equal(plain.tables.level[name], one.tables.level[name])
    # Of a vLLM that was profiled asleep, loads are wakes, and loads from nothing are not known.
    versions = {**performance.state_.engine_versions, "vllm": "0.33.0, sleep level 1"}
    slept = copy.copy(performance)
    slept._set(performance.state_.model_copy(update={"engine_versions": versions}))
    own = _world(slept, 1)
    np.testing.assert_array_equal(own.tables.wake_s, plain.tables.load_s)
    np.testing.assert_array_equal(own.tables.fall_asleep_s, plain.tables.unload_s)
    assert np.all(own.tables.load_s != plain.tables.load_s)
    assert sleep_note(own) is None
    with pytest.raises(InputError, match=r"limits\.sleep must be 0 or 1: .* measured on vllm at that level"):
        _world(slept, 2)


def test_what_a_sleeper_keeps_is_no_more_than_it_takes() -> None:
    world = _world(published_performance(), 1, asleep_mb=1e6)
    np.testing.assert_array_equal(world.tables.asleep_bytes, world.tables.footprint_bytes)
    more = with_footprints(world, 1.01 * world.tables.footprint_bytes)
    np.testing.assert_array_equal(more.tables.asleep_bytes, more.tables.footprint_bytes)


def test_real_engines_refuse_sleep_before_any_work() -> None:
    device = [{"name": "d", "device": "cuda:0-40GB", "gpu": "RTX A6000"}]
    world = make_world(Scenario.parse({**DATA, "devices": device, "limits": {"sleep": 1}}))
    with pytest.raises(InputError, match=r"limits\.sleep must be 0 on real engines: workers, here of vllm"):
        check_binding(world)


def test_what_an_engine_kept_asleep_is_lost_when_it_fails() -> None:
    play = Play(small(1))
    for m in (A, B):
        play.load(m)
        play.evict(m)
    assert apply(play.tables, play.state, 0, 0)  # a wakes
    fail(play.tables, play.state, 0, np.array([True, True, False]), 3)
    assert (play.used_gb(), play.asleep()) == (0.0, "")
    assert play.load(B) == 4.0


def _world(performance: PerformanceModel, sleep: int, **limits: Any) -> World:
    return make_world(Scenario.parse({**DATA, "limits": {"sleep": sleep, **limits}}), performance)


def test_what_is_shown_says_that_waking_is_published(capsys: pytest.CaptureFixture[str]) -> None:
    said = " ".join(works(capsys, "scenarios", "show", str(EXAMPLE), "--performance", "published").split())
    assert "a sleeper wakes in" in said
    assert "is as others published it, not measured" in said
