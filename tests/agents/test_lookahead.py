from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest

from shunter.agents.base import Policy, StatePolicy
from shunter.agents.heuristics.cost_greedy import CostGreedy, greedy_choice
from shunter.agents.lookahead.futures import draw_future, estimate_rates, redraw_hidden
from shunter.agents.lookahead.policy import CandidateSearch, Lookahead, LookaheadSettings, Tried
from shunter.agents.lookahead.rollout_state import compact, make_scratch
from shunter.envs.sim.batch import Batch
from shunter.envs.state.state import RUN, State, in_use
from shunter.envs.world.world import World
from shunter.errors import InputError
from shunter.eval.execution.runs import simulate
from shunter.eval.metrics.metrics import summarize

QUICK = {"samples": 8, "horizon": 1.0, "candidates": 4, "confidence": 0.0}


class Oracle(CostGreedy):
    """Cost-greedy that sees true lengths."""

    oracle = True


def decisions(world: World, count: int = 60, seed: int = 1) -> Iterator[tuple[Batch, dict[str, Any], int]]:
    """Every decision of a random episode: the batch of one, what is seen, and who asks."""
    batch, rng = Batch(world, 1, autoreset=True), np.random.default_rng(seed)
    batch.reset([seed])
    for _ in range(count):
        out = batch.out
        seen = {"candidates": out.candidates[0], "context": out.context[0], "action_mask": out.mask[0]}
        yield batch, seen, int(batch.state.clock["asking"][0, 0])
        batch.step(np.array([rng.choice(np.flatnonzero(out.mask[0]))]))


def test_it_is_a_policy_that_wants_the_state(fake_world: World) -> None:
    policy = Lookahead()
    assert isinstance(policy, Policy)
    assert isinstance(policy, StatePolicy)
    assert not isinstance(CostGreedy(), StatePolicy)
    for act in (policy.act, policy.act_batch):
        with pytest.raises(InputError, match="decide from observations alone"):
            act({})


def test_compiled_cost_greedy_chooses_as_cost_greedy(fake_world: World) -> None:
    policy = CostGreedy()
    for _, seen, _ in decisions(fake_world, 300):
        assert greedy_choice(seen["candidates"], seen["action_mask"]) == policy.act(seen)


def lengthen(state: State) -> None:
    state.slot["decode_tokens"][in_use(state)] += 37
    state.ring["decode_tokens"] += 11


def hurry(state: State) -> None:
    state.ring["arrival_ns"] = state.ring["arrival_ns"] // 2 + int(state.clock["now_ns"][0])
    state.ring["model"] = 0
    state.ring["prompt_tokens"] = 1


def end_later(state: State) -> None:
    busy = state.device["op_kind"] >= RUN
    state.device["op_end_ns"][busy] += 10**9
    state.entry["tokens"] += 1
    state.entry["finish_ns"] = -1


def have_luck(state: State) -> None:
    for name in ("load_noise", "prefill_noise", "step_noise"):
        state.model[name] = 1.5


def be_slow(state: State) -> None:
    state.clock["drift"] = 1
    state.device["slower"] = 1.5


@pytest.mark.parametrize("change", [lengthen, hurry, end_later, have_luck, be_slow])
def test_a_decision_does_not_depend_on_what_a_server_cannot_know(
    fake_world: World, change: Callable[[State], None]
) -> None:
    search = CandidateSearch(fake_world, LookaheadSettings(**QUICK))
    compared, busy = 0, 0
    for batch, seen, device in decisions(fake_world):
        kept = State(*(records.copy() for records in batch.state))
        honest = search.try_all(batch.state.of(0), device, *seen.values())
        change(kept.of(0))
        changed = search.try_all(kept.of(0), device, *seen.values())
        np.testing.assert_array_equal(honest.costs, changed.costs)
        np.testing.assert_array_equal(honest.actions, changed.actions)
        compared += len(honest.actions) > 1
        busy += int((batch.state.device["op_kind"] >= RUN).any())
    assert compared > 20
    assert busy > 20


