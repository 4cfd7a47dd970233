"""Headers of real models from ``tests/corpus``: files of their full size whose weights are holes."""

from __future__ import annotations

import json
import math
import os
import struct
from pathlib import Path
from typing import Any

from shunter.engines.headers import GGML_TYPES

CORPUS = {
    path.stem: json.loads(path.read_text()) for path in (Path(__file__).parent / "corpus").glob("*.json")
}
"""Headers by name: ``outside`` and ``layers`` hold tensors by name, each a shape and a type."""

_NUMBERS = {name: (number, block, nbytes) for number, (name, block, nbytes) in GGML_TYPES.items()}
_WIDTHS = {"F32": 4, "F16": 2, "BF16": 2, "I32": 4, "U8": 1, "F8_E4M3": 1}


def tensors_of(entry: dict[str, Any]) -> dict[str, tuple[list[int], str]]:
    """All tensors of a header."""
    found = {name: (shape, dtype) for name, (shape, dtype) in entry["outside"].items()}
    start, layer = ("blk.", 0) if entry["format"] == "gguf" else ("model.layers.", 0)
    for kind in entry["layers"]:
        for _ in range(kind["count"]):
            place = f"{kind.get('prefix', '')}{start}{layer}."
            found |= {place + name: (shape, dtype) for name, (shape, dtype) in kind["tensors"].items()}
            experts = kind.get("experts", {"count": 0, "tensors": {}})
            for e in range(experts["count"]):
                for name, (shape, dtype) in experts["tensors"].items():
                    found[place + name.replace("{e}", str(e))] = (shape, dtype)
            layer += 1
    return found


def write_header(entry: dict[str, Any], folder: Path, name: str = "m") -> Path:
    """Writes a header's file or folder into a folder."""
    if entry["format"] == "gguf":
        return write_gguf(folder / f"{name}.gguf", entry["metadata"], tensors_of(entry))
    out = folder / name
    out.mkdir()
    (out / "config.json").write_text(json.dumps(entry["config"]))
    write_safetensors(out / "model.safetensors", tensors_of(entry))
    return out


def write_gguf(path: Path, metadata: dict[str, Any], tensors: dict[str, tuple[list[int], str]]) -> Path:
    """Writes a GGUF file; lists in the metadata become arrays."""
    table, offset = b"", 0
    for name, (shape, dtype) in tensors.items():
        number, block, nbytes = _NUMBERS[dtype]
        table += _text(name) + struct.pack(f"<I{len(shape)}Q", len(shape), *reversed(shape))
        table += struct.pack("<IQ", number, offset)
        offset += -(-(math.prod(shape) // block * nbytes) // 32) * 32
    values = b"".join(_text(key) + _value(value) for key, value in metadata.items())
    start = b"GGUF" + struct.pack("<IQQ", 3, len(tensors), len(metadata)) + values + table
    path.write_bytes(start)
    os.truncate(path, -(-len(start) // 32) * 32 + offset)
    return path


def write_safetensors(path: Path, tensors: dict[str, tuple[list[int], str]]) -> Path:
    """Writes a safetensors file."""
    table, start = {}, 0
    for name, (shape, dtype) in tensors.items():
        end = start + math.prod(shape) * _WIDTHS[dtype]
        table[name] = {"dtype": dtype, "shape": shape, "data_offsets": [start, end]}
        start = end
    text = json.dumps(table).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text)
    os.truncate(path, 8 + len(text) + start)
    return path


def _text(text: str) -> bytes:
    return struct.pack("<Q", len(text.encode())) + text.encode()


def _value(value: Any) -> bytes:
    kind, data = _typed(value[0] if isinstance(value, list) else value)
    if not isinstance(value, list):
        return struct.pack("<I", kind) + data
    return struct.pack("<IIQ", 9, kind, len(value)) + b"".join(_typed(one)[1] for one in value)


def _typed(value: Any) -> tuple[int, bytes]:
    if isinstance(value, str):
        return 8, _text(value)
    if isinstance(value, bool):
        return 7, struct.pack("<?", value)
    return (6, struct.pack("<f", value)) if isinstance(value, float) else (4, struct.pack("<I", value))
