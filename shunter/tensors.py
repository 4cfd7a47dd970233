"""Files of tensors (safetensors) as shunter writes and reads them: with a digest over tensors and header."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import safetensors
import safetensors.numpy
from numpy.typing import NDArray

from shunter.errors import BrokenFileError
from shunter.files import write_bytes
from shunter.reading import reading
from shunter.seals import CHANGED, DIGEST

__all__ = ["packed_tensors", "read_tensors", "write_tensors"]


def write_tensors(path: str | Path, arrays: Mapping[str, NDArray[Any]], header: Mapping[str, str]) -> Path:
    """Writes tensors and a header of texts, whole or not at all.

    Raises:
        ShunterError: As ``replaced``.
    """
    return write_bytes(path, packed_tensors(arrays, header))


def packed_tensors(arrays: Mapping[str, NDArray[Any]], header: Mapping[str, str]) -> bytes:
    """What a file of tensors and a header of texts holds, digest included."""
    sealed = {**header, DIGEST: _digest(arrays, header)}
    return bytes(safetensors.numpy.save(dict(arrays), metadata=sealed))


def read_tensors(path: Path) -> tuple[dict[str, NDArray[Any]], dict[str, str], bool]:
    """Reads tensors and header.

    Returns:
        Both, and whether a digest held them to be what was written; older files have none.

    Raises:
        BrokenFileError: It is damaged, no safetensors file of numpy's types, or was changed since.
    """
    with reading(path, "no safetensors file: "), safetensors.safe_open(path, framework="numpy") as file:
        header = dict(file.metadata() or {})
        arrays = {key: np.asarray(file.get_tensor(key)) for key in file.keys()}  # noqa: SIM118 - no mapping
    said = header.pop(DIGEST, None)
    if said is not None and said != _digest(arrays, header):
        raise BrokenFileError(path, CHANGED)
    return arrays, header, said is not None


def _digest(arrays: Mapping[str, NDArray[Any]], header: Mapping[str, str]) -> str:
    found = hashlib.sha256(json.dumps(dict(header), sort_keys=True).encode())
    for name in sorted(arrays):
        array = arrays[name]
        found.update(json.dumps([name, array.dtype.str, array.shape]).encode())
        found.update(np.ascontiguousarray(array).tobytes())
    return found.hexdigest()
