"""Operations as engine calls: evictions, loads and quanta, carried out on any engine."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from shunter.engines.base import Engine, MemoryReport
from shunter.eval.execution.faults.failures import Fault

if TYPE_CHECKING:
    from shunter.eval.execution.device_executor import DeviceExecutor


@dataclass(frozen=True)
class Eviction:
    """A resident to unload or to send to sleep, its requests' KV saved before, or a sleeper to end.

    Attributes:
        model: Its name.
        save: Requests whose KV is saved.
        sleep_level: At which level it falls asleep; 0: it is unloaded.
    """

    model: str
    save: tuple[str, ...]
    sleep_level: int = 0


@dataclass(frozen=True)
class Join:
    """One request of a quantum's batch.

    Attributes:
        request: Its name on the engine.
        how: ``live`` (its KV is there), ``restore``, or ``prefill`` (also to recompute).
        tokens: Prompt and generated tokens, for a prefill.
        limit: Tokens that it still has to generate.
    """

    request: str
    how: str
    tokens: list[int]
    limit: int


@dataclass(frozen=True)
class Operation:
    """What a device does between two decisions.

    Attributes:
        model: The model to load or run.
        evictions: What makes room first.
        load: Checkpoint and gpu_layers to load, or to wake, if any.
        joins: The batch to run, if any.
        max_steps: Most decode steps.
        max_s: No step starts later than this after decoding began.
        context_tokens: Limit of a load.
        max_batch: Limit of a load.
    """

    model: str
    evictions: tuple[Eviction, ...] = ()
    load: tuple[str, int] | None = None
    joins: tuple[Join, ...] = ()
    max_steps: int = 0
    max_s: float | None = None
    context_tokens: int = 0
    max_batch: int = 0


@dataclass
class Outcome:
    """What an engine did, on its own clock, in seconds.

    Attributes:
        start_s: Start of the first call.
        end_s: End of the last call.
        tokens: New tokens by request.
        first_s: Time of a request's first token of this operation, if a prefill made it.
        finish_s: Time of a request's last token, if it reached its limit.
        steps: Decode steps run.
        memory: Memory in use after the operation.
        fault: How it failed; None: it did not. Then there are no tokens, whatever was done.
    """

    start_s: float = float("inf")
    end_s: float = 0.0
    tokens: dict[str, list[int]] = field(default_factory=dict)
    first_s: dict[str, float] = field(default_factory=dict)
    finish_s: dict[str, float] = field(default_factory=dict)
    steps: int = 0
    memory: MemoryReport = field(default_factory=lambda: MemoryReport(0, 0))
    fault: Fault | None = None

    def saw(self, start_s: float, end_s: float) -> None:
        """Widens the span to contain a call."""
        self.start_s = min(self.start_s, start_s)
        self.end_s = max(self.end_s, end_s)


def execute(place: DeviceExecutor, operation: Operation) -> Outcome:
    """Carries out an operation.

    Raises:
        EngineError: Whatever the engine reports.
    """
    outcome = Outcome()
    for eviction in operation.evictions:
        for request in eviction.save:
            saved = place.engine(eviction.model).save_kv(eviction.model, request)
            outcome.saw(saved.start_s, saved.end_s)
        if eviction.sleep_level:
            outcome.saw(*place.fall_asleep(eviction.model, eviction.sleep_level))
        else:
            outcome.saw(*place.unload(eviction.model))
    if operation.load is not None:
        checkpoint, gpu_layers = operation.load
        loaded = place.load(
            operation.model,
            checkpoint,
            gpu_layers,
            context_tokens=operation.context_tokens,
            max_batch=operation.max_batch,
        )
        outcome.saw(loaded.start_s, loaded.end_s)
    if operation.joins:
        _run(place.engine(operation.model), operation, outcome)
    outcome.memory = place.memory()
    return outcome


def _run(engine: Engine, operation: Operation, outcome: Outcome) -> None:
    model = operation.model
    limits = {}
    for join in operation.joins:
        outcome.tokens[join.request] = []
        limits[join.request] = join.limit
        if join.how == "restore":
            restored = engine.restore_kv(model, join.request)
            outcome.saw(restored.start_s, restored.end_s)
        if join.how == "prefill":
            filled = engine.prefill(model, join.request, join.tokens)
            outcome.saw(filled.start_s, filled.end_s)
            outcome.tokens[join.request].append(filled.token)
            outcome.first_s[join.request] = filled.end_s
            limits[join.request] -= 1
            if limits[join.request] <= 0:
                outcome.finish_s[join.request] = filled.end_s
    running = {request: limit for request, limit in limits.items() if limit > 0}
    if running:
        decoded = engine.decode(model, running, max_steps=operation.max_steps, max_s=operation.max_s)
        outcome.saw(decoded.start_s, decoded.end_s)
        outcome.steps = len(decoded.step_end_s)
        for request, tokens in decoded.tokens.items():
            outcome.tokens[request] += tokens
            if len(tokens) >= running[request]:
                outcome.finish_s[request] = decoded.step_end_s[len(tokens) - 1]
    for request in outcome.finish_s:
        engine.drop_kv(model, request)
