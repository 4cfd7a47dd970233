"""What a calibrated term is, and what is known of its factor beforehand."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from shunter.models.physics.rated import Array, RatedConfigurations


@dataclass(frozen=True)
class Term:
    """One closed form and what is known of its factor beforehand.

    Attributes:
        name: Name, unique in its target.
        value: At peak rates, in the target's unit; shape (n_configurations,).
        factor: Median of the prior: how many times as long it takes in fact.
        spread: Standard deviation of the prior's logarithm.
        weights: ``dense`` or ``quantised`` if it is for such weights only.
        by_device: Whether devices differ in it by more than their data sheets say.
        by_version: Whether it is the engine's own work, which its versions do differently.
    """

    name: str
    value: Callable[[RatedConfigurations], Array]
    factor: float
    spread: float
    weights: str = ""
    by_device: bool = False
    by_version: bool = False

    def of(self, configurations: RatedConfigurations) -> Array:
        """The term's value; 0 where it does not apply."""
        value = self.value(configurations)
        if self.weights:
            value = value * (configurations.quantised == (self.weights == "quantised"))
        return np.asarray(value, dtype=np.float64)


Stage = tuple[Term, ...]


@dataclass(frozen=True)
class TargetPhysics:
    """Stages of one target.

    Attributes:
        stages: Stages of the target, in the order in which they follow one another.
        device_spread: How far devices deviate from their data sheets beforehand, as a standard deviation
            of the logarithm.
        model_spread: Root mean square error, as a log ratio, for a model that was not seen, beforehand.
        version_spread: How far an engine's versions deviate in its own work beforehand, as a standard
            deviation of the logarithm.
    """

    stages: tuple[Stage, ...]
    device_spread: float
    model_spread: float
    version_spread: float = 0.5

    @property
    def terms(self) -> tuple[Term, ...]:
        """All terms, stage after stage."""
        return tuple(term for stage in self.stages for term in stage)
