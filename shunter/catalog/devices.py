"""Devices as users write them: ``cuda:0``, ``cpu:1-threads-600MB``, ``loopback:1-threads-cores-0-mmap``."""

from __future__ import annotations

import re
from dataclasses import dataclass

from shunter.errors import InputError, UnknownNameError

__all__ = ["GPU_KINDS", "DeviceSpec", "parse_device"]

DEVICE_KINDS = {
    "cpu": "the engine's own process on the CPU; weights are either in it or not",
    "cuda": "an NVIDIA GPU, by index",
    "vulkan": "a GPU that llama.cpp drives by Vulkan, by index",
    "loopback": "a second process on 127.0.0.1 that llama.cpp uses as its device, for machines without a GPU",
}

GPU_KINDS = ("cuda", "vulkan")
"""Kinds that are no CPU: they have no threads and no cores to set."""

_UUID = r"(?:GPU|MIG)-[0-9a-fA-F]{8}(?:-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}"
_PCI = r"[0-9a-fA-F]{4,8}:[0-9a-fA-F]{2}:[0-9a-fA-F]{2}\.[0-7]"
_PATTERN = re.compile(
    rf"^(?P<kind>[a-z]+)(?::(?:(?P<address>{_UUID}|{_PCI})|(?P<index>\d+)))?(?:[:-](?P<threads>\d+)-threads?)?"
    r"(?:[:-]cores?-(?P<cores>\d+(?:\+\d+)*))?(?:[:-]share-(?P<share>\d+))?"
    r"(?P<mmap>[:-]mmap)?(?:[:-](?P<size>\d+)(?P<unit>MB|GB))?$"
)


@dataclass(frozen=True)
class DeviceSpec:
    """One device as named by the user.

    Attributes:
        name: The text that was parsed; identifies the device in datasets and logs.
        kind: One of ``DEVICE_KINDS``.
        index: Position among devices of its kind (for GPUs the backend's ordinal).
        threads: CPU threads the device may use; None where the device is no CPU.
        memory_bytes: Budget for weights, KV and buffers; None means all that the device reports.
        cores: CPU cores that the device may run on, ascending; empty means any.
        share_percent: Share of time, in percent, that a loopback device's process may run: a slower device.
        mmap: Whether checkpoints are mapped into memory rather than read, where the engine leaves the choice.
        address: UUID or PCI address of a GPU that is named by it instead of an index; empty: by index.
    """

    name: str
    kind: str
    index: int = 0
    threads: int | None = None
    memory_bytes: int | None = None
    cores: tuple[int, ...] = ()
    share_percent: int = 100
    mmap: bool = False
    address: str = ""

    @property
    def hardware_name(self) -> str:
        """The name without the budget: devices that share it run and load at the same speed.

        Other cores or another way to load make another name (``loopback:1-threads-cores-0-mmap``), so that
        their rows are never mixed in a dataset.
        """
        where = self.address or self.index
        base = f"{self.kind}:{where}" if self.threads is None else f"{self.kind}:{self.threads}-threads"
        cores = "-cores-" + "+".join(map(str, self.cores)) if self.cores else ""
        share = f"-share-{self.share_percent}" if self.share_percent < 100 else ""
        return base + cores + share + "-mmap" * self.mmap


def parse_device(text: str, *, field: str = "device") -> DeviceSpec:
    """Reads a device name of the form ``kind[:index][:N-threads][-cores-N[+N]][-share-NN][-mmap][-NNNMB]``.

    A CUDA device may have its UUID or PCI address in place of an index, as nvidia-smi prints them: these stay
    when GPUs are added or taken out. Without threads a device has one for each of its cores, or one.

    Args:
        text: For example ``cuda:0``, ``cuda:0-20GB``, ``cuda:0000:65:00.0-20GB``, ``cpu``,
            ``loopback:2-threads-cores-0+1-mmap-600MB``.
        field: Named in errors.

    Raises:
        InputError: The text has another form, or a zero count or size.
        UnknownNameError: The kind is unknown.
    """
    match = _PATTERN.fullmatch(text)
    if match is None:
        options = "[-cores-N[+N]][-share-NN][-mmap][-NNNMB]"
        form = f"kind[:index][:N-threads]{options}, like loopback:2-threads-600MB"
        raise InputError(field, f"have the form {form}", text)
    kind = match["kind"]
    if kind not in DEVICE_KINDS:
        raise UnknownNameError(field, kind, DEVICE_KINDS)
    threads = int(match["threads"]) if match["threads"] else None
    scale = {"MB": 10**6, "GB": 10**9}.get(match["unit"] or "", 0)
    memory_bytes = int(match["size"]) * scale if match["size"] else None
    if threads == 0 or memory_bytes == 0:
        raise InputError(field, "have at least one thread and one MB", text)
    cores = tuple(sorted({int(core) for core in (match["cores"] or "").split("+") if core}))
    if match["address"] and kind != "cuda":
        raise InputError(field, "have an index: only CUDA devices have a UUID or PCI address", text)
    if kind in GPU_KINDS and (threads is not None or cores):
        raise InputError(field, f"not name {'threads' if threads else 'cores'}: a GPU has none to set", text)
    if kind not in GPU_KINDS and threads is None:
        threads = len(cores) or 1
    share = _share_percent(kind, match["share"], field, text)
    index, mmap = int(match["index"] or 0), match["mmap"] is not None
    return DeviceSpec(text, kind, index, threads, memory_bytes, cores, share, mmap, match["address"] or "")


def _share_percent(kind: str, written: str | None, field: str, text: str) -> int:
    share = int(written or 100)
    if not 5 <= share <= 100:
        raise InputError(field, "have a share from 5 to 100 percent", text)
    if share < 100 and kind != "loopback":
        raise InputError(field, "not name a share: only loopback devices can be slowed down", text)
    return share
