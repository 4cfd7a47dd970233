"""Runs one job on an engine, whole or cut in two by another, and adds up where the time went."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass

from shunter.catalog.checkpoints import Checkpoint
from shunter.engines.base import DecodeResult, Engine, LoadResult, Timed


@dataclass(frozen=True)
class PreemptionJob:
    """One request on one model.

    Attributes:
        model: Its model.
        gpu_layers: Layers on the device.
        prompt: Token ids.
        tokens: Tokens to generate, at least 2.
    """

    model: Checkpoint
    gpu_layers: int
    prompt: list[int]
    tokens: int


@dataclass(frozen=True, kw_only=True)
class Cycle:
    """One preemption as measured. Times in seconds, memory in bytes.

    Attributes:
        cut_tokens: Tokens that A had generated when it was cut.
        kv_tokens: Tokens in A's KV cache then.
        kv_mode: ``save``, or ``recompute`` where the engine cannot save: kv_restore_s is then a prefill.
        kv_bytes: Bytes of KV saved; 0 for recompute.
        kv_save_s: Copying A's KV to host memory.
        unload_a_s: Freeing A.
        load_b_s: Loading B.
        unload_b_s: Freeing B.
        load_a_s: Loading A again.
        kv_restore_s: Bringing A's KV back.
        other_s: The rest of the overhead: between the engine's calls, memory checks included.
        overhead_s: The cycle less A's and B's computation; the sum of the seven parts.
        own_s: The four parts that A itself costs.
        compute_a_s: A's prefill and decoding.
        compute_b_s: B's prefill and decoding.
        resume_step_s: A's first step after it was resumed.
        step_p50_s: A's median step after that.
        device_bytes_idle: Device memory with nothing resident.
        device_bytes_loaded: Device memory with A resident.
        device_bytes_after_unload_a: Device memory after A was unloaded (its saved KV may be in it).
        device_bytes_after_unload_b: Device memory after B was unloaded.
    """

    cut_tokens: int
    kv_tokens: int
    kv_mode: str
    kv_bytes: int
    kv_save_s: float
    unload_a_s: float
    load_b_s: float
    unload_b_s: float
    load_a_s: float
    kv_restore_s: float
    other_s: float
    overhead_s: float
    own_s: float
    compute_a_s: float
    compute_b_s: float
    resume_step_s: float
    step_p50_s: float
    device_bytes_idle: int
    device_bytes_loaded: int
    device_bytes_after_unload_a: int
    device_bytes_after_unload_b: int


@dataclass(frozen=True)
class _WholeRun:
    load: Timed
    tokens: list[int]
    compute: list[Timed]
    unload: Timed
    device_bytes_after: int


class JobRunner:
    """Runs jobs, one at a time; nothing is resident before and after each.

    Args:
        engine: Without residents.
        context_tokens: Every load's limit per request.
        is_cold: Whether each load reads from disk.
    """

    def __init__(self, engine: Engine, *, context_tokens: int, is_cold: bool) -> None:
        self._engine = engine
        self._context_tokens = context_tokens
        self._is_cold = is_cold
        self._kv_save = engine.capabilities().kv_save
        self._dropping_s = 0.0

    def uninterrupted(self, job: PreemptionJob) -> tuple[list[int], float]:
        """Loads, runs the whole job and unloads.

        Returns:
            The generated tokens, and the seconds of computation.
        """
        done = self._whole(job, request="a")
        return done.tokens, _total_s(done.compute)

    def preempted(self, job: PreemptionJob, cut_tokens: int, other: PreemptionJob) -> tuple[Cycle, list[int]]:
        """Runs a job that is cut after some generated tokens to run the other one's whole job.

        Args:
            job: A.
            cut_tokens: From 2 to two below A's tokens.
            other: B.

        Returns:
            The cycle, and what A generated.
        """
        engine, a = self._engine, job.model.name
        idle = engine.memory().device_bytes
        self._load(job)
        loaded = engine.memory().device_bytes
        tokens, before = self._run(job, cut_tokens, request="a")
        self._dropping_s = 0.0

        saved = engine.save_kv(a, "a") if self._kv_save else None
        unload_a = engine.unload(a)
        after_a = engine.memory().device_bytes
        b = self._whole(other, request="b")
        load_a = self._load(job)
        restored, recomputed = self._restore(job, tokens)

        left = job.tokens - len(tokens) - len(recomputed)
        rest = engine.decode(a, {"a": left}, max_steps=left)
        engine.drop_kv(a, "a")
        engine.unload(a)
        cycle = Cycle(
            cut_tokens=cut_tokens,
            kv_tokens=len(job.prompt) + cut_tokens - 1,
            kv_mode="save" if saved else "recompute",
            kv_bytes=saved.kv_bytes if saved else 0,
            **self._seconds([*before, rest], b, saved, unload_a, load_a, restored),
            resume_step_s=rest.step_end_s[0] - rest.start_s,
            step_p50_s=rest.step_p50_s,
            device_bytes_idle=idle,
            device_bytes_loaded=loaded,
            device_bytes_after_unload_a=after_a,
            device_bytes_after_unload_b=b.device_bytes_after,
        )
        return cycle, [*tokens, *recomputed, *rest.tokens["a"]]

    def _seconds(
        self,
        compute_a: Sequence[Timed],
        b: _WholeRun,
        saved: Timed | None,
        unload_a: Timed,
        load_a: Timed,
        restored: Timed,
    ) -> dict[str, float]:
        """Adds up where the time from A's prefill to A's last token went."""
        compute_a_s, compute_b_s = _total_s(compute_a), _total_s(b.compute)
        own = {
            "kv_save_s": saved.duration_s if saved else 0.0,
            "unload_a_s": unload_a.duration_s,
            "load_a_s": load_a.duration_s,
            "kv_restore_s": restored.duration_s,
        }
        others = {"load_b_s": b.load.duration_s, "unload_b_s": b.unload.duration_s}
        wall_s = compute_a[-1].end_s - compute_a[0].start_s - self._dropping_s
        overhead_s = wall_s - compute_a_s - compute_b_s
        own_s = sum(own.values())
        return {
            **own,
            **others,
            "other_s": overhead_s - own_s - sum(others.values()),
            "overhead_s": overhead_s,
            "own_s": own_s,
            "compute_a_s": compute_a_s,
            "compute_b_s": compute_b_s,
        }

    def _whole(self, job: PreemptionJob, *, request: str) -> _WholeRun:
        load = self._load(job)
        tokens, compute = self._run(job, job.tokens, request=request)
        self._engine.drop_kv(job.model.name, request)
        unload = self._engine.unload(job.model.name)
        return _WholeRun(load, tokens, compute, unload, self._engine.memory().device_bytes)

    def _load(self, job: PreemptionJob) -> LoadResult:
        if self._is_cold:
            start_s = time.monotonic()
            self._engine.drop_page_cache(str(job.model.path))
            self._dropping_s += time.monotonic() - start_s
        return self._engine.load(
            job.model.name,
            str(job.model.path),
            job.gpu_layers,
            context_tokens=self._context_tokens,
            max_batch=1,
        )

    def _run(self, job: PreemptionJob, count: int, *, request: str) -> tuple[list[int], list[Timed]]:
        """Generates the first tokens of a job; each timed call is computation."""
        first = self._engine.prefill(job.model.name, request, job.prompt)
        more: DecodeResult = self._engine.decode(job.model.name, {request: count - 1}, max_steps=count - 1)
        return [first.token, *more.tokens[request]], [first, more]

    def _restore(self, job: PreemptionJob, tokens: list[int]) -> tuple[Timed, list[int]]:
        """Brings A's request back; where its KV was lost, its recomputation yields the next token."""
        if self._kv_save:
            return self._engine.restore_kv(job.model.name, "a"), []
        done = self._engine.prefill(job.model.name, "a", [*job.prompt, *tokens])
        return done, [done.token]


def _total_s(calls: Sequence[Timed]) -> float:
    return sum(call.duration_s for call in calls)
