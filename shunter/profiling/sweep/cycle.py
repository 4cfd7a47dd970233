"""Runs a job whole, or cut in two by another model's whole job: the seed paper's preemption protocol.

A cycle is: prefill and decode job A up to the cut; then KV to host memory, unload A, load B, run B's whole
job, unload B, load A, KV back; then finish A. Where an engine cannot save KV, A's tokens are prefilled again.

Source: arXiv 2605.19593, its protocol with Hugging Face transformers and manual KV migration.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from itertools import pairwise
from typing import Any, TypeVar

import numpy as np

from shunter.engines.base import LoadResult, MemoryReport, Timed
from shunter.profiling.dataset.fingerprint import digest
from shunter.profiling.sweep.measure import GroupRun, place_facts, result_facts
from shunter.profiling.sweep.plan import Group, Unit

_T = TypeVar("_T", bound=Timed)


class CycleRun(GroupRun):
    """One resident, A, whose job is run whole, or cut by the whole job of the group's other model, B.

    Jobs of a model have the same prompt each time, so that what they generate can be compared. What lies
    between the engine's calls belongs to a cycle (``gap_s``): no sensor is read there, and memory only where
    nothing is resident; the other rows have what was reported last.
    """

    _calls: list[tuple[str, Timed, dict[str, Any]]]
    _idle: MemoryReport
    _memory: MemoryReport
    _dropping_s = 0.0

    @property
    def _other(self) -> Group:
        if self._group.other is None:
            raise ValueError(f"{self._group.label} gives way to no other model")
        return self._group.other

    def _units(self) -> dict[str, Callable[[Unit], None]]:
        return {"run": self._whole, "cycle": self._cycle}

    def _open(self) -> None:
        """Uses B first, so that no cycle pays for what the engine prepares or for a file never read."""
        idle = self._engine.memory()
        self._load(self._other, 1)
        self._warm_up(self._other)
        self.unload()
        super()._open()
        self._idle = self._before = idle

    def _whole(self, unit: Unit) -> None:
        self._calls, self._before = [], self._idle
        request = next(self._names)
        with self._engine.quiet():
            tokens = self._job(self._group, request, unit, unit.decode_tokens)
        self._engine.drop_kv(self._model, request)
        self._write_calls(unit, tokens)

    def _cycle(self, unit: Unit) -> None:
        self._calls, self._before = [], self._idle
        (job,) = self._other.units
        request, others = next(self._names), next(self._names)
        with self._engine.quiet():
            tokens = self._job(self._group, request, unit, unit.cut_tokens - 1)
            if self._kv_save:
                self._note("kv_save0", unit, self._engine.save_kv(self._model, request))
            self._note("unload0", unit, self._unload(self._model))
            self._note("load1", unit, self._load(self._other, 1))
            self._job(self._other, others, job, job.decode_tokens, index=1)
            self._engine.drop_kv(self._other.checkpoint.name, others)
            self._note("unload1", unit, self._unload(self._other.checkpoint.name))
            self._note("load0", unit, self._load(self._group, 1))
            if self._kv_save:
                self._note("kv_restore0", unit, self._engine.restore_kv(self._model, request))
            else:
                prompt = self._tokens(self._group, unit.prompt_tokens)
                again = self._engine.prefill(self._model, request, [*prompt, *tokens])
                tokens.append(self._note("prefill2", unit, again).token)
            left = unit.decode_tokens + 1 - len(tokens)
            held = unit.prompt_tokens + len(tokens) - 1
            rest = self._engine.decode(self._model, {request: left}, max_steps=left)
            tokens += self._note("decode2", unit, rest, held=held).tokens[request]
        self._engine.drop_kv(self._model, request)
        self._write_calls(unit, tokens)

    def _job(self, group: Group, request: str, unit: Unit, steps: int, *, index: int = 0) -> list[int]:
        """Generates the first tokens of a job: one more than there are steps."""
        model = group.checkpoint.name
        prompt = self._tokens(group, unit.prompt_tokens)
        first = self._note(f"prefill{index}", unit, self._engine.prefill(model, request, prompt))
        more = self._engine.decode(model, {request: steps}, max_steps=steps)
        self._note(f"decode{index}", unit, more, held=unit.prompt_tokens)
        return [first.token, *more.tokens[request]]

    def _tokens(self, group: Group, count: int) -> list[int]:
        rng = np.random.default_rng(self._plan.settings.seed)
        return [int(token) for token in rng.integers(0, group.checkpoint.spec.vocab_size, count)]

    def _load(self, group: Group, max_batch: int) -> LoadResult:
        if self._plan.settings.page_cache == ("cold",):
            start_s = time.monotonic()
            self._engine.drop_page_cache(str(group.checkpoint.path))
            self._dropping_s = time.monotonic() - start_s
        loaded = super()._load(group, max_batch)
        self._memory = loaded.memory
        return loaded

    def _note(self, name: str, unit: Unit, done: _T, *, held: int = 0) -> _T:
        """Keeps what a call's row will say."""
        previous_s = self._calls[-1][1].end_s if self._calls else done.start_s
        values = {
            "gap_s": done.start_s - previous_s - (self._dropping_s if name.startswith("load") else 0.0),
            "device_bytes_before": self._before.device_bytes,
            "host_bytes_before": self._before.host_bytes,
            "memory": self._memory,
            **(place_facts(self._other) if name.endswith("1") else {}),
            **result_facts(done, unit, held=held),
        }
        self._calls.append((name, done, values))
        return done

    def _write_calls(self, unit: Unit, tokens: list[int]) -> None:
        for (name, _, values), (_, _, then) in pairwise(self._calls):
            if name.startswith("unload"):  # what is left then is what was there before the load after it
                left = MemoryReport(then["device_bytes_before"], then["host_bytes_before"])
                values["memory"] = left
        self._calls[-1][2]["output"] = digest(tokens)
        for name, done, values in self._calls:
            self._write(unit, name[:-1], done, index=int(name[-1]), **values)
