"""The limits section of a scenario file."""

from __future__ import annotations

import math
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, BeforeValidator, Field, model_validator

from shunter.catalog.hosts import get_host
from shunter.envs.scenario.fields import Count, Positive, Strict
from shunter.errors import UnknownNameError

__all__ = ["ASLEEP_BYTES"]

_LONGEST_GUARD_S = 1e9

ASLEEP_BYTES = 1.14e9
"""Device memory that a vLLM keeps while it sleeps, and takes beside its weights and KV while it is awake.

Source: https://github.com/vllm-project/vllm/issues/32714, a 30B model on RTX 3090s at level 1 under 0.13.
With CUDA graphs of many sizes, several GPUs or other versions it is more.
"""


def _guard(value: Any) -> Any:
    """A guard as YAML gives it, where ``off`` is false.

    Raises:
        ValueError: It is none.
    """
    if value is False:
        return "off"
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    if value in ("auto", "off") or (is_number and math.isfinite(value) and 0 < value <= _LONGEST_GUARD_S):
        return value
    raise ValueError(f"be auto, off, or seconds above 0 and at most {_LONGEST_GUARD_S:g}")


def _sleep_level(value: Any) -> Any:
    """A level as YAML gives it, where ``off`` and ``on`` are no numbers.

    Raises:
        ValueError: It is none.
    """
    if type(value) is not int or value not in (0, 1, 2):
        raise ValueError("be 0 (evicting unloads), 1 or 2 (vLLM's levels of sleep)")
    return value


def _known_cpu(name: str) -> str:
    """A CPU's name, if the catalogue has it.

    Raises:
        ValueError: It has not.
    """
    try:
        return get_host(name).name
    except UnknownNameError as error:
        raise ValueError(f"be a CPU of the catalogue ({str(error).partition('; ')[2]})") from None


Guard = Annotated[float | Literal["auto", "off"], BeforeValidator(_guard)]
"""Seconds, or a word for them."""


class Limits(Strict):
    """Bounds of the protocol, the same in simulation and reality.

    Attributes:
        max_batch: Requests that one resident decodes at once.
        context_tokens: Prompt plus generated tokens of one request; longer ones are cut to it.
        quantum_steps: Decode steps of one quantum, at most.
        quantum_s: No step starts later than this after decoding began.
        guard_s: Once a request has waited so long, its model goes first (``rules.guard``); auto: what
            the scenario can sustain; off: nothing bounds how long a policy lets requests wait.
        max_wait_s: A waiting device asks again after this long.
        decision_s: What one decision costs, charged in simulation; real runs pay what it really takes.
        host_memory_gb: Host memory for weights: a model that was loaded stays there until room is needed,
            the least recently used first, and is read from disk again after that; None: all stay.
        host_bandwidth_gb_s: Peak bandwidth of the host's memory, which layers left there are read with, where
            devices are GPUs of the catalogue. None, and no ``host_cpu``: it is not known; two channels of
            DDR4-3200 are predicted with, in an interval that is as wide as hosts differ.
        host_cpu: The host's CPU, by its name in the catalogue: what its memory can do at most, instead of
            ``host_bandwidth_gb_s``.
        load_source: Where the bytes of a load come from, if not from where the performance model has it:
            ``disk``, ``page-cache``, ``pinned`` (weights staged in pinned memory), ``sleep-1`` and
            ``sleep-2`` (an engine wakes), or ``unknown``. What was not measured is as others published it
            (``models.published.loads``). With ``host_memory_gb`` it is said of what that memory holds.
        sleep: What becomes of a model that is evicted (``rules.asleep``). 0: it is unloaded; 1: its engine
            falls asleep and keeps the weights in the host's memory, which ``host_memory_gb`` counts; 2: it
            drops them, and reads them again to wake.
        asleep_mb: Device memory that an engine keeps while it sleeps; None: ``ASLEEP_BYTES``. No more than
            it takes awake is counted.
        disk_gb_s: Peak rate of the disk, where ``load_source`` is given; None: it is not known.
        preemption: What becomes of requests that run when their model must make room. ``save``: they stop,
            and their KV is saved where the engine can; ``recompute``: they stop and it is dropped; ``drain``:
            they run to their end, as on servers, which can neither pause nor move them (``rules.serving``).
        attempts: Engine failures that a request survives, plus one: at that many it is given up.
        max_time_s: An episode still running then is cut off.
    """

    max_batch: Annotated[int, Field(ge=1, le=64)] = 4
    context_tokens: Annotated[int, Field(ge=2)] = 512
    quantum_steps: Count = 32
    quantum_s: Positive = 1.0
    guard_s: Guard = "auto"
    max_wait_s: Positive = 5.0
    decision_s: Annotated[float, Field(ge=0)] = 0.001
    host_memory_gb: Positive | None = None
    host_bandwidth_gb_s: Positive | None = None
    host_cpu: Annotated[str, AfterValidator(_known_cpu)] | None = None
    load_source: Literal["disk", "page-cache", "pinned", "sleep-1", "sleep-2", "unknown"] | None = None
    disk_gb_s: Positive | None = None
    sleep: Annotated[Literal[0, 1, 2], BeforeValidator(_sleep_level)] = 0
    asleep_mb: Annotated[float, Field(ge=0, allow_inf_nan=False)] | None = None
    preemption: Literal["save", "recompute", "drain"] = "save"
    attempts: Count = 3
    max_time_s: Positive = 36_000.0

    @model_validator(mode="after")
    def _one_host(self) -> Self:
        """The host is known by its CPU or by its bandwidth."""
        if self.host_cpu is not None and self.host_bandwidth_gb_s is not None:
            raise ValueError("have host_cpu or host_bandwidth_gb_s, not both")
        return self

    @model_validator(mode="after")
    def _loads_from_somewhere(self) -> Self:
        """A disk's rate is of loads whose source is stated, and what memory holds is not on a disk."""
        if self.disk_gb_s is not None and self.load_source is None:
            raise ValueError("have load_source beside disk_gb_s: loads are as they were measured without it")
        if self.load_source == "disk" and self.host_memory_gb is not None:
            raise ValueError(
                "have load_source disk or host_memory_gb: what memory holds is not read from disk"
            )
        return self

    @model_validator(mode="after")
    def _one_sleep(self) -> Self:
        """What sleepers keep is said of sleepers; where evicting sends to sleep, no other loads wake."""
        if self.asleep_mb is not None and self.sleep == 0:
            raise ValueError("have sleep 1 or 2 beside asleep_mb: without it nothing sleeps")
        if self.sleep != 0 and self.load_source in ("sleep-1", "sleep-2"):
            raise ValueError(
                "have sleep or load_source sleep-1 or sleep-2: with sleep only loads of what sleeps wake it"
            )
        return self

    @property
    def asleep_bytes(self) -> float:
        """Device memory that an engine keeps while it sleeps."""
        return ASLEEP_BYTES if self.asleep_mb is None else self.asleep_mb * 1e6

    @property
    def host_bandwidth_bytes_per_s(self) -> float | None:
        """Peak bandwidth of the host's memory; None where it is not known."""
        if self.host_cpu is not None:
            return get_host(self.host_cpu).bandwidth_bytes_per_s
        return None if self.host_bandwidth_gb_s is None else self.host_bandwidth_gb_s * 1e9
