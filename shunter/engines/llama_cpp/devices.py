"""The devices that llama.cpp can run on here, behind one small protocol."""

from __future__ import annotations

from typing import Any, Protocol

from ..base import EngineUnavailableError
from ..memory import resident_bytes, trim_heap
from .ggml import GPU_PREFIXES
from .loopback import LoopbackDevice
from .native import built_in_device, built_in_devices, device_memory


class LlamaDevice(Protocol):
    """Where llama.cpp puts gpu_layers."""

    @property
    def pointer(self) -> int | None:
        """ggml's handle; None where the engine's own process is the device."""

    @property
    def lost(self) -> bool:
        """Whether it is gone, with all models on it, which must not be freed then."""

    def check(self) -> None:
        """Raises EngineError if it is lost."""

    def used_bytes(self) -> int:
        """Memory in use on it, by anybody."""

    def settle(self) -> None:
        """Waits until it has carried out all that was sent to it."""

    def trim(self) -> None:
        """Has it give freed memory back."""

    def close(self) -> None:
        """Ends it, after everything on it was freed."""


class _InProcess:
    """A device without a process of its own, never seen to be lost; calls return when all is done."""

    lost = False

    def check(self) -> None:
        """A lost GPU shows in the next call's own error."""

    def settle(self) -> None:
        """Nothing is ever under way."""

    def trim(self) -> None:
        """A GPU's backend frees at once."""

    def close(self) -> None:
        """There is nothing to end."""


class CpuDevice(_InProcess):
    """The engine's own process."""

    pointer: int | None = None

    def used_bytes(self) -> int:
        """Resident memory of this process."""
        return resident_bytes()

    def trim(self) -> None:
        """Trims this process's heap."""
        trim_heap()


class GpuDevice(_InProcess):
    """A GPU that the build of llama.cpp supports, by ggml's name of it.

    Raises:
        EngineUnavailableError: The build has no such backend, or there is no such GPU.
    """

    def __init__(self, kind: str, index: int) -> None:
        name = f"{GPU_PREFIXES[kind]}{index}"
        pointer = built_in_device(name)
        if pointer is None:
            raise EngineUnavailableError(
                f"llama-cpp-python finds no device {name} (only {', '.join(built_in_devices())}): it needs "
                f'that GPU and a build with CMAKE_ARGS="-DGGML_{kind.upper()}=ON"'
            )
        self.pointer = pointer

    def used_bytes(self) -> int:
        """Allocated memory of the GPU, whoever allocated it."""
        free, total = device_memory(self.pointer)
        return total - free


def open_device(device: dict[str, Any]) -> LlamaDevice:
    """The device of a plain dict of DeviceSpec.

    Raises:
        EngineUnavailableError: It cannot be used with this build on this machine.
    """
    kind = device["kind"]
    if kind == "cpu":
        return CpuDevice()
    if kind in GPU_PREFIXES:
        return GpuDevice(kind, device["index"])
    if kind == "loopback":
        return LoopbackDevice(device["threads"], device["cores"], device["share_percent"])
    known = ", ".join(["cpu", "loopback", *GPU_PREFIXES])
    raise EngineUnavailableError(f"llama-cpp runs on devices of kind {known}, not on {kind!r}")
