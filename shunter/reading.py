"""Files from outside: read within bounds, and whatever a library makes of a damaged one is one clear error.

What a file says may be a lie, and a few bytes of it can stand for gigabytes. So bytes, depth, aliases and
rows are bounded before anything is expanded, in proportion to the size of the file itself.
"""

from __future__ import annotations

import gzip
import io
import json
import os
import re
import stat
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NoReturn

import yaml

from shunter.errors import BrokenFileError, InputError, ShunterError, brief, shown

__all__ = [
    "check_names",
    "first_line",
    "from_json",
    "gunzipped",
    "most_expanded",
    "read_bytes",
    "read_json",
    "read_text",
    "read_yaml",
    "reading",
]

GZIP = b"\x1f\x8b"

_MOST_YAML_BYTES = 500_000
_MOST_YAML_NODES = 200_000
_MOST_DEPTH = 60
_LEAST_BOUND_BYTES = 256 * 2**20
_LEAST_TEXT_BYTES = 64 * 2**20  # each becomes tens of bytes of objects
_MOST_TIMES = 100
_MOST_TEXT_BYTES = 256 * 2**20
_MOST_JSON_BYTES = 32 * 2**20
"""Of a file of ours: each becomes up to thirty bytes of objects."""
_SURROGATE = re.compile(r"\\u[dD][89a-fA-F]")


@contextmanager
def reading(path: str | os.PathLike[str], before: str = "") -> Iterator[None]:
    """Turns whatever a library raises over a file into an error of ours.

    Put nothing inside but the library's call and what looks at its result: an error in our own code would be
    taken for damage of the file.

    Args:
        path: The file that the error names.
        before: Begins what the error says.

    Raises:
        BrokenFileError: The library failed, in whatever way.
    """
    try:
        _check_kind(path)
        yield
    except ShunterError:
        raise
    except Exception as error:  # damaged input finds its way to any of them
        raise BrokenFileError(path, before + first_line(error)) from None


def _check_kind(path: str | os.PathLike[str]) -> None:
    """Refuses what is neither file nor folder: it may never end, and opening it may wait for ever."""
    try:
        mode = os.stat(path).st_mode
    except (OSError, ValueError):
        return  # whoever opens it says why
    if not stat.S_ISREG(mode) and not stat.S_ISDIR(mode):
        raise BrokenFileError(path, "it is a pipe, a socket or a device, and no file")


def check_names(path: str | os.PathLike[str], names: Sequence[str]) -> None:
    """Refuses a table in which two columns have one name.

    Raises:
        BrokenFileError: Names the column.
    """
    name, count = next(iter(Counter(names).most_common(1)), ("", 0))
    if count > 1:
        raise BrokenFileError(path, f"{count} of its columns are named {shown(name)}")


def first_line(error: BaseException) -> str:
    """What an error says in one line; its kind, if it says nothing."""
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    if isinstance(error, RecursionError):
        return "it is nested too deeply"
    return brief((str(error).strip().splitlines() or [type(error).__name__])[0])


def most_expanded(size_bytes: int, least: int = _LEAST_BOUND_BYTES) -> int:
    """Bytes that a file of a size may stand for: none that anybody wrote in earnest is packed so tightly."""
    return max(least, _MOST_TIMES * size_bytes)


def gunzipped(data: bytes) -> bytes:
    """Data without its gzip container, if it is in one.

    Raises:
        ValueError: It stands for far more than its size.
        OSError: It is damaged; also EOFError and zlib.error.
    """
    if not data.startswith(GZIP):
        return data
    most = most_expanded(len(data), _LEAST_TEXT_BYTES)
    with gzip.GzipFile(fileobj=io.BytesIO(data)) as file:
        found = file.read(most + 1)
    if len(found) > most:
        raise ValueError(f"{len(data)} gzipped bytes stand for more than {most}")
    return found


def read_bytes(path: str | os.PathLike[str], most_bytes: int = _MOST_TEXT_BYTES) -> bytes:
    """A file's bytes.

    Args:
        path: The file.
        most_bytes: Longer files are refused before a byte is read.

    Raises:
        BrokenFileError: It cannot be read, or is no file.
        InputError: It is longer.
    """
    with reading(path):
        size = os.stat(path).st_size
        if size > most_bytes:
            raise InputError(f"{path}: its size", f"be at most {most_bytes} bytes", size)
        return Path(path).read_bytes()


def read_text(path: Path, most_bytes: int = _MOST_TEXT_BYTES) -> str:
    """A file's text, UTF-8 with or without a byte-order mark.

    Args:
        path: The file.
        most_bytes: Longer files are refused before a byte is read.

    Raises:
        BrokenFileError: It cannot be read, or is no text.
        InputError: It is longer.
    """
    data = read_bytes(path, most_bytes)
    with reading(path):
        return data.decode("utf-8-sig")


