"""A digest within a JSON object, over all the rest of it: says whether it is as it was written."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from shunter.errors import BrokenFileError

__all__ = ["CHANGED", "DIGEST", "sealed", "unsealed"]

DIGEST = "sha256"
"""Key of the digest."""

CHANGED = "it was changed since it was written: its digest is of other content"


def sealed(content: Mapping[str, Any]) -> dict[str, Any]:
    """Plain data with its digest."""
    rest = {key: value for key, value in content.items() if key != DIGEST}
    return {**rest, DIGEST: _digest(rest)}


def unsealed(path: Path, content: Mapping[str, Any], before: str = "") -> tuple[dict[str, Any], bool]:
    """Plain data as it was read, without its digest, and whether it had one.

    Args:
        path: The file, which errors name.
        content: What was read.
        before: Begins what the error says, such as which line it is.

    Raises:
        BrokenFileError: The digest is of other data.
    """
    rest = {key: value for key, value in content.items() if key != DIGEST}
    if DIGEST in content and content[DIGEST] != _digest(rest):
        raise BrokenFileError(path, before + CHANGED)
    return rest, DIGEST in content


def _digest(content: Mapping[str, Any]) -> str:
    # Through text and back: a reader sees keys as text and no difference of lists and tuples.
    plain = json.loads(json.dumps(content))
    text = json.dumps(plain, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()
