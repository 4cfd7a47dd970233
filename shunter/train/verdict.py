"""What learning added: a trained policy beside what it began as and the heuristics, on unseen requests."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from shunter.agents.learned.base_policy import DRAIN_COST_GREEDY, TUNED_COST_GREEDY, BasePolicy
from shunter.agents.learned.policy import LearnedPolicy
from shunter.agents.learned.weights import untrained_weights
from shunter.envs.scenario.fields import Strict
from shunter.envs.world.world import World
from shunter.train.selection import (
    Played,
    all_drain,
    best_of,
    heuristics,
    if_finite,
    played,
    score_card,
    tuned_of,
)
from shunter.uncertainty import paired_mean_change, sign_of

__all__ = ["TUNED", "Verdict", "kept_words", "shown", "untrained_policy", "verdict_of"]

TUNED = "tuned cost-greedy"
"""What the tuned cost-greedy of a world is called where people read it."""


def shown(heuristic: str) -> str:
    """A heuristic's name for people."""
    return TUNED if heuristic in (TUNED_COST_GREEDY.name, DRAIN_COST_GREEDY.name) else heuristic


class Standing(Strict):
    """How one policy did.

    Attributes:
        policy: Name of the policy.
        response_s: Mean response in s, geometric mean over worlds; None if it left requests unfinished.
        ttft_p99_s: p99 of waits for a first token in s, geometric mean over worlds; None if it left requests
            unfinished.
        unfinished: Requests that the policy left.
    """

    policy: str
    response_s: float | None
    ttft_p99_s: float | None
    unfinished: int

    @property
    def words(self) -> str:
        """The policy's figures in words."""
        if self.response_s is None or self.ttft_p99_s is None:
            return f"{self.unfinished} requests unfinished"
        response, wait = (f"{x:#.3g}".rstrip(".") for x in (self.response_s, self.ttft_p99_s))
        return f"{response} s ({wait} s)"


class Verdict(Strict):
    """What training added.

    Attributes:
        seeds: Seeds of the workloads, the same in every world; they chose nothing.
        worlds: Number of worlds.
        trained: How the trained policy did.
        start: How the policy did that training began from: ``untrained``, or ``start`` if one was given.
        tuned: How tuned cost-greedy did.
        best: How the best heuristic did, by geometric mean over the worlds; tuned cost-greedy is one of them.
        change: Relative change of the mean response, trained against start; −0.1 is 10 % lower. None if
            nothing compares.
        low: Lower end of the change's 95 % paired interval.
        high: Upper end of the change's 95 % paired interval.
    """

    seeds: list[int]
    worlds: int
    trained: Standing
    start: Standing
    tuned: Standing
    best: Standing
    change: float | None
    low: float | None
    high: float | None

    @property
    def words(self) -> tuple[str, str]:
        """What training added, and where all stand."""
        return self._added(), self._standings()

    def _added(self) -> str:
        on = f"({len(self.seeds)} request sequences that nothing saw)"
        if self.trained.unfinished > self.start.unfinished:
            return f"training made it worse: {self.trained.unfinished} requests are left unfinished {on}"
        if self.change is None or self.low is None or self.high is None:
            return f"what training added is not known {on}"
        gain, low, high = (-100 * x + 0.0 for x in (self.change, self.high, self.low))
        sign = -sign_of(self.low, self.high)
        if sign > 0:
            return f"training added {gain:.1f} % [{low:.1f}, {high:.1f}] {on}"
        if sign < 0:
            return f"training made it worse: {gain:+.1f} % [{low:+.1f}, {high:+.1f}] {on}"
        figures = f"{gain:.1f} % [{low:+.1f}, {high:+.1f}]"
        return f"training added {figures}: nothing that the measurement shows {on}"

    def _standings(self) -> str:
        best = self.best.policy == self.tuned.policy
        parts = [
            f"trained {self.trained.words}",
            f"{self.start.policy} {self.start.words}",
            f"{TUNED}{', the best heuristic,' if best else ''} {self.tuned.words}",
            *([] if best else [f"best heuristic {self.best.policy} {self.best.words}"]),
        ]
        over = "" if self.worlds == 1 else f", geometric means over {self.worlds} worlds"
        return f"mean response (p99 wait for a first token){over}: {'; '.join(parts)}"


def untrained_policy(worlds: Sequence[World]) -> LearnedPolicy:
    """What a training in these worlds begins as."""
    return LearnedPolicy("untrained", untrained_weights(BasePolicy.of(drains=all_drain(worlds))), {})


def judge(
    policy: LearnedPolicy,
    worlds: Sequence[World],
    seeds: Sequence[int],
    *,
    start: LearnedPolicy | None = None,
) -> dict[str, str]:
    """Metadata of a policy file: the score card, and what training added.

    Args:
        policy: The policy that was trained.
        worlds: Worlds to judge in.
        seeds: Seeds of the workloads; none that the policy or its settings were chosen on.
        start: What the training was given to start from; by default the untrained policy.
    """
    mine = played(worlds, policy, seeds)
    begun = played(worlds, start or untrained_policy(worlds), seeds)
    others = {name: played(worlds, heuristic, seeds) for name, heuristic in heuristics(worlds).items()}
    best = best_of({name: other.response_mean_s for name, other in others.items()})
    change = paired_mean_change(mine.response_mean_s, begun.response_mean_s)
    verdict = Verdict(
        seeds=list(seeds),
        worlds=len(worlds),
        trained=_standing(policy.name, mine),
        start=_standing("untrained" if start is None else "start", begun),
        tuned=_standing(tuned_of(worlds).name, others[tuned_of(worlds).name]),
        best=_standing(best, others[best]),
        change=if_finite(change.value),
        low=if_finite(change.low),
        high=if_finite(change.high),
    )
    card = score_card(worlds, mine, others, seeds)
    return {**card.record(), "verdict": verdict.model_dump_json()}


def verdict_of(policy: LearnedPolicy) -> Verdict | None:
    """What the policy's file says that training added; None if nothing.

    Raises:
        BrokenFileError: It is no JSON.
        InputError: It has another form.
    """
    return policy.recorded("verdict", Verdict, "verdict")


def kept_words(policy: LearnedPolicy) -> str:
    """That training found no weights better than those it began with; empty if it did, or if nobody knows."""
    began = {"untrained": "the untrained ones", "start": "those that it was given to start from"}
    kept = began.get(policy.metadata.get("kept", ""))
    return "" if kept is None else f"no weights were better in validation than {kept}, which were kept"


def _standing(name: str, done: Played) -> Standing:
    return Standing(
        policy=name,
        response_s=if_finite(np.exp(np.log(done.response_mean_s.mean(axis=1)).mean())),
        ttft_p99_s=if_finite(np.exp(np.log(done.ttft_p99_s).mean())),
        unfinished=int(done.unfinished.sum()),
    )
