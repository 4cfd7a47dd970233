"""The seed paper's own preemption protocol, on any engine: cut job A, run job B, bring A back, finish it.

A cycle is: load A, prefill and decode it up to the cut; then KV to host memory, unload A, load B, run B's
whole job, unload B, load A, KV back; then finish A. Its overhead is everything that is neither job's own
computation.

Source: arXiv 2605.19593, its protocol with Hugging Face transformers and manual KV migration.
"""

from __future__ import annotations

import os
import statistics
import uuid
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import numpy as np

from shunter.catalog.checkpoints import Checkpoint
from shunter.engines.base import Engine
from shunter.errors import InputError
from shunter.profiling.dataset.fingerprint import hardware_id
from shunter.profiling.preemption.cycle import Cycle, JobRunner, PreemptionJob
from shunter.profiling.preemption.folder import Measurement
from shunter.profiling.preemption.rows import PreemptionRow

__all__ = ["measure_preemption"]

MEMORY_SLACK = 0.1
"""Share of A's footprint that may still be in use after an unload, beside saved KV and 16 MB."""

_SLACK_BYTES = 16_000_000


def measure_preemption(
    measurement: Measurement,
    engine: Engine,
    *,
    progress: Callable[[str, int, int], None] | None = None,
) -> None:
    """Measures what the measurement's file lacks; each row is in it as soon as its cycle is over.

    Args:
        measurement: From ``open_measurement``.
        engine: A started engine without residents.
        progress: Called before each run with what it is, how many are done and how many there are.

    Raises:
        InputError: The engine cannot split models and a level asks for it, or the rows there are of another
            machine or version of the engine.
        EngineError: The engine failed.
    """
    can, plan = engine.capabilities(), measurement.plan
    for model in (*plan.models, plan.other):
        if not can.partial_offload and plan.level(model) != model.spec.total_layers:
            rule = f"be all: {can.engine} on {can.device} cannot split a model"
            raise InputError("--gpu-layers", rule, plan.settings.gpu_layers)
    here = {"hardware_id": hardware_id(), "engine_version": can.engine_version}
    for name, value in here.items():
        for earlier in measurement.file.rows[name].unique():
            if earlier != value:
                raise InputError("--resume", f"go on where it began: {name} was {earlier}", value)
    _Run(measurement, engine, progress).run()


class _Run:
    def __init__(
        self,
        measurement: Measurement,
        engine: Engine,
        progress: Callable[[str, int, int], None] | None,
    ) -> None:
        self._plan, self._file, self._progress = measurement.plan, measurement.file, progress
        self._predictions = {(p.model, p.cut_tokens): p for p in measurement.predictions}
        plan, can, rows = self._plan, engine.capabilities(), measurement.file.rows
        self._runner = JobRunner(
            engine, context_tokens=plan.context_tokens, is_cold=plan.settings.page_cache == "cold"
        )
        self._facts: dict[str, Any] = {
            "session_id": uuid.uuid4().hex[:12],
            "engine": can.engine,
            "engine_version": can.engine_version,
            "device": measurement.device,
            "hardware_id": hardware_id(),
        }
        rng = np.random.default_rng(plan.settings.seed)
        self._prompts = {
            name: rng.integers(0, vocab_size, plan.settings.prompt_tokens).tolist()
            for name, vocab_size in {m.name: m.spec.vocab_size for m in (*plan.models, plan.other)}.items()
        }
        self._todo = plan.todo(
            set(rows[["repeat", "model", "cut_tokens"]].itertuples(index=False, name=None))
        )
        self._first_order = int(rows["order"].max()) + 1 if len(rows) else 0
        self._tokens: dict[str, list[int]] = {}
        self._baselines_s: dict[str, list[float]] = {}
        self._done = self._runs = 0

    def run(self) -> None:
        models = {model.name: model for _, model, _ in self._todo}
        self._runs = len(models) + len(self._todo)
        # The first run of a model also pays for what the engine prepares: its time is not used.
        for model in models.values():
            self._report(model.name, None)
            self._tokens[model.name], _ = self._runner.uninterrupted(self._job(model))
        for repeat, model, cut in self._todo:
            self._report(model.name, cut)
            if cut is None:
                _, seconds = self._runner.uninterrupted(self._job(model))
                self._baselines_s.setdefault(model.name, []).append(seconds)
            else:
                other = self._job(self._plan.other, is_other=True)
                cycle, tokens = self._runner.preempted(self._job(model), cut, other)
                self._file.append(self._row(repeat, model, cycle, tokens))

    def _job(self, model: Checkpoint, *, is_other: bool = False) -> PreemptionJob:
        s = self._plan.settings
        tokens = s.other_tokens if is_other else s.job_tokens
        return PreemptionJob(model, self._plan.level(model), self._prompts[model.name], tokens)

    def _report(self, model: str, cut: int | None) -> None:
        if self._progress is not None:
            text = f"{model}, uninterrupted" if cut is None else f"{model}, cut at {cut} tokens"
            self._progress(text, self._done, self._runs)
        self._done += 1

    def _row(self, repeat: int, model: Checkpoint, cycle: Cycle, tokens: list[int]) -> PreemptionRow:
        s, other = self._plan.settings, self._plan.other
        predicted = self._predictions.get((model.name, cycle.cut_tokens))
        footprint = cycle.device_bytes_loaded - cycle.device_bytes_idle
        limit = cycle.device_bytes_idle + MEMORY_SLACK * footprint + cycle.kv_bytes + _SLACK_BYTES
        after = (cycle.device_bytes_after_unload_a, cycle.device_bytes_after_unload_b)
        return PreemptionRow(
            **self._facts,
            **vars(cycle),
            order=self._first_order + self._done - 1,
            repeat=repeat,
            measured_at=datetime.now(UTC).isoformat(timespec="milliseconds"),
            load_average=os.getloadavg()[0],
            model=model.name,
            weight_bytes=model.weight_bytes,
            gpu_layers=self._plan.level(model),
            total_layers=model.spec.total_layers,
            other=other.name,
            other_weight_bytes=other.weight_bytes,
            page_cache=s.page_cache,
            prompt_tokens=s.prompt_tokens,
            job_tokens=s.job_tokens,
            other_tokens=s.other_tokens,
            baseline_s=statistics.median(self._baselines_s[model.name]),
            tokens_equal=tokens == self._tokens[model.name],
            memory_back=max(after) <= limit,
            predicted_s=predicted.own_s if predicted else None,
            predicted_low_s=predicted.low_s if predicted else None,
            predicted_high_s=predicted.high_s if predicted else None,
            predicted_out_of_range=predicted.out_of_range if predicted else False,
        )
