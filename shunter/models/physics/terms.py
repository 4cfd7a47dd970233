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
        by_year: Whether it is what newer releases do ever faster.
        of_generation: Whether generations of devices differ in it besides, each in its own way.
        by_host: Whether it waits for the host's memory, of which each host reaches a share of its own.
    """

    name: str
    value: Callable[[RatedConfigurations], Array]
    factor: float
    spread: float
    weights: str = ""
    by_device: bool = False
    by_version: bool = False
    by_year: bool = False
    of_generation: bool = False
    by_host: bool = False

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
        generation_spread: How far generations of devices deviate from their data sheets, likewise.
        own_spread: How far they deviate in the terms ``of_generation``, likewise.
        source_spread: How far whoever measured is off in all, likewise.
        release_spread: How far a release deviates from what its year says, likewise.
        library_spread: How far the vendor's library of whoever measured is off beside, where one multiplies.
        kernel_spread: How far a release's kernels are off on the device, beside what its year says.
        host_spread: How far hosts differ in the share of their memory's bandwidth that they reach: desktops
            reach four fifths where servers with many channels reach three.
        per_year: What a year changes, in the logarithm: its mean and its spread.
        release_in_all: Whether releases and years change all terms, not only those that say so.
        loose: Kinds of configurations whose errors are noisier: see ``shunter.models.fit.hierarchy``.
    """

    stages: tuple[Stage, ...]
    device_spread: float
    model_spread: float
    version_spread: float = 0.5
    generation_spread: float = 0.07
    own_spread: float = 0.2
    source_spread: float = 0.04
    release_spread: float = 0.1
    library_spread: float = 0.0
    kernel_spread: float = 0.0
    host_spread: float = 0.2
    per_year: tuple[float, float] = (-0.1, 0.15)
    release_in_all: bool = False
    loose: tuple[str, ...] = ("offloaded",)

    def flags(self) -> dict[str, Array]:
        """By effect, 1 for each term that it moves and 0 for others; each of shape (n_terms,)."""
        terms, everything = self.terms, np.ones(len(self.terms))
        by = {
            name: np.array([float(getattr(t, flag)) for t in terms])
            for name, flag in (("device", "by_device"), ("own", "of_generation"), ("host", "by_host"))
        }
        of_engine = {
            name: everything if self.release_in_all else np.array([float(getattr(t, flag)) for t in terms])
            for name, flag in (("release", "by_version"), ("year", "by_year"))
        }
        return {
            **by,
            "generation": by["device"],
            **of_engine,
            "source": everything,
            "library": by["device"] * (self.library_spread > 0),
            "kernels": by["device"] * (self.kernel_spread > 0),
        }

    @property
    def terms(self) -> tuple[Term, ...]:
        """All terms, stage after stage."""
        return tuple(term for stage in self.stages for term in stage)
