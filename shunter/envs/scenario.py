"""Scenario files: which models share which devices, under which workload and limits.

A scenario binds to reality: models name checkpoints, devices name real devices, and everything is checked
before anything starts. Relative paths are relative to the scenario file.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Any, Self

import yaml
from pydantic import Field, ValidationError, field_validator, model_validator

from shunter.catalog.devices import DeviceSpec, parse_device
from shunter.envs.fields import Strict
from shunter.envs.scenario_limits import Limits
from shunter.envs.workload_spec import Workload
from shunter.errors import BrokenFileError, InputError, UnknownNameError
from shunter.profiling.engines.registry import ENGINES

__all__ = ["Device", "Limits", "Model", "Scenario", "Workload", "load_scenario"]

Level = Annotated[int, Field(ge=0)] | Annotated[str, Field(pattern=r"^(all|\d{1,3}%)$")]


class Model(Strict):
    """A model to schedule.

    Attributes:
        name: In tables and logs, and in the performance model.
        checkpoint: GGUF file or Hugging Face folder; needed for real runs.
        levels: gpu_layers at which it may be resident: counts, shares like ``50%``, or ``all``.
    """

    name: Annotated[str, Field(min_length=1)]
    checkpoint: Path | None = None
    levels: Annotated[list[Level], Field(min_length=1, default_factory=lambda: ["all"])]

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
        name: In tables and logs.
        device: The real one, like ``cuda:0-20GB`` or ``loopback:2-threads-600MB``; the size is its budget.
    """

    name: Annotated[str, Field(min_length=1)]
    device: str

    @field_validator("device")
    @classmethod
    def _known(cls, text: str) -> str:
        parse_device(text, field="devices.device")
        return text

    @property
    def spec(self) -> DeviceSpec:
        """The device as parsed."""
        return parse_device(self.device)

    @property
    def memory_bytes(self) -> int:
        """Its budget.

        Raises:
            InputError: The device names none.
        """
        if self.spec.memory_bytes is None:
            rule = "name its memory budget, like cuda:0-20GB or cpu:1-threads-600MB"
            raise InputError(f"devices.{self.name}.device", rule, self.device)
        return self.spec.memory_bytes


class Scenario(Strict):
    """Models on devices under a workload; see the attributes of each part."""

    name: Annotated[str, Field(min_length=1)]
    engine: str
    models: Annotated[list[Model], Field(min_length=1)]
    devices: Annotated[list[Device], Field(min_length=1)]
    workload: Workload
    limits: Limits = Limits()

    @field_validator("engine")
    @classmethod
    def _engine(cls, name: str) -> str:
        if name not in ENGINES:
            raise UnknownNameError("engine", name, ENGINES)
        return name

    @model_validator(mode="after")
    def _distinct(self) -> Self:
        for kind, names in (
            ("models", [m.name for m in self.models]),
            ("devices", [d.name for d in self.devices]),
        ):
            if len(set(names)) < len(names):
                raise ValueError(f"{kind} must have distinct names")
        return self

    @classmethod
    def parse(cls, data: Any, *, source: str = "scenario") -> Scenario:
        """Checks plain data.

        Raises:
            InputError: Names the first field that breaks a rule, the rule and the value.
        """
        try:
            return cls.model_validate(data)
        except ValidationError as error:
            first = error.errors()[0]
            where = ".".join(str(part) for part in first["loc"]) or "scenario"
            rule = re.sub(r"^(Value error, |\w+ should )", "", first["msg"])
            raise InputError(f"{source}: {where}", rule, first["input"]) from None


def load_scenario(path: str | Path) -> Scenario:
    """Reads a scenario from a YAML file; relative checkpoints become relative to the file's folder.

    Raises:
        InputError: The file is missing, or a field breaks a rule.
        BrokenFileError: It is no YAML mapping.
    """
    path = Path(path)
    if not path.is_file():
        raise InputError("--scenario", "be an existing YAML file", str(path))
    try:
        data = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise BrokenFileError(path, f"no YAML: {error}") from None
    if not isinstance(data, dict):
        raise BrokenFileError(path, "it holds no mapping of fields")
    scenario = Scenario.parse(data, source=str(path))
    models = [
        m.model_copy(update={"checkpoint": path.parent / m.checkpoint}) if m.checkpoint else m
        for m in scenario.models
    ]
    return scenario.model_copy(
        update={"models": models, "workload": scenario.workload.relative_to(path.parent)}
    )
