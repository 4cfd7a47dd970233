"""Several trained policies as one network: what each decides where it was trained, learned by one student.

One search over very different worlds finds less in each of them than a search of its own does. A student that
is shown what specialists do needs no rewards, so that their noise does not reach it.

Source:
    Rusu et al., Policy Distillation, 2015, https://arxiv.org/abs/1511.06295: the softened decisions of a
    teacher as labels.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import numpy as np
import torch

from shunter.agents.learned.base_policy import MOST_CANDIDATES, BasePolicy
from shunter.agents.learned.policy import LearnedPolicy
from shunter.envs.sim.randomness import key_of
from shunter.envs.world.world import World
from shunter.train.distill.distillation_tasks import Shown, collect
from shunter.train.ppo.network import LOGITS_PER_SCORE, ScoringNetwork
from shunter.train.settings import DistillSettings


class DistillationTask(NamedTuple):
    """A teacher and where it teaches.

    Attributes:
        teacher: Policy whose decisions are learned.
        world: World in which the decisions are learned.
    """

    teacher: LearnedPolicy
    world: World


class Progress(NamedTuple):
    """How far the student is.

    Attributes:
        passes: Passes over what was shown, of all rounds so far.
        agreement: Share of the last round's decisions, before it was learned from, that it would make as its
            teachers do; NaN in the first round.
        loss: Mean Kullback-Leibler divergence from the teachers' decisions over the last pass, in nats.
    """

    passes: int
    agreement: float
    loss: float


def distill(
    distillation_tasks: Sequence[DistillationTask],
    settings: DistillSettings,
    on_progress: Callable[[Progress], None] | None = None,
) -> LearnedPolicy:
    """Teaches one network what several do, from the mean of what they rest on.

    Args:
        distillation_tasks: Teachers and their worlds; every world counts the same.
        settings: How the network learns: sizes, rounds, seed and more.
        on_progress: Called after each pass.
    """
    torch.set_num_threads(settings.threads)
    torch.manual_seed(settings.seed)
    student = _Student(_mean_base([task.teacher.prior for task in distillation_tasks]), settings)
    shown: list[Shown] = []
    passes = 0
    for number in range(settings.rounds):
        policy, key = student.policy() if number else None, int(key_of(settings.seed, number))
        new = [
            collect(
                task.world,
                task.teacher,
                policy,
                settings.decisions,
                episodes=settings.episodes,
                seed=int(key_of(key, place)),
            )
            for place, task in enumerate(distillation_tasks)
        ]
        agreement = float(np.concatenate([one.agrees for one in new]).mean()) if number else float("nan")
        shown += new
        for loss in student.learn(shown, len(distillation_tasks)):
            passes += 1
            if on_progress is not None:
                on_progress(Progress(passes, agreement, loss))
    return student.policy()


def _mean_base(priors: Sequence[BasePolicy]) -> BasePolicy:
    """The geometric mean of each number."""
    logs = np.log(np.maximum(np.array(priors, np.float64), 1e-4))
    return BasePolicy(*np.exp(logs.mean(axis=0)).tolist())


class _Student:
    """A network that learns from what was shown."""

    def __init__(self, prior: BasePolicy, settings: DistillSettings) -> None:
        self.settings = settings
        self.network = ScoringNetwork(MOST_CANDIDATES, settings.width)
        self.network.prior.copy_(torch.tensor(prior))
        parameters = [p for name, p in self.network.named_parameters() if not name.startswith("value.")]
        self.optimizer = torch.optim.Adam(parameters, lr=settings.learning_rate)
        self.done = 0.0

    def learn(self, shown: Sequence[Shown], distillation_tasks: int) -> Iterator[float]:
        """Learns; gives the mean divergence after each pass."""
        settings = self.settings
        arrays = Shown(*(np.concatenate(part) for part in zip(*shown, strict=True)))
        count, rounds = len(arrays.context), len(shown) // distillation_tasks
        scores = torch.from_numpy(LOGITS_PER_SCORE * arrays.scores)
        wanted, shares = scores.log_softmax(-1).nan_to_num(neginf=0.0), scores.softmax(-1)
        listed = torch.from_numpy(arrays.listed)
        flat = torch.from_numpy(
            np.concatenate(
                [arrays.listed.astype(np.float32), arrays.candidates.reshape(count, -1), arrays.context],
                axis=1,
            )
        )
        whole = settings.passes * settings.rounds * (settings.rounds + 1) / 2
        for _ in range(settings.passes):
            total = 0.0
            for rows in torch.randperm(count).split(settings.batch_size):
                self.done += len(rows) / count * rounds / whole
                for group in self.optimizer.param_groups:
                    group["lr"] = settings.learning_rate * (
                        0.01 + 0.99 * 0.5 * (1 + np.cos(np.pi * self.done))
                    )
                own = self.network.forward_actor(flat[rows])
                own = own.masked_fill(~listed[rows], -torch.inf).log_softmax(-1)
                gap = torch.where(listed[rows], wanted[rows] - own, 0.0)
                loss = (shares[rows] * gap).sum(-1).mean()
                self.optimizer.zero_grad()
                loss.backward()
                self.optimizer.step()
                total += float(loss.detach()) * len(rows)
            yield total / count

    def policy(self) -> LearnedPolicy:
        """The student as a policy, as it is now."""
        return LearnedPolicy("distilled", self.network.exported(), {})
