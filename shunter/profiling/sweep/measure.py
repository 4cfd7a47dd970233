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

from shunter.engines.base import (
    DecodeResult,
    Engine,
    KvResult,
    LoadResult,
    MemoryReport,
    PrefillResult,
    Timed,
)
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
    "first_step_s": None,
    "gap_s": None,
    "output": "",
    "steps": 0,
    "tokens_per_s": None,
    "kv_bytes": None,
    "includes_process_start": False,
    "is_outlier": False,
    "source": "",
    "gpu_count": None,
    "kv_on_host": None,
    "host_bandwidth_bytes_per_s": None,
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


def place_facts(group: Group) -> dict[str, Any]:
    """The dataset's columns that describe a model with some of its layers on the device."""
    model = model_facts(group.checkpoint)
    ratio = 1 - group.gpu_layers / model["total_layers"]
    return {**model, "gpu_layers": group.gpu_layers, "offload_ratio": ratio}


def result_facts(done: Timed, unit: Unit, *, held: int = 0) -> dict[str, Any]:
    """The dataset's columns that an operation's own result fills.

    Args:
        done: What the engine returned.
        unit: What it is part of.
        held: Of a decode, the tokens that each request began with, but for the first that it generated.
    """
    if isinstance(done, LoadResult):
        return {"page_cache": unit.page_cache, "includes_process_start": done.includes_process_start}
    if isinstance(done, KvResult):
        return {"tokens": done.kv_tokens, "kv_bytes": float(done.kv_bytes)}
    if isinstance(done, PrefillResult):
        count = done.tokens_prefilled
        rate = count / done.duration_s if done.duration_s else None
        return {"prompt_tokens": count, "tokens": count, "tokens_per_s": rate}
    if not isinstance(done, DecodeResult):
        return {}
    steps = len(done.step_end_s)
    return {
        "batch": unit.batch,
        "prompt_tokens": held,
        "decode_tokens": steps,
        # The first step sees what was held and one generated token, each later step one more.
        "context_tokens": held + (steps + 1) / 2,
        "duration_s": done.duration_s / steps,
        "step_p50_s": done.step_p50_s,
        "first_step_s": done.step_end_s[0] - done.start_s,
        "steps": steps,
        "tokens_per_s": unit.batch * steps / done.duration_s if done.duration_s else None,
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
        self._resident: str | None = None
        self._max_batch = plan.max_batch
        self._facts = {**facts, **place_facts(group)}

    @contextmanager
    def resident(self) -> Iterator[GroupRun]:
        """Loads the model and warms it up, unrecorded: a first load also pays for what the engine prepares.

        After an error the engine is left as it is, since a call may be half done.
        """
        self._open()
        yield self
        self.unload()

    def _open(self) -> None:
        self._load(self._group, self._plan.max_batch)
        self._warm_up(self._group)

    def measure(self, unit: Unit) -> list[dict[str, Any]]:
        """Measures one unit of any kind.

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
        self._units()[unit.kind](unit)
        end = self._engine.sensors.sample()
        conditions = self._engine.sensors.conditions(start, end)
        worst_stall_s = max(_STALL_S, _STALL_SHARE * (end.at_s - start.at_s))
        is_short = conditions["swapped_bytes"] > _SWAP_BYTES or conditions["memory_stall_s"] > worst_stall_s
        return {**conditions, "is_short_of_memory": is_short and not self._plan.settings.allow_overcommit}

    def _units(self) -> dict[str, Callable[[Unit], None]]:
        """What measures a unit, by its kind."""
        return {"run": self._run, "swap": self._swap}

    def unload(self) -> None:
        """Frees the model if one is resident, unrecorded."""
        if self._resident is not None:
            self._unload(self._resident)

    def _unload(self, model: str) -> Timed:
        gone = self._engine.unload(model)
        self._resident = None
        return gone

    def _run(self, unit: Unit) -> None:
        requests = [next(self._names) for _ in range(unit.batch)]
        for index, request in enumerate(requests):
            self._prefill(unit, request, unit.prompt_tokens, index)
        done = self._engine.decode(
            self._model, dict.fromkeys(requests, unit.decode_tokens), max_steps=unit.decode_tokens
        )
        self._write(unit, "decode", done, **result_facts(done, unit, held=unit.prompt_tokens))
        for request in requests:
            self._engine.drop_kv(self._model, request)

    def _swap(self, unit: Unit) -> None:
        keeps = unit.cut_tokens > 0 and self._kv_save
        request = next(self._names)
        if keeps:
            self._prefill(unit, request, unit.cut_tokens - CUT_STEPS, 0)
            self._engine.decode(self._model, {request: CUT_STEPS}, max_steps=CUT_STEPS)
            saved = self._engine.save_kv(self._model, request)
            self._write(unit, "kv_save", saved, **result_facts(saved, unit))
        self._reload(unit)
        if keeps:
            back = self._engine.restore_kv(self._model, request)
            self._write(unit, "kv_restore", back, **result_facts(back, unit))
            self._engine.decode(self._model, {request: CUT_STEPS}, max_steps=CUT_STEPS)
            self._engine.drop_kv(self._model, request)
        else:
            self._warm_up(self._group)

    def _reload(self, unit: Unit) -> None:
        self._write(unit, "unload", self._unload(self._model))
        _forget_caches()
        if unit.page_cache == "cold":
            self._engine.drop_page_cache(str(self._group.checkpoint.path))
        start = self._load(self._group, unit.max_batch)
        self._write(unit, "load", start, memory=start.memory, **result_facts(start, unit))

    def _load(self, group: Group, max_batch: int) -> LoadResult:
        self._before = self._engine.memory()
        loaded = self._engine.load(
            group.checkpoint.name,
            str(group.checkpoint.path),
            group.gpu_layers,
            context_tokens=self._plan.max_context_tokens,
            max_batch=max_batch,
        )
        self._resident, self._max_batch = group.checkpoint.name, max_batch
        return loaded

    def _warm_up(self, group: Group) -> None:
        request, model = next(self._names), group.checkpoint.name
        self._engine.prefill(model, request, self._tokens(group, WARM_UP_TOKENS))
        self._engine.decode(model, {request: CUT_STEPS}, max_steps=CUT_STEPS)
        self._engine.drop_kv(model, request)

    def _tokens(self, group: Group, count: int) -> list[int]:
        return [int(token) for token in self._rng.integers(0, group.checkpoint.spec.vocab_size, count)]

    def _prefill(self, unit: Unit, request: str, count: int, index: int) -> None:
        done = self._engine.prefill(self._model, request, self._tokens(self._group, count))
        self._write(unit, "prefill", done, index=index, **result_facts(done, unit))

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
        memory = memory or self._engine.memory()
        row = {
            **self._facts,
            **_CELL,
            **_RESULT,
            **self._engine.readings,
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
        key = self._plan.unit_key(self._group, unit, f"{operation}{index}")
        row["row_id"] = f"{row['session_id']}/{key}"
        asked = ("engine", "device", "model", "quantization", "weight_bytes", "operation", "gpu_layers")
        # The load's limits matter to loads and unloads only; elsewhere they would split one cell in two.
        limits = ("max_batch", "max_context_tokens") if operation in ("load", "unload") else ()
        row["cell_id"] = digest([row[name] for name in (*asked, *_CELL, "context_tokens", *limits)])
        self._rows.append(row)
