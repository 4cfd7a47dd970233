"""The Engine boundary: what any inference engine must be able to do for shunter.

Every call blocks until done and returns what it did with start and end times of the engine's own
monotonic clock (``time.monotonic``, which processes of one machine share), so that neither the wire nor
the caller's scheduling is counted as engine time.

Errors::

    EngineError
    ├── EngineUnavailableError   the interpreter lacks the engine, or its version does not fit   (exit 2)
    ├── UnsupportedLevelError    the engine cannot honour these gpu_layers                        (exit 2)
    ├── CheckpointError          the engine cannot load this checkpoint                           (exit 2)
    ├── DeviceMemoryError        the device's memory budget does not hold the model
    ├── RequestError             an unknown request, or one in the wrong state
    ├── WorkerDiedError          the worker process ended in the middle of a call
    └── WorkerTimeoutError       the worker did not answer in time and was killed
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from itertools import pairwise
from statistics import median

__all__ = [
    "ERRORS",
    "Capabilities",
    "CheckpointError",
    "DecodeResult",
    "DeviceMemoryError",
    "Engine",
    "EngineError",
    "EngineUnavailableError",
    "KvResult",
    "LoadResult",
    "MemoryReport",
    "PrefillResult",
    "RequestError",
    "Timed",
    "UnsupportedLevelError",
    "WorkerDiedError",
    "WorkerTimeoutError",
]


class EngineError(Exception):
    """Base of everything an engine or its worker can report."""

    exit_code = 1


class EngineUnavailableError(EngineError):
    """The worker's interpreter cannot run this engine."""

    exit_code = 2


class UnsupportedLevelError(EngineError):
    """The engine cannot place this many layers on this device; it never ignores the request."""

    exit_code = 2


class CheckpointError(EngineError):
    """The engine cannot load this checkpoint."""

    exit_code = 2


class DeviceMemoryError(EngineError):
    """The device's memory budget does not hold what was asked for."""


class RequestError(EngineError):
    """A request or a model is unknown, or in a state that does not allow the call."""


class WorkerDiedError(EngineError):
    """The worker process ended in the middle of a call."""


class WorkerTimeoutError(EngineError):
    """The worker did not answer in time and was killed."""


ERRORS: dict[str, type[EngineError]] = {
    cls.__name__: cls
    for cls in (
        EngineError,
        EngineUnavailableError,
        UnsupportedLevelError,
        CheckpointError,
        DeviceMemoryError,
        RequestError,
        WorkerDiedError,
        WorkerTimeoutError,
    )
}


@dataclass(frozen=True)
class Timed:
    """Start and end of one engine call on the engine's monotonic clock, in seconds."""

    start_s: float
    end_s: float

    @property
    def duration_s(self) -> float:
        """Seconds between start and end."""
        return self.end_s - self.start_s


@dataclass(frozen=True)
class MemoryReport:
    """Memory in use now, measured.

    Attributes:
        device_bytes: Memory on the device: allocated on a GPU, else resident in the device's process.
        host_bytes: Resident memory of the engine's process; equal to device_bytes where they are one.
        kv_preemptions: How often, since its start, the engine by itself took a live request's KV away for
            want of memory, to recompute it; 0 where an engine never does.
    """

    device_bytes: int
    host_bytes: int
    kv_preemptions: int = 0


@dataclass(frozen=True)
class LoadResult(Timed):
    """A model became resident.

    Attributes:
        total_layers: Transformer layers plus the output layer, as llama.cpp counts.
        memory: Measured after the load.
        includes_process_start: Whether the time contains starting a process.
    """

    total_layers: int
    memory: MemoryReport
    includes_process_start: bool = False


@dataclass(frozen=True)
class PrefillResult(Timed):
    """A request's prompt was processed; its first token exists at end_s.

    Attributes:
        token: The first generated token.
        tokens_prefilled: How many tokens were processed (prompt, or prompt + generated on recompute).
    """

    token: int
    tokens_prefilled: int


@dataclass(frozen=True)
class DecodeResult(Timed):
    """A batch was decoded for some steps.

    Attributes:
        step_end_s: End of each step, ascending; its length is the number of steps.
        tokens: New tokens of each request, in order. A request that reached its limit left the batch, so
            the first ``len(tokens[r])`` steps are the ones it took part in.
    """

    step_end_s: list[float]
    tokens: dict[str, list[int]]

    @property
    def step_p50_s(self) -> float:
        """Median duration of the steps, in seconds."""
        return median(end - start for start, end in pairwise([self.start_s, *self.step_end_s]))


