"""Parameters of policies: typed defaults, the space they are tuned in, and how they are written."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any

from shunter.agents.base import ScoringPolicy
from shunter.errors import InputError, UnknownNameError

__all__ = ["Choice", "Heuristic", "Number", "Space", "number", "rounded"]


@dataclass(frozen=True)
class Number:
    """A number at least 0.

    Attributes:
        low: Lower end of what tuning tries; what users give may lie outside.
        high: Upper end of what tuning tries; what users give may lie outside.
        log: Whether it is tuned by its logarithm.
        whole: Whether it is a whole number, at least 1.
    """

    low: float
    high: float
    log: bool = False
    whole: bool = False

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


Space = dict[str, Number | Choice]
"""What a policy is tuned in, by parameter."""


def number(default: float, low: float, high: float, *, log: bool = True) -> Any:
    """A field of a ``Heuristic`` that is a number; see ``Number``."""
    return field(default=default, metadata={"space": Number(low, high, log)})


def whole(default: int, low: int, high: int) -> Any:
    """A field of a ``Heuristic`` that is a whole number; see ``Number``."""
    return field(default=default, metadata={"space": Number(low, high, whole=True)})


def choice(default: str, *others: str) -> Any:
    """A field of a ``Heuristic`` that is one of a few words, the default first."""
    return field(default=default, metadata={"space": Choice((default, *others))})


@dataclass(frozen=True)
class Heuristic(ScoringPolicy):
    """A policy whose fields are its parameters, each made by ``number``, ``whole`` or ``choice``.

    Its name tells those that are not the defaults: ``fifo-collated:max_wait=30``.
    """

    def __post_init__(self) -> None:
        object.__setattr__(self, "name", type(self).text(vars(self)))

    @classmethod
    def space(cls) -> Space:
        """What it is tuned in; empty if it has no parameters."""
        return {f.name: f.metadata["space"] for f in fields(cls)}

    @classmethod
    def text(cls, values: Mapping[str, Any]) -> str:
        """How the policy with these parameters is written; defaults are left out."""
        others = [
            f"{f.name}={values[f.name]}" for f in fields(cls) if values.get(f.name, f.default) != f.default
        ]
        return ":".join([cls.name, ",".join(others)]) if others else cls.name


def rounded(value: float) -> float:
    """A number to 3 significant digits: what is tuned can be written, and is then the same number."""
    return float(f"{value:.3g}")


def read_parameters(text: str, space: Space, field: str) -> dict[str, Any]:
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
