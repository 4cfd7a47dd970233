"""What a sweep will measure, in which order, and about how long it takes."""

from __future__ import annotations

import random
import uuid
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from shunter.catalog.checkpoints import Checkpoint
from shunter.catalog.devices import DeviceSpec
from shunter.catalog.work import FAMILY_COLUMNS, family_facts
from shunter.engines.base import Capabilities
from shunter.errors import InputError
from shunter.profiling.dataset.fingerprint import digest

__all__ = ["Group", "SweepPlan", "SweepSettings", "model_facts", "parse_level"]

WARM_UP_TOKENS = 8
CUT_STEPS = 2  # decode steps before a cut: enough that the request is in the middle of decoding


@dataclass(frozen=True)
class SweepSettings:
    """The grid of a sweep.

    Attributes:
        gpu_layers: Levels as written: ``"all"``, ``"50%"`` or a count.
        prompt_tokens: Prompt lengths. Kernels like multiples of 4 or 16 (llama.cpp on a CPU is up to 20 %
            faster there), and real prompts are of any length: so none of the default ones is.
        decode_tokens: Steps to decode.
        batch: Requests decoded together.
        cut_tokens: Tokens in the KV cache when a request is preempted; empty: loads without a request.
        page_cache: State of the checkpoint's file before a load: ``"warm"``, ``"cold"``.
        repeats: How often each is measured; each repeat is one pass over all models and levels.
        context_tokens: The load's limit per request; None: what the grid needs.
        seed: Seed of order and token ids.
        precision: Further passes measure what is still wider: the 95 % interval of the median, relative to
            the median; None: no further passes.
        max_repeats: Most passes over a unit, with the further ones.
        budget_s: The sweep picks from the grid what tells most in this time; None: all of the grid.
        allow_overcommit: Load models that are predicted not to fit, and keep what was measured while the
            system swapped.
    """

    gpu_layers: tuple[str, ...] = ("all",)
    prompt_tokens: tuple[int, ...] = (15, 61, 250)
    decode_tokens: tuple[int, ...] = (32,)
    batch: tuple[int, ...] = (1, 2, 4)
    cut_tokens: tuple[int, ...] = (32, 128)
    page_cache: tuple[str, ...] = ("warm",)
    repeats: int = 3
    context_tokens: int | None = None
    seed: int = 0
    precision: float | None = None
    max_repeats: int = 6
    budget_s: float | None = None
    allow_overcommit: bool = False


@dataclass(frozen=True)
class Unit:
    """One piece of work that is measured as a whole.

    A ``run`` prefills ``batch`` requests and decodes them together. A ``swap`` unloads the model and loads it
    again for ``max_batch`` requests, around the KV save and restore of one request if ``cut_tokens`` is not
    0. A ``cycle`` is the run of one request, cut after ``cut_tokens`` generated tokens: the model gives way
    to the group's ``other``, whose run is done as a whole, and comes back.
    """

    kind: str
    repeat: int
    prompt_tokens: int = 0
    decode_tokens: int = 0
    batch: int = 1
    cut_tokens: int = 0
    page_cache: str = "warm"
    max_batch: int = 1


@dataclass(frozen=True)
class Group:
    """Units of one repeat that one resident serves.

    Attributes:
        checkpoint: The model.
        gpu_layers: Layers on the device.
        units: Units, in the order of measurement.
        other: For cycles, the model that this one gives way to: a group of one run.
    """

    checkpoint: Checkpoint
    gpu_layers: int
    units: tuple[Unit, ...]
    other: Group | None = None

    @property
    def key(self) -> tuple[str, int]:
        """The model's name and its layers on the device: equal for groups of other repeats."""
        return self.checkpoint.name, self.gpu_layers

    @property
    def label(self) -> str:
        """What people are told it is."""
        return f"{self.checkpoint.name} at {self.gpu_layers} layers"

    @property
    def loads(self) -> int:
        """Loads, with the one that opens the group."""
        return 1 + sum(unit.kind == "swap" for unit in self.units)


