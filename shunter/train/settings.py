"""What a training can be told; free of torch, so that the command line is quick."""

from __future__ import annotations

import math
import os
from collections.abc import Collection, Mapping
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

import yaml
from pydantic import ConfigDict, Field, ValidationInfo, field_validator, with_config

from shunter.envs.scenario.fields import Positive, Strict, checked, read_checked
from shunter.envs.workload.seed_ranges import SEED_RANGES
from shunter.errors import InputError, UnknownNameError
from shunter.files import write_text

__all__ = [
    "ALGORITHMS",
    "DEFAULT_ALGORITHM",
    "DistillSettings",
    "EvolutionSettings",
    "PpoSettings",
    "TrainConfig",
    "TrainSettings",
    "algorithm_of",
    "load_config",
    "plain",
    "write_config",
]

VALIDATION_SEEDS = SEED_RANGES["validation"]
"""Workload seeds that choose the numbers to keep; training draws others, evaluation must too."""


@with_config(ConfigDict(extra="forbid"))
@dataclass(frozen=True)
class _Settings:
    """What all trainings can be told.

    Attributes:
        OR_ZERO: Names of settings that may be 0; all others must be greater.
        seed: Seed of all that is drawn: perturbations or weights and exploration, and training workloads.
        averaging: What is validated and kept is a running average of the numbers; how much of it a generation
            or update leaves, below 1.
        noise: Whether durations differ from the predicted ones, as much as the prediction intervals say;
            ``drift``: devices are slower than that for stretches of time besides.
        validate_every: Generations or updates between validations; a checkpoint is written at each.
        validation_seeds: Request sequences of each world that a validation plays, at most 12.
        patience: Validations without a new best one after which the training stops; 0: never.
    """

    OR_ZERO: ClassVar[frozenset[str]] = frozenset({"seed", "averaging", "noise", "patience"})

    seed: int = 0
    averaging: float = 0.95
    noise: bool | Literal["drift"] = False
    validate_every: int = 10
    validation_seeds: int = 12
    patience: int = 0

    def __post_init__(self) -> None:
        """Checks ranges."""
        if self.noise not in (True, False, "drift"):
            raise InputError("--noise", "be true, false or drift", self.noise)
        _check_ranges(self, self.OR_ZERO)
        if self.averaging >= 1:
            raise InputError("--averaging", "be less than 1", self.averaging)
        if self.validation_seeds > len(VALIDATION_SEEDS):
            raise InputError(
                "--validation-seeds", f"be at most {len(VALIDATION_SEEDS)}", self.validation_seeds
            )


@dataclass(frozen=True)
class EvolutionSettings(_Settings):
    """Settings of direct search; see ``shunter.train.search.evolution``.

    Attributes:
        minutes: About how long to search, validations included: the first generations are timed, and it is
            settled how many there are, at least 20. What is compiled, played by baselines before and compared
            after takes time of its own.
        generations: Number of generations, whatever their time; 0: as many as ``minutes`` allow.
        pairs: Mirrored perturbations of a generation.
        episodes: Request sequences that each of them plays in each world; of short ones more, so that they
            hold about 400 requests.
        worlds: Most worlds that a generation plays in, drawn anew each time.
        sigma: Standard deviation of perturbations.
        shared: Share of the variance of a linear weight's perturbations that the weights of all kinds of
            candidates have in common, 0 to 1: 0 perturbs them independently, 1 leaves all kinds the same
            weights.
        learning_rate: Learning rate of Adam, at first; it falls linearly to a fifth.
        width: Width of a network that is searched beside the linear part; 0: none. One that a policy to start
            from has is then kept as it is.
        threads: Number of threads that share the work; 0: as many as ``OMP_NUM_THREADS`` says, which Ray sets
            to a worker's share, or one for each processor. Numbers do not depend on it.
    """

    OR_ZERO: ClassVar[frozenset[str]] = _Settings.OR_ZERO | {"generations", "shared", "width", "threads"}

    minutes: float = 3.0
    generations: int = 0
    pairs: int = 16
    episodes: int = 4
    worlds: int = 6
    sigma: float = 0.05
    shared: float = 0.8
    learning_rate: float = 0.06
    width: int = 0
    threads: int = 0

    def __post_init__(self) -> None:
        """Checks ranges."""
        super().__post_init__()
        if self.shared > 1:
            raise InputError("--shared", "be at most 1", self.shared)


