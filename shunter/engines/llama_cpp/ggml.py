"""What can be said and started of ggml without loading it: device names, the loopback device's process."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable
from pathlib import Path

from ..affinity import checked_cores

__all__ = ["GPU_PREFIXES", "RPC_BUILD_HINT", "loopback_command", "loopback_environment"]

GPU_PREFIXES = {"cuda": "CUDA", "vulkan": "Vulkan"}
"""How ggml's names of a kind's devices begin; the ordinal follows. Any backend of ggml needs one row."""

MMAP_THRESHOLD_BYTES = 32 << 20
"""Blocks from here on bypass the heap. Source: mallopt(3), its greatest value, DEFAULT_MMAP_THRESHOLD_MAX."""
TRIM_THRESHOLD_BYTES = 1 << 30
"""Freed memory at the heap's end that stays there until ``trim_heap``."""

RPC_BUILD_HINT = (
    "the loopback device needs llama-cpp-python built with RPC: "
    'CMAKE_ARGS="-DGGML_RPC=ON" pip install --no-binary llama-cpp-python llama-cpp-python'
)


def loopback_command(
    libraries: tuple[str, str],
    threads: int,
    cores: Iterable[int],
    share_percent: int,
    *,
    serves_descendants: bool = False,
) -> list[str]:
    """Command line of a loopback device's process, whose parent is to be this one.

    Args:
        libraries: Paths of libggml and libggml-rpc.
        threads: CPU threads that it computes with.
        cores: CPU cores that it runs on; empty means any.
        share_percent: Share of time that it may run.
        serves_descendants: Whether programs that this process starts may use it, and not this one alone.

    Raises:
        EngineUnavailableError: A core is not there.
    """
    script = Path(__file__).with_name("loopback_server.py")
    command = [sys.executable, "-I", str(script), *libraries, str(threads), str(os.getpid())]
    command.append("--cores=" + ",".join(map(str, sorted(checked_cores(cores)))))
    command.append(f"--share={share_percent}")
    if serves_descendants:
        command.append("--serves-descendants")
    return command


def loopback_environment(threads: int) -> dict[str, str]:
    """Environment of a loopback device's process: this one's, with what its speed and memory depend on."""
    environment = dict(os.environ, OMP_NUM_THREADS=str(threads))
    # As settle_heap does in an engine's process.
    environment["MALLOC_MMAP_THRESHOLD_"] = str(MMAP_THRESHOLD_BYTES)
    environment["MALLOC_TRIM_THRESHOLD_"] = str(TRIM_THRESHOLD_BYTES)
    environment.setdefault("OMP_WAIT_POLICY", "passive")
    return environment
