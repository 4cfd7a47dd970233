"""Names where they enter, and what each kind of output makes of text that it must not take for its own.

A name may come from anybody: a scenario, a trace, a policy's file, a registry. It is checked where it enters
(``plain_name``); still every output escapes for itself, as not all text is a name:

=====================  ==========================================================================
output                 escape
=====================  ==========================================================================
messages of errors     ``shunter.errors.one_line``, cut to a line
terminal               ``visible``: no control reaches it; rich's markup and emoji are off
HTML pages             ``html.escape`` (``shunter.report.page``); figures as JSON within a script
Markdown               ``markdown``: no HTML, no links behind words, no marks, lists or further cells
CSV                    ``csv_text``: no formula; read back as it was
names of files         ``file_name``: no separator, no dot in front, of bounded length
YAML                   ``shunter.export.escaping.to_yaml``; comments ``one_line``
words of a shell       ``shlex.quote`` of ``shunter.export.escaping.word``
llama-swap's commands  ``shunter.export.escaping.swap_words``: ``${…}`` too
MLflow                 ``store_key`` for keys; ``registry_name`` for names, which stand in its filters;
                       ``markdown`` for descriptions of runs and versions, which its pages render
=====================  ==========================================================================
"""

from __future__ import annotations

import hashlib
import posixpath
import re
from collections.abc import Callable
from typing import Any, TypeVar

from shunter.errors import InputError

__all__ = ["csv_frame", "csv_text", "file_name", "from_csv_frame", "from_csv_text", "markdown", "plain_name"]
__all__ += ["registry_name", "registry_name_of", "store_key", "visible"]

F = TypeVar("F")
"""A pandas frame: what is cheap to import must not import pandas."""

LONGEST_NAME = 200

_FORMULA = re.compile(r"'*[=+\-@\t\r]")
_MARKDOWN = re.compile(
    r"[\\<`*~|]|&(?=#?\w+;)|(?<![^\W_])_|_(?![^\W_])|(?<=\])\("
    r"|^(?:[#>=\[]|[-+](?=[-+\s])|\d(?=\d*[.)]\s))"
)
"""What Markdown takes for its own: anywhere, and at the beginning of a line."""
_NOT_IN_FILES = re.compile(r"[^\w.=-]")
_NOT_IN_KEYS = re.compile(r"[^\w\-. :/]")
_NOT_IN_REGISTRY = re.compile(r"[^A-Za-z0-9._-]+")
_LONGEST_FILE_NAME = 100
"""Bytes."""
_LONGEST_KEY = 250
"""Characters of a key that MLflow takes."""


def plain_name(text: str) -> str:
    """A name from outside: of printable characters, one line, of bounded length.

    Raises:
        ValueError: It is none; says the rule.
    """
    if not text or len(text) > LONGEST_NAME:
        raise ValueError(f"be 1 to {LONGEST_NAME} characters long")
    if not text.isprintable():
        raise ValueError("be of printable characters on one line")
    return text


def visible(text: str) -> str:
    """Text whose controls, but for ends of lines and tabs, are seen and not obeyed by a terminal."""
    return "".join(c if c.isprintable() or c in "\n\t" else ascii(c)[1:-1] for c in text)


def markdown(text: str) -> str:
    """Text as a line of Markdown, or a cell of a table: a page shows it as it is, blanks apart."""
    return _MARKDOWN.sub(_as_text, " ".join(visible(text).split()))


def _as_text(mark: re.Match[str]) -> str:
    return f"&#{ord(mark[0])};" if mark[0] in "\\<&" or mark[0].isdigit() else f"\\{mark[0]}"


def csv_text(text: str) -> str:
    """A cell that no spreadsheet takes for a formula; ``from_csv_text`` gives the text back."""
    return f"'{text}" if _FORMULA.match(text) and not _is_number(text) else text


def from_csv_text(text: str) -> str:
    """What ``csv_text`` was given."""
    return text[1:] if text.startswith("'") and _FORMULA.match(text) else text


def csv_frame(frame: F) -> F:
    """A pandas frame whose texts are ``csv_text``."""
    return _texts_mapped(frame, csv_text)


def from_csv_frame(frame: F) -> F:
    """The frame that ``csv_frame`` was given."""
    return _texts_mapped(frame, from_csv_text)


def _texts_mapped(frame: F, change: Callable[[str], str]) -> F:
    changed: Any = frame.copy()  # type: ignore[attr-defined]
    for name in (name for name in changed if getattr(changed[name].dtype, "kind", "O") in "OU"):
        changed[name] = [change(cell) if isinstance(cell, str) else cell for cell in changed[name].array]
    found: F = changed
    return found


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return text.isascii() and text.isprintable()


def file_name(text: str) -> str:
    """A name of a file for a text: it lies where it is put, and differs where strange texts do."""
    plain = _NOT_IN_FILES.sub("_", text).lstrip(".")
    plain = plain.encode()[:_LONGEST_FILE_NAME].decode(errors="ignore")  # file systems count bytes
    if plain and plain == text.replace(":", "_"):
        return plain
    return f"{plain}-{hashlib.sha256(text.encode(errors='replace')).hexdigest()[:8]}"


def store_key(text: str) -> str:
    """A key as MLflow takes it, such as a metric's name: in place of no path, or of no other path."""
    plain = _NOT_IN_KEYS.sub("_", text)
    if 0 < len(plain) <= _LONGEST_KEY and _is_path_within(plain):
        return plain
    end = hashlib.sha256(text.encode(errors="replace")).hexdigest()[:8]
    return f"{plain.replace('/', '_').strip('.')[: _LONGEST_KEY - 9]}-{end}"


def registry_name(field: str, text: str) -> str:
    """A name of MLflow's registry: MLflow takes it, it can stand in a filter, whose quotes have no escape.

    Raises:
        InputError: It is none.
    """
    marks = set(text) & set("'\"`\\/:@")
    if marks or not 0 < len(text) <= LONGEST_NAME or not text.isprintable() or text.strip(" .") != text:
        rule = f"be 1 to {LONGEST_NAME} printable characters, none of them a quote or \\/:@ "
        raise InputError(field, f"{rule}and no . or space at an end", text)
    return text


def registry_name_of(title: str) -> str:
    """A name of MLflow's registry for a title: such names differ where strange titles do."""
    plain = _NOT_IN_REGISTRY.sub("-", title).strip("-.")[:_LONGEST_FILE_NAME]
    if plain == title:
        return f"shunter-{plain}"
    end = hashlib.sha256(title.encode(errors="replace")).hexdigest()[:8]
    return f"shunter-{plain}-{end}" if plain else f"shunter-{end}"


def _is_path_within(text: str) -> bool:
    """Whether it is the shortest path to a place within a folder: that MLflow asks of keys."""
    return posixpath.normpath(text) == text and text != "." and not text.startswith(("..", "/"))
