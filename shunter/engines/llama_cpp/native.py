"""What llama-cpp-python does not wrap: ggml's devices and RPC client, the log, and the C allocator."""

from __future__ import annotations

import ctypes
import os
from collections import deque
from functools import cache
from typing import Any

import llama_cpp
import numpy as np

from ..base import EngineUnavailableError
from .ggml import MMAP_THRESHOLD_BYTES, TRIM_THRESHOLD_BYTES

_ERROR_LEVEL, _CONTINUATION_LEVEL = 4, 5
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3

_errors: deque[str] = deque(maxlen=6)


def check_version() -> None:
    """Refuses a llama-cpp-python whose parameters are others than those that the engine sets.

    ctypes would take a field that is not there for a new attribute and ignore it silently.

    Raises:
        EngineUnavailableError: It is too old.
    """
    wanted = {
        llama_cpp.llama_model_params: {"devices", "load_mode", "n_gpu_layers", "use_extra_bufts"},
        llama_cpp.llama_context_params: {"flash_attn_type", "kv_unified", "n_outputs_max", "n_seq_max"},
    }
    for struct, names in wanted.items():
        missing = names - {entry[0] for entry in struct._fields_}
        if missing:
            raise EngineUnavailableError(
                f"llama-cpp-python {llama_cpp.__version__} lacks {', '.join(sorted(missing))}: "
                "install 0.3.36 or later"
            )


def library_path(stem: str) -> str | None:
    """Path of the library that this process has loaded already, as ``libggml-rpc``; None if it has not.

    A wheel holds each library under three names as three copies: opening it by another name than llama.cpp
    did would bring in a second copy with a device list and a log of its own.
    """
    with open("/proc/self/maps", encoding="utf-8") as maps:
        for line in maps:
            path = line.split(maxsplit=5)[-1].strip()
            if os.path.basename(path).startswith(stem + ".so"):
                return path
    return None


def native_functions(stem: str, signatures: dict[str, tuple[Any, ...]]) -> dict[str, Any]:
    """Functions of a loaded library by name, with (result, argument, ...) types set.

    Raises:
        EngineUnavailableError: The library or a function is not there.
    """
    path = library_path(stem)
    if path is None:
        raise EngineUnavailableError(f"this build of llama-cpp-python does not carry {stem}")
    library, functions = ctypes.CDLL(path), {}
    for name, (result, *arguments) in signatures.items():
        if not hasattr(library, name):
            raise EngineUnavailableError(f"{stem} of llama-cpp-python {llama_cpp.__version__} lacks {name}")
        functions[name] = getattr(library, name)
        functions[name].restype, functions[name].argtypes = result, arguments
    return functions


@cache
def _ggml() -> dict[str, Any]:
    pointer, size, text = ctypes.c_void_p, ctypes.c_size_t, ctypes.c_char_p
    size_p = ctypes.POINTER(ctypes.c_size_t)
    base = {
        "ggml_backend_dev_name": (text, pointer),
        "ggml_backend_dev_memory": (None, pointer, size_p, size_p),
        "ggml_backend_dev_init": (pointer, pointer, text),
        "ggml_backend_free": (None, pointer),
        "ggml_backend_reg_dev_get": (pointer, pointer, size),
    }
    registry = {"ggml_backend_dev_count": (size,), "ggml_backend_dev_get": (pointer, size)}
    return native_functions("libggml-base", base) | native_functions("libggml", registry)


def built_in_device(name: str) -> int | None:
    """ggml's handle of a device that the build offers, as ``CUDA0``; None if there is none."""
    return built_in_devices().get(name)


def built_in_devices() -> dict[str, int]:
    """ggml's handles of the devices that the build offers on this machine, by ggml's names of them."""
    call = _ggml()
    pointers = [call["ggml_backend_dev_get"](index) for index in range(call["ggml_backend_dev_count"]())]
    return {call["ggml_backend_dev_name"](pointer).decode(): pointer for pointer in pointers}


def rpc_device(endpoint: str) -> int:
    """ggml's handle of the RPC server's device at ``host:port``; the process aborts if nobody listens there.

    Raises:
        EngineUnavailableError: This build has no RPC client, or the server offers no device.
    """
    name = "ggml_backend_rpc_add_server"
    add_server = native_functions("libggml-rpc", {name: (ctypes.c_void_p, ctypes.c_char_p)})[name]
    registry = add_server(endpoint.encode())
    if not registry:
        raise EngineUnavailableError(f"the device process at {endpoint} offers no device")
    pointer: int = _ggml()["ggml_backend_reg_dev_get"](registry, 0)
    return pointer


def device_memory(device: int) -> tuple[int, int]:
    """Free and total bytes of a device, as it reports them."""
    free, total = ctypes.c_size_t(), ctypes.c_size_t()
    _ggml()["ggml_backend_dev_memory"](device, ctypes.byref(free), ctypes.byref(total))
    return free.value, total.value


def open_backend(device: int) -> int:
    """A backend on a device, which holds its connection open until ``free_backend``."""
    backend: int = _ggml()["ggml_backend_dev_init"](device, None)
    return backend


def free_backend(backend: int) -> None:
    """Frees what ``open_backend`` gave."""
    _ggml()["ggml_backend_free"](backend)


@llama_cpp.llama_log_callback  # type: ignore[untyped-decorator]
def _on_log(level: int, text: bytes, _user_data: int | None) -> None:
    if level == _CONTINUATION_LEVEL and _errors and not _errors[-1].endswith("\n"):
        _errors[-1] += text.decode(errors="replace")
    elif level == _ERROR_LEVEL:
        _errors.append(text.decode(errors="replace"))


def silence() -> None:
    """Keeps llama.cpp's log to itself but for its latest errors, and its crashes short."""
    llama_cpp.llama_log_set(_on_log, None)
    # On an abort ggml would otherwise attach a debugger to itself, which takes seconds.
    os.environ.setdefault("GGML_NO_BACKTRACE", "1")


def last_errors() -> str:
    """The errors logged since the last call, in one line."""
    text = "; ".join(line.strip() for line in _errors if line.strip())
    _errors.clear()
    return text


def settle_heap() -> None:
    """Fixes the sizes at which glibc's heap gives memory back, so that only ``trim_heap`` does.

    Left alone it hands every block of a message back and faults it in again, which made loads a quarter
    slower on the loopback device, and it changes its mind with the sizes that it has seen.
    """
    libc = ctypes.CDLL(None)
    libc.mallopt(_M_MMAP_THRESHOLD, MMAP_THRESHOLD_BYTES)
    libc.mallopt(_M_TRIM_THRESHOLD, TRIM_THRESHOLD_BYTES)


def touch_mapped(path: str) -> int:
    """Reads one byte of every page of a file that this process has mapped, and returns the bytes mapped.

    Without it the first pass would wait for the disk instead of the load.
    """
    wanted, mapped_bytes = os.path.realpath(path), 0
    with open("/proc/self/maps", encoding="utf-8") as maps:
        spans = [line.split(maxsplit=5) for line in maps]
    for fields in spans:
        if len(fields) == 6 and fields[5].rstrip("\n") == wanted and fields[1].startswith("r"):
            start, end = (int(address, 16) for address in fields[0].split("-"))
            pages = np.ctypeslib.as_array((ctypes.c_ubyte * (end - start)).from_address(start))
            pages[:: os.sysconf("SC_PAGE_SIZE")].sum()
            mapped_bytes += end - start
    return mapped_bytes
