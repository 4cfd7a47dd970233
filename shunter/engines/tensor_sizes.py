"""Whether a checkpoint's tensors are of the sizes that it says of itself: what it leaves out is assumed.

A header that does not say how many heads keys have, or says it wrong, is a factor in the KV of every token;
the tensors that are multiplied with know better.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import NamedTuple

from .headers import HeaderError, TensorInfo

__all__ = ["Wanted", "check_sizes"]


class Wanted(NamedTuple):
    """A side of a tensor, and how long the checkpoint says that it is.

    Attributes:
        axis: 0 for rows, -1 for columns; further ones of stacked experts are before.
        size: How long it must be.
        said: From what, by the names in the file: ``num_key_value_heads 8 x head_dim 128``.
    """

    axis: int
    size: int
    said: str


def check_sizes(path: Path, tensors: Iterable[tuple[str, TensorInfo]], wanted: Mapping[str, Wanted]) -> None:
    """Checks the tensors that are there.

    Args:
        path: What says it; named in errors.
        tensors: Those whose elements are not packed, by name.
        wanted: By what a name ends in, from the last but one of its parts on: ``k_proj.weight``.

    Raises:
        HeaderError: A tensor is of another size.
    """
    for name, info in tensors:
        want = wanted.get(".".join(name.split(".")[-2:]))
        if want is not None and len(info.shape) >= 2 and info.shape[want.axis] != want.size:
            sides = "columns" if want.axis else "rows"
            says = want.said if want.said.endswith(f" {want.size}") else f"{want.said} = {want.size}"
            raise HeaderError(path, f"it says {says}, and {name} has {info.shape[want.axis]} {sides}")
