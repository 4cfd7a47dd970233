"""GPUs of the catalogue by the names that drivers, clouds and people give them.

A name matches whole or not at all. Case and separators do not count, nor does the vendor's brand in front
(``NVIDIA GeForce``, ``Tesla``, ``AMD Radeon``); a size must be that of the entry: ``NVIDIA A100-SXM4-40GB``
is A100 SXM4 40GB and never the 80 GB card. Where a card has several sizes or forms, a name without them is
unknown: ``RTX 3080`` could be two cards, ``H100`` three. Slices (MIG, vGPU) are no card.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from shunter.catalog.gpus import GpuSpec

__all__ = ["matching_gpus"]

_SLICE = re.compile(r"\bmig\b|\b\d+g\.\d+gb\b|^(?:nvidia |grid )*[a-z]+\d+[a-z]*-\d+[abcq]\b", re.I)
_BRANDS = re.compile(
    r"\b(nvidia|amd|ati|apple|corporation|geforce|radeon|instinct|tesla|generation|graphics|gpu|edition"
    r"|oam)\b"
)
"""What says nothing of the card; OAM is the only form of the Instincts that are called so."""

_REMARKS = re.compile(r"\((?:r|tm|nvgpu|radv [^)]*|uuid:[^)]*)\)")
"""What drivers add in brackets that says nothing of the card."""

_SIZE = re.compile(r"(?<![\w.])(\d+(?:\.\d+)?) ?(gib|gb|g|mib|mb)(?!\w)")
_SMALLEST, _LARGEST = 0.9, 1.005
"""What a driver shows of a card's marketed size: ECC of GDDR6 takes a sixteenth, firmware a few MiB more."""


def is_slice(text: str) -> bool:
    """Whether it names a part of a GPU: ``NVIDIA A100-SXM4-80GB MIG 3g.40gb``, ``GRID A100D-20C``."""
    return _SLICE.search(text) is not None


def matching_gpus(text: str, gpus: Mapping[str, GpuSpec]) -> list[str]:
    """Names in the catalogue of all GPUs that a text can mean; none for a slice.

    Args:
        text: For example ``NVIDIA GeForce RTX 3080 Ti, 12288 MiB`` or ``a100-sxm4-80gb``. A size behind a
            comma is the memory that a driver shows.
        gpus: The catalogue.
    """
    if text in gpus:
        return [text]
    if is_slice(text):
        return []
    head, *rest = _words(text).split(",")
    stated_gib = list(_sizes_gib(",".join(rest)))
    whole, bare = _joined(head), _joined(_SIZE.sub(" ", head))
    found = [name for name, gpu in gpus.items() if whole in {_joined(_words(n)) for n in gpu.driver_names}]
    if not found:
        stated_gib += _sizes_gib(head)
        found = [name for name, gpu in gpus.items() if bare and bare in _bare_names(gpu)]
    return [name for name in found if all(_fits(gib, gpus[name]) for gib in stated_gib)]


def nearest_gpus(text: str, gpus: Mapping[str, GpuSpec]) -> list[str]:
    """Up to four names of the catalogue most like a text: forms and sizes of the card, then other cards."""
    bare = _joined(_SIZE.sub(" ", _words(text.split(",")[0])))
    names: dict[str, list[str]] = {}
    for name, gpu in gpus.items():
        for form in _bare_names(gpu):
            names.setdefault(form, []).append(name)
    forms = [form for form in names if bare and form.startswith(bare)]
    forms += difflib.get_close_matches(bare, list(names), n=4, cutoff=0.5)
    return list(dict.fromkeys(name for form in forms for name in names[form]))[:4]


def _words(text: str) -> str:
    """Lower case, with single spaces for separators, and one word for laptops."""
    low = _REMARKS.sub(" ", text.lower()).replace("with max-q design", "max-q")
    low = re.sub(r"[\s_()-]+", " ", low)
    return re.sub(r"\bmobile\b", "laptop", low).strip()


def _joined(words: str) -> str:
    return re.sub(r"\s+", "", _BRANDS.sub(" ", words))


def _bare_names(gpu: GpuSpec) -> set[str]:
    """The names of a GPU without sizes; of a module also the one without its generation (SXM for SXM4)."""
    bare = {_joined(_SIZE.sub(" ", _words(name))) for name in (gpu.name, *gpu.driver_names)}
    return bare | {re.sub(r"(sxm)\d$", r"\1", name) for name in bare}


def _sizes_gib(words: str) -> Iterator[float]:
    for number, unit in _SIZE.findall(words):
        yield float(number) / (1024 if unit.startswith("m") else 1)


def _fits(gib: float, gpu: GpuSpec) -> bool:
    return _SMALLEST <= gib * 2**30 / gpu.marketed_bytes <= _LARGEST
