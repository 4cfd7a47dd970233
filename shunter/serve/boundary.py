"""What the HTTP side, the scheduler and the servers ask of each other."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Any, Protocol, runtime_checkable

from shunter.errors import ShunterError

__all__ = ["Asked", "Launch", "Refused", "Scheduler", "Server", "ServerFailed", "Sleeper", "Ticket", "Usage"]


class Refused(ShunterError):
    """A request that will not be served; becomes an OpenAI error.

    Attributes:
        status: HTTP status: 404, 413, 429, 503 or 504.
        code: Machine-readable word, like ``model_not_found``.
        retry_after_s: Seconds after which to try again, if that makes sense.
    """

    def __init__(self, status: int, code: str, message: str, retry_after_s: float | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.code = code
        self.retry_after_s = retry_after_s


@dataclass(frozen=True)
class Asked:
    """A request as the scheduler sees it: no text.

    Attributes:
        model: As the client wrote it: a model's name or alias.
        endpoint: Path, like ``/v1/chat/completions``.
        prompt_chars: Characters of text that the body holds for the model to read.
        max_tokens: Most tokens that the client wants, if it says so.
        stream: Whether the answer is streamed.
        session: What tells the client's sessions apart, if the client sends it (``user``, ``session_id``).
    """

    model: str
    endpoint: str
    prompt_chars: int
    max_tokens: int | None = None
    stream: bool = False
    session: str | None = None


@dataclass(frozen=True)
class Usage:
    """What a finished answer says of itself.

    Attributes:
        prompt_tokens: Tokens that the server read; None: it did not say.
        completion_tokens: Tokens that it generated; None: it did not say.
        cached_tokens: Of ``prompt_tokens``, those that it did not have to compute; None: it did not say.
    """

    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    cached_tokens: int | None = None


class Ticket(Protocol):
    """An admitted request, from the queue to its end; every one ends with ``done`` or ``gone``."""

    id: int
    model: str

    async def server(self) -> str:
        """Waits until a server is to answer it; returns the server's base URL, like ``http://127.0.0.1:9123``.

        Raises:
            Refused: Its model failed to load (503), or it waited beyond its bound (504). The request has
                ended then.
        """

    def progressed(self, tokens: int) -> None:
        """So many tokens (content deltas) have come so far; the first call marks the first token."""

    def done(self, usage: Usage) -> None:
        """The server's answer has ended as it should."""

    def gone(self, *, client: bool) -> None:
        """The request has ended early.

        Args:
            client: It is its client's doing, who went away or asked for what its server refuses; else its
                server failed.
        """

    async def retry(self) -> bool:
        """Its server broke off before any byte was passed on: waits in the queue again if it may.

        Returns:
            True: call ``server`` again. False: it has failed too often; the request has ended.
        """


class Scheduler(Protocol):
    """What the HTTP side asks of the scheduler; everything runs on one asyncio loop."""

    def submit(self, asked: Asked) -> Ticket:
        """Admits a request to its model's queue.

        Raises:
            Refused: The model is unknown (404), the prompt is beyond its context (413), its queue is full
                (429) or it failed to load (503).
        """

    def models(self) -> list[dict[str, Any]]:
        """The models, as ``GET /v1/models`` lists them."""

    def snapshot(self) -> dict[str, Any]:
        """All that there is now, as plain data that JSON can hold; instants are on the clock of ``now_s``.

        ``{"version": 1, "now_s", "policy", "fallback": why or None, "shadow": name or None, "guard_s",
        "devices": [{"name", "text", "capacity_bytes", "used_bytes", "measured_bytes",
        "operation": None or {"kind": "load|drain|unload", "model", "gpu_layers", "since_s", "expected_s"},
        "residents": [{"model", "gpu_layers", "state": "ready|draining|sleeping", "running", "max_batch",
        "memory_bytes", "idle_s", "pid"}]}],
        "models": [{"name", "aliases", "state": "unloaded|loading|ready|draining|failed", "queued", "running",
        "oldest_wait_s", "predicted_wait_s", "served", "failed", "retry_in_s", "reason"}],
        "decisions": [{"time_s", "device", "choice", "why", "took_ms", "shadow"}],
        "totals": {"served", "refused", "cancelled", "failed", "loads", "evictions", "decisions"}}``
        """

    def ready(self) -> str | None:
        """None if all is well, else what is not: a waiter that has not moved for twice its bound."""

    def unload(self, model: str | None) -> list[str]:
        """Drains and unloads a model, or all; returns the names of those that it does.

        Raises:
            Refused: The model is unknown (404).
        """

    def events(self) -> AsyncIterator[dict[str, Any]]:
        """What happens from now on, one plain dictionary each.

        ``{"type", "time_s", "id", "model", "device", ...}``, of which only the first two are always there.
        Types are arrival, dispatch, first, done, gone, refused, load, ready, drain, unloaded, failed,
        decision and champion, and wake, sleep and end of a server. ``reason`` of a load, drain, unloaded and
        decision is one of ``shunter.serve.core.effects.CAUSES``. Metrics read that of a load, ``took_s`` of
        ready, ``took_ms`` and ``fallback`` of a decision.
        """


