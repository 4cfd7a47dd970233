"""Devices as users write them: ``cuda:0``, ``cpu:1-threads-600MB``, ``loopback:2-threads-600MB``."""

from __future__ import annotations

import re
from dataclasses import dataclass

from shunter.errors import InputError, UnknownNameError

__all__ = ["DEVICE_KINDS", "DeviceSpec", "parse_device"]

DEVICE_KINDS = {
    "cpu": "the engine's own process on the CPU; weights are either in it or not",
    "cuda": "an NVIDIA GPU, by index",
    "loopback": "a second process on 127.0.0.1 that llama.cpp uses as its device, for machines without a GPU",
}

_PATTERN = re.compile(
    r"^(?P<kind>[a-z]+)(?::(?P<index>\d+))?(?:[:-](?P<threads>\d+)-threads?)?(?:[:-](?P<size>\d+)(?P<unit>MB|GB))?$"
)


@dataclass(frozen=True)
class DeviceSpec:
    """One device as named by the user.

    Attributes:
        name: The text that was parsed; identifies the device in datasets and logs.
        kind: One of ``DEVICE_KINDS``.
        index: Position among devices of its kind (CUDA ordinal).
        threads: CPU threads the device may use; None where the device is no CPU.
        memory_bytes: Budget for weights, KV and buffers; None means all that the device reports.
    """

    name: str
    kind: str
    index: int = 0
    threads: int | None = None
    memory_bytes: int | None = None

    @property
    def hardware_name(self) -> str:
        """The name without the budget: devices that share it run at the same speed (``cpu:1-threads``)."""
        return f"{self.kind}:{self.index}" if self.threads is None else f"{self.kind}:{self.threads}-threads"


def parse_device(text: str, *, field: str = "device") -> DeviceSpec:
    """Reads a device name of the form ``kind[:index][:N-threads][-NNN(MB|GB)]``.

    Args:
        text: For example ``cuda:0``, ``cuda:0-20GB``, ``cpu``, ``loopback:2-threads-600MB``.
        field: Named in errors.

    Raises:
        InputError: The text has another form, or a zero count or size.
        UnknownNameError: The kind is unknown.
    """
    match = _PATTERN.fullmatch(text)
    if match is None:
        form = "have the form kind[:index][:N-threads][-NNNMB], like loopback:2-threads-600MB"
        raise InputError(field, form, text)
    kind = match["kind"]
    if kind not in DEVICE_KINDS:
        raise UnknownNameError(field, kind, DEVICE_KINDS)
    threads = int(match["threads"]) if match["threads"] else None
    scale = {"MB": 10**6, "GB": 10**9}.get(match["unit"] or "", 0)
    memory_bytes = int(match["size"]) * scale if match["size"] else None
    if threads == 0 or memory_bytes == 0:
        raise InputError(field, "have at least one thread and one MB", text)
    if kind == "cuda" and threads is not None:
        raise InputError(field, "not name threads: a GPU has none to set", text)
    if kind != "cuda" and threads is None:
        threads = 1
    return DeviceSpec(text, kind, int(match["index"] or 0), threads, memory_bytes)
