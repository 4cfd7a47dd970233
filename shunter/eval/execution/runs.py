"""One policy on one sequence of requests, in either mode, by one loop."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pandas as pd

from shunter.agents.base import Policy, choose, is_oracle
from shunter.agents.parameters import for_world
from shunter.engines.base import EngineError
from shunter.envs.gym.scheduling import empty_observation
from shunter.envs.observation.observe import observe
from shunter.envs.rules.candidates import legal_action, used_bytes
from shunter.envs.rules.dynamics import apply, open_episode
from shunter.envs.rules.objectives import accrued, charge_unserved
from shunter.envs.state.state import WAIT, Requests, State, all_outcomes, counted
from shunter.envs.world.world import World
from shunter.errors import PolicyError, ShunterError
from shunter.eval.execution.backends import Backend, OnEnd, SimulatedBackend
from shunter.eval.execution.event_log import EventLog
from shunter.eval.execution.faults.failures import Failure
from shunter.eval.execution.follow import Follower
from shunter.eval.execution.slowdowns import Slowdowns

__all__ = ["Run", "as_repeat", "run_policy", "simulate", "simulate_requests"]


@dataclass(frozen=True)
class Run:
    """What came of one episode.

    Attributes:
        policy: Its name.
        seed: Seed of the workload.
        mode: ``simulated`` or ``real``.
        requests: One row per request: request_id, model, arrival_s, prompt_tokens, decode_tokens,
            first_token_s, finish_s (missing if unfinished), preemptions.
        counts: ``shunter.envs.state.state.COUNTS`` by name.
        makespan_s: Time at the end of the episode.
        decision_s: Mean wall-clock time of a decision, observation included.
        log: Its events.
        cost: What the scenario's objective accrued, in its own unit; request-seconds for mean response.
        overhead_s: Wall-clock time of all that was no waiting for engines: deciding and keeping the books.
        slowdown: How many times as long as predicted the sentinel took around the run; NaN: nobody measured.
    """

    policy: str
    seed: int
    mode: str
    requests: pd.DataFrame
    counts: dict[str, int]
    makespan_s: float
    decision_s: float
    log: EventLog
    cost: float = float("nan")
    overhead_s: float = float("nan")
    slowdown: float = float("nan")

    @property
    def failures(self) -> list[Failure]:
        """Failures of engines, in order."""
        return self.log.failures


class InterruptedRun(KeyboardInterrupt):
    """Ctrl-C in a run; ``run`` is what there was of it."""

    def __init__(self, run: Run) -> None:
        super().__init__()
        self.run = run


class BrokenRun(EngineError):
    """An engine failed in a run and cannot be started again; ``run`` is what there was of it."""

    def __init__(self, error: EngineError, run: Run) -> None:
        super().__init__(str(error))
        self.exit_code = error.exit_code
        self.run = run


def run_policy(
    world: World,
    requests: Requests,
    policy: Policy,
    *,
    seed: int,
    make_backend: Callable[[OnEnd], Backend],
    mode: str,
    on_progress: Callable[[int], None] | None = None,
    follower: Follower | None = None,
) -> Run:
    """Runs a policy until every request is served or ``limits.max_time_s`` is over.

    Args:
        world: The compiled scenario.
        requests: The episode's requests.
        policy: Decides.
        seed: Seed of the workload; recorded.
        make_backend: Makes what carries operations out, given what to call when one has ended.
        mode: ``simulated`` or ``real``; recorded.
        on_progress: Called with the number of finished requests after every decision.
        follower: Whose tables the policy sees; None: the world's.

    Raises:
        InterruptedRun: Ctrl-C.
        BrokenRun: An engine failed and cannot be started again.
    """
    episode = _Episode(world, requests, policy, seed, make_backend, mode, follower)
    try:
        episode.run(on_progress or (lambda served: None))
    except KeyboardInterrupt:
        raise InterruptedRun(episode.result()) from None
    except EngineError as error:
        raise BrokenRun(error, episode.result()) from error
    result = episode.result()
    episode.backend.close(episode.state)
    return result


class _Episode:
    """One episode under way."""

    def __init__(
        self,
        world: World,
        requests: Requests,
        policy: Policy,
        seed: int,
        make_backend: Callable[[OnEnd], Backend],
        mode: str,
        follower: Follower | None,
    ) -> None:
        self.world, self.requests, self.policy = world, requests, for_world(policy, world)
        self.state = world.state_of(requests)
        tables = world.tables if follower is None else follower.tables
        self.tables = tables.changed(oracle=int(is_oracle(policy))) if follower is None else tables
        open_episode(self.tables, self.state)
        run_id = f"{policy.name}/{seed}/{mode}"
        run = {"run_id": run_id, "policy": policy.name, "seed": seed, "mode": mode}
        self.log = EventLog(world, run)
        self.backend = make_backend(self.log.end)
        self.observation = empty_observation(world.actions)
        self.mask = self.observation["action_mask"].view(np.bool_)
        self.deciding_s = self.overhead_s = 0.0

    def run(self, on_progress: Callable[[int], None]) -> None:
        """Until every request has left or time is over."""
        clock, begun_s = self.state.clock[0], time.perf_counter()
        self.backend.open(self.state)
        device = self.backend.advance(self.state)
        while device >= 0 and clock["now_ns"] <= self.world.max_time_ns:
            self._decide(device)
            self.overhead_s = time.perf_counter() - begun_s - self.backend.waited_s
            on_progress(int(clock["served"]))
            device = self.backend.advance(self.state)

    def _decide(self, device: int) -> None:
        tables, state, observation = self.tables, self.state, self.observation
        if tables.drain[0]:
            self.log.end_operation(state, device, float(used_bytes(tables, state, device)))
        begun_s = time.perf_counter()
        observe(tables, state, device, observation["candidates"], observation["context"], self.mask)
        choice = int(legal_action(tables, state, device, self._wanted(device)))
        took_s = time.perf_counter() - begun_s
        self.deciding_s += took_s
        self.log.decide(state, device, self.mask, choice, took_s)
        if apply(tables, state, device, choice):
            self.log.begin(state, device)
            if state.device["op_kind"][device] != WAIT:
                self.backend.start(state, device)

    def _wanted(self, device: int) -> int:
        try:
            return choose(self.policy, self.world, self.state, device, self.observation)
        except ShunterError:
            raise
        except (Exception, SystemExit) as error:  # a third party's policy may raise anything
            raise PolicyError(self.policy.name, len(self.log.rows), error) from error

    def result(self) -> Run:
        """What there is of it by now; who is still in the system has missed the SLO."""
        frame, counts = request_frame(self.world, self.requests, self.state), counted(self.state.counts)
        charge_unserved(self.state)
        run = self.log.run
        return Run(
            policy=run["policy"],
            seed=run["seed"],
            mode=run["mode"],
            requests=frame,
            counts=counts,
            makespan_s=int(self.state.clock["now_ns"][0]) * 1e-9,
            decision_s=self.deciding_s / max(1, len(self.log.rows)),
            log=self.log,
            cost=accrued(self.state),
            overhead_s=self.overhead_s,
        )


def simulate(
    world: World, policy: Policy, seed: int, *, slowdowns: Slowdowns | None = None, follow: bool = False
) -> Run:
    """Runs a policy on predicted durations, or on a machine that is not as fast as predicted.

    Args:
        world: The compiled scenario; what the policy knows.
        policy: Decides.
        seed: Seed of the workload.
        slowdowns: How much longer operations take than predicted; None: as predicted.
        follow: Whether predicted durations follow that, as with ``run_real``. In simulation the end of what
            goes on is seen as it will be either way.

    Raises:
        InputError: The slowdowns are of another number of devices.
    """
    return simulate_requests(world, policy, world.draw(seed), seed, slowdowns=slowdowns, follow=follow)


def simulate_requests(
    world: World,
    policy: Policy,
    requests: Requests,
    seed: int = 0,
    *,
    slowdowns: Slowdowns | None = None,
    follow: bool = False,
) -> Run:
    """As ``simulate``, on given requests."""
    follower = Follower(world.tables.changed(oracle=int(is_oracle(policy)))) if follow else None
    return run_policy(
        world,
        requests,
        policy,
        seed=seed,
        make_backend=lambda on_end: SimulatedBackend(world, requests, on_end, slowdowns, follower),
        mode="simulated",
        follower=follower,
    )


def as_repeat(run: Run, repeat: int) -> Run:
    """Marks a run as one of several of the same policy, seed and mode, so that logs tell them apart."""
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
            "arrival_s": seconds(np.where(arrived, state.ring["arrival_ns"][: len(arrived)], unsent_ns)),
            "prompt_tokens": requests.prompt_tokens,
            "decode_tokens": requests.decode_tokens,
            "first_token_s": seconds(outcomes["first_token_ns"]),
            "finish_s": seconds(outcomes["finish_ns"]),
            "preemptions": outcomes["preemptions"],
        }
    )
