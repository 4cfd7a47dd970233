"""Parameters of policies: typed defaults, the space they are tuned in, and how they are written."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from shunter.agents.base import Policy, ScoringPolicy
from shunter.envs.world.world import World
from shunter.errors import InputError, UnknownNameError

__all__ = ["Choice", "Heuristic", "Number", "Space", "for_world", "number", "rounded"]


@dataclass(frozen=True)
class Number:
    """A number at least 0.

    Attributes:
        low: Lower end of what tuning tries; what users give may lie outside.
        high: Upper end of what tuning tries; what users give may lie outside.
        log: Whether it is tuned by its logarithm.
        whole: Whether it is a whole number, at least 1.
        is_time: Whether it is a time, in the world's time scales; with ``_s`` behind its name, in seconds.
    """

    low: float
    high: float
    log: bool = False
    whole: bool = False
    is_time: bool = False

    def read(self, name: str, text: str) -> float:
        """Reads a value.

        Raises:
            InputError: It is no such number.
        """
        try:
            value = int(text) if self.whole else float(text)
        except ValueError:
            value = -1
        if not math.isfinite(value) or value < int(self.whole):
            rule = "be a whole number of at least 1" if self.whole else "be a number of at least 0"
            raise InputError(name, rule, text)
        return value


@dataclass(frozen=True)
class Choice:
    """One of a few words."""

    options: tuple[str, ...]

    def read(self, name: str, text: str) -> str:
        """Reads a value.

        Raises:
            UnknownNameError: It is none of the options.
        """
        if text not in self.options:
            raise UnknownNameError(name, text, self.options)
        return text


@dataclass(frozen=True)
class FilePath:
    """The path of a file, as it is."""

    def read(self, name: str, text: str) -> str:
        """The path itself.

        Raises:
            InputError: It is empty.
        """
        if not text:
            raise InputError(name, "be the path of a file", text)
        return text


Space = dict[str, Number | Choice]
"""What a policy is tuned in, by parameter."""

Spelling = Mapping[str, Number | Choice | FilePath]
"""What users may write behind a policy's name, by parameter."""


def number(default: float, low: float, high: float, *, log: bool = True) -> Any:
    """A field of a ``Heuristic`` that is a number; see ``Number``."""
    return field(default=default, metadata={"space": Number(low, high, log)})


def time_scales(default: float, low: float, high: float) -> Any:
    """A field of a ``Heuristic`` that is a time, in time scales; users may give it in seconds."""
    return field(default=default, metadata={"space": Number(low, high, log=True, is_time=True)})


def whole(default: int, low: int, high: int) -> Any:
    """A field of a ``Heuristic`` that is a whole number; see ``Number``."""
    return field(default=default, metadata={"space": Number(low, high, whole=True)})


def choice(default: str, *others: str) -> Any:
    """A field of a ``Heuristic`` that is one of a few words, the default first."""
    return field(default=default, metadata={"space": Choice((default, *others))})


@dataclass(frozen=True)
class Heuristic(ScoringPolicy):
    """A policy whose fields are its parameters, each made by ``number``, ``whole`` or ``choice``.

    Its name tells those that are not the defaults: ``fifo-collated:max_wait_s=30``.

    Attributes:
        seconds: Parameters given in seconds, and how many; ``in_world`` makes time scales of them.
    """

    seconds: tuple[tuple[str, float], ...] = field(default=(), kw_only=True)

    def __post_init__(self) -> None:
        object.__setattr__(self, "name", type(self).text(vars(self)))

    @classmethod
    def spelling(cls) -> Space:
        """All parameters as users may write them: times in seconds too, with ``_s`` behind their names."""
        space = cls.space()
        times = {name: of for name, of in space.items() if isinstance(of, Number) and of.is_time}
        return {**space, **{f"{name}_s": of for name, of in times.items()}}

    @classmethod
    def spelled(cls, **values: Any) -> Self:
        """The policy with parameters as ``spelling`` names them.

        Raises:
            InputError: One is given both in time scales and in seconds.
        """
        space = cls.space()
        seconds = {name.removesuffix("_s"): value for name, value in values.items() if name not in space}
        for name in seconds.keys() & values.keys():
            raise InputError(f"{cls.name}: {name}", f"be left out where {name}_s is given", values[name])
        rest = {name: value for name, value in values.items() if name in space}
        return cls(**rest, seconds=tuple(seconds.items()))

    def in_world(self, time_scale_s: float) -> Self:
        """The same policy with times in a world's time scales, of so many seconds each; its name stays."""
        if not self.seconds:
            return self
        made = replace(self, seconds=(), **{name: value / time_scale_s for name, value in self.seconds})
        object.__setattr__(made, "name", self.name)
        return made

    def act_batch(self, observations: dict[str, NDArray[Any]]) -> NDArray[np.int64]:
        """Chooses for a batch of observations; returns shape (batch,).

        Raises:
            InputError: Times are in seconds, and nobody said what they are in the world's time scales.
        """
        if self.seconds:
            raise InputError(self.name, "be made ready by in_world: observations know no seconds", None)
        return super().act_batch(observations)

    @classmethod
    def space(cls) -> Space:
        """What it is tuned in; empty if it has no parameters."""
        return {f.name: f.metadata["space"] for f in fields(cls) if f.metadata}

    @classmethod
    def text(cls, values: Mapping[str, Any]) -> str:
        """How the policy with these parameters is written; defaults are left out."""
        others = [
            f"{f.name}={values[f.name]}"
            for f in fields(cls)
            if f.metadata and values.get(f.name, f.default) != f.default
        ]
        others += [f"{name}_s={value}" for name, value in values.get("seconds", ())]
        return ":".join([cls.name, ",".join(others)]) if others else cls.name


def for_world(policy: Policy, world: World) -> Policy:
    """The policy as it decides in a world: times that were given in seconds are in its time scales."""
    return policy.in_world(world.time_scale_s) if isinstance(policy, Heuristic) else policy


def rounded(value: float) -> float:
    """A number to 3 significant digits: what is tuned can be written, and is then the same number."""
    return float(f"{value:.3g}")


def read_parameters(text: str, space: Spelling, field: str) -> dict[str, Any]:
    """Reads ``key=value,key=value``.

    Args:
        text: Perhaps empty.
        space: The parameters there are.
        field: What was given, for errors.

    Raises:
        InputError: It is not of that form, or a value breaks its rule.
        UnknownNameError: There is no such parameter.
    """
    values: dict[str, Any] = {}
    for part in text.split(",") if text else ():
        name, separator, value = part.partition("=")
        if not separator or name in values:
            raise InputError(field, "give parameters as name:key=value,key=value, each once", text)
        if name not in space and not space:
            raise InputError(field, "be given without parameters: it has none", text)
        if name not in space:
            raise UnknownNameError(f"{field}: parameter", name, space)
        values[name] = space[name].read(f"{field}: {name}", value)
    return values