@dataclass(frozen=True)
class PpoSettings(_Settings):
    """Settings of MaskablePPO; see ``shunter.train.ppo.ppo``.

    Attributes:
        steps: Decisions to train for.
        environments: Episodes in parallel, over all worlds.
        rollout_steps: Decisions per environment between updates.
        batch_size: Decisions per gradient step.
        epochs: Passes over a rollout.
        learning_rate: Learning rate of Adam, at first; it falls linearly to a tenth.
        time_constant: Time constant of discounting, in the scenario's time scales.
        credit_constant: Time constant of the lambda of generalised advantages, in the scenario's time scales:
            how far back a surprise is credited. A rollout should be longer.
        entropy: Weight of the entropy bonus.
        width: Width of the network's layers.
        warm_start: Whether the prior that the network is added to is chosen for these worlds; see
            ``shunter.agents.learned.policy.BasePolicy``. A policy to start from brings its own.
        threads: Number of torch's threads.
    """

    OR_ZERO: ClassVar[frozenset[str]] = _Settings.OR_ZERO | {"entropy", "warm_start"}

    averaging: float = 0.8
    validate_every: int = 2
    steps: int = 150_000
    environments: int = 16
    rollout_steps: int = 512
    batch_size: int = 256
    epochs: int = 6
    learning_rate: float = 1e-3
    time_constant: float = 600.0
    credit_constant: float = 40.0
    entropy: float = 0.002
    width: int = 64
    warm_start: bool = True
    threads: int = 1


TrainSettings = EvolutionSettings | PpoSettings
"""Settings of a training by any algorithm."""

ALGORITHMS: dict[str, type[EvolutionSettings] | type[PpoSettings]] = {
    "evolution": EvolutionSettings,
    "maskable-ppo": PpoSettings,
}
"""Settings of each algorithm, the default first."""

DEFAULT_ALGORITHM: Literal["evolution"] = "evolution"


def algorithm_of(settings: TrainSettings) -> str:
    """Name of the algorithm that settings are for."""
    return next(name for name, kind in ALGORITHMS.items() if isinstance(settings, kind))


def length_of(settings: TrainSettings) -> str:
    """How long a training is, for people."""
    if isinstance(settings, PpoSettings):
        return f"{settings.steps} decisions"
    if settings.generations:
        return f"{settings.generations} generations"
    return f"about {settings.minutes:g} min"


def plain(settings: TrainSettings) -> dict[str, Any]:
    """Settings and their algorithm as plain data, as policy files and checkpoints keep them."""
    return {"algorithm": algorithm_of(settings), **asdict(settings)}


def shortened(settings: TrainSettings, share: float) -> TrainSettings:
    """The same with a share of the training."""
    if isinstance(settings, PpoSettings):
        return replace(settings, steps=max(1, round(share * settings.steps)))
    generations = max(1, round(share * settings.generations)) if settings.generations else 0
    return replace(settings, minutes=share * settings.minutes, generations=generations)


@with_config(ConfigDict(extra="forbid"))
@dataclass(frozen=True)
class DistillSettings:
    """How one network learns what others decide; see ``shunter.train.distill.distill``.

    Attributes:
        width: Width of the student's layers.
        rounds: Rounds of showing and learning; from the second on, the student makes half of the decisions.
        decisions: Decisions that each world shows in a round.
        episodes: Request sequences that these decisions are spread over; of short ones more, as in a search.
        passes: Passes over all that was shown so far, in each round.
        batch_size: Decisions per gradient step.
        learning_rate: Learning rate of Adam, at first; it falls to a hundredth along a cosine.
        seed: Seed of weights, workloads and the order of what is shown.
        threads: Number of torch's threads.
    """

    width: int = 64
    rounds: int = 4
    decisions: int = 1600
    episodes: int = 8
    passes: int = 4
    batch_size: int = 1024
    learning_rate: float = 2e-3
    seed: int = 0
    threads: int = 2

    def __post_init__(self) -> None:
        """Checks ranges."""
        _check_ranges(self, or_zero={"seed"})


