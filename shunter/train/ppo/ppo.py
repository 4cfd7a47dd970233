"""MaskablePPO on one world or many: a residual on cost-greedy, discounted per second."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from sb3_contrib import MaskablePPO
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.logger import Logger
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from shunter.agents.learned.policy import LearnedPolicy, check_weights
from shunter.envs.scenario.fields import checked
from shunter.envs.world.world import World
from shunter.errors import InputError
from shunter.train.ppo.buffer import DurationBuffer, RecordDurations
from shunter.train.ppo.checkpoint import PpoCheckpoint, Steps, read_checkpoint, write_checkpoint
from shunter.train.ppo.network import CandidatePolicy
from shunter.train.ppo.tasks import make_task
from shunter.train.ppo.warm_start import best_base_policy
from shunter.train.ppo.worlds_env import WorldsVecEnv
from shunter.train.result import Curve
from shunter.train.settings import PpoSettings
from shunter.train.training import Training


class _Report(BaseCallback):
    """Calls before each rollout."""

    def __init__(self, report: Callable[[], None]) -> None:
        super().__init__()
        self.report = report

    def _on_rollout_start(self) -> None:
        self.report()

    def _on_step(self) -> bool:
        return True


class PpoTraining(Training):
    """A training by MaskablePPO; each segment begins with fresh environments and random numbers of its own.

    Args:
        worlds: Worlds to train in.
        settings: Hyperparameters.
        validation: Worlds that choose the weights to keep; by default those to train in.
        start: A policy to start from instead of cost-greedy, of the same width or without a network.

    Raises:
        InputError: An objective is no sum over requests.
    """

    settings: PpoSettings

    def __init__(
        self,
        worlds: Sequence[World],
        settings: PpoSettings,
        *,
        validation: Sequence[World] | None = None,
        start: LearnedPolicy | None = None,
    ) -> None:
        torch.set_num_threads(settings.threads)
        _check_objectives(worlds)
        super().__init__(worlds, settings, validation=validation, start=start)
        self.tasks = [make_task(world) for world in self.worlds]
        each = max(1, settings.environments // len(self.tasks))
        self.venv = WorldsVecEnv(
            self.tasks, each, time_constant=settings.time_constant, noise=settings.noise, anywhere=True
        )
        self.model = self._model()
        self.model.set_logger(Logger(None, []))  # else it makes a folder for logs, which stays
        self.average = AveragedModel(
            self.model.policy.mlp_extractor, multi_avg_fn=get_ema_multi_avg_fn(settings.averaging)
        )

    def close(self) -> None:
        """Ends the threads."""
        self.venv.close()

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
            gae_lambda=1.0,  # lambda is DurationBuffer's
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
    def decisions(self) -> int:
        """Decisions trained for so far."""
        return int(self.model.num_timesteps)

    @property
    def share(self) -> float:
        """Share of the training that is done, 0 to 1."""
        return self.decisions / self.settings.steps

    def begin(self) -> None:
        """Takes over the policy to start from, or the prior that is best here, and validates it."""
        if self.start is not None:
            self.begin_from(self.start)
        elif self.settings.warm_start:
            prior = torch.tensor(best_base_policy([task.world for task in self.tasks]))
            for network in (self.model.policy.mlp_extractor, self.average.module):
                network.prior.copy_(prior)
        super().begin()

    def begin_from(self, start: LearnedPolicy) -> None:
        """Takes over a policy's weights."""
        for network in (self.model.policy.mlp_extractor, self.average.module):
            network.import_(start.weights)

    def candidate(self) -> LearnedPolicy:
        """The average of the latest weights."""
        return LearnedPolicy("maskable-ppo", self.average.module.exported(), {})

    def segment(self, report: Callable[[], None] = lambda: None) -> None:
        """Trains until the next validation."""
        settings, number = self.settings, len(self.curve) - 1
        self.model.set_random_seed(settings.seed * 1_000_003 + number)
        self.model._last_obs = None  # so that learn resets the environments
        self.venv.prior = self.average.module.numbers()
        steps = settings.validate_every * settings.rollout_steps * self.venv.num_envs
        steps = min(steps, settings.steps - self.model.num_timesteps)
        durations = RecordDurations(settings.time_constant, settings.credit_constant)

        def begin_rollout() -> None:
            self.average.update_parameters(self.model.policy.mlp_extractor)
            report()

        self.model.learn(steps, callback=[durations, _Report(begin_rollout)], reset_num_timesteps=False)

    def diagnostics(self) -> dict[str, float]:
        """Of the latest update, by Stable-Baselines3's names: losses, approximate KL divergence and more."""
        if self.model.num_timesteps == 0 or not hasattr(self.model, "_logger"):
            return {}
        found = self.model.logger.name_to_value.items()
        return {name: float(value) for name, value in found if name.startswith("train/")}

    def restore(self, path: Path) -> None:
        """Goes on where a checkpoint was written."""
        checkpoint = read_checkpoint(path, self.asked)
        self.model.policy.load_state_dict(checkpoint.policy)
        self.average.load_state_dict(checkpoint.average)
        self.model.policy.optimizer.load_state_dict(checkpoint.optimizer)
        state = {name: getattr(checkpoint, name) for name in Steps.model_fields}
        progress = checked(Steps, state, source=str(path), whole="checkpoint")
        check_weights(path, checkpoint.best)
        self.model.num_timesteps, self.before_s = progress.steps, progress.elapsed_s
        self.curve = [Curve(*point) for point in progress.curve]
        self.best = LearnedPolicy("maskable-ppo", checkpoint.best, {})

    def save(self, path: Path) -> None:
        """Writes what ``restore`` needs."""
        if self.best is None:
            raise RuntimeError("nothing was validated yet")
        checkpoint = PpoCheckpoint(
            settings=self.asked,
            policy=self.model.policy.state_dict(),
            average=self.average.state_dict(),
            optimizer=self.model.policy.optimizer.state_dict(),
            best=self.best.weights,
            steps=self.model.num_timesteps,
            elapsed_s=self.elapsed_s,
            curve=[(p.steps, p.elapsed_s, p.ratio) for p in self.curve],
        )
        write_checkpoint(checkpoint, path)


def _check_objectives(worlds: Sequence[World]) -> None:
    for world in worlds:
        if not world.scenario.objective.additive:
            rule = "have neither tail nor fairness for maskable-ppo, which learns from sums over requests"
            raise InputError(f"{world.scenario.name}: objective", rule, world.scenario.objective)
