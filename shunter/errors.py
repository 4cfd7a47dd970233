"""Errors that a user can cause, each one clear line and exit code 2.

::

    ShunterError
    └── InputError              a value breaks a rule
        ├── UnknownNameError    a name is not in a registry; names the nearest
        ├── VersionError        a file was written for another format version
        ├── BrokenFileError     a file is truncated or not what it claims to be
        ├── PluginError         a third party's package does not keep its promise; names the package
        └── PolicyError         a policy cannot decide; names the policy and what it raised

Failures of an engine are ``shunter.engines.base.EngineError``: that module also runs inside
worker interpreters that lack shunter, so it cannot import this one.
"""

from __future__ import annotations

import difflib
import traceback
from collections.abc import Iterable, Sequence
from itertools import islice

__all__ = [
    "BrokenFileError",
    "InputError",
    "PluginError",
    "PolicyError",
    "ShunterError",
    "ShunterWarning",
    "UnknownNameError",
    "VersionError",
    "brief",
    "one_line",
]

_MOST_SHOWN = 200
"""Characters of a value, or of a name, in a message."""

_MOST_FIELD = 400
"""Characters of a field, which may begin with a file's path."""

_MOST_SAID = 1000
"""Characters of a rule, which may list what is known."""

_MOST_PARTS = 100
"""Parts of a value, however deep, that a message shows."""

_LONGEST_NUMBER_BITS = 400


def one_line(text: str) -> str:
    """Text with escapes for what would end the line or move a terminal's cursor: names may hold anything."""
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)


def brief(text: str, most: int = _MOST_SHOWN) -> str:
    """Text as one line of about so many characters: what is beyond them is left out."""
    return one_line(text if len(text) <= most else f"{text[:most]}… ({len(text)} characters)")


def shown(value: object) -> str:
    """A value as messages show it: numbers of numpy and what holds them as plain numbers (0.0, [1, 2]).

    Args:
        value: Anything; what is neither is shown as ``repr`` does. Of what is longer than a line the
            beginning is shown, and no more of it is looked at: a few bytes of YAML can stand for gigabytes.
    """
    return brief(repr(_plain(value, [_MOST_PARTS])))


class _Said:
    """Stands for a value in what holds it."""

    def __init__(self, text: str) -> None:
        self.text = text

    def __repr__(self) -> str:
        return self.text


def _plain(value: object, left: list[int]) -> object:
    """A value to be shown, as far as so many parts reach."""
    left[0] -= 1
    if left[0] < 0:
        return _Said("…")
    if isinstance(value, str) and len(value) > _MOST_SHOWN:
        return _Said(f"{value[:_MOST_SHOWN]!r}… ({len(value)} characters)")
    if isinstance(value, bytes | bytearray) and len(value) > _MOST_SHOWN:
        return _Said(f"{bytes(value[:_MOST_SHOWN])!r}… ({len(value)} bytes)")
    if isinstance(value, int) and value.bit_length() > _LONGEST_NUMBER_BITS:
        return _Said(f"a number of about {value.bit_length() * 0.30103:.0f} digits")
    # By module name: this module must not import numpy, which may not even be installed.
    if type(value).__module__.partition(".")[0] == "numpy" and hasattr(value, "tolist"):
        is_small = getattr(value, "size", 1) <= _MOST_PARTS
        return value.tolist() if is_small else _Said(f"an array of shape {getattr(value, 'shape', ())}")
    if type(value) is dict:
        parts = islice(value.items(), _MOST_PARTS)
        return {_plain(key, left): _plain(part, left) for key, part in parts}
    if type(value) is list or type(value) is tuple or type(value) is set:
        return type(value)(_plain(part, left) for part in islice(value, _MOST_PARTS))
    return value


class ShunterError(Exception):
    """Base of all errors raised on purpose."""

    exit_code = 1


class ShunterWarning(UserWarning):
    """Something from outside is not gone by, and what is done instead; commands print it as one line."""


class InputError(ShunterError):
    """A value from outside breaks a rule.

    Args:
        field: What was given, as the user knows it (``workload.rate_per_s``, ``--model``).
        rule: The rest of "must …".
        value: What was got instead; None: nothing was given.
    """

    exit_code = 2

    def __init__(self, field: str, rule: str, value: object) -> None:
        field, rule = brief(field, _MOST_FIELD), brief(rule, _MOST_SAID)
        got = "Nothing was given." if value is None else f"Got {shown(value)} instead."
        super().__init__(one_line(f"{field} must {rule}. {got}"))
        self.field = field


_MOST_LISTED = 40


class UnknownNameError(InputError):
    """A name is not among the known ones; the message lists the nearest, and the others unless they are many.

    Args:
        field: What was given, as the user knows it.
        name: The unknown name.
        known: All known names.
        nearest: Those that it may stand for, best first; None: those that are spelled alike.
    """

    def __init__(
        self, field: str, name: str, known: Iterable[str], nearest: Sequence[str] | None = None
    ) -> None:
        names = sorted(known)
        field = brief(field, _MOST_FIELD)
        lowered = {n.lower(): n for n in names}
        alike = difflib.get_close_matches(name[:_MOST_SHOWN].lower(), list(lowered), n=3, cutoff=0.4)
        close = [lowered[c] for c in alike] if nearest is None else nearest
        listed = ", ".join(names) if len(names) <= _MOST_LISTED else f"{len(names)} names"
        hint = f"did you mean {' or '.join(close)}? (known: {listed})"
        if not close:
            hint = f"be one of {listed}" if len(names) <= _MOST_LISTED else f"none of the {listed} is like it"
        ShunterError.__init__(self, f"{field}: unknown name {shown(name)}; {brief(hint, _MOST_SAID)}")
        self.field = field


class VersionError(InputError):
    """A file was written for another version of a format that this build does not read."""

    def __init__(self, path: object, what: str, got: object, want: object) -> None:
        rule = f"{what} must be version {want} for this shunter. Got {shown(got)} instead."
        ShunterError.__init__(self, f"{brief(str(path), _MOST_FIELD)}: {rule}")
        self.field = str(path)


class BrokenFileError(InputError):
    """A file is truncated, damaged, or not of the kind that it should be."""

    def __init__(self, path: object, why: str) -> None:
        said = brief(" ".join(why.split()), _MOST_SAID)
        ShunterError.__init__(self, f"{brief(str(path), _MOST_FIELD)}: cannot be read: {said}")
        self.field = str(path)


class PluginError(InputError):
    """A policy or an engine of a third party cannot be used; the message names its package."""

    def __init__(self, field: str, name: str, package: str, why: str) -> None:
        text = brief(" ".join(why.split()), _MOST_SAID)
        ShunterError.__init__(self, f"{field}: {shown(name)} of the package {package} cannot be used: {text}")
        self.field = field


class PolicyError(InputError):
    """A policy raised an error of its own instead of choosing an action."""

    def __init__(self, name: str, decision: int, error: BaseException) -> None:
        where = traceback.extract_tb(error.__traceback__)[-1]
        said = " ".join(f"{type(error).__name__}: {error}".split())
        text = f"--policy: {name!r} failed at decision {decision}: {said} ({where.filename}:{where.lineno})"
        ShunterError.__init__(self, text)
        self.field = "--policy"
