"""What a training can be told; free of torch, so that the command line is quick."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import ConfigDict, Field, with_config

from shunter.envs.fields import Positive, Strict, checked, read_mapping
from shunter.envs.seed_ranges import SEED_RANGES
from shunter.errors import InputError

__all__ = ["DistillSettings", "TrainConfig", "TrainSettings", "load_config", "write_config"]


@with_config(ConfigDict(extra="forbid"))
@dataclass(frozen=True)
class TrainSettings:
    """Hyperparameters.

    Attributes:
        steps: Decisions to train for.
        seed: Of weights, exploration and training workloads.
        environments: Episodes in parallel, over all worlds.
        rollout_steps: Decisions per environment between updates.
        batch_size: Decisions per gradient step.
        epochs: Passes over a rollout.
        learning_rate: Of Adam, at first; it falls linearly to a tenth.
        time_constant: Of discounting, in the scenario's time scales.
        credit_constant: Of the lambda of generalised advantages, likewise: how far back a surprise is
            credited. A rollout should be longer.
        entropy: Weight of the entropy bonus.
        width: Of the network's layers.
        averaging: What is validated and kept is a running average of the weights; how much of it an update
            leaves, below 1.
        warm_start: Whether the prior that the network is added to is chosen for these worlds; see
            ``shunter.agents.learned.Prior``. A policy to start from brings its own.
        noise: Whether durations differ from the predicted ones, as much as the prediction intervals say.
        validate_every: Updates between validations; a checkpoint is written at each.
        threads: Of torch.
        validation_seeds: Request sequences of each world that a validation plays, at most 12.
        patience: Validations without a new best one after which training stops; 0: never.
    """

    steps: int = 150_000
    seed: int = 0
    environments: int = 16
    rollout_steps: int = 512
    batch_size: int = 256
    epochs: int = 6
    learning_rate: float = 1e-3
    time_constant: float = 600.0
    credit_constant: float = 40.0
    entropy: float = 0.002
    width: int = 64
    averaging: float = 0.8
    warm_start: bool = True
    noise: bool = False
    validate_every: int = 2
    threads: int = 1
    validation_seeds: int = 12
    patience: int = 0

    def __post_init__(self) -> None:
        """Checks ranges."""
        _check_ranges(self, or_zero={"seed", "entropy", "averaging", "warm_start", "noise", "patience"})
        if self.averaging >= 1:
            raise InputError("--averaging", "be less than 1", self.averaging)
        if self.validation_seeds > len(SEED_RANGES["validation"]):
            rule = f"be at most {len(SEED_RANGES['validation'])}"
            raise InputError("--validation-seeds", rule, self.validation_seeds)


@with_config(ConfigDict(extra="forbid"))
@dataclass(frozen=True)
class DistillSettings:
    """How one network learns what others decide; see ``shunter.train.distill``.

    Attributes:
        width: Of the student's layers.
        rounds: Of showing and learning; from the second on, the student acts in half of the environments.
        environments: In each world.
        steps: Decisions per environment and round.
        passes: Over all that was shown so far, in each round.
        batch_size: Decisions per gradient step.
        learning_rate: Of Adam, at first; it falls to a hundredth along a cosine.
        seed: Of weights, workloads and the order of what is shown.
        threads: Of torch.
    """

    width: int = 64
    rounds: int = 4
    environments: int = 4
    steps: int = 400
    passes: int = 4
    batch_size: int = 1024
    learning_rate: float = 2e-3
    seed: int = 0
    threads: int = 2

    def __post_init__(self) -> None:
        """Checks ranges."""
        _check_ranges(self, or_zero={"seed"})


def _check_ranges(settings: TrainSettings | DistillSettings, or_zero: set[str]) -> None:
    for name, setting in asdict(settings).items():
        field = f"--{name.replace('_', '-')}"
        if name in or_zero and setting < 0:
            raise InputError(field, "be at least 0", setting)
        if name not in or_zero and setting <= 0:
            raise InputError(field, "be greater than 0", setting)


class TrainConfig(Strict):
    """A training file.

    Attributes:
        scenarios: Files, relative to this one, or names of the library; a policy sees all of them at once.
        validation: Scenarios that choose the weights to keep; by default those that it trains on.
        performance: A fitted performance model, or ``published``; by default what each scenario asks for.
        objective: ``mean-response`` trains for that in scenarios with another objective too; by default each
            scenario's own.
        random: Scenarios drawn at random from the parts of the library's training scenarios, besides those
            named, each at one of ``loads``, a share of what tuned cost-greedy sustains.
        distill: A training of its own for each scenario, random ones at each of ``loads`` too, and then one
            network that does as they do; by default one training in all of them.
        random_steps: Decisions of each random scenario's own training; by default those of a named one's.
        loads: Shares of each scenario's capacity to train and validate at; by default its own rate.
        settings: Hyperparameters; see ``TrainSettings``.
    """

    scenarios: Annotated[list[str], Field(min_length=1)]
    validation: Annotated[list[str], Field(default_factory=list)]
    performance: str | None = None
    objective: Literal["mean-response"] | None = None
    random: Annotated[int, Field(ge=0)] = 0
    loads: Annotated[list[Positive], Field(default_factory=list)]
    distill: DistillSettings | None = None
    random_steps: Annotated[int, Field(ge=1)] | None = None
    settings: Annotated[TrainSettings, Field(default_factory=TrainSettings)]

    def tuned(self, parameters: Mapping[str, Any]) -> TrainConfig:
        """The same training with other settings."""
        return self.model_copy(update={"settings": replace(self.settings, **parameters)})


def write_config(config: TrainConfig, path: Path) -> None:
    """Writes a training file that ``load_config`` reads from any folder."""

    def anywhere(text: str) -> str:
        return str(Path(text).absolute()) if Path(text).exists() else text

    data = config.model_dump(mode="json")
    for field in ("scenarios", "validation"):
        data[field] = [anywhere(text) for text in data[field]]
    if config.performance is not None:
        data["performance"] = anywhere(config.performance)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(yaml.safe_dump(data, sort_keys=False), encoding="utf-8")


def load_config(path: Path) -> TrainConfig:
    """Reads a training file (YAML).

    Raises:
        InputError: The file is missing, or a field breaks a rule.
        BrokenFileError: It is no YAML mapping.
    """
    if not path.is_file():
        raise InputError("--config", "be an existing YAML file", str(path))
    config = checked(TrainConfig, read_mapping(path), source=str(path), whole="training file")

    def beside(text: str) -> str:
        near = path.parent / text
        return str(near) if near.is_file() else text

    return config.model_copy(
        update={
            "scenarios": [beside(text) for text in config.scenarios],
            "validation": [beside(text) for text in config.validation],
        }
    )
