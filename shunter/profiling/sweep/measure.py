"""Runs one group of a sweep's units on an engine and turns what comes back into dataset rows."""

from __future__ import annotations

import itertools
import json
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any

import numpy as np

from shunter.engines.base import DecodeResult, Engine, LoadResult, MemoryReport, Timed
from shunter.errors import ShunterError
from shunter.profiling.dataset.fingerprint import digest, hardware, hardware_id, versions
from shunter.profiling.dataset.schema import SCHEMA_VERSION
from shunter.profiling.meters.conditions import Sensors
from shunter.profiling.meters.metered import MeteredEngine
from shunter.profiling.sweep.plan import CUT_STEPS, WARM_UP_TOKENS, Group, SweepPlan, Unit, model_facts

__all__ = ["GroupRun", "sweep_facts"]

_CELL: dict[str, Any] = {
    "page_cache": "warm",
    "batch": 1,
    "prompt_tokens": 0,
    "decode_tokens": 0,
    "tokens": 0,
}
_RESULT: dict[str, Any] = {
    "context_tokens": 0.0,
    "step_p50_s": None,
    "steps": 0,
    "tokens_per_s": None,
    "kv_bytes": None,
    "includes_process_start": False,
    "is_outlier": False,
}

_SWAP_BYTES = 2**20
_CACHE_BYTES = 2**28
_STALL_SHARE = 0.01
_STALL_S = 0.01


def sweep_facts(plan: SweepPlan, engine: Engine, session_id: str) -> dict[str, Any]:
    """The dataset's columns that are the same for a whole sweep."""
    can = engine.capabilities()
    return {
        "schema_version": SCHEMA_VERSION,
        "session_id": session_id,
        "engine": can.engine,
        "engine_version": can.engine_version,
        "device": plan.device.hardware_name,
        "device_kind": plan.device.kind,
        "device_threads": plan.device.threads,
        "device_memory_bytes": plan.device.memory_bytes,
        "hardware_id": hardware_id(),
        "hardware": json.dumps(hardware(), sort_keys=True),
        "versions": json.dumps(versions(can.engine, can.engine_version, can.versions), sort_keys=True),
        "max_context_tokens": plan.max_context_tokens,
    }


def _forget_caches() -> None:
    """Fills the processor's caches with something else, as other models' work does between two loads of one.

    A file that was just read is still in them in part, and is then read up to a quarter faster.
    """
    np.ones(_CACHE_BYTES, np.uint8).max()