@dataclass(frozen=True)
class KvResult(Timed):
    """A request's KV cache was saved or restored.

    Attributes:
        kv_bytes: Bytes copied.
        kv_tokens: Tokens whose keys and values they hold.
    """

    kv_bytes: int
    kv_tokens: int


@dataclass(frozen=True)
class Capabilities:
    """What an engine on its device can do.

    Attributes:
        engine: Its name in the registry.
        engine_version: As the engine reports it.
        device: The device's name.
        partial_offload: Whether any gpu_layers from 0 to total_layers is honoured; otherwise only all.
        kv_save: Whether KV can be saved to host memory and restored; otherwise it is dropped.
        checkpoint_formats: Formats that it reads: ``gguf``, ``safetensors`` or both.
        versions: Further library versions worth a fingerprint.
    """

    engine: str
    engine_version: str
    device: str
    partial_offload: bool
    kv_save: bool
    checkpoint_formats: tuple[str, ...]
    versions: dict[str, str] = field(default_factory=dict)


class Engine(ABC):
    """One engine on one device; holds any number of resident models, each under a caller's name.

    A request lives in one resident from ``prefill`` (or ``restore_kv``) to ``drop_kv``. Decoding is greedy,
    so a request's tokens do not depend on when it was preempted. An engine never stops at an
    end-of-sequence token: the caller's limits end a request, as lengths come from the workload.
    """

    @abstractmethod
    def capabilities(self) -> Capabilities:
        """Says what this engine can do here."""

    @abstractmethod
    def footprint_bytes(
        self, model: str, checkpoint: str, gpu_layers: int | None, *, context_tokens: int, max_batch: int
    ) -> int:
        """What a load with these arguments would count against the device's memory budget; loads nothing.

        Raises:
            UnsupportedLevelError: These gpu_layers cannot be honoured.
            CheckpointError: The checkpoint cannot be loaded.
        """

    @abstractmethod
    def load(
        self, model: str, checkpoint: str, gpu_layers: int | None, *, context_tokens: int, max_batch: int
    ) -> LoadResult:
        """Makes a model resident, ready to run (memory touched, buffers allocated).

        Args:
            model: The caller's name for it.
            checkpoint: Path to a GGUF file or a Hugging Face folder.
            gpu_layers: Layers on the device, from 0 to total_layers; None means all.
            context_tokens: Most tokens (prompt + generated) of any one request.
            max_batch: Most requests at once.

        Raises:
            UnsupportedLevelError: These gpu_layers cannot be honoured.
            CheckpointError: The checkpoint cannot be loaded.
            DeviceMemoryError: It does not fit the device's budget.
        """

    @abstractmethod
    def unload(self, model: str) -> Timed:
        """Frees a resident and every request in it; saved KV stays. Memory is given back to the system."""

    @abstractmethod
    def prefill(self, model: str, request: str, tokens: list[int]) -> PrefillResult:
        """Processes a prompt and generates the first token.

        A dropped request is recomputed the same way, from its prompt and the tokens generated so far: the
        returned token is then its next one.
        """

    @abstractmethod
    def decode(
        self, model: str, limits: dict[str, int], *, max_steps: int, max_s: float | None = None
    ) -> DecodeResult:
        """Decodes a batch, one token per request and step.

        Args:
            model: The resident.
            limits: Most new tokens of each request in the batch; at its limit a request leaves the batch
                (its KV stays until ``drop_kv``).
            max_steps: Most steps.
            max_s: No step starts once this many seconds have passed; at least one step runs.
        """

    @abstractmethod
    def save_kv(self, model: str, request: str) -> KvResult:
        """Copies a request's KV to host memory, where it outlives the resident.

        The request leaves the resident: its slot there is free afterwards.
        """

    @abstractmethod
    def restore_kv(self, model: str, request: str) -> KvResult:
        """Brings a saved request back into a resident of the same model; the saved copy is freed."""

    @abstractmethod
    def drop_kv(self, model: str, request: str) -> None:
        """Forgets a request, live or saved. A request that is unknown already is no error."""

    @abstractmethod
    def memory(self) -> MemoryReport:
        """Measures the memory in use now."""

    def drop_page_cache(self, checkpoint: str) -> None:  # noqa: B027 - an engine without files has nothing to do
        """Makes the next load of this checkpoint read from disk."""

    @abstractmethod
    def close(self) -> None:
        """Unloads everything and ends every process that the engine started."""
