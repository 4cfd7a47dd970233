"""Whether an unload really gave its memory back: what stays would make the next measurements wrong."""

from __future__ import annotations

from .base import EngineError

__all__ = ["check_given_back"]

_TOLERATED = 0.1
_TOLERATED_BYTES = 8_000_000
"""Noise of a process's memory."""


def check_given_back(model: str, device: str, *, weight_bytes: int, freed_bytes: int) -> None:
    """Compares what an unload freed on the device with the weights that were there.

    Raises:
        EngineError: More than a tenth of them, and than noise, is still in use.
    """
    kept_bytes = weight_bytes - freed_bytes
    if kept_bytes > _TOLERATED * weight_bytes + _TOLERATED_BYTES:
        raise EngineError(
            f"unloading {model!r} gave back {freed_bytes / 1e6:.0f} of its {weight_bytes / 1e6:.0f} MB on "
            f"{device}: what is measured from here on would be wrong"
        )