@dataclass(frozen=True)
class SweepPlan:
    """Everything that a sweep measures on one engine and device, in order.

    Attributes:
        engine: Name in the engine registry.
        device: Parsed device.
        settings: The grid.
        groups: Groups of units by repeat and (model, gpu_layers).
        max_batch: Most requests at once. The last loads of a group are for one request only, so that what
            a load's limits cost can be told from what its weights cost.
        max_context_tokens: Every load's limit per request.
    """

    engine: str
    device: DeviceSpec
    settings: SweepSettings
    groups: tuple[Group, ...]
    max_batch: int
    max_context_tokens: int
    plan_id: str = field(default="", compare=False)

    @property
    def units(self) -> int:
        """Units of work in all groups."""
        return sum(len(group.units) for group in self.groups)

    @property
    def loads(self) -> int:
        """Loads in all groups."""
        return sum(group.loads for group in self.groups)

    def new_session_id(self) -> str:
        """Names a sweep that begins to measure this plan."""
        return f"{self.plan_id}-{uuid.uuid4().hex[:8]}"

    def unit_key(self, group: Group, unit: Unit, name: str) -> str:
        """Names one row of a unit; the same in every session that would measure the same."""
        facts = _identity(group.checkpoint)
        where = (self.engine, self.device.name, group.gpu_layers, self.max_context_tokens)
        unit_id = digest([*where, facts, asdict(unit)])
        return f"{unit_id}/{name}"

    def row_keys(self, group: Group, unit: Unit, *, kv_save: bool) -> list[str]:
        """Names of all rows that a unit gives."""
        names = [*(f"prefill{i}" for i in range(unit.batch)), "decode0"]
        saved = ["kv_save0"] if unit.cut_tokens > 0 and kv_save else []
        restored = ["kv_restore0"] if saved else []
        if unit.kind == "swap":
            names = [*(["prefill0"] if saved else []), *saved, "unload0", "load0", *restored]
        elif unit.kind == "cycle":  # what ends in 1 is the other model's
            away = ["unload0", "load1", "prefill1", "decode1", "unload1", "load0"]
            names += [*saved, *away, *(restored or ["prefill2"]), "decode2"]
        return [self.unit_key(group, unit, name) for name in names]


def make_plan(
    checkpoints: Sequence[Checkpoint], *, engine: str, device: DeviceSpec, settings: SweepSettings
) -> SweepPlan:
    """Lays a grid out as groups of units, both in random order.

    Each repeat is one pass over all models and levels: a stretch of time in which the machine was slow then
    falls on a few repeats of many configurations, not on all repeats of one model. It also means that an
    interrupted sweep has measured nearly everything once.

    Raises:
        InputError: No or twice the same model, a level that a model does not have, an empty grid, or a
            request that is longer than the context.
    """
    _check(checkpoints, settings)
    longest = max(p + d + 1 for p in settings.prompt_tokens for d in settings.decode_tokens)
    longest = max(
        [longest, WARM_UP_TOKENS + CUT_STEPS + 1, *(c + CUT_STEPS + 1 for c in settings.cut_tokens)]
    )
    context = settings.context_tokens or longest
    if context < longest:
        raise InputError("--context", f"hold the longest request of the sweep, {longest} tokens", context)
    rng = random.Random(settings.seed)
    places = [
        (checkpoint, level)
        for checkpoint in checkpoints
        for level in sorted({parse_level(text, checkpoint.spec.total_layers) for text in settings.gpu_layers})
    ]
    passes = [_units(settings, repeat) for repeat in range(settings.repeats)]
    groups = [
        Group(checkpoint, level, (*rng.sample(served, len(served)), *reloads))
        for served, reloads in passes
        for checkpoint, level in rng.sample(places, len(places))
    ]
    facts = [_identity(checkpoint) for checkpoint in checkpoints]
    plan_id = digest([engine, device.name, facts, asdict(settings)])
    return SweepPlan(engine, device, settings, tuple(groups), max(settings.batch), context, plan_id)


def in_order(units: Sequence[Unit], widest: int, rng: random.Random) -> tuple[Unit, ...]:
    """Units of a group in random order, but loads for fewer requests than the widest last.

    llama.cpp restores KV only into a resident with the limit of the one that it was saved in.
    """
    return tuple(sorted(rng.sample(units, len(units)), key=lambda unit: unit.max_batch < widest))


