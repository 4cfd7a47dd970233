"""MaskablePPO on one world or many: a residual on cost-greedy, discounted per second."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
from sb3_contrib import MaskablePPO
from stable_baselines3.common.callbacks import BaseCallback
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from shunter.agents.learned.file import training_record
from shunter.agents.learned.policy import LearnedPolicy
from shunter.envs.world.world import World
from shunter.errors import InputError
from shunter.train.ppo.buffer import DurationBuffer, RecordDurations
from shunter.train.ppo.checkpoint import Checkpoint, read_checkpoint, write_checkpoint
from shunter.train.ppo.network import CandidatePolicy
from shunter.train.ppo.tasks import TrainingTask, make_task
from shunter.train.ppo.warm_start import best_prior
from shunter.train.ppo.worlds_env import WorldsVecEnv
from shunter.train.result import Curve, OnProgress, TrainResult
from shunter.train.settings import VALIDATION_SEEDS, PpoSettings, plain
from shunter.train.validation import Validation

__all__ = ["train_ppo"]


class _Report(BaseCallback):
    """Tells the caller how far a segment is before each of its rollouts."""

    def __init__(self, report: Callable[[int], None]) -> None:
        super().__init__()
        self.report = report

    def _on_rollout_start(self) -> None:
        self.report(self.num_timesteps)

    def _on_step(self) -> bool:
        return True


@dataclass
class _Training:
    """A training run, segment by segment; each begins with fresh environments and random numbers of its own.

    So a checkpoint between segments needs neither: a resumed run is the uninterrupted one.
    """

    tasks: Sequence[TrainingTask]
    settings: PpoSettings
    validation: Validation
    on_progress: OnProgress | None
    curve: list[Curve] = field(default_factory=list)
    best: LearnedPolicy | None = None
    before_s: float = 0.0

    def __post_init__(self) -> None:
        self.begun_s = time.monotonic()
        each = max(1, self.settings.environments // len(self.tasks))
        self.venv = WorldsVecEnv(
            self.tasks,
            each,
            time_constant=self.settings.time_constant,
            noise=self.settings.noise,
            anywhere=True,
        )
        self.model = self._model()
        self.average = AveragedModel(
            self.model.policy.mlp_extractor, multi_avg_fn=get_ema_multi_avg_fn(self.settings.averaging)
        )

    def _model(self) -> MaskablePPO:
        settings = self.settings
        return MaskablePPO(
            CandidatePolicy,
            self.venv,
            learning_rate=lambda _: self._learning_rate(),
            n_steps=settings.rollout_steps,
            batch_size=min(settings.batch_size, self.venv.num_envs * settings.rollout_steps),
            n_epochs=settings.epochs,
            gamma=1.0,  # discounting is DurationBuffer's
            gae_lambda=1.0,  # likewise
            clip_range=0.15,
            ent_coef=settings.entropy,
            normalize_advantage=False,  # DurationBuffer's too, for each world by itself
            rollout_buffer_class=DurationBuffer,
            rollout_buffer_kwargs={"worlds": len(self.tasks)},
            policy_kwargs={"width": settings.width},
            seed=settings.seed,
            device="cpu",
        )

    def _learning_rate(self) -> float:
        done = self.model.num_timesteps / self.settings.steps if hasattr(self, "model") else 0.0
        return self.settings.learning_rate * max(0.1, 1.0 - 0.9 * done)

    @property
    def elapsed_s(self) -> float:
        """Spent on training, before a resumption too."""
        return self.before_s + time.monotonic() - self.begun_s

    @property
    def over(self) -> bool:
        """Whether all steps are done, or nothing has become better for long."""
        ratios = [point.ratio for point in self.curve]
        waited = len(ratios) - 1 - ratios.index(min(ratios))
        tired = 0 < self.settings.patience <= waited
        return tired or self.model.num_timesteps >= self.settings.steps

    def begin_from(self, start: LearnedPolicy) -> None:
        """Takes over a policy's weights."""
        for network in (self.model.policy.mlp_extractor, self.average.module):
            network.import_(start.weights)

    def choose_prior(self) -> None:
        """Takes over the prior that is best in these worlds."""
        prior = torch.tensor(best_prior([task.world for task in self.tasks]))
        for network in (self.model.policy.mlp_extractor, self.average.module):
            network.prior.copy_(prior)

    def validate(self) -> None:
        """Scores the average of the latest weights; ties keep the earlier ones."""
        policy = LearnedPolicy("maskable-ppo", self.average.module.exported(), {})
        ratio = self.validation.ratio(policy)
        if self.best is None or ratio < min(point.ratio for point in self.curve):
            self.best = policy
        self.curve.append(Curve(self.model.num_timesteps, self.elapsed_s, ratio))

    def segment(self) -> None:
        """Trains until the next validation."""
        settings, number = self.settings, len(self.curve) - 1
        self.model.set_random_seed(settings.seed * 1_000_003 + number)
        self.model._last_obs = None  # so that learn resets the environments
        self.venv.prior = self.average.module.numbers()
        steps = settings.validate_every * settings.rollout_steps * self.venv.num_envs
        steps = min(steps, settings.steps - self.model.num_timesteps)
        durations = RecordDurations(settings.time_constant, settings.credit_constant)
        self.model.learn(steps, callback=[durations, _Report(self._report)], reset_num_timesteps=False)
        self.validate()

    def _report(self, steps: int) -> None:
        self.average.update_parameters(self.model.policy.mlp_extractor)
        if self.on_progress is not None:
            self.on_progress(steps / self.settings.steps, self.curve[-1])

    def restore(self, checkpoint: Checkpoint) -> None:
        """Goes on where a checkpoint was written."""
        self.model.policy.load_state_dict(checkpoint.policy)
        self.average.load_state_dict(checkpoint.average)
        self.model.policy.optimizer.load_state_dict(checkpoint.optimizer)
        self.model.num_timesteps, self.before_s = checkpoint.steps, checkpoint.elapsed_s
        self.curve = [Curve(*point) for point in checkpoint.curve]
        self.best = LearnedPolicy("maskable-ppo", checkpoint.best, {})

    def checkpoint(self) -> Checkpoint:
        """What ``restore`` needs."""
        if self.best is None:
            raise RuntimeError("nothing was validated yet")
        return Checkpoint(
            settings=plain(self.settings),
            policy=self.model.policy.state_dict(),
            average=self.average.state_dict(),
            optimizer=self.model.policy.optimizer.state_dict(),
            best=self.best.weights,
            steps=self.model.num_timesteps,
            elapsed_s=self.elapsed_s,
            curve=[(p.steps, p.elapsed_s, p.ratio) for p in self.curve],
        )


