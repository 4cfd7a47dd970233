"""The models section of a scenario file."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import Field, field_validator, model_validator

from shunter.engines.caller.entries import engine_entry
from shunter.envs.scenario.fields import Count, Name, Positive, Strict
from shunter.envs.scenario.workload import Lengths, lengths_relative_to
from shunter.errors import InputError, UnknownNameError
from shunter.models.published.rows import catalog_facts

__all__ = ["Model"]

KV_BYTES = {"f16": 2.0, "q8_0": 34 / 32, "q4_0": 18 / 32}
"""Bytes of one key or value by the type that llama.cpp keeps it in: a block of 32 and its scale."""

Level = Annotated[int, Field(ge=0)] | Annotated[str, Field(pattern=r"^(all|\d{1,3}%)$")]


class Model(Strict):
    """A model to schedule.

    Attributes:
        name: Name in tables and logs, and in the performance model.
        checkpoint: GGUF file or Hugging Face folder; needed for real runs.
        catalog: Model of the catalogue, where there is no checkpoint; several models may share one.
        quantization: Quantisation of the catalogue's model: ``F16``, ``Q8_0``, ``Q4_K_M``...
        levels: gpu_layers at which it may be resident: counts, shares like ``50%``, or ``all``.
        engine: Engine that runs the model; None: the scenario's.
        context_tokens: Prompt plus generated tokens of one request; None: as ``limits`` says.
        max_batch: Requests that a resident decodes at once; None: as ``limits`` says.
        kv_type: What keys and values are kept in; None: f16, or what its engine takes by itself.
        lengths: Lengths of its requests, as ``workload.lengths``; None: the workload's.
        weight: Its share of the requests, relative to the other models', in place of ``popularity_zipf``:
            all models have one, or none. With drift, shares go by rank: who rises gets the largest.
        pinned: Loaded first and never evicted; a device's name says where, true: where there is room.
        preload: Resident when an episode begins, where there is room beside the pinned ones; as ``pinned``.
        ttl_s: Evicted once it lay idle on a device for so long; None: only to make room.
        replicas_max: On how many devices at once it, or KV of its requests, may be; None: on all.
        priority: The guard counts waits for it 1 + priority times, so that they are bounded by
            guard_s / (1 + priority).
        aliases: Other names by which clients, and traces, ask for it.
        args: Further arguments of its server.
        devices: Not supported yet: a group of devices that hold the model together.
    """

    name: Name
    checkpoint: Path | None = None
    catalog: str | None = None
    quantization: str | None = None
    levels: Annotated[list[Level], Field(min_length=1, default_factory=lambda: ["all"])]
    engine: str | None = None
    context_tokens: Annotated[int, Field(ge=2)] | None = None
    max_batch: Annotated[int, Field(ge=1, le=64)] | None = None
    kv_type: Literal["f16", "q8_0", "q4_0"] | None = None
    lengths: Lengths | None = None
    weight: Positive | None = None
    pinned: bool | Name = False
    preload: bool | Name = False
    ttl_s: Annotated[float, Field(gt=0, le=1e9)] | None = None
    replicas_max: Count | None = None
    priority: Annotated[int, Field(ge=0, le=1000)] = 0
    aliases: Annotated[list[Name], Field(default_factory=list)]
    args: Annotated[list[str], Field(default_factory=list)]
    devices: list[str] | None = None

    @field_validator("devices")
    @classmethod
    def _no_group(cls, devices: list[str] | None) -> None:
        if devices is not None:
            raise ValueError("be left out: a model on a group of devices is not supported yet")

    @field_validator("engine")
    @classmethod
    def _engine(cls, name: str | None) -> str | None:
        return None if name is None else known_engine("models.engine", name)

    @model_validator(mode="after")
    def _catalogued(self) -> Self:
        if (self.catalog is None) != (self.quantization is None):
            raise ValueError("give catalog and quantization together: a size needs both")
        if self.catalog is not None:
            catalog_facts(self.catalog, str(self.quantization), field=f"models.{self.name}")
        return self

    @model_validator(mode="after")
    def _stays_or_goes(self) -> Self:
        if self.pinned and self.ttl_s is not None:
            raise ValueError("give pinned or ttl_s: what is pinned is never evicted")
        if self.pinned and self.preload:
            raise ValueError("give pinned or preload: what is pinned is there from the start")
        return self

    @property
    def kv_share(self) -> float:
        """What a token of KV takes, relative to f16."""
        return KV_BYTES[self.kv_type or "f16"] / KV_BYTES["f16"]

    def expert_layers_on_host(self, layers: int) -> int:
        """Of how many layers, from the first on, ``args`` keep the experts on the host.

        Args:
            layers: Those of the model.

        Raises:
            InputError: An argument that says so has no count after it.
        """
        if not {"--cpu-moe", "-cmoe"}.isdisjoint(self.args):
            return layers
        for argument, following in pairwise([*self.args, ""]):
            if argument in ("--n-cpu-moe", "-ncmoe"):
                if not following.isdecimal():
                    rule = f"have a count of layers after {argument}"
                    raise InputError(f"models.{self.name}.args", rule, following)
                return min(int(following), layers)
        return 0

    def relative_to(self, folder: Path) -> Model:
        """The same model with its files looked for from a folder."""
        changes: dict[str, object] = {}
        if self.checkpoint is not None:
            changes["checkpoint"] = folder / self.checkpoint
        if self.lengths is not None:
            changes["lengths"] = lengths_relative_to(self.lengths, folder)
        return self.model_copy(update=changes) if changes else self

    def gpu_layers(self, total_layers: int) -> list[int]:
        """The levels as gpu_layers, most on the device first, without repeats.

        Raises:
            InputError: A level has more layers than the model.
        """
        counts = set()
        for level in self.levels:
            if isinstance(level, int):
                count = level
            elif level == "all":
                count = total_layers
            else:
                count = round(int(level[:-1]) / 100 * total_layers)
            if count > total_layers:
                raise InputError(f"models.{self.name}.levels", f"be at most {total_layers} layers", level)
            counts.add(count)
        return sorted(counts, reverse=True)


def known_engine(field: str, name: str) -> str:
    """The name of an engine, if it is one.

    Raises:
        UnknownNameError: It is none.
    """
    engine_entry(name, field=field)
    return name


def check_models(models: Sequence[Model], devices: Sequence[str]) -> None:
    """Checks what a scenario's models say of each other and of its devices.

    Args:
        models: The scenario's models.
        devices: Names of its devices.

    Raises:
        ValueError: Two models answer to one name, or some have a weight and others none.
        UnknownNameError: One is pinned to, or preloaded on, a device that there is none of.
    """
    known = {model.name for model in models}
    for model in models:
        for alias in model.aliases:
            if alias in known:
                raise ValueError(
                    f"have in models.{model.name}.aliases names of no other model, each once: {alias}"
                )
            known.add(alias)
        for field in ("pinned", "preload"):
            where = getattr(model, field)
            if isinstance(where, str) and where not in devices:
                raise UnknownNameError(f"models.{model.name}.{field}", where, devices)
    lacking = [model.name for model in models if model.weight is None]
    if 0 < len(lacking) < len(models):
        raise ValueError(f"give a weight to all models or to none: {', '.join(lacking)} have none")
