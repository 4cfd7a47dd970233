"""Runs a job whole, or cut in two by another model's whole job: the seed paper's preemption protocol.

A cycle is: prefill and decode job A up to the cut; then KV to host memory, unload A, load B, run B's whole
job, unload B, load A, KV back; then finish A. Where an engine cannot save KV, A's tokens are prefilled again.

Source: arXiv 2605.19593, its protocol with Hugging Face transformers and manual KV migration.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from itertools import zip_longest
from typing import TypeVar

from shunter.engines.base import LoadResult, MemoryReport, Timed
from shunter.profiling.dataset.fingerprint import digest
from shunter.profiling.sweep.measure import GroupRun, place_facts, result_facts
from shunter.profiling.sweep.plan import Group, Unit

_T = TypeVar("_T", bound=Timed)


@dataclass(frozen=True)
class _Call:
    """A call of which a row will be made: its name there, what it is part of, and what was known then."""

    name: str
    unit: Unit
    done: Timed
    held: int
    gap_s: float
    before: MemoryReport
    memory: MemoryReport


class CycleRun(GroupRun):
    """One resident, A, whose job is run whole, or cut by the whole job of the group's other model, B.

    Jobs of a model have the same prompt each time, so that what they generate can be compared. What lies
    between the engine's calls belongs to a cycle (``gap_s``): no sensor is read there, rows are made when it
    is over, and memory is read only where nothing is resident; the other rows have what was reported last.
    """

    _calls: list[_Call]
    _idle: MemoryReport
    _memory: MemoryReport
    _prompts: dict[str, list[int]]
    _dropping_s = 0.0

    @property
    def _other(self) -> Group:
        if self._group.other is None:
            raise ValueError(f"{self._group.label} gives way to no other model")
        return self._group.other

    def _units(self) -> dict[str, Callable[[Unit], None]]:
        return {"run": self._jobs, "cycle": self._jobs}

    def _open(self) -> None:
        """Uses B first, so that no cycle pays for what the engine prepares or for a file never read."""
        rng, count = self._rng, self._other.units[0].prompt_tokens
        places = {group.checkpoint.name: group for group in (self._group, self._other)}
        self._prompts = {
            name: rng.integers(0, group.checkpoint.spec.vocab_size, count).tolist()
            for name, group in places.items()
        }
        idle = self._engine.memory()
        self._load(self._other, 1)
        self._warm_up(self._other)
        self.unload()
        super()._open()
        self._idle = idle

    def _jobs(self, unit: Unit) -> None:
        self._calls, self._before = [], self._idle
        request = next(self._names)
        with self._engine.quiet():
            if unit.kind == "run":
                tokens = self._job(self._group, request, unit, unit.decode_tokens)
            else:
                tokens = self._cycle(unit, request)
        self._engine.drop_kv(self._model, request)
        self._write_calls(tokens)

    def _cycle(self, unit: Unit, request: str) -> list[int]:
        others, (job,) = next(self._names), self._other.units
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
            held = [*self._prompts[self._model], *tokens]
            tokens.append(
                self._note("prefill2", unit, self._engine.prefill(self._model, request, held)).token
            )
        left = unit.decode_tokens + 1 - len(tokens)
        rest = self._engine.decode(self._model, {request: left}, max_steps=left)
        self._note("decode2", unit, rest, held=unit.prompt_tokens + len(tokens) - 1)
        return [*tokens, *rest.tokens[request]]

    def _job(self, group: Group, request: str, unit: Unit, steps: int, *, index: int = 0) -> list[int]:
        """Generates the first tokens of a job: one more than there are steps."""
        model = group.checkpoint.name
        first = self._engine.prefill(model, request, self._prompts[model])
        self._note(f"prefill{index}", unit, first)
        more = self._engine.decode(model, {request: steps}, max_steps=steps)
        self._note(f"decode{index}", unit, more, held=unit.prompt_tokens)
        return [first.token, *more.tokens[request]]

    def _load(self, group: Group, max_batch: int) -> LoadResult:
        if self._plan.settings.page_cache == ("cold",):
            start_s = time.monotonic()
            self._engine.drop_page_cache(str(group.checkpoint.path))
            self._dropping_s = time.monotonic() - start_s
        loaded = super()._load(group, max_batch)
        self._memory = loaded.memory
        return loaded

    def _note(self, name: str, unit: Unit, done: _T, *, held: int = 0) -> _T:
        gap_s = done.start_s - self._calls[-1].done.end_s if self._calls else 0.0
        gap_s -= self._dropping_s if name.startswith("load") else 0.0
        self._calls.append(_Call(name, unit, done, held, gap_s, self._before, self._memory))
        return done

    def _write_calls(self, tokens: list[int]) -> None:
        cycle = self._calls[0].unit
        for call, then in zip_longest(self._calls, self._calls[1:]):
            # What an unload leaves is what was there before the load after it.
            memory = then.before if call.name.startswith("unload") else call.memory
            self._write(
                cycle,
                call.name[:-1],
                call.done,
                index=int(call.name[-1]),
                memory=memory,
                gap_s=call.gap_s,
                output="" if then else digest(tokens),
                device_bytes_before=call.before.device_bytes,
                host_bytes_before=call.before.host_bytes,
                **(place_facts(self._other) if call.name.endswith("1") else {}),
                **result_facts(call.done, call.unit, held=call.held),
            )
