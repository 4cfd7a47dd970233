"""One decision looked at closely: who waits, what is resident, what each choice led to."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from shunter.agents.base import Policy
from shunter.agents.learned.policy import LearnedPolicy
from shunter.envs.gym.scheduling import empty_observation
from shunter.envs.observation.observe import observe
from shunter.envs.state.state import EVICT, LOAD, RUN, State, in_use
from shunter.envs.world.world import World
from shunter.eval.execution.runs import Run, simulate
from shunter.eval.explain.replay import WHATS, Difference, walk, what_of

__all__ = ["Example"]

_VERBS = {
    "run": "run ",
    "load": "load ",
    "second copy": "load a second copy of ",
    "prefetch": "prefetch ",
    "other level": "change to ",
    "evict": "",
    "wait": "",
}
_DOES = {RUN: "runs", LOAD: "loads", EVICT: "unloads"}


@dataclass(frozen=True)
class Queue:
    """Requests of a model.

    Attributes:
        model: Its name.
        waiting: Requests that nobody runs.
        running: Requests of a quantum under way.
        oldest_s: Since the oldest of those that wait arrived; NaN if none does.
    """

    model: str
    waiting: int
    running: int
    oldest_s: float


@dataclass(frozen=True)
class Candidate:
    """What the device may do, and what the two policies give it.

    Attributes:
        words: What it is.
        score: Score that the policy gives; minus infinity where its pruning leaves it out.
        untrained: Score that the untrained policy gives; minus infinity where its pruning leaves it out.
    """

    words: str
    score: float
    untrained: float


@dataclass(frozen=True)
class Branch:
    """What a choice led to.

    Attributes:
        words: The choice.
        rest_s: Mean response of the requests that were unfinished or yet to come.
        run: The whole episode.
    """

    words: str
    rest_s: float
    run: Run


@dataclass(frozen=True)
class Example:
    """A decision in which the policy differs from the untrained one.

    Attributes:
        words: How the policies differ.
        difference: What came of each policy's choice.
        device: The device that asked.
        at_s: When the device asked, seconds since the start.
        queues: Queues of the models that have requests in the system.
        devices: What each device holds and does, by its name.
        candidates: Candidates by score, the highest first.
        rest: Requests that were unfinished or yet to come.
        chosen: Episode with the policy's choice; the policy decides from then on.
        other: Episode with the untrained policy's choice; the policy decides from then on, too.
    """

    words: str
    difference: Difference
    device: str
    at_s: float
    queues: tuple[Queue, ...]
    devices: dict[str, str]
    candidates: tuple[Candidate, ...]
    rest: int
    chosen: Branch
    other: Branch

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {
            "difference": self.words,
            "seed": self.difference.seed,
            "decision": self.difference.number,
            "device": self.device,
            "at_s": self.at_s,
            "queues": [asdict(queue) for queue in self.queues],
            "devices": self.devices,
            "candidates": [asdict(candidate) for candidate in self.candidates],
            "rest": self.rest,
            "chosen": {"words": self.chosen.words, "rest_s": self.chosen.rest_s},
            "untrained": {"words": self.other.words, "rest_s": self.other.rest_s},
            "gain_s": self.difference.gain_s,
            "near_s": self.difference.near_s,
        }


class _Once:
    """A policy that takes one decision of its episode as it is told."""

    oracle = False

    def __init__(self, policy: Policy, number: int, action: int, name: str) -> None:
        self.policy, self.name = policy, name
        self._left, self._action = number, action

    def act(self, observation: dict[str, NDArray[Any]]) -> int:
        self._left -= 1
        return self._action if self._left == -1 else self.policy.act(observation)

    def act_batch(self, observations: dict[str, NDArray[Any]]) -> NDArray[np.int64]:
        raise NotImplementedError("it decides for one episode")


def after(world: World, policy: Policy, seed: int, number: int, action: int, name: str = "") -> Run:
    """Simulates an episode in which one decision is taken as told.

    Args:
        world: The compiled scenario.
        policy: Takes all others.
        seed: Seed of the requests.
        number: Number of the decision in its episode.
        action: The action that is taken in it.
        name: Name of the run; empty: the policy's.
    """
    return simulate(world, _Once(policy, number, action, name or policy.name), seed)


def describe(
    world: World, policy: LearnedPolicy, untrained: LearnedPolicy, difference: Difference, words: str
) -> Example:
    """Looks at a decision closely.

    Args:
        world: The compiled scenario.
        policy: The policy that decides.
        untrained: The untrained policy that it is held against.
        difference: The decision.
        words: How the two differ.
    """
    one, seed, number = difference.record, difference.seed, difference.number
    state = next(iter(walk(world, policy, untrained, seed, [number])))
    device, seen = int(one["device"]), empty_observation(world.actions)
    legal = seen["action_mask"].view(np.bool_)
    observe(world.tables, state, device, seen["candidates"], seen["context"], legal)
    names = [action_words(world, seen["candidates"], action) for action in range(world.actions)]
    scores = [p.scores(seen["candidates"], seen["context"], legal) for p in (policy, untrained)]
    listed = np.flatnonzero(np.isfinite(scores[0]) | np.isfinite(scores[1]))
    candidates = [Candidate(names[a], float(scores[0][a]), float(scores[1][a])) for a in listed]
    at_s = int(one["now_ns"]) * 1e-9

    def branch(action: int) -> Branch:
        run = after(world, policy, seed, number, action, names[action])
        return Branch(names[action], _rest(run, done)[1], run)

    done = np.flatnonzero(state.outcome["finish_ns"] >= 0)
    chosen, other = branch(int(one["chosen"])), branch(int(one["other"]))
    return Example(
        words=words,
        difference=difference,
        device=world.scenario.devices[device].name,
        at_s=at_s,
        queues=tuple(_queues(world, state)),
        devices={d.name: _device_words(world, state, i) for i, d in enumerate(world.scenario.devices)},
        candidates=tuple(sorted(candidates, key=lambda candidate: -candidate.score)),
        rest=_rest(chosen.run, done)[0],
        chosen=chosen,
        other=other,
    )


def action_words(world: World, candidates: NDArray[Any], action: int) -> str:
    """A candidate as ``World.action_name`` has it, and what it is."""
    return _VERBS[WHATS[what_of(candidates[action])]] + world.action_name(action)


def _rest(run: Run, done: NDArray[np.int64]) -> tuple[int, float]:
    """How many requests were not done yet, and their mean response."""
    requests: pd.DataFrame = run.requests.drop(index=done.tolist())
    return len(requests), float((requests.finish_s - requests.arrival_s).mean())


def _queues(world: World, state: State) -> list[Queue]:
    slots, now_ns = state.slot[in_use(state)], int(state.clock["now_ns"][0])
    found = []
    for m, model in enumerate(world.scenario.models):
        own = slots[slots["model"] == m]
        idle = own[own["owner"] < 0]
        if len(own):
            oldest_s = (now_ns - int(idle["arrival_ns"].min())) * 1e-9 if len(idle) else float("nan")
            found.append(Queue(model.name, len(idle), len(own) - len(idle), oldest_s))
    return found


def _device_words(world: World, state: State, device: int) -> str:
    """What a device holds and does."""
    resident = state.place["resident"][device]
    levels = world.levels[2]
    held = [world.action_name(int(m) * levels + int(resident[m])) for m in np.flatnonzero(resident >= 0)]
    asleep = np.flatnonzero(state.place["asleep"][device] >= 0)
    held += [f"{world.scenario.models[m].name} asleep" for m in asleep]
    now = state.device[device]
    text = f"holds {', '.join(held) or 'nothing'}"
    if int(now["op_kind"]) in _DOES:
        left_s = (int(now["op_end_ns"]) - int(state.clock["now_ns"][0])) * 1e-9
        model = world.scenario.models[int(now["op_model"])].name
        text += f"; {_DOES[int(now['op_kind'])]} {model} for another {left_s:.2g} s"
    return text
