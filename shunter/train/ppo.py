"""MaskablePPO on a world: a residual on cost-greedy, discounted per second."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field

import torch
from sb3_contrib import MaskablePPO
from stable_baselines3.common.callbacks import BaseCallback

from shunter.agents.base import Policy
from shunter.agents.learned import LearnedPolicy
from shunter.agents.registry import POLICIES, make_policy
from shunter.envs.features import CONTEXT_FEATURES, FEATURES_VERSION
from shunter.envs.world import World
from shunter.errors import InputError
from shunter.eval.metrics import summarize
from shunter.eval.runs import simulate
from shunter.train.buffer import DurationBuffer, RecordDurations
from shunter.train.network import CandidatePolicy
from shunter.train.vec_env import SchedulingVecEnv

__all__ = ["VALIDATION_SEEDS", "Curve", "TrainResult", "TrainSettings", "train_ppo"]

VALIDATION_SEEDS = range(1_000_000, 1_000_012)
"""Workload seeds that choose the checkpoint to keep; training draws others, evaluation must too."""


@dataclass(frozen=True)
class TrainSettings:
    """What can be set.

    Attributes:
        steps: Decisions to train for.
        seed: Of weights, exploration and training workloads.
        environments: Episodes in parallel.
        rollout_steps: Decisions per environment between updates.
        learning_rate: Of Adam.
        time_constant: Of discounting, in the scenario's time scales.
        width: Of the network's layers.
        validate_every: Updates between validations.
    """

    steps: int = 150_000
    seed: int = 0
    environments: int = 16
    rollout_steps: int = 128
    learning_rate: float = 5e-4
    time_constant: float = 100.0
    width: int = 64
    validate_every: int = 8

    def __post_init__(self) -> None:
        """Checks ranges."""
        for name in ("steps", "environments", "rollout_steps", "learning_rate", "time_constant", "width"):
            if getattr(self, name) <= 0:
                raise InputError(f"--{name.replace('_', '-')}", "be greater than 0", getattr(self, name))


@dataclass(frozen=True)
class Curve:
    """One validation: mean response of the policy so far over that of the best heuristic, same requests."""

    steps: int
    elapsed_s: float
    ratio: float


@dataclass(frozen=True)
class TrainResult:
    """A trained policy, and how it went.

    Attributes:
        policy: The checkpoint with the lowest validation ratio.
        curve: All validations, the untrained policy's first.
        baseline: Name of the heuristic that was best on the validation requests.
        interrupted: Whether training was cut short by Ctrl-C.
    """

    policy: LearnedPolicy
    curve: list[Curve]
    baseline: str
    interrupted: bool


@dataclass
class _Validator(BaseCallback):
    """Scores the current policy now and then, keeps the best, and reports progress."""

    world: World
    settings: TrainSettings
    on_progress: Callable[[int, Curve], None] | None
    curve: list[Curve] = field(default_factory=list)

    def __post_init__(self) -> None:
        super().__init__()
        self.begun_s = time.monotonic()
        scores = {name: self._response_s(make_policy(name)) for name in POLICIES}
        self.baseline = min(scores, key=lambda name: scores[name])
        self.baseline_s = scores[self.baseline]
        self.best: LearnedPolicy | None = None
        self.rollouts = 0

    def _response_s(self, policy: Policy) -> float:
        return summarize([simulate(self.world, policy, seed) for seed in VALIDATION_SEEDS])["response_mean_s"]

    def validate(self) -> None:
        """Scores the current weights; ties keep the earlier ones."""
        policy = LearnedPolicy("maskable-ppo", self.model.policy.mlp_extractor.exported(), {})
        ratio = self._response_s(policy) / self.baseline_s
        if self.best is None or ratio < min(c.ratio for c in self.curve):
            self.best = policy
        self.curve.append(Curve(self.num_timesteps, time.monotonic() - self.begun_s, ratio))
        self.logger.record("validation/response_ratio", ratio)

    def _on_rollout_start(self) -> None:
        if self.rollouts % self.settings.validate_every == 0:
            self.validate()
        self.rollouts += 1
        if self.on_progress is not None:
            self.on_progress(self.num_timesteps, self.curve[-1])

    def _on_step(self) -> bool:
        return True

    def _on_training_end(self) -> None:
        self.validate()


def train_ppo(
    world: World,
    settings: TrainSettings,
    *,
    on_progress: Callable[[int, Curve], None] | None = None,
) -> TrainResult:
    """Trains a policy on a world; after Ctrl-C the best so far is returned.

    Args:
        world: The compiled scenario.
        settings: Hyperparameters.
        on_progress: Called before each rollout with the decisions so far and the latest validation.
    """
    torch.set_num_threads(1)
    # Rewards over the time constant are of the order of the number of requests in the system.
    scale = 1.0 / settings.time_constant
    venv = SchedulingVecEnv(world, settings.environments, seed=settings.seed, reward_scale=scale)
    model = MaskablePPO(
        CandidatePolicy,
        venv,
        learning_rate=settings.learning_rate,
        n_steps=settings.rollout_steps,
        batch_size=min(256, settings.environments * settings.rollout_steps),
        n_epochs=6,
        gamma=1.0,  # discounting is DurationBuffer's
        gae_lambda=0.97,
        clip_range=0.15,
        ent_coef=0.002,
        rollout_buffer_class=DurationBuffer,
        policy_kwargs={"width": settings.width},
        seed=settings.seed,
        device="cpu",
    )
    validator = _Validator(world, settings, on_progress)
    interrupted = False
    try:
        model.learn(settings.steps, callback=[RecordDurations(settings.time_constant), validator])
    except KeyboardInterrupt:
        interrupted = True
    finally:
        venv.close()
    if validator.best is None:
        raise KeyboardInterrupt
    validator.best.metadata.update(_metadata(world, settings, validator))
    return TrainResult(validator.best, validator.curve, validator.baseline, interrupted)


def _metadata(world: World, settings: TrainSettings, validator: _Validator) -> dict[str, str]:
    return {
        "scenario": world.scenario.model_dump_json(),
        "settings": str(asdict(settings)),
        "baseline": validator.baseline,
        "validation_ratio": f"{min(c.ratio for c in validator.curve):.4f}",
        "context_features": ",".join(CONTEXT_FEATURES),
        "observation": f"features version {FEATURES_VERSION}",
    }
