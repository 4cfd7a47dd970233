"""The devices that llama.cpp can run on here, behind one small protocol."""

from __future__ import annotations

import os
from typing import Any, Protocol

from .base import EngineUnavailableError
from .llama_native import built_in_device, device_memory, resident_bytes, trim_heap
from .loopback import LoopbackDevice

__all__ = ["CpuDevice", "CudaDevice", "Device", "open_device"]


class Device(Protocol):
    """Where llama.cpp puts gpu_layers."""

    @property
    def pointer(self) -> int | None:
        """ggml's handle; None where the engine's own process is the device."""

    def used_bytes(self) -> int:
        """Memory in use on it, by anybody."""

    def settle(self) -> None:
        """Waits until it has carried out all that was sent to it."""

    def trim(self) -> None:
        """Has it give freed memory back."""

    def close(self) -> None:
        """Ends it, after everything on it was freed."""


class CpuDevice:
    """The engine's own process."""

    pointer: int | None = None

    def used_bytes(self) -> int:
        """Resident memory of this process."""
        return resident_bytes(os.getpid())

    def settle(self) -> None:
        """Nothing is ever under way."""

    def trim(self) -> None:
        """Trims this process's heap."""
        trim_heap()

    def close(self) -> None:
        """There is nothing to end."""


class CudaDevice:
    """An NVIDIA GPU that the build of llama.cpp supports.

    Args:
        index: CUDA ordinal.

    Raises:
        EngineUnavailableError: The build has no CUDA, or there is no such GPU.
    """

    def __init__(self, index: int) -> None:
        pointer = built_in_device(f"CUDA{index}")
        if pointer is None:
            raise EngineUnavailableError(
                f"llama-cpp-python finds no device CUDA{index}: it needs a build with "
                'CMAKE_ARGS="-DGGML_CUDA=ON" and that GPU'
            )
        self.pointer = pointer

    def used_bytes(self) -> int:
        """Allocated memory of the GPU, whoever allocated it."""
        free, total = device_memory(self.pointer)
        return total - free

    def settle(self) -> None:
        """The CUDA backend's calls that move weights or KV return when they are done."""

    def trim(self) -> None:
        """CUDA frees at once."""

    def close(self) -> None:
        """There is nothing to end."""


def open_device(device: dict[str, Any]) -> Device:
    """The device of a plain dict of DeviceSpec.

    Raises:
        EngineUnavailableError: It cannot be used with this build on this machine.
    """
    kind = device["kind"]
    if kind == "cpu":
        return CpuDevice()
    if kind == "cuda":
        return CudaDevice(device["index"])
    if kind == "loopback":
        return LoopbackDevice(device["threads"])
    raise EngineUnavailableError(f"llama-cpp runs on cpu, cuda and loopback devices, not on {kind!r}")
