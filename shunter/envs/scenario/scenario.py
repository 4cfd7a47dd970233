"""Scenario files: which models share which devices, under which workload and limits.

A scenario binds to reality: models name checkpoints, devices name real devices, and everything is checked
before anything starts. Or it is for simulation only, with models and GPUs of the catalogue. Relative paths
are relative to the scenario file.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import Field, field_validator, model_validator

from shunter.catalog.devices import DeviceSpec, parse_device
from shunter.catalog.gpus import get_gpu
from shunter.engines.caller.entries import engine_entry
from shunter.envs.scenario.fields import Strict, checked, read_checked
from shunter.envs.scenario.library import find_scenario
from shunter.envs.scenario.limits import Limits
from shunter.envs.scenario.objective import Objective
from shunter.envs.scenario.workload import Workload
from shunter.errors import InputError
from shunter.models.datasheets import gpu_name
from shunter.models.published.rows import catalog_facts

__all__ = ["Device", "Scenario", "load_scenario"]

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
    """

    name: Annotated[str, Field(min_length=1)]
    checkpoint: Path | None = None
    catalog: str | None = None
    quantization: str | None = None
    levels: Annotated[list[Level], Field(min_length=1, default_factory=lambda: ["all"])]
    engine: str | None = None

    @field_validator("engine")
    @classmethod
    def _engine(cls, name: str | None) -> str | None:
        return None if name is None else _known_engine("models.engine", name)

    @model_validator(mode="after")
    def _catalogued(self) -> Self:
        if (self.catalog is None) != (self.quantization is None):
            raise ValueError("give catalog and quantization together: a size needs both")
        if self.catalog is not None:
            catalog_facts(self.catalog, str(self.quantization), field=f"models.{self.name}")
        return self

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


class Device(Strict):
    """A device to schedule on.

    Attributes:
        name: Name in tables and logs.
        device: The real one, like ``cuda:0-20GB`` or ``loopback:2-threads-600MB``; the size is its budget.
            Needed for real runs, and where no gpu is given.
        gpu: GPU of the catalogue that simulation takes it to be.
        reserve_gb: GB of the gpu's memory that no model gets: the driver's, the display's, what fragments.
    """

    name: Annotated[str, Field(min_length=1)]
    device: str | None = None
    gpu: str | None = None
    reserve_gb: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 1.0

    @field_validator("device")
    @classmethod
    def _known(cls, text: str | None) -> str | None:
        if text is not None:
            parse_device(text, field="devices.device")
        return text

    @field_validator("gpu")
    @classmethod
    def _catalogued(cls, text: str | None) -> str | None:
        return None if text is None else gpu_name(text) or get_gpu(text, field="devices.gpu").name

    @model_validator(mode="after")
    def _something(self) -> Self:
        if self.device is None and self.gpu is None:
            raise ValueError("give device (a real one), gpu (one of the catalogue), or both")
        return self

    @property
    def spec(self) -> DeviceSpec:
        """The real device as parsed.

        Raises:
            InputError: There is none.
        """
        if self.device is None:
            raise InputError(f"devices.{self.name}.device", "be given to run on real engines", self.device)
        return parse_device(self.device)

    @property
    def hardware_name(self) -> str:
        """What a performance model calls it."""
        return self.spec.hardware_name if self.gpu is None else self.gpu

    @property
    def text(self) -> str:
        """What the file says that it is."""
        return " as ".join(part for part in (self.device, self.gpu) if part)

    @property
    def memory_bytes(self) -> int:
        """The memory budget in bytes: what the device names, else the GPU's memory less the reserve.

        Raises:
            InputError: The device names none and there is no GPU, or nothing is left of it.
        """
        stated = None if self.device is None else self.spec.memory_bytes
        if stated is not None:
            return stated
        if self.gpu is None:
            rule = "name its memory budget, like cuda:0-20GB or cpu:1-threads-600MB"
            raise InputError(f"devices.{self.name}.device", rule, self.device)
        left = get_gpu(self.gpu).memory_bytes - round(self.reserve_gb * 1e9)
        if left <= 0:
            rule = f"leave something of {self.gpu}'s {get_gpu(self.gpu).memory_bytes / 1e9:.1f} GB"
            raise InputError(f"devices.{self.name}.reserve_gb", rule, self.reserve_gb)
        return left


class Scenario(Strict):
    """Models on devices under a workload; see the attributes of each part.

    Attributes:
        name: Name in tables and logs.
        description: What it is for, in a sentence or two.
        split: ``train`` if policies may be tuned and trained on it, ``test`` if it is kept for judging them.
        engine: Engine that runs the models, but for those that name another.
        models: Models that are asked for.
        devices: Devices that hold the models.
        workload: The requests.
        limits: Bounds of the protocol.
    """

    name: Annotated[str, Field(min_length=1)]
    description: str = ""
    split: Literal["train", "test"] | None = None
    engine: str
    models: Annotated[list[Model], Field(min_length=1)]
    devices: Annotated[list[Device], Field(min_length=1)]
    workload: Workload
    limits: Limits = Limits()
    objective: Objective = Objective()

    @field_validator("engine")
    @classmethod
    def _engine(cls, name: str) -> str:
        return _known_engine("engine", name)

    @model_validator(mode="after")
    def _distinct(self) -> Self:
        for kind, names in (
            ("models", [m.name for m in self.models]),
            ("devices", [d.name for d in self.devices]),
        ):
            if len(set(names)) < len(names):
                raise ValueError(f"{kind} must have distinct names")
        return self

    def engine_of(self, model: Model) -> str:
        """The engine that runs one of the models."""
        return model.engine or self.engine

    @property
    def engines(self) -> list[str]:
        """The engines in use, in the order of the models."""
        return list(dict.fromkeys(self.engine_of(model) for model in self.models))

    @classmethod
    def parse(cls, data: Any, *, source: str = "scenario") -> Scenario:
        """Checks plain data.

        Raises:
            InputError: Names the first field that breaks a rule, the rule and the value.
        """
        return checked(cls, data, source=source, whole="scenario")


def _known_engine(field: str, name: str) -> str:
    engine_entry(name, field=field)
    return name


def load_scenario(path: str | Path) -> Scenario:
    """Reads a scenario from a YAML file, or from the library by its name.

    Relative checkpoints and traces become relative to the file's folder.

    Args:
        path: A file; or a bare name, where there is no such file, of the library's scenarios.

    Raises:
        InputError: The file is missing, or a field breaks a rule.
        UnknownNameError: The library has no such scenario.
        BrokenFileError: It is no YAML mapping.
    """
    path = find_scenario(path)
    scenario = read_checked(Scenario, path, whole="scenario")
    models = [
        m.model_copy(update={"checkpoint": path.parent / m.checkpoint}) if m.checkpoint else m
        for m in scenario.models
    ]
    return scenario.model_copy(
        update={"models": models, "workload": scenario.workload.relative_to(path.parent)}
    )