def from_json(text: str | bytes, *, strict: bool = False) -> Any:
    """What a text of JSON says.

    Args:
        text: The text.
        strict: Whether numbers that JSON does not know (``NaN``) are refused.

    Raises:
        ValueError: It is no JSON, is nested too deeply, or holds an escape (``\\ud800``) that is half a
            character: no output could hold it.
    """
    try:
        value = json.loads(text, parse_constant=_no_constant if strict else None)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None
    if _SURROGATE.search(text if isinstance(text, str) else text.decode(errors="replace")):
        try:
            json.dumps(value, ensure_ascii=False).encode()
        except UnicodeEncodeError:
            raise ValueError("an escape in it is half a character (a lone surrogate)") from None
    return value


def read_json(path: Path, *, strict: bool = False) -> dict[str, Any]:
    """A file that holds a JSON object.

    Args:
        path: The file.
        strict: Whether numbers that JSON does not know (``NaN``) are refused.

    Raises:
        BrokenFileError: It cannot be read, or holds something else.
        InputError: It is longer than any of ours.
    """
    text = read_text(path, _MOST_JSON_BYTES)
    with reading(path, "no JSON, or cut short: "):
        content = from_json(text, strict=strict)
    if not isinstance(content, dict):
        raise BrokenFileError(path, "it holds no JSON object")
    return content


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is no JSON")


_MOST_DIGITS = 100
"""In YAML, whose numbers of base 60 take time by the square of their length."""


class _Loader(yaml.SafeLoader):
    """Plain data only, of bounded depth and size, aliases counted as what they stand for; no key twice."""

    depth = 0

    def compose_mapping_node(self, anchor: Any) -> yaml.MappingNode:
        node: yaml.MappingNode = super().compose_mapping_node(anchor)
        known: set[tuple[str, str]] = set()
        for key in (key for key, _ in node.value if isinstance(key, yaml.ScalarNode) and key.value != "<<"):
            if (key.tag, key.value) in known:
                raise ValueError(f"line {key.start_mark.line + 1}: {key.value[:64]} stands there twice")
            known.add((key.tag, key.value))
        return node

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        self.depth += 1
        if self.depth > _MOST_DEPTH:
            raise ValueError(f"it is nested deeper than {_MOST_DEPTH} levels")
        node: yaml.Node | None = super().compose_node(parent, index)
        self.depth -= 1
        return node

    def get_single_node(self) -> yaml.Node | None:
        node: yaml.Node | None = super().get_single_node()
        if node is not None and _nodes(node, {}) > _MOST_YAML_NODES:
            raise ValueError(f"its aliases stand for more than {_MOST_YAML_NODES} values")
        return node


def _number(loader: _Loader, node: yaml.ScalarNode) -> float:
    """A number of bounded length."""
    if len(node.value) > _MOST_DIGITS:
        raise ValueError(f"a number has more than {_MOST_DIGITS} digits")
    is_whole = node.tag.endswith(":int")
    found: float = loader.construct_yaml_int(node) if is_whole else loader.construct_yaml_float(node)
    return found


for _tag in ("int", "float"):
    _Loader.add_constructor(f"tag:yaml.org,2002:{_tag}", _number)


def _nodes(node: yaml.Node, known: dict[int, int]) -> int:
    """Values that a node stands for, each alias with all that it names; a node within itself is refused."""
    if isinstance(node, yaml.ScalarNode):
        return 1
    if id(node) in known:
        if not known[id(node)]:
            raise ValueError("an alias names what it stands in")
        return known[id(node)]
    known[id(node)] = 0
    parts = [one for pair in node.value for one in (pair if isinstance(pair, tuple) else (pair,))]
    known[id(node)] = 1 + sum(_nodes(part, known) for part in parts)
    return known[id(node)]


def read_yaml(
    path: str | os.PathLike[str], text: str | None = None, most_bytes: int = _MOST_YAML_BYTES
) -> Any:
    """What a YAML file holds, as plain data.

    Args:
        path: The file, which errors name.
        text: Its text; None: it is read.
        most_bytes: Longer files are refused: reading YAML takes seconds per megabyte.

    Raises:
        BrokenFileError: It is no YAML of plain data, or stands for far more than it says.
    """
    text = read_text(Path(path), most_bytes) if text is None else text
    if len(text) > most_bytes:
        raise InputError(f"{path}: its size", f"be at most {most_bytes} characters", len(text))
    with reading(path, "it is no YAML: "):
        try:
            return yaml.load(text, _Loader)
        except yaml.MarkedYAMLError as error:
            where = f"line {error.problem_mark.line + 1}: " if error.problem_mark else ""
            raise ValueError(f"{where}{error.problem or error.context}") from None
