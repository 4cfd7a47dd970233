"""One policy on one sequence of requests, in either world, by one loop."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pandas as pd

from shunter.agents.base import Policy, StatePolicy
from shunter.envs.candidates import legal_action
from shunter.envs.dynamics import apply, open_episode
from shunter.envs.objectives import accrued, charge_unserved
from shunter.envs.observation import observe
from shunter.envs.scheduling import empty_observation
from shunter.envs.state import WAIT, Requests, State, all_outcomes, counted, episode_state
from shunter.envs.world import World
from shunter.eval.event_log import EventLog
from shunter.eval.plants import OnEnd, Plant, SimulatedPlant

__all__ = ["Run", "as_repeat", "request_frame", "run_policy", "simulate"]


@dataclass(frozen=True)
class Run:
    """What came of one episode.

    Attributes:
        policy: Its name.
        seed: Of the workload.
        world: ``simulated`` or ``real``.
        requests: One row per request: request_id, model, arrival_s, prompt_tokens, decode_tokens,
            first_token_s, finish_s (missing if unfinished), preemptions.
        counts: ``shunter.envs.state.COUNTS`` by name.
        makespan_s: Time at the end of the episode.
        decision_s: Mean wall-clock time of a decision, observation included.
        log: Its events.
        cost: What the scenario's objective accrued, in its own unit; request-seconds for mean response.
    """

    policy: str
    seed: int
    world: str
    requests: pd.DataFrame
    counts: dict[str, int]
    makespan_s: float
    decision_s: float
    log: EventLog
    cost: float = float("nan")


def run_policy(
    world: World,
    requests: Requests,
    policy: Policy,
    *,
    seed: int,
    make_plant: Callable[[OnEnd], Plant],
    world_name: str,
    on_progress: Callable[[int], None] | None = None,
) -> Run:
    """Runs a policy until every request is served or ``limits.max_time_s`` is over.

    Args:
        world: The compiled scenario.
        requests: The episode's requests.
        policy: Decides.
        seed: Of the workload; recorded.
        make_plant: Makes what carries operations out, given what to call when one has ended.
        world_name: ``simulated`` or ``real``; recorded.
        on_progress: Called with the number of finished requests after every decision.
    """
    first_sends_ns = world.scenario.workload.first_sends_ns()
    state = episode_state(requests, world.levels, world.max_batch, first_sends_ns)
    clock = state.clock[0]
    tables = world.tables.changed(oracle=int(policy.oracle))
    open_episode(tables, state)
    run_id = f"{policy.name}/{seed}/{world_name}"
    log = EventLog(world, {"run_id": run_id, "policy": policy.name, "seed": seed, "world": world_name})
    plant = make_plant(log.end)
    observation = empty_observation(world.actions)
    mask = observation["action_mask"].view(np.bool_)
    deciding_s = 0.0
    device = plant.advance(state)
    while device >= 0 and clock["now_ns"] <= world.max_time_ns:
        begun_s = time.perf_counter()
        observe(tables, state, device, observation["candidates"], observation["context"], mask)
        if isinstance(policy, StatePolicy):
            wanted = policy.act_on(world, state, device, observation)
        else:
            wanted = policy.act(observation)
        choice = int(legal_action(tables, state, device, wanted))
        took_s = time.perf_counter() - begun_s
        deciding_s += took_s
        log.decide(state, device, mask, choice, took_s)
        if apply(tables, state, device, choice):
            log.begin(state, device)
            if state.device["op_kind"][device] != WAIT:
                plant.start(state, device)
        if on_progress is not None:
            on_progress(int(clock["served"]))
        device = plant.advance(state)
    frame = request_frame(world, requests, state)
    counts = counted(state.counts)
    makespan_s = int(clock["now_ns"]) * 1e-9
    if device >= 0:
        charge_unserved(state)
    cost = accrued(state)
    plant.close(state)
    return Run(
        policy=policy.name,
        seed=seed,
        world=world_name,
        requests=frame,
        counts=counts,
        makespan_s=makespan_s,
        decision_s=deciding_s / max(1, len(log.rows)),
        log=log,
        cost=cost,
    )


def simulate(world: World, policy: Policy, seed: int) -> Run:
    """Runs a policy on predicted durations."""
    requests = world.draw(seed)
    return run_policy(
        world,
        requests,
        policy,
        seed=seed,
        make_plant=lambda on_end: SimulatedPlant(world, requests, on_end),
        world_name="simulated",
    )


def as_repeat(run: Run, repeat: int) -> Run:
    """Marks a run as one of several of the same policy, seed and world, so that logs tell them apart."""
    if repeat:
        run.log.mark({"run_id": f"{run.log.run['run_id']}/{repeat}"})
    return run


def request_frame(world: World, requests: Requests, state: State) -> pd.DataFrame:
    """One row per request of an episode, as ``Run.requests`` holds them."""

    def seconds(ns: np.ndarray) -> np.ndarray:
        return np.where(ns >= 0, ns * 1e-9, np.nan)

    names = np.array([m.name for m in world.scenario.models])
    outcomes = all_outcomes(state)[: len(requests.model)]
    arrived = np.arange(len(requests.model)) < state.clock["arrived"][0]
    # In a closed loop nobody knows when the requests would have been sent that never were.
    unsent_ns = requests.arrival_ns if len(state.user) == 0 else np.int64(-1)
    return pd.DataFrame(
        {
            "request_id": np.arange(len(requests.model)),
            "model": names[requests.model],
            "arrival_s": seconds(np.where(arrived, state.ring["arrival_ns"], unsent_ns)),
            "prompt_tokens": requests.prompt_tokens,
            "decode_tokens": requests.decode_tokens,
            "first_token_s": seconds(outcomes["first_token_ns"]),
            "finish_s": seconds(outcomes["finish_ns"]),
            "preemptions": outcomes["preemptions"],
        }
    )