def parse_level(text: str, total_layers: int, *, field: str = "--gpu-layers") -> int:
    """Reads a gpu_layers level: a count, a percentage of total_layers, or ``all``.

    Args:
        text: The level as written.
        total_layers: Of the model, its output layer among them.
        field: What it was given as.

    Raises:
        InputError: It is none of these, or outside 0 to total_layers.
    """
    rule = f"be all, a percentage from 0% to 100%, or a count from 0 to {total_layers}"
    number = text.strip().removesuffix("%")
    if number == "all":
        return total_layers
    if not number.replace(".", "", 1).isdigit():
        raise InputError(field, rule, text)
    count = float(number) * (total_layers / 100 if text.strip().endswith("%") else 1)
    if count > total_layers or ("." in number and not text.strip().endswith("%")):
        raise InputError(field, rule, text)
    return round(count)


def model_facts(checkpoint: Checkpoint) -> dict[str, Any]:
    """The dataset's columns that describe a model."""
    spec = checkpoint.spec
    return {
        "model": checkpoint.name,
        "checkpoint_format": checkpoint.format,
        "quantization": checkpoint.quantization,
        "params": checkpoint.params,
        "weight_bytes": checkpoint.weight_bytes,
        "layer_weight_bytes": checkpoint.layer_weight_bytes,
        "layers": spec.layers,
        "total_layers": spec.total_layers,
        "hidden_size": spec.hidden_size,
        "attn_heads": spec.attn_heads,
        "kv_bytes_per_token": float(spec.kv_bytes_per_token()),
        "vocab_size": spec.vocab_size,
        **family_facts(spec, expert_share=checkpoint.expert_share, tied_bytes=checkpoint.tied_bytes),
    }


def _identity(checkpoint: Checkpoint) -> dict[str, Any]:
    """What tells a model from others; of a plain one the same as before families were told apart."""
    facts = model_facts(checkpoint)
    return {name: value for name, value in facts.items() if value or name not in FAMILY_COLUMNS}


def _units(settings: SweepSettings, repeat: int) -> tuple[list[Unit], list[Unit]]:
    most = max(settings.batch)
    runs = [
        Unit("run", repeat, prompt_tokens=prompt, decode_tokens=decode, batch=batch, max_batch=most)
        for prompt in settings.prompt_tokens
        for decode in settings.decode_tokens
        for batch in settings.batch
    ]
    swaps = [
        Unit("swap", repeat, cut_tokens=cut, page_cache=state, max_batch=most)
        for cut in settings.cut_tokens or (0,)
        for state in settings.page_cache
    ]
    # Last in a group: llama.cpp restores KV only into a resident with the limit of the one it was saved in.
    narrow = [
        Unit("swap", repeat, page_cache=state, max_batch=1) for state in settings.page_cache if most > 1
    ]
    return list(dict.fromkeys(runs + swaps)), list(dict.fromkeys(narrow))


def check_names(checkpoints: Sequence[Checkpoint]) -> None:
    """Checks that models can be told apart by name.

    Raises:
        InputError: There is none, or twice the same.
    """
    names = [checkpoint.name for checkpoint in checkpoints]
    if not names or len(set(names)) < len(names):
        raise InputError("--model", "be given once or more, each with another name", names)


def _check(checkpoints: Sequence[Checkpoint], settings: SweepSettings) -> None:
    check_names(checkpoints)
    grids = {
        "--prompt": (settings.prompt_tokens, 1),
        "--decode": (settings.decode_tokens, 1),
        "--batch": (settings.batch, 1),
        "--repeats": ((settings.repeats,), 1),
        "--cuts": (settings.cut_tokens or (CUT_STEPS + 1,), CUT_STEPS + 1),
    }
    for field_name, (values, least) in grids.items():
        if not values or min(values) < least:
            raise InputError(field_name, f"be numbers of at least {least}", list(values))
    states = settings.page_cache
    if not states or not set(states) <= {"warm", "cold"}:
        raise InputError("--page-cache", "be warm, cold or both", list(states))


def check_levels(plan: SweepPlan, can: Capabilities) -> None:
    """Checks that an engine can hold models at the planned levels.

    Raises:
        InputError: It cannot split a model, and a level asks for that.
    """
    for group in (*plan.groups, *(group.other for group in plan.groups if group.other)):
        if not can.partial_offload and group.gpu_layers != group.checkpoint.spec.total_layers:
            rule = f"be all: {can.engine} on {can.device} cannot split a model"
            raise InputError("--gpu-layers", rule, group.gpu_layers)
