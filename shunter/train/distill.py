"""Several trained policies as one network: what each decides where it was trained, learned by one student.

One training over very different worlds learns each of them slower than a training of its own does. A student
that is shown what specialists do needs no rewards, so that their noise does not reach it.

Source:
    Rusu et al., Policy Distillation, 2015, https://arxiv.org/abs/1511.06295: the softened decisions of a
    teacher as labels. Ross et al., A Reduction of Imitation Learning and Structured Prediction to No-Regret
    Online Learning, 2011, https://arxiv.org/abs/1011.0686: labelled where the student goes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from shunter.agents.learned import LearnedPolicy
from shunter.envs.scheduling import Observation
from shunter.envs.world import World
from shunter.train.courses import Course
from shunter.train.network import ScoringNetwork
from shunter.train.settings import DistillSettings
from shunter.train.worlds_env import WorldsVecEnv

__all__ = ["Lesson", "Progress", "distill"]


class Lesson(NamedTuple):
    """A teacher and where it teaches.

    Attributes:
        teacher: Whose decisions to learn.
        world: To learn them in.
    """

    teacher: LearnedPolicy
    world: World


class Progress(NamedTuple):
    """How far the student is.

    Attributes:
        passes: Over what was shown, of all rounds so far.
        agreement: Share of the last round's decisions, before it was learned from, that it would make as its
            teachers do; NaN in the first round.
        loss: Mean Kullback-Leibler divergence from the teachers' decisions over the last pass, in nats.
    """

    passes: int
    agreement: float
    loss: float


class _Shown(NamedTuple):
    """Decisions (n, ...) of teachers: observations as the network takes them, and logits."""

    flat: torch.Tensor
    logits: torch.Tensor


def distill(
    lessons: Sequence[Lesson],
    settings: DistillSettings,
    on_progress: Callable[[Progress], None] | None = None,
) -> LearnedPolicy:
    """Teaches one network what several do, whatever their priors, as far as its own lets it look.

    Args:
        lessons: Every world counts the same.
        settings: See there.
        on_progress: Called after each pass.
    """
    torch.set_num_threads(settings.threads)
    torch.manual_seed(settings.seed)
    venv = WorldsVecEnv(
        [Course(lesson.world, 1.0) for lesson in lessons],
        settings.environments,
        seed=settings.seed,
        time_constant=1.0,
    )
    student = _Student(venv, settings)
    shown: list[_Shown] = []
    passes = 0
    try:
        for number in range(settings.rounds):
            policy = student.policy() if number else None
            agreement = _show(venv, lessons, policy, settings.steps, shown)
            for loss in student.learn(shown):
                passes += 1
                if on_progress is not None:
                    on_progress(Progress(passes, agreement, loss))
    finally:
        venv.close()
    return student.policy()


def _show(
    venv: WorldsVecEnv,
    lessons: Sequence[Lesson],
    student: LearnedPolicy | None,
    steps: int,
    shown: list[_Shown],
) -> float:
    """Adds decisions of teachers to what was shown; returns the share in which the student agrees."""
    each = venv.envs_each
    agreed = []
    seen = venv.reset()
    for _ in range(steps):
        rows = [slice(i * each, (i + 1) * each) for i in range(len(lessons))]
        logits = np.concatenate(
            [_logits(lesson.teacher, seen, part) for lesson, part in zip(lessons, rows, strict=True)]
        )
        actions = logits.argmax(-1)
        flat = np.concatenate([seen[key].reshape(len(logits), -1) for key in KEYS], axis=1)
        shown.append(_Shown(torch.from_numpy(flat), torch.from_numpy(logits)))
        if student is not None:
            own = _logits(student, seen, slice(None)).argmax(-1)
            agreed.append((own == actions).mean())
            actions[::2] = own[::2]
        seen = venv.step(actions)[0]
    return float(np.mean(agreed)) if agreed else float("nan")


KEYS = ("action_mask", "candidates", "context")
"""In the order in which the network takes them."""


def _logits(policy: LearnedPolicy, seen: Observation, rows: slice) -> NDArray[np.float32]:
    mask, candidates, context = (seen[key][rows] for key in KEYS)
    return policy.scores(candidates, context, mask > 0).astype(np.float32)


class _Student:
    """A network that learns from what was shown."""

    def __init__(self, venv: WorldsVecEnv, settings: DistillSettings) -> None:
        self.settings = settings
        actions = int(venv.action_space.n)
        self.network = ScoringNetwork(actions, settings.width)
        parameters = [p for name, p in self.network.named_parameters() if not name.startswith("value.")]
        self.optimizer = torch.optim.Adam(parameters, lr=settings.learning_rate)
        decisions = venv.num_envs * settings.steps
        rounds = range(1, settings.rounds + 1)
        gradient_steps = sum(settings.passes * -(-decisions * n // settings.batch_size) for n in rounds)
        self.schedule = torch.optim.lr_scheduler.CosineAnnealingLR(
            self.optimizer, gradient_steps, eta_min=settings.learning_rate / 100
        )

    def learn(self, shown: list[_Shown]) -> Iterator[float]:
        """Learns; gives the mean divergence after each pass."""
        flat, logits = (torch.cat(part) for part in zip(*shown, strict=True))
        shown[:] = [_Shown(flat, logits)]
        wanted = logits.log_softmax(-1).nan_to_num(neginf=0.0)
        legal = logits.isfinite()
        shares = logits.softmax(-1)
        for _ in range(self.settings.passes):
            total = 0.0
            for rows in torch.randperm(len(flat)).split(self.settings.batch_size):
                scores = self.network.forward_actor(flat[rows])
                scores = scores.masked_fill(~legal[rows], -torch.inf).log_softmax(-1)
                gap = torch.where(legal[rows], wanted[rows] - scores, 0.0)
                loss = (shares[rows] * gap).sum(-1).mean()
                self.optimizer.zero_grad()
                loss.backward()
                self.optimizer.step()
                self.schedule.step()
                total += float(loss.detach()) * len(rows)
            yield total / len(flat)

    def policy(self) -> LearnedPolicy:
        """What it would do now."""
        return LearnedPolicy("distilled", self.network.exported(), {})