class ServerFailed(ShunterError):
    """A server did not start, or is no more.

    Attributes:
        out_of_memory: Whether its output says that memory was short.
        log_tail: The last lines that it wrote.
    """

    def __init__(self, message: str, *, out_of_memory: bool = False, log_tail: str = "") -> None:
        super().__init__(message)
        self.out_of_memory = out_of_memory
        self.log_tail = log_tail


@dataclass(frozen=True)
class Launch:
    """What a server is started with.

    Attributes:
        model: The model's name; the server is told to answer to it.
        checkpoint: GGUF file or Hugging Face folder.
        device: As users write it, like ``cuda:0`` or ``loopback:1-threads``.
        gpu_layers: Layers on the device; None: the engine knows no levels.
        context_tokens: Prompt and generated tokens of one request, at most.
        max_batch: Requests that it answers at once, at most.
        kv_type: ``f16``, ``q8_0`` or ``q4_0``.
        args: Further arguments of the user's, last on the command line.
        memory_bytes: Device memory that it may take, for servers that take what they are given (vLLM); None:
            what the device's name says, or the server's own default.
    """

    model: str
    checkpoint: str
    device: str
    gpu_layers: int | None
    context_tokens: int
    max_batch: int
    kv_type: str = "f16"
    args: tuple[str, ...] = field(default=())
    memory_bytes: int | None = None


class Server(ABC):
    """A process that answers for one model on one device.

    Attributes:
        launch: What it was made with.
        url: Base URL once started, like ``http://127.0.0.1:9123``.
        pid: Process id once started.
    """

    launch: Launch
    url: str = ""
    pid: int = 0

    @abstractmethod
    async def start(self) -> None:
        """Starts it and waits until it answers.

        Raises:
            ServerFailed: It ended, or made no progress for too long; nothing of it is left.
        """

    @abstractmethod
    async def stop(self) -> None:
        """Ends it: asks, then kills; returns when the process is gone and its memory was given back."""

    @abstractmethod
    async def exited(self) -> ServerFailed:
        """Waits until the process has ended by itself; says how. After ``stop`` it never returns."""

    async def answers(self) -> bool:
        """Whether it says soon that it is well; one that is stopped or stuck does not."""
        return True

    @abstractmethod
    def memory_bytes(self) -> tuple[int, int]:
        """Device and host memory that it takes now, in bytes, as measured."""


@runtime_checkable
class Sleeper(Protocol):
    """What a server can do too that sleeps: give device memory back and stay a process, to be woken soon."""

    async def sleep(self, level: int) -> None:
        """Lets it finish what runs, then sends it to sleep; what it keeps is ``Server.memory_bytes``.

        Args:
            level: 1: weights move to host memory. 2: weights are dropped, and read again when it wakes.

        Raises:
            ServerFailed: It does not answer, or stays awake.
        """

    async def wake(self) -> None:
        """Wakes it; returns when it has answered with a first token.

        Raises:
            ServerFailed: It does not.
        """
