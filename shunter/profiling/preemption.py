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
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import numpy as np

from shunter.catalog.checkpoints import Checkpoint
from shunter.errors import InputError
from shunter.profiling.engines.base import Engine
from shunter.profiling.fingerprint import hardware_id
from shunter.profiling.preemption_cycle import Cycle, Job, JobRunner
from shunter.profiling.preemption_plan import PreemptionPlan
from shunter.profiling.preemption_rows import PreemptionRow

__all__ = ["MEMORY_SLACK", "Prediction", "measure_preemption"]

MEMORY_SLACK = 0.1
"""Share of A's footprint that may still be in use after an unload, beside saved KV and 16 MB."""

_SLACK_BYTES = 16_000_000


@dataclass(frozen=True)
class Prediction:
    """What the preempted model's own part of a cycle was predicted to take, before it was measured."""

    own_s: float
    low_s: float
    high_s: float
    out_of_range: bool


def measure_preemption(
    plan: PreemptionPlan,
    engine: Engine,
    *,
    device: str,
    keep: Callable[[PreemptionRow], None],
    predictions: Mapping[tuple[str, int], Prediction] | None = None,
    progress: Callable[[str, int, int], None] | None = None,
) -> None:
    """Runs the plan.

    Args:
        plan: From ``make_preemption_plan``.
        engine: A started engine without residents.
        device: As the user wrote it.
        keep: Called with each row as soon as its cycle is over.
        predictions: By model name and cut.
        progress: Called before each run with what it is, how many are done and how many there are.

    Raises:
        InputError: The engine cannot split models and a level asks for it.
        EngineError: The engine failed.
    """
    can = engine.capabilities()
    for model in (*plan.models, plan.other):
        if not can.partial_offload and plan.level(model) != model.spec.total_layers:
            rule = f"be all: {can.engine} on {can.device} cannot split a model"
            raise InputError("--gpu-layers", rule, plan.settings.gpu_layers)
    _Measurement(plan, engine, device, keep, predictions or {}, progress).run()


class _Measurement:
    def __init__(
        self,
        plan: PreemptionPlan,
        engine: Engine,
        device: str,
        keep: Callable[[PreemptionRow], None],
        predictions: Mapping[tuple[str, int], Prediction],
        progress: Callable[[str, int, int], None] | None,
    ) -> None:
        self._plan, self._keep, self._progress = plan, keep, progress
        self._predictions = predictions
        self._can = engine.capabilities()
        self._runner = JobRunner(
            engine, context_tokens=plan.context_tokens, is_cold=plan.settings.page_cache == "cold"
        )
        self._facts: dict[str, Any] = {
            "session_id": uuid.uuid4().hex[:12],
            "engine": self._can.engine,
            "engine_version": self._can.engine_version,
            "device": device,
            "hardware_id": hardware_id(),
        }
        rng = np.random.default_rng(plan.settings.seed)
        self._prompts = {
            model.name: rng.integers(0, model.spec.vocab_size, plan.settings.prompt_tokens).tolist()
            for model in {m.name: m for m in (*plan.models, plan.other)}.values()
        }
        self._tokens: dict[str, list[int]] = {}
        self._baselines_s: dict[str, list[float]] = {}
        self._done = 0

    def run(self) -> None:
        # The first run of a model also pays for what the engine prepares: its time is not used.
        for model in self._plan.models:
            self._report(model.name, None)
            self._tokens[model.name], _ = self._runner.uninterrupted(self._job(model))
        for repeat, model, cut in self._first_baselines_first():
            self._report(model.name, cut)
            if cut is None:
                _, seconds = self._runner.uninterrupted(self._job(model))
                self._baselines_s.setdefault(model.name, []).append(seconds)
            else:
                other = self._job(self._plan.other, is_other=True)
                self._keep(self._row(repeat, model, self._runner.preempted(self._job(model), cut, other)))

    def _first_baselines_first(self) -> list[tuple[int, Checkpoint, int | None]]:
        """The random order, except that each model's first uninterrupted run comes before its cycles."""
        order = self._plan.order()
        first = [item for item in order if item[0] == 0 and item[2] is None]
        return first + [item for item in order if item not in first]

    def _job(self, model: Checkpoint, *, is_other: bool = False) -> Job:
        s = self._plan.settings
        tokens = s.other_tokens if is_other else s.job_tokens
        return Job(model, self._plan.level(model), self._prompts[model.name], tokens)

    def _report(self, model: str, cut: int | None) -> None:
        if self._progress is not None:
            text = f"{model}, uninterrupted" if cut is None else f"{model}, cut at {cut} tokens"
            self._progress(text, self._done, self._plan.runs)
        self._done += 1

    def _row(self, repeat: int, model: Checkpoint, cycle: Cycle) -> PreemptionRow:
        s, other = self._plan.settings, self._plan.other
        predicted = self._predictions.get((model.name, cycle.cut_tokens))
        footprint = cycle.device_bytes_loaded - cycle.device_bytes_idle
        limit = cycle.device_bytes_idle + MEMORY_SLACK * footprint + cycle.kv_bytes + _SLACK_BYTES
        after = (cycle.device_bytes_after_unload_a, cycle.device_bytes_after_unload_b)
        return PreemptionRow(
            **self._facts,
            **cycle.row_values(),
            order=self._done - 1,
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
            tokens_equal=cycle.tokens == self._tokens[model.name],
            memory_back=max(after) <= limit,
            predicted_s=predicted.own_s if predicted else None,
            predicted_low_s=predicted.low_s if predicted else None,
            predicted_high_s=predicted.high_s if predicted else None,
            predicted_out_of_range=predicted.out_of_range if predicted else False,
        )
