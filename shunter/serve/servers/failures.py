"""What a server's last words mean."""

from __future__ import annotations

import re

from shunter.serve.boundary import ServerFailed

_OUT_OF_MEMORY = re.compile(
    r"out of memory|OutOfMemory|OutOfDeviceMemory|cannot allocate memory|bad_alloc|MemoryError"
    r"|(?:failed|unable) to allocate"
    r"|no available memory for the cache blocks|less than desired GPU memory utilization"
    r"|larger than the (?:available KV cache memory|maximum number of tokens that can be stored)",
    re.IGNORECASE,
)
"""Source: llama.cpp (ggml's backends, ``llama-model.cpp``, ``llama-kv-cache.cpp``), torch, vLLM's worker."""

_PORT_TAKEN = re.compile(r"couldn't bind|address already in use|Errno 98", re.IGNORECASE)
_TELLING = re.compile(r"error|failed|cannot|couldn't|unable|invalid|unknown|not found|abort", re.IGNORECASE)
_TRAILERS = re.compile(
    r"exiting due to|cleaning up|failed to load model|error while handling argument", re.IGNORECASE
)
"""Lines that say that something failed, but not what."""


class PortTakenError(ServerFailed):
    """Somebody else listens on the port that the server was to have."""


def server_failed(what: str, log_tail: str, *, killed_for_memory: bool = False) -> ServerFailed:
    """The error for a server that ended, with the line of its output that tells why.

    Args:
        what: What happened, like ``llama-server for 'a' ended with status 1``.
        log_tail: The last lines that it wrote.
        killed_for_memory: Whether how it ended says that memory was short, whatever it wrote.
    """
    lines = [line.strip() for line in log_tail.splitlines() if line.strip()]
    short = next((line for line in lines if _OUT_OF_MEMORY.search(line)), None)
    text = what + (f": {said}" if (said := short or _telling_line(lines)) else "")
    if short is None and any(_PORT_TAKEN.search(line) for line in lines):
        return PortTakenError(text, log_tail=log_tail)
    return ServerFailed(text, out_of_memory=short is not None or killed_for_memory, log_tail=log_tail)


def _telling_line(lines: list[str]) -> str:
    telling = [line for line in lines if _TELLING.search(line)]
    first_hand = [line for line in telling if not _TRAILERS.search(line)]
    # The cause is said first by llama.cpp, last by Python's tracebacks.
    last_word = any(line.startswith("Traceback") for line in lines)
    chosen = first_hand or telling or lines[-1:]
    return chosen[-1 if last_word else 0] if chosen else ""
