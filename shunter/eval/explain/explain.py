"""Why a trained policy does as it does: what it learned, what that changes, and what that is worth.

Everything is measured on request sequences that chose nothing. ``shunter.report.explain`` shows it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from shunter.agents.base import Policy
from shunter.agents.learned.base_policy import TUNED_COST_GREEDY, BasePolicy
from shunter.agents.learned.inputs import INPUTS, KINDS, input_names
from shunter.agents.learned.policy import LearnedPolicy
from shunter.agents.learned.weights import untrained_weights
from shunter.envs.workload.seed_ranges import SEED_RANGES
from shunter.envs.world.world import World
from shunter.errors import InputError
from shunter.eval.execution.batched import evaluate_batched
from shunter.eval.explain.differences import HORIZON, Kind, kinds_of, named, telling, try_differences
from shunter.eval.explain.example import Example, describe
from shunter.eval.explain.replay import Followed, played
from shunter.eval.explain.words import group_of, input_words
from shunter.files import finite
from shunter.uncertainty import Interval, paired_mean_change

__all__ = ["SEEDS", "Explanation", "WeightGroup", "explain"]

Floats = NDArray[np.float64]

SEEDS = SEED_RANGES["explanation"]
"""Workload seeds that an explanation may use; nothing else does."""

UNTRAINED, OWN_PRIOR, TUNED = "untrained", "its prior alone", "tuned cost-greedy"


@dataclass(frozen=True)
class Contender:
    """A policy on the seeds.

    Attributes:
        name: Name of the policy.
        response_s: (S,) mean response of each sequence; NaN where requests were left unfinished.
        wait_p99_s: (S,) 99th percentile of the wait for a first token.
        response_change: Change of the explained policy's mean response against it.
        wait_change: Change of the explained policy's p99 wait against it.
    """

    name: str
    response_s: Floats
    wait_p99_s: Floats
    response_change: Interval
    wait_change: Interval


@dataclass(frozen=True)
class Weight:
    """A weight of the linear part.

    Attributes:
        kind: Kind of the candidates that it is for.
        input: Name of the input, as ``input_names`` has it.
        weight: Its value.
        feature: The feature that the input reads; see ``shunter.eval.explain.words.group_of``.
        spread: Standard deviation of what it adds to scores, among the candidates of a decision: root mean
            square over the decisions of the episodes.
        words: What it does.
    """

    kind: str
    input: str
    feature: str
    weight: float
    spread: float
    words: str


@dataclass(frozen=True)
class WeightGroup:
    """Weights that belong together, and what they are for.

    Attributes:
        name: A feature, a kind of candidates, the network or the prior's numbers.
        weights: How many of them are not 0.
        worse: Change of the mean response without them, paired.
        unfinished: Requests that were left unfinished without them.
    """

    name: str
    weights: int
    worse: Interval
    unfinished: int


@dataclass(frozen=True)
class Explanation:
    """All of it.

    Attributes:
        world: The compiled scenario.
        policy: The policy that is explained.
        seeds: S seeds of the requests.
        contenders: The policy, its prior alone, the untrained policy and tuned cost-greedy.
        weights: Weights of the linear part, by spread.
        groups: Groups of features, by how much worse the policy is without them.
        followed: The policy's episodes.
        kinds: Kinds of differences, the most frequent first.
        horizon_s: Horizon within which ``Kind.near_s`` counts.
        examples: Decisions, the ones that gained most first.
    """

    world: World
    policy: LearnedPolicy
    seeds: tuple[int, ...]
    contenders: tuple[Contender, ...]
    weights: tuple[Weight, ...]
    groups: tuple[WeightGroup, ...]
    followed: Followed
    kinds: tuple[Kind, ...]
    horizon_s: float
    examples: tuple[Example, ...]

    @property
    def decisions(self) -> int:
        """In all episodes."""
        return sum(map(len, self.followed.decisions))

    @property
    def differing(self) -> float:
        """Share of decisions in which the untrained policy would have chosen otherwise."""
        return sum(kind.count for kind in self.kinds) / max(1, self.decisions)

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        workload = self.world.scenario.workload
        figures: dict[str, Any] = finite(
            {
                "scenario": self.world.scenario.name,
                "load": workload.load,
                "rate_per_s": self.world.rate_per_s,
                "policy": self.policy.name,
                "seeds": list(self.seeds),
                "contenders": [asdict(one) for one in self.contenders],
                "prior": {"before": BasePolicy()._asdict(), "after": self.policy.prior._asdict()},
                "weights": [asdict(one) for one in self.weights],
                "groups": [asdict(one) for one in self.groups],
                "decisions": self.decisions,
                "differing": self.differing,
                "differences": [asdict(one) for one in self.kinds],
                "horizon_s": self.horizon_s,
                "examples": [one.to_dict() for one in self.examples],
            }
        )
        return figures


def explain(
    world: World,
    policy: LearnedPolicy,
    seeds: Sequence[int] = SEEDS[:10],
    *,
    sample_seed: int = 0,
    on_progress: Callable[[str], None] | None = None,
) -> Explanation:
    """Explains a trained policy in a world.

    Args:
        world: The compiled scenario.
        policy: To explain.
        seeds: Seeds of the requests; ``SEEDS`` are used for nothing else.
        sample_seed: Draws the decisions whose choices are played out.
        on_progress: Called with what is done next.

    Raises:
        InputError: There are fewer than two seeds.
    """
    if len(seeds) < 2:
        raise InputError("--seeds", "be at least 2", len(seeds))
    say = on_progress or (lambda text: None)
    untrained = LearnedPolicy(UNTRAINED, untrained_weights(BasePolicy()), {})
    own_base = LearnedPolicy(OWN_PRIOR, untrained_weights(policy.prior), {})
    say("comparing")
    first = _contender(world, policy, policy.name, seeds)
    others = [(own_base, OWN_PRIOR), (untrained, UNTRAINED), (TUNED_COST_GREEDY, TUNED)]
    contenders = [first, *(_contender(world, one, name, seeds, first) for one, name in others)]
    say("taking groups of weights away")
    groups = [_group(world, name, count, cut, seeds, first.response_s) for name, count, cut in _cuts(policy)]
    say("replaying")
    followed = played(world, policy, untrained, seeds)
    horizon_s = HORIZON * world.time_scale_s
    say("playing differences out")
    tried = try_differences(world, policy, untrained, seeds, followed, sample_seed, horizon_s)
    return Explanation(
        world=world,
        policy=policy,
        seeds=tuple(seeds),
        contenders=tuple(contenders),
        weights=tuple(_weights(policy, followed)),
        groups=tuple(sorted(groups, key=lambda group: -np.nan_to_num(group.worse.value, nan=np.inf))),
        followed=followed,
        kinds=tuple(kinds_of(world, followed, tried)),
        horizon_s=horizon_s,
        examples=tuple(
            describe(world, policy, untrained, one, named(world, one.record)) for one in telling(world, tried)
        ),
    )


def without(policy: LearnedPolicy, group: str) -> LearnedPolicy:
    """The policy with the weights of a group at zero, or the prior's numbers as trainings begin with.

    Args:
        policy: To change a copy of.
        group: A feature (``shunter.eval.explain.words.group_of``), ``every weight of run`` or of another
            kind, ``the network``, or ``the prior's numbers``.
    """
    weights = {name: array.copy() for name, array in policy.weights.items()}
    if group == "the network":
        for name in ("score_2.weight", "score_2.bias"):
            weights[name][:] = 0.0
    elif group == "the prior's numbers":
        weights["prior"] = np.array(BasePolicy(), np.float32)
    else:
        weights["linear"][_members(group)] = 0.0
    return LearnedPolicy(policy.name, weights, {})


def _members(group: str) -> NDArray[np.bool_]:
    """(kinds, inputs) which weights of the linear part a group has."""
    of_feature = np.array([group_of(i) == group for i in range(INPUTS)])
    of_kind = np.array([group == f"every weight of {kind}" for kind in KINDS])
    return np.asarray(of_feature[None, :] | of_kind[:, None])


def _cuts(policy: LearnedPolicy) -> Iterator[tuple[str, int, LearnedPolicy]]:
    """Groups that say anything, how many weights they have, and the policy without them."""
    linear = policy.weights["linear"]
    names = [*dict.fromkeys(map(group_of, range(INPUTS))), *(f"every weight of {kind}" for kind in KINDS)]
    for name in names:
        count = int(np.count_nonzero(linear[_members(name)]))
        if count:
            yield name, count, without(policy, name)
    if policy.width and any(policy.weights[f"score_2.{part}"].any() for part in ("weight", "bias")):
        layers = [array for name, array in policy.weights.items() if name not in ("prior", "linear")]
        yield "the network", sum(array.size for array in layers), without(policy, "the network")
    if (policy.weights["prior"] != np.array(BasePolicy(), np.float32)).any():
        yield "the prior's numbers", len(BasePolicy._fields), without(policy, "the prior's numbers")


def _group(
    world: World, name: str, count: int, cut: LearnedPolicy, seeds: Sequence[int], response_s: Floats
) -> WeightGroup:
    batched = evaluate_batched(world, cut, seeds)
    change = paired_mean_change(batched.response_mean_s, response_s)
    return WeightGroup(name, count, change, int(batched.unfinished.sum()))


def _contender(
    world: World, policy: Policy, name: str, seeds: Sequence[int], first: Contender | None = None
) -> Contender:
    batched, waits_s = evaluate_batched(world, policy, seeds), []
    for requests, end_s in zip(batched.requests, batched.makespan_s.tolist(), strict=True):
        waited_s = requests.first_token_s.fillna(end_s) - requests.arrival_s
        waits_s.append(float(waited_s.quantile(0.99)))
    response_s, wait_s = batched.response_mean_s, np.array(waits_s)
    changes = Interval(0.0, 0.0, 0.0), Interval(0.0, 0.0, 0.0)
    if first is not None:
        pairs = (first.response_s, response_s), (first.wait_p99_s, wait_s)
        changes = paired_mean_change(*pairs[0]), paired_mean_change(*pairs[1])
    return Contender(name, response_s, wait_s, *changes)


def _weights(policy: LearnedPolicy, followed: Followed) -> list[Weight]:
    linear, names = policy.weights["linear"].astype(np.float64), input_names()
    spread = np.abs(linear) * followed.spread
    found = []
    for k, i in zip(*np.nonzero(linear), strict=True):
        weight = float(linear[k, i])
        words = input_words(KINDS[k], int(i), weight)
        found.append(Weight(KINDS[k], names[i], group_of(int(i)), weight, float(spread[k, i]), words))
    return sorted(found, key=lambda one: -one.spread)
