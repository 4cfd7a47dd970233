"""Who is where: residents, their live requests and the saved ones, so that all engines refuse alike."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Generic, TypeVar

from .base import DecodeResult, RequestError, UnsupportedLevelError

ModelT = TypeVar("ModelT")
KvT = TypeVar("KvT")


@dataclass
class Resident(Generic[ModelT]):
    """A loaded model and the requests that live in it.

    Attributes:
        model: What the engine needs to run it.
        context_tokens: Most tokens of any one request.
        max_batch: Most requests at once.
        requests: Prompt and generated tokens of each; the last one's keys and values do not exist yet.
    """

    model: ModelT
    context_tokens: int
    max_batch: int
    requests: dict[str, list[int]] = field(default_factory=dict)


@dataclass
class Saved(Generic[KvT]):
    """A request outside any resident: its tokens so far and its keys and values."""

    tokens: list[int]
    kv: KvT


class Ledger(Generic[ModelT, KvT]):
    """The residents and saved requests of one engine, with the rules on what may be done to them."""

    def __init__(self) -> None:
        self.residents: dict[str, Resident[ModelT]] = {}
        self.saved: dict[tuple[str, str], Saved[KvT]] = {}

    def check_load(self, model: str, context_tokens: int, max_batch: int) -> None:
        """Refuses a name that is resident already, and sizes below one.

        Raises:
            RequestError: It is.
        """
        if model in self.residents:
            raise RequestError(f"model {model!r} is resident already")
        if context_tokens < 1 or max_batch < 1:
            raise RequestError(
                f"context_tokens and max_batch must be at least 1, not {context_tokens} and {max_batch}"
            )

    def add(self, model: str, loaded: ModelT, context_tokens: int, max_batch: int) -> None:
        """Enters a model that was loaded."""
        self.residents[model] = Resident(loaded, context_tokens, max_batch)

    def resident(self, model: str) -> Resident[ModelT]:
        """Finds a resident.

        Raises:
            RequestError: No model of that name is loaded.
        """
        if model not in self.residents:
            raise RequestError(f"model {model!r} is not resident")
        return self.residents[model]

    def live(self, model: str, request: str) -> list[int]:
        """The tokens of a live request.

        Raises:
            RequestError: It does not live in that resident.
        """
        requests = self.resident(model).requests
        if request not in requests:
            state = "saved, not live" if (model, request) in self.saved else "unknown"
            raise RequestError(f"request {request!r} of model {model!r} is {state}")
        return requests[request]

    def check_prefill(self, model: str, request: str, tokens: list[int]) -> Resident[ModelT]:
        """Finds the resident for a new request.

        Raises:
            RequestError: The request exists, or there is no room for it.
        """
        resident = self.resident(model)
        if request in resident.requests or (model, request) in self.saved:
            raise RequestError(f"request {request!r} of model {model!r} exists already; drop it first")
        if not tokens:
            raise RequestError(f"request {request!r} has no tokens")
        self._check_room(resident, request, len(tokens) + 1)
        return resident

    def check_restore(self, model: str, request: str) -> tuple[Resident[ModelT], Saved[KvT]]:
        """Finds a saved request and the resident that it can return to.

        Raises:
            RequestError: It is not saved, or there is no room for it.
        """
        resident = self.resident(model)
        if (model, request) not in self.saved:
            raise RequestError(f"request {request!r} of model {model!r} is not saved")
        saved = self.saved[model, request]
        self._check_room(resident, request, len(saved.tokens))
        return resident, saved

    def _check_room(self, resident: Resident[ModelT], request: str, tokens: int) -> None:
        if tokens > resident.context_tokens:
            raise RequestError(
                f"request {request!r} needs {tokens} tokens; the resident allows {resident.context_tokens}"
            )
        if len(resident.requests) >= resident.max_batch:
            raise RequestError(f"request {request!r} does not fit: {resident.max_batch} are live already")

    def check_decode(self, model: str, limits: dict[str, int], max_steps: int) -> Resident[ModelT]:
        """Finds the resident that is to decode.

        Raises:
            RequestError: A request is not live, a limit is below one or past the context, or there is none.
        """
        resident = self.resident(model)
        if not limits or max_steps < 1 or min(limits.values()) < 1:
            raise RequestError("decode needs requests, max_steps and limits of at least 1")
        for request, limit in limits.items():
            tokens = len(self.live(model, request)) + min(limit, max_steps)
            if tokens > resident.context_tokens:
                raise RequestError(
                    f"request {request!r} could reach {tokens} tokens; "
                    f"the resident allows {resident.context_tokens}"
                )
        return resident

    def drop(self, model: str, request: str) -> None:
        """Forgets a request, live or saved, or unknown."""
        self.saved.pop((model, request), None)
        if model in self.residents:
            self.residents[model].requests.pop(request, None)


def checked_level(gpu_layers: int | None, total_layers: int, *, partial: bool, device: str) -> int:
    """The number of layers on the device.

    Raises:
        UnsupportedLevelError: It is out of range, or in between where the device holds all or nothing.
    """
    level = total_layers if gpu_layers is None else gpu_layers
    if not 0 <= level <= total_layers:
        raise UnsupportedLevelError(f"gpu_layers must be 0 to {total_layers} for this model, not {level}")
    if level != total_layers and not partial:
        raise UnsupportedLevelError(
            f"{device} holds all of a model: gpu_layers must be {total_layers} or None here, not {level}"
        )
    return level


def decode_steps(
    requests: dict[str, list[int]],
    limits: dict[str, int],
    *,
    max_steps: int,
    max_s: float | None,
    now_s: Callable[[], float],
    step: Callable[[list[str]], list[int]],
) -> DecodeResult:
    """Runs the steps of one ``Engine.decode`` and appends the new tokens to ``requests``.

    Args:
        requests: All tokens of each live request, appended to.
        limits: Most tokens of each request, as in ``Engine.decode``.
        max_steps: Most steps, as in ``Engine.decode``.
        max_s: No step starts once this many seconds have passed.
        now_s: Reads the engine's clock; a step's work must be done when it returns.
        step: Given the requests still in the batch, computes the next token of each.
    """
    start_s = now_s()
    produced: dict[str, list[int]] = {request: [] for request in limits}
    step_end_s: list[float] = []
    active = list(limits)
    while active and len(step_end_s) < max_steps:
        if step_end_s and max_s is not None and now_s() - start_s >= max_s:
            break
        for request, token in zip(active, step(active), strict=True):
            produced[request].append(token)
            requests[request].append(token)
        step_end_s.append(now_s())
        active = [request for request in active if len(produced[request]) < limits[request]]
    return DecodeResult(start_s, step_end_s[-1], step_end_s, produced)
