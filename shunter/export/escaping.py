"""Names and paths in files of other programs: each comes out as itself, or is refused."""

from __future__ import annotations

import re
import shlex
import unicodedata
from collections.abc import Sequence
from typing import Any

import yaml

from shunter.errors import InputError

__all__ = ["swap_words", "to_yaml", "word"]

_NO_WORD = ("Cc", "Cs", "Zl", "Zp")
"""Unicode categories that no word of a command has: controls, halves of characters, ends of lines."""

_SURELY_TEXT = re.compile(r"[A-Za-z/]")
"""How a text begins that no version of YAML takes for a number."""


class _Dumper(yaml.SafeDumper):
    """Quotes what YAML 1.2 reads as a number and PyYAML, which is of 1.1, does not, like ``1e3``."""


def _text(dumper: yaml.SafeDumper, text: str) -> yaml.ScalarNode:
    style = None if _SURELY_TEXT.match(text) and text.isprintable() else '"'
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style=style)


_Dumper.add_representer(str, _text)


def to_yaml(data: Any) -> str:
    """Plain data as YAML, for readers of version 1.1 and 1.2 alike."""
    return yaml.dump(data, Dumper=_Dumper, sort_keys=False, width=float("inf"), allow_unicode=True)


def word(field: str, text: str) -> str:
    """Text that may be one word of a command.

    Raises:
        InputError: It has characters that no command line carries, or that end one.
    """
    if any(unicodedata.category(character) in _NO_WORD for character in text):
        raise InputError(field, "have no line breaks or control characters: it is a word of a command", text)
    return text


def swap_words(field: str, words: Sequence[str]) -> str:
    """A command for llama-swap, which fills in ``${NAME}`` before it splits words as a POSIX shell does.

    Words with ``${`` are kept from that by a pair of quotes between both characters.

    Raises:
        InputError: As ``word``.
    """
    return " ".join(shlex.quote(word(field, each)).replace("${", "$''{") for each in words)


def swap_text(field: str, text: str) -> str:
    """Text of llama-swap's configuration that is no command: there ``${NAME}`` is always filled in.

    Raises:
        InputError: It has ``${``, or halves of characters, which are no text to others.
    """
    if "${" in text:
        raise InputError(field, "have no ${: llama-swap would fill in what follows", text)
    if any(unicodedata.category(character) == "Cs" for character in text):
        raise InputError(field, "be Unicode text", text)
    return text