def train_ppo(
    worlds: Sequence[World],
    settings: PpoSettings,
    *,
    validation: Sequence[World] | None = None,
    start: LearnedPolicy | None = None,
    checkpoint: Path | None = None,
    on_progress: OnProgress | None = None,
) -> TrainResult:
    """Trains a policy on worlds; after Ctrl-C the best so far is returned.

    Args:
        worlds: To train in.
        settings: Hyperparameters.
        validation: Worlds that choose the weights to keep; by default those to train in.
        start: A policy to start from instead of cost-greedy, of the same width or without a network.
        checkpoint: File to write at every validation, and to go on from if it is there.
        on_progress: See ``OnProgress``.

    Raises:
        InputError: The checkpoint is of a training with other settings, the start of another width, or an
            objective is no sum over requests.
        BrokenFileError: The checkpoint is damaged.
    """
    torch.set_num_threads(settings.threads)
    _check_objectives(worlds)
    tasks = [make_task(world) for world in worlds]
    judged = [task.world for task in tasks] if validation is None else list(validation)
    training = _Training(
        tasks, settings, Validation(judged, VALIDATION_SEEDS[: settings.validation_seeds]), on_progress
    )
    interrupted = False
    try:
        if checkpoint is not None and checkpoint.exists():
            training.restore(read_checkpoint(checkpoint, plain(settings)))
        else:
            if start is not None:
                training.begin_from(start)
            elif settings.warm_start:
                training.choose_prior()
            training.validate()
        while not training.over:
            training.segment()
            if checkpoint is not None:
                write_checkpoint(training.checkpoint(), checkpoint)
    except KeyboardInterrupt:
        interrupted = True
    finally:
        training.venv.close()
    if training.best is None:
        raise KeyboardInterrupt
    before_s = 0.0 if start is None else float(start.metadata.get("elapsed_s", 0.0))
    training.best.metadata.update(_metadata(tasks, settings, training, before_s))
    return TrainResult(training.best, training.curve, training.validation.baseline, interrupted)


def _check_objectives(worlds: Sequence[World]) -> None:
    for world in worlds:
        if not world.scenario.objective.additive:
            rule = "have neither tail nor fairness for maskable-ppo, which learns from sums over requests"
            raise InputError(f"{world.scenario.name}: objective", rule, world.scenario.objective)


def _metadata(
    tasks: Sequence[TrainingTask], settings: PpoSettings, training: _Training, before_s: float
) -> dict[str, str]:
    """What the policy file says of the training; the time includes that of the policy it started from."""
    return {
        **training_record(
            [task.world for task in tasks],
            steps=training.curve[-1].steps,
            seed=settings.seed,
            settings=plain(settings),
        ),
        "baseline": training.validation.baseline,
        "elapsed_s": f"{before_s + training.elapsed_s:.1f}",
        "validation_ratio": f"{min(c.ratio for c in training.curve):.4f}",
    }
