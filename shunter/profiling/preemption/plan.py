"""What a preemption measurement will run, and in which order."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np

from shunter.catalog.checkpoints import Checkpoint
from shunter.catalog.devices import DeviceSpec
from shunter.errors import InputError
from shunter.profiling.dataset.fingerprint import digest
from shunter.profiling.sweep.plan import (
    Group,
    SweepPlan,
    SweepSettings,
    Unit,
    check_names,
    model_facts,
    parse_level,
)

__all__ = ["PreemptionPlan", "PreemptionSettings", "cut_points", "make_preemption_plan"]


@dataclass(frozen=True)
class PreemptionSettings:
    """What is measured.

    Attributes:
        job_tokens: Tokens that job A generates.
        other_tokens: Tokens that job B generates.
        prompt_tokens: Prompt of both.
        cuts: Tokens that A has generated when it is cut, each at least two before its end.
        repeats: Cycles per model and cut.
        gpu_layers: Level of both models, as in ``parse_level``.
        page_cache: State of the files before each load: ``warm`` or ``cold``.
        context_tokens: Every load's limit per request; None: what the jobs need.
        seed: Seed of order and tokens.
    """

    job_tokens: int = 200
    other_tokens: int = 50
    prompt_tokens: int = 16
    cuts: tuple[int, ...] = ()
    repeats: int = 3
    gpu_layers: str = "all"
    page_cache: str = "warm"
    context_tokens: int | None = None
    seed: int = 0

    @property
    def longest_tokens(self) -> int:
        """Tokens of the longer job, prompt and generated."""
        return self.prompt_tokens + max(self.job_tokens, self.other_tokens) + 1


@dataclass(frozen=True)
class PreemptionPlan:
    """What will be measured: on which engine and device, models A, model B, and settings."""

    engine: str
    device: DeviceSpec
    models: tuple[Checkpoint, ...]
    other: Checkpoint
    settings: PreemptionSettings

    @property
    def context_tokens(self) -> int:
        """Every load's limit per request."""
        return self.settings.context_tokens or self.settings.longest_tokens

    def level(self, checkpoint: Checkpoint) -> int:
        """Layers of a model on the device."""
        return parse_level(self.settings.gpu_layers, checkpoint.spec.total_layers)

    def asked(self) -> dict[str, Any]:
        """All of it as plain data: what a measurement must have in common with one that it goes on with."""
        return {
            "engine": self.engine,
            "device": self.device.name,
            "models": [model_facts(model) for model in self.models],
            "other": model_facts(self.other),
            **asdict(self.settings),
            "cuts": list(self.settings.cuts),
        }

    def sweep(self, *, allow_overcommit: bool = False) -> SweepPlan:
        """The sweep of the cycles and of A's uninterrupted runs, with one of which each group begins.

        Each repeat is one pass over all models and cuts in random order, so that a slow stretch of the
        machine does not fall on all repeats of one cut.
        """
        s, rng = self.settings, random.Random(self.settings.seed)
        whole = Unit("run", 0, s.prompt_tokens, s.job_tokens - 1, page_cache=s.page_cache)
        cycles = [replace(whole, kind="cycle", cut_tokens=cut) for cut in s.cuts]
        other = Group(self.other, self.level(self.other), (replace(whole, decode_tokens=s.other_tokens - 1),))
        groups = [
            Group(
                model,
                self.level(model),
                tuple(replace(unit, repeat=repeat) for unit in (whole, *rng.sample(cycles, len(cycles)))),
                other,
            )
            for repeat in range(s.repeats)
            for model in rng.sample(self.models, len(self.models))
        ]
        settings = SweepSettings(
            page_cache=(s.page_cache,),
            repeats=s.repeats,
            max_repeats=s.repeats,
            seed=s.seed,
            allow_overcommit=allow_overcommit,
        )
        return SweepPlan(
            self.engine, self.device, settings, tuple(groups), 1, self.context_tokens, digest(self.asked())
        )


def cut_points(count: int, job_tokens: int) -> tuple[int, ...]:
    """Evenly spaced cuts over the share of the job that the paper covers: 100 to 5000 of 7000 tokens.

    Raises:
        InputError: The job is too short for so many.
    """
    cuts = np.unique(np.linspace(max(2, job_tokens / 70), job_tokens * 5 / 7, count).round().astype(int))
    if count < 1 or len(cuts) < count or cuts[-1] > job_tokens - 2:
        raise InputError("--cuts", f"fit into a job of {job_tokens} tokens", count)
    return tuple(int(cut) for cut in cuts)


def make_preemption_plan(
    models: Sequence[Checkpoint],
    other: Checkpoint | None,
    settings: PreemptionSettings,
    *,
    engine: str,
    device: DeviceSpec,
) -> PreemptionPlan:
    """Checks what was asked for.

    Args:
        models: A's models.
        other: B's model; None: the smallest of A's.
        settings: What is measured.
        engine: Name in the engine registry.
        device: The device.

    Raises:
        InputError: No or twice the same model, a cut outside the job, or a level that a model does not have.
    """
    check_names(models)
    s = settings
    if not s.cuts or min(s.cuts) < 2 or max(s.cuts) > s.job_tokens - 2:
        rule = f"be from 2 to {s.job_tokens - 2}, two tokens before the end of the job"
        raise InputError("--cuts", rule, list(s.cuts))
    for field, value, least in (
        ("--other-tokens", s.other_tokens, 2),
        ("--prompt", s.prompt_tokens, 1),
        ("--repeats", s.repeats, 1),
        ("--context", s.longest_tokens if s.context_tokens is None else s.context_tokens, s.longest_tokens),
    ):
        if value < least:
            raise InputError(field, f"be at least {least}", value)
    if s.page_cache not in ("warm", "cold"):
        raise InputError("--page-cache", "be warm or cold", s.page_cache)
    smallest = min(models, key=lambda model: model.weight_bytes)
    plan = PreemptionPlan(engine, device, tuple(models), other or smallest, settings)
    for model in (*plan.models, plan.other):
        plan.level(model)
    return plan