MOST = {
    "pairs": 10_000,
    "episodes": 10_000,
    "environments": 10_000,
    "rollout_steps": 1_000_000,
    "width": 4096,
}
"""More of these would not fit into any memory."""


def _check_ranges(settings: _Settings | DistillSettings, or_zero: Collection[str]) -> None:
    for name, setting in asdict(settings).items():
        field = f"--{name.replace('_', '-')}"
        if isinstance(setting, str):  # checked by its name
            continue
        if not math.isfinite(setting):
            raise InputError(field, "be finite", setting)
        if name in or_zero and setting < 0:
            raise InputError(field, "be at least 0", setting)
        if setting > MOST.get(name, math.inf):
            raise InputError(field, f"be at most {MOST[name]}", setting)
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
        random_share: How much of a named scenario's training each random scenario's own gets, of ``steps``,
            ``minutes`` or ``generations``.
        loads: Shares of each scenario's capacity to train and validate at; by default its own rate.
        algorithm: Name of the algorithm, one of ``ALGORITHMS``.
        settings: Settings of the algorithm.
    """

    scenarios: Annotated[list[str], Field(min_length=1)]
    validation: Annotated[list[str], Field(default_factory=list)]
    performance: str | None = None
    objective: Literal["mean-response"] | None = None
    random: Annotated[int, Field(ge=0)] = 0
    loads: Annotated[list[Positive], Field(default_factory=list)]
    distill: DistillSettings | None = None
    random_share: Annotated[float, Field(gt=0, le=1)] = 1.0
    algorithm: Literal["evolution", "maskable-ppo"] = "evolution"
    settings: Annotated[Any, Field(validate_default=True)] = None

    @field_validator("settings", mode="before")
    @classmethod
    def _of_algorithm(cls, given: Any, info: ValidationInfo) -> TrainSettings:
        algorithm = info.data.get("algorithm", DEFAULT_ALGORITHM)
        if isinstance(given, ALGORITHMS[algorithm]):
            return given
        for name in given if isinstance(given, Mapping) else ():
            _check_known(name, algorithm, given[name])
        return checked(
            ALGORITHMS[algorithm], {} if given is None else given, source="settings", whole="settings"
        )

    def tuned(self, parameters: Mapping[str, Any]) -> TrainConfig:
        """The same training with other settings."""
        return self.model_copy(update={"settings": replace(self.settings, **parameters)})


def _check_known(name: Any, algorithm: str, value: Any) -> None:
    if not isinstance(name, str):
        raise InputError("settings", "be named by text", name)
    names = {kind: {field.name for field in fields(known)} for kind, known in ALGORITHMS.items()}
    if name in names[algorithm]:
        if isinstance(value, bool) and not isinstance(getattr(ALGORITHMS[algorithm](), name), bool):
            raise InputError(f"settings.{name}", "be a number, not yes or no", value)
        return
    for other in names:
        if name in names[other]:
            rule = f"be left out for {algorithm}: it is a setting of {other} (algorithm: {other})"
            raise InputError(f"settings.{name}", rule, value)
    raise UnknownNameError("settings", name, names[algorithm])


def write_config(config: TrainConfig, path: Path) -> None:
    """Writes a training file that ``load_config`` reads from any folder."""

    def anywhere(text: str) -> str:
        return str(Path(text).absolute()) if Path(text).exists() else text

    data = config.model_dump(mode="json")
    for field in ("scenarios", "validation"):
        data[field] = [anywhere(text) for text in data[field]]
    if config.performance is not None:
        data["performance"] = anywhere(config.performance)
    write_text(path, yaml.safe_dump(data, sort_keys=False))


def load_config(path: Path) -> TrainConfig:
    """Reads a training file (YAML).

    Raises:
        InputError: The file is missing, or a field breaks a rule.
        BrokenFileError: It is no YAML mapping.
    """
    if not path.is_file():
        raise InputError("--config", "be an existing YAML file", str(path))
    config = read_checked(TrainConfig, path, whole="training file")

    def beside(text: str) -> str:
        near = path.parent / text
        return str(near) if os.path.isfile(near) else text  # no error where a name is too long

    return config.model_copy(
        update={
            "scenarios": [beside(text) for text in config.scenarios],
            "validation": [beside(text) for text in config.validation],
        }
    )
