"""Checkpoints with random weights, so that nothing need be downloaded: speed and memory use do not depend
on a model's values.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

from shunter.catalog.checkpoints import Checkpoint, read_checkpoint
from shunter.catalog.models import ModelSpec
from shunter.errors import InputError, UnknownNameError
from shunter.files import is_special, remove_leftovers, sync
from shunter.profiling.checkpoints.gguf import MIN_VOCAB, write_gguf
from shunter.profiling.checkpoints.safetensors import FOLDER_FILES, write_safetensors
from shunter.profiling.checkpoints.tensors import BYTES_PER_WEIGHT, model_tensors, stored_bytes

__all__ = [
    "CHECKPOINT_FORMATS",
    "bytes_per_weight",
    "check_kind",
    "checkpoint_weight_bytes",
    "write_checkpoint",
]

CHECKPOINT_FORMATS: dict[str, tuple[str, ...]] = {
    "gguf": ("Q8_0", "Q4_0", "F16", "F32"),
    "safetensors": ("BF16", "F16", "F32"),
}
"""Quantisations by format; the first is the default."""

_WRITERS = {"gguf": write_gguf, "safetensors": write_safetensors}


def write_checkpoint(
    spec: ModelSpec,
    out: str | Path,
    *,
    format: str,
    quantization: str,
    seed: int = 0,
    overwrite: bool = False,
    progress: Callable[[int, int], None] | None = None,
) -> Checkpoint:
    """Writes a checkpoint of the given shape with random weights.

    It is written beside its place and renamed at the end: an interrupted call leaves nothing. Memory use is
    that of its largest tensor.

    Args:
        spec: Shape and family.
        out: GGUF file, or folder for safetensors.
        format: A key of ``CHECKPOINT_FORMATS``.
        quantization: One of the format's.
        seed: Same seed, same bytes.
        overwrite: Whether an existing checkpoint may be replaced.
        progress: Called after each tensor with bytes written and bytes in all.

    Returns:
        The checkpoint as read back from its headers.

    Raises:
        InputError: The place is taken or cannot be written, the shape does not fit the format, or the disk
            is too full.
    """
    out = Path(out)
    out = out.resolve() if out.is_symlink() else out
    check_kind(format, quantization)
    _check_shape(spec, format, quantization)
    _check_place(out, format, overwrite)
    total = checkpoint_weight_bytes(spec, format, quantization)
    _check_disk(out.parent, total)
    remove_leftovers(out)
    partial = _beside(out, "tmp")
    written = 0

    def on_bytes(count: int) -> None:
        nonlocal written
        written += count
        if progress is not None:
            progress(written, total)

    try:
        _WRITERS[format](spec, partial, quantization, seed, on_bytes)
        for path in (partial, *partial.rglob("*")):
            sync(path)
        _move_into_place(partial, out)
    except OSError as err:
        raise InputError("out", "be a place that can be written", f"{out}: {err.strerror}") from err
    finally:
        _remove(partial)
    return read_checkpoint(out, field="out")


def bytes_per_weight(quantization: str) -> float:
    """Bytes that one weight of a matrix takes."""
    return BYTES_PER_WEIGHT[quantization]


def checkpoint_weight_bytes(spec: ModelSpec, format: str, quantization: str) -> int:
    """Bytes of all tensors of a checkpoint before it is written."""
    return sum(stored_bytes(tensor, format, quantization) for tensor in model_tensors(spec))


def check_kind(format: str, quantization: str) -> None:
    """Checks that a format exists and has a quantisation.

    Raises:
        UnknownNameError: One of them is unknown.
    """
    if format not in CHECKPOINT_FORMATS:
        raise UnknownNameError("format", format, CHECKPOINT_FORMATS)
    if quantization not in CHECKPOINT_FORMATS[format]:
        raise UnknownNameError(f"quantization ({format})", quantization, CHECKPOINT_FORMATS[format])


def _check_shape(spec: ModelSpec, format: str, quantization: str) -> None:
    if spec.vocab_size < MIN_VOCAB:
        raise InputError(
            "vocab_size", f"be at least {MIN_VOCAB} (all bytes and special tokens)", spec.vocab_size
        )
    if spec.attn_heads % spec.kv_heads:
        raise InputError("attn_heads", f"be a multiple of kv_heads ({spec.kv_heads})", spec.attn_heads)
    if quantization in ("Q8_0", "Q4_0"):
        for tensor in model_tensors(spec):
            if tensor.fill is None and tensor.shape[1] % 32:
                rule = f"have rows of a multiple of 32 weights for {quantization}"
                raise InputError(tensor.gguf_name, rule, tensor.shape[1])


def _check_place(out: Path, format: str, overwrite: bool) -> None:
    if not out.parent.is_dir():
        raise InputError("out", "lie in a folder that exists", str(out))
    if not out.exists():
        return
    if is_special(out):
        raise InputError("out", "be a file or a folder, and no pipe or device", str(out))
    if not overwrite:
        raise InputError("out", "not exist yet (or be overwritten on purpose: --overwrite)", str(out))
    if out.is_dir() != (format == "safetensors"):
        raise InputError("out", "be of the same format as what it overwrites", str(out))
    if out.is_dir() and not {entry.name for entry in out.iterdir()} <= set(FOLDER_FILES):
        rule = f"hold nothing but a synthetic checkpoint ({', '.join(FOLDER_FILES)}) to be overwritten"
        raise InputError("out", rule, str(out))


def _check_disk(folder: Path, weight_bytes: int) -> None:
    needed, free = weight_bytes + 16 * 2**20, shutil.disk_usage(folder).free
    if needed > free:
        rule = f"lie on a disk with {needed} bytes available"
        raise InputError("out", rule, f"{folder}: {free} bytes")


def _beside(out: Path, suffix: str) -> Path:
    return out.absolute().with_name(f".{out.absolute().name}.{os.getpid()}.{suffix}")


def _move_into_place(partial: Path, out: Path) -> None:
    if not out.is_dir():
        partial.replace(out)
        return
    old = _beside(out, "old")
    out.rename(old)
    try:
        partial.rename(out)
    except BaseException:
        old.rename(out)
        raise
    _remove(old)


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