class GroupRun:
    """One resident that serves a group's units.

    A unit during which the system swapped more than 1 MiB, or stalled for memory for more than 1 % of the
    time, is not kept but measured once more, unless the settings allow it.

    Args:
        engine: Holds no model of this group yet.
        plan: The sweep.
        group: What to measure.
        facts: From ``sweep_facts``.
        record: Called with each row of a finished unit.
    """

    def __init__(
        self,
        engine: Engine,
        plan: SweepPlan,
        group: Group,
        facts: dict[str, Any],
        record: Callable[[dict[str, Any]], None],
    ) -> None:
        if not isinstance(engine, MeteredEngine):
            engine = MeteredEngine(engine, Sensors(plan.device))
        self._engine: MeteredEngine = engine
        self._plan = plan
        self._group = group
        self._record = record
        self._rows: list[dict[str, Any]] = []
        self._kv_save = engine.capabilities().kv_save
        self._model = group.checkpoint.name
        self._names = (f"request-{i}" for i in itertools.count())
        self._rng = np.random.default_rng(plan.settings.seed)
        self._before = MemoryReport(0, 0)
        self._is_resident = False
        self._max_batch = plan.max_batch
        model = model_facts(group.checkpoint)
        ratio = 1 - group.gpu_layers / model["total_layers"]
        self._facts = {**facts, **model, "gpu_layers": group.gpu_layers, "offload_ratio": ratio}

    @contextmanager
    def resident(self) -> Iterator[GroupRun]:
        """Loads the model and warms it up, unrecorded: a first load also pays for what the engine prepares.

        After an error the engine is left as it is, since a call may be half done.
        """
        self._load(self._plan.max_batch)
        self._warm_up()
        yield self
        self.unload()

    def measure(self, unit: Unit) -> list[dict[str, Any]]:
        """Measures one unit of either kind.

        Returns:
            Its rows, which were recorded.

        Raises:
            ShunterError: Memory was short both times that it was measured; nothing of it is recorded.
        """
        conditions = self._measure_once(unit)
        if conditions["is_short_of_memory"]:
            conditions = self._measure_once(unit)
        if conditions.pop("is_short_of_memory"):
            moved, stalled = conditions["swapped_bytes"] / 1e6, conditions["memory_stall_s"]
            raise ShunterError(
                f"memory is short: while {self._group.label} was measured, "
                f"twice, {moved:.0f} MB were swapped and everything waited {stalled:.2f} s for memory; that "
                "is not kept: make room, or keep such measurements too with --allow-overcommit"
            )
        rows = [{**row, **conditions} for row in self._rows]
        for row in rows:
            self._record(row)
        return rows

    def _measure_once(self, unit: Unit) -> dict[str, Any]:
        self._rows = []
        start = self._engine.sensors.sample()
        if unit.kind == "run":
            self._run(unit)
        else:
            self._swap(unit)
        end = self._engine.sensors.sample()
        conditions = self._engine.sensors.conditions(start, end)
        worst_stall_s = max(_STALL_S, _STALL_SHARE * (end.at_s - start.at_s))
        is_short = conditions["swapped_bytes"] > _SWAP_BYTES or conditions["memory_stall_s"] > worst_stall_s
        return {**conditions, "is_short_of_memory": is_short and not self._plan.settings.allow_overcommit}

    def unload(self) -> None:
        """Frees the model if it is resident, unrecorded."""
        if self._is_resident:
            self._engine.unload(self._model)
            self._is_resident = False

    def _run(self, unit: Unit) -> None:
        requests = [next(self._names) for _ in range(unit.batch)]
        for index, request in enumerate(requests):
            self._prefill(unit, request, unit.prompt_tokens, index)
        done = self._engine.decode(
            self._model, dict.fromkeys(requests, unit.decode_tokens), max_steps=unit.decode_tokens
        )
        self._write_decode(unit, done)
        for request in requests:
            self._engine.drop_kv(self._model, request)

    def _swap(self, unit: Unit) -> None:
        keeps = unit.cut_tokens > 0 and self._kv_save
        request = next(self._names)
        if keeps:
            self._prefill(unit, request, unit.cut_tokens - CUT_STEPS, 0)
            self._engine.decode(self._model, {request: CUT_STEPS}, max_steps=CUT_STEPS)
            saved = self._engine.save_kv(self._model, request)
            self._write(unit, "kv_save", saved, tokens=saved.kv_tokens, kv_bytes=float(saved.kv_bytes))
        self._reload(unit)
        if keeps:
            back = self._engine.restore_kv(self._model, request)
            self._write(unit, "kv_restore", back, tokens=back.kv_tokens, kv_bytes=float(back.kv_bytes))
            self._engine.decode(self._model, {request: CUT_STEPS}, max_steps=CUT_STEPS)
            self._engine.drop_kv(self._model, request)
        else:
            self._warm_up()

    def _reload(self, unit: Unit) -> None:
        gone = self._engine.unload(self._model)
        self._is_resident = False
        self._write(unit, "unload", gone)
        _forget_caches()
        if unit.page_cache == "cold":
            self._engine.drop_page_cache(str(self._group.checkpoint.path))
        start = self._load(unit.max_batch)
        self._write(
            unit,
            "load",
            start,
            page_cache=unit.page_cache,
            includes_process_start=start.includes_process_start,
            memory=start.memory,
        )

    def _load(self, max_batch: int) -> LoadResult:
        self._before = self._engine.memory()
        loaded = self._engine.load(
            self._model,
            str(self._group.checkpoint.path),
            self._group.gpu_layers,
            context_tokens=self._plan.max_context_tokens,
            max_batch=max_batch,
        )
        self._is_resident, self._max_batch = True, max_batch
        return loaded

    def _warm_up(self) -> None:
        request = next(self._names)
        self._engine.prefill(self._model, request, self._tokens(WARM_UP_TOKENS))
        self._engine.decode(self._model, {request: CUT_STEPS}, max_steps=CUT_STEPS)
        self._engine.drop_kv(self._model, request)

    def _tokens(self, count: int) -> list[int]:
        vocab_size = self._group.checkpoint.spec.vocab_size
        return [int(token) for token in self._rng.integers(0, vocab_size, count)]

    def _prefill(self, unit: Unit, request: str, count: int, index: int) -> None:
        done = self._engine.prefill(self._model, request, self._tokens(count))
        rate = count / done.duration_s if done.duration_s else None
        self._write(unit, "prefill", done, index=index, prompt_tokens=count, tokens=count, tokens_per_s=rate)

    def _write_decode(self, unit: Unit, done: DecodeResult) -> None:
        steps = len(done.step_end_s)
        self._write(
            unit,
            "decode",
            done,
            batch=unit.batch,
            prompt_tokens=unit.prompt_tokens,
            decode_tokens=unit.decode_tokens,
            # The first step sees the prompt and one generated token, each later step one more.
            context_tokens=unit.prompt_tokens + (steps + 1) / 2,
            duration_s=done.duration_s / steps,
            step_p50_s=done.step_p50_s,
            steps=steps,
            tokens_per_s=unit.batch * steps / done.duration_s if done.duration_s else None,
        )

    def _write(
        self,
        unit: Unit,
        operation: str,
        timed: Timed,
        *,
        index: int = 0,
        memory: MemoryReport | None = None,
        **values: Any,
    ) -> None:
        readings = self._engine.readings
        memory = memory or self._engine.memory()
        row = {
            **self._facts,
            **_CELL,
            **_RESULT,
            **readings,
            "operation": operation,
            "max_batch": self._max_batch,
            "repeat": unit.repeat,
            "duration_s": timed.duration_s,
            "measured_at": datetime.now(UTC).isoformat(timespec="milliseconds"),
            "load_average": os.getloadavg()[0],
            "device_bytes_before": self._before.device_bytes,
            "host_bytes_before": self._before.host_bytes,
            "device_bytes": memory.device_bytes,
            "host_bytes": memory.host_bytes,
            **values,
        }
        key = self._plan.unit_key(self._group, unit, operation, index)
        row["row_id"] = f"{row['session_id']}/{key}"
        asked = ("engine", "device", "model", "quantization", "weight_bytes", "operation", "gpu_layers")
        # The load's limits matter to loads and unloads only; elsewhere they would split one cell in two.
        limits = ("max_batch", "max_context_tokens") if operation in ("load", "unload") else ()
        row["cell_id"] = digest([row[name] for name in (*asked, *_CELL, "context_tokens", *limits)])
        self._rows.append(row)
