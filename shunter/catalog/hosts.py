"""Memory of CPUs: channels, speed and bandwidth, and where each was checked."""

from __future__ import annotations

import csv
import re
from dataclasses import dataclass
from functools import cache
from importlib.resources import files

from shunter.errors import UnknownNameError

__all__ = ["get_host", "host_in"]

_NOISE = re.compile(
    r"\((?:r|tm)\)|\b(?:amd|intel|apple|nvidia|cpu|processor|with|radeon|graphics)\b|@.*", re.I
)


@dataclass(frozen=True)
class HostSpec:
    """One CPU, or SoC, by its specification.

    Attributes:
        name: Name in the catalogue.
        kind: desktop, workstation, server, laptop or soc.
        family: The vendor's name of its generation.
        channels: Channels of memory of 64 bits; None where it is soldered and only its bandwidth is known.
        memory: Kind of memory, such as DDR5.
        bandwidth_bytes_per_s: Theoretical peak, all channels filled at the officially supported speed.
        source_url: Where it was looked up.
    """

    name: str
    kind: str
    family: str
    channels: int | None
    memory: str
    bandwidth_bytes_per_s: float
    source_url: str


@cache
def catalog_hosts() -> dict[str, HostSpec]:
    """All CPUs of the catalogue by name.

    Source: ``shunter/data/hosts.csv``; each row names its own.
    """
    text = files("shunter.data").joinpath("hosts.csv").read_text(encoding="utf-8")
    return {
        row["cpu"]: HostSpec(
            name=row["cpu"],
            kind=row["kind"],
            family=row["family"],
            channels=int(row["channels"]) if row["channels"] else None,
            memory=row["memory"],
            bandwidth_bytes_per_s=float(row["bandwidth_bytes_per_s"]),
            source_url=row["source_url"],
        )
        for row in csv.DictReader(text.splitlines())
    }


@cache
def host_in(text: str) -> HostSpec | None:
    """The CPU of the catalogue that a description names: ``AMD EPYC 9554 64-Core Processor`` is EPYC 9554.

    Returns:
        None where it names none; of several whose names are in it the longest.
    """
    words = f" {_words(text)} "
    found = [name for name in catalog_hosts() if f" {_words(name).removeprefix('core ')} " in words]
    return catalog_hosts()[max(found, key=len)] if found else None


def get_host(name: str, *, field: str = "cpu") -> HostSpec:
    """Looks a CPU up by its name, however it is spelled.

    Raises:
        UnknownNameError: It is not in the catalogue; names the nearest.
    """
    found = host_in(name)
    if found is None:
        raise UnknownNameError(field, name, catalog_hosts())
    return found


def _words(text: str) -> str:
    """Lower case, a space between words; dashes within a name count as spaces."""
    plain = _NOISE.sub(" ", text.lower())
    return " ".join(re.findall(r"[a-z0-9+.]+", re.sub(r"[-_/]", " ", plain)))