def test_an_oracle_does_depend_on_it(fake_world: World) -> None:
    search = CandidateSearch(fake_world, LookaheadSettings(**QUICK), oracle=True)
    differs = False
    for batch, seen, device in decisions(fake_world):
        kept = State(*(records.copy() for records in batch.state))
        lengthen(kept.of(0))
        honest, changed = (search.try_all(s.of(0), device, *seen.values()) for s in (batch.state, kept))
        differs = differs or not np.array_equal(honest.costs, changed.costs)
    assert differs


def test_looking_ahead_changes_nothing(fake_world: World) -> None:
    policy = Lookahead(**QUICK)
    for batch, seen, device in decisions(fake_world, 30):
        before = [records.tobytes() for records in batch.state]
        action = policy.act_on(fake_world, batch.state.of(0), device, seen)
        assert seen["action_mask"][action]
        assert [records.tobytes() for records in batch.state] == before


def test_an_oracle_foresees_what_cost_greedy_costs(fake_world: World) -> None:
    run = simulate(fake_world, Oracle(), 5)
    total_s = float((run.requests.finish_s - run.requests.arrival_s).sum())
    foreseen: list[float] = []

    class First(Lookahead):
        def act_on(self, world: World, state: State, device: int, observation: dict[str, Any]) -> int:
            tried = self.try_on(world, state, device, observation)
            if len(tried.actions) > 1:
                foreseen.append(tried.costs[0, 0] + state.clock["cost_ns"][0] * 1e-9)
            return int(tried.actions[0])

    simulate(fake_world, First(oracle=True, horizon=1e9), 5)
    np.testing.assert_allclose(foreseen, total_s, rtol=1e-9)


def test_an_oracle_that_looks_to_the_end_is_no_worse_than_cost_greedy(fake_world: World) -> None:
    for seed in range(3):
        plain = summarize([simulate(fake_world, Oracle(), seed)])["response_mean_s"]
        ahead = summarize([simulate(fake_world, Lookahead(oracle=True, horizon=1e9), seed)])
        assert ahead["response_mean_s"] <= plain * (1 + 1e-9)


def test_it_serves_everyone_and_decides_alike_again(fake_world: World) -> None:
    runs = [simulate(fake_world, Lookahead(**QUICK), 3) for _ in range(2)]
    assert runs[0].requests.finish_s.notna().all()
    assert runs[0].counts["illegal_actions"] == 0
    assert runs[0].requests.equals(runs[1].requests)


def test_only_a_clear_gain_leaves_the_base_policy() -> None:
    tried = Tried(np.array([4, 7]), np.array([[10.0, 8.0], [10.0, 11.0], [10.0, 9.0], [10.0, 9.0]]))
    assert tried.best(0.0) == 7
    assert tried.best(3.0) == 4
    mean, error = tried.scores(9)
    assert mean[4] == 10.0
    assert mean[7] == pytest.approx(9.25)
    assert error[7] == pytest.approx(np.std([-2, 1, -1, -1], ddof=1) / 2)
    assert np.isnan(mean[[0, 1, 8]]).all()


def test_a_candidate_that_was_given_up_is_not_taken() -> None:
    tried = Tried(np.array([0, 1]), np.array([[10.0, 1.0], [10.0, np.nan]]))
    assert tried.best(0.0) == 0


def test_the_race_gives_up_hopeless_candidates_and_changes_no_cost(fake_world: World) -> None:
    settings = {**QUICK, "samples": 24}
    racing = CandidateSearch(fake_world, LookaheadSettings(**settings, race=True))
    patient = CandidateSearch(fake_world, LookaheadSettings(**settings, race=False))
    given_up = 0
    for batch, seen, device in decisions(fake_world, 40):
        a, b = (search.try_all(batch.state.of(0), device, *seen.values()) for search in (racing, patient))
        played = np.isfinite(a.costs)
        np.testing.assert_array_equal(a.costs[played], b.costs[played])
        assert np.isfinite(b.costs[:, : len(b.actions)]).all() or len(b.actions) == 1
        given_up += int((~played).sum()) if len(a.actions) > 1 else 0
    assert given_up > 0


def copied(world: World, batch: Batch, ring: int = 4096) -> State:
    state = batch.state.of(0)
    scratch = make_scratch(world.levels, world.max_batch, slots=len(state.slot), ring=ring)
    compact(state, scratch.state, np.zeros(len(state.slot), np.int64))
    return scratch.state


def test_a_compact_copy_holds_the_same_requests(fake_world: World) -> None:
    names = ["id", "model", "arrival_ns", "generated", "kv", "home", "owner", "decode_tokens"]
    for batch, _, _ in decisions(fake_world, 40):
        state, copy = batch.state.of(0), copied(fake_world, batch)
        there, here = (s.slot[in_use(s)][names] for s in (state, copy))
        np.testing.assert_array_equal(np.sort(here, order="id"), np.sort(there, order="id"))
        for d in np.flatnonzero(state.device["op_kind"] == RUN):
            for b in range(int(state.device["op_batch"][d])):
                ids = [s.slot["id"][s.entry["slot"][d, b]] for s in (state, copy)]
                assert ids[0] == ids[1]


def test_redrawn_lengths_are_longer_than_what_was_generated(fake_world: World) -> None:
    lengths = np.arange(1, 101)[None]
    drawn = []
    for batch, _, _ in decisions(fake_world, 60):
        copy = copied(fake_world, batch)
        redraw_hidden(fake_world.tables, copy, lengths, 7)
        held = copy.slot[in_use(copy)]
        assert (held["decode_tokens"] > held["generated"]).all()
        fresh = held[held["generated"] == 0]
        drawn += fresh["decode_tokens"].tolist()
    assert len(set(drawn)) > 10
    assert max(drawn) <= 100


def test_drawn_futures_have_the_estimated_rates(fake_world: World) -> None:
    batch, _, _ = next(decisions(fake_world))
    copy = copied(fake_world, batch)
    rates = np.array([3.0, 1.0, 0.0])
    pairs = np.array([[[5, 7], [6, 8]]])
    draw_future(copy, rates, 4.0, pairs, 500.0, 1)
    count = int(copy.clock["last"][0])
    new = copy.ring[:count]
    assert count == pytest.approx(2000, abs=4 * 2000**0.5)
    assert np.mean(new["model"] == 0) == pytest.approx(0.75, abs=0.05)
    assert set(zip(new["prompt_tokens"].tolist(), new["decode_tokens"].tolist(), strict=True)) == {
        (5, 7),
        (6, 8),
    }
    assert (np.diff(new["arrival_ns"]) >= 0).all()
    draw_future(copy, rates, 4.0, pairs, 1e9, 1)
    assert int(copy.clock["last"][0]) == len(copy.ring)


def test_rates_are_estimated_from_the_past_alone(fake_world: World) -> None:
    batch, _, _ = next(decisions(fake_world))
    copy, rates = copied(fake_world, batch), np.zeros(3)
    copy.clock["now_ns"], copy.clock["arrived"] = 100 * 10**9, 50
    copy.model["last_arrival_ns"] = [99 * 10**9, 40 * 10**9, -1]
    copy.model["rate_per_s"] = [0.3, 0.5, 0.0]
    assert estimate_rates(copy, rates) == pytest.approx(0.5)
    # The second has been silent for 60 s: its rate can hardly be more than one in 60 s.
    np.testing.assert_allclose(rates, np.array([0.3, 1 / 60, 0.0]) / (0.3 + 1 / 60) * 0.5)


def _seen(batch: Batch) -> dict[str, Any]:
    out = batch.out
    return {"candidates": out.candidates, "context": out.context, "action_mask": out.mask}
