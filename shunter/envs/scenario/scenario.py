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
from shunter.envs.scenario.fields import Name, Strict, checked, read_checked
from shunter.envs.scenario.library import find_scenario
from shunter.envs.scenario.limits import Limits
from shunter.envs.scenario.model import Model, check_models, known_engine
from shunter.envs.scenario.objective import Objective
from shunter.envs.scenario.workload import AssumedWorkload, Workload
from shunter.errors import InputError

__all__ = ["Device", "Scenario", "load_scenario"]


_SLEEPLESS = ("llama-cpp", "transformers")
"""Engines of ours that cannot sleep; whether a third party's can, a scenario does not know."""

_NO_GPUS = ("cpu", "loopback")


class Device(Strict):
    """A device to schedule on.

    Attributes:
        name: Name in tables and logs.
        device: The real one, like ``cuda:0-20GB`` or ``loopback:2-threads-600MB``; the size is its budget.
            Needed for real runs, and where no gpu is given.
        gpu: GPU of the catalogue that simulation takes it to be.
        reserve_gb: GB of the gpu's memory that no model gets: the driver's, the display's, what fragments.
        reserve_bytes: Bytes that no model gets, in place of reserve_gb, of a real device's budget too.
        run_contention: Where servers drain, how far models that run at once slow each other down: 0 not at
            all, 1 as where they share the device in time.
        load_contention: The same of a load and what runs meanwhile.
    """

    name: Name
    device: str | None = None
    gpu: str | None = None
    reserve_gb: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 1.0
    reserve_bytes: Annotated[int, Field(ge=0)] | None = None
    run_contention: Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)] = 1.0
    load_contention: Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)] = 0.0

    @field_validator("device")
    @classmethod
    def _known(cls, text: str | None) -> str | None:
        if text is not None:
            parse_device(text, field="devices.device")
        return text

    @field_validator("gpu")
    @classmethod
    def _catalogued(cls, text: str | None) -> str | None:
        return None if text is None else get_gpu(text, field="devices.gpu").name

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
        """The memory budget in bytes: what the device names, else the GPU's memory; less the reserve.

        What a device names is a budget already: of that only ``reserve_bytes`` is taken.

        Raises:
            InputError: The device names none and there is no GPU, or nothing is left of it.
        """
        whole = None if self.device is None else self.spec.memory_bytes
        reserve = self.reserve_bytes or 0
        if whole is None:
            if self.gpu is None:
                rule = "name its memory budget, like cuda:0-20GB or cpu:1-threads-600MB"
                raise InputError(f"devices.{self.name}.device", rule, self.device)
            whole = get_gpu(self.gpu).memory_bytes
            reserve = round(self.reserve_gb * 1e9) if self.reserve_bytes is None else self.reserve_bytes
        if reserve >= whole:
            rule = f"leave something of {self.gpu or self.device}'s {whole / 1e9:.1f} GB"
            unit, value = ("gb", self.reserve_gb) if self.reserve_bytes is None else ("bytes", reserve)
            raise InputError(f"devices.{self.name}.reserve_{unit}", rule, value)
        return whole - reserve


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

    name: Name
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
        return known_engine("engine", name)

    @model_validator(mode="after")
    def _distinct(self) -> Self:
        for kind, names in (
            ("models", [m.name for m in self.models]),
            ("devices", [d.name for d in self.devices]),
        ):
            if len(set(names)) < len(names):
                raise ValueError(f"have {kind} of distinct names")
        check_models(self.models, [d.name for d in self.devices])
        if self.workload.replay and any(model.lengths is not None for model in self.models):
            raise ValueError("leave out lengths of models: a replay has lengths of its own")
        self._check_sleep()
        return self

    def _check_sleep(self) -> None:
        """Refuses sleep where no engine can."""
        level = self.limits.sleep
        for model in self.models if level else ():
            if self.engine_of(model) in _SLEEPLESS:
                rule = f"be 0: {model.name} runs on {self.engine_of(model)}, which cannot sleep (vllm can)"
                raise InputError("limits.sleep", rule, level)
        for device in self.devices if level else ():
            if device.gpu is None and device.spec.kind in _NO_GPUS:
                rule = f"be 0: engines sleep on GPUs, and {device.name} is {device.device}"
                raise InputError("limits.sleep", rule, level)

    def model(self, name: str) -> Model:
        """The model of a name that is known to be one."""
        return next(model for model in self.models if model.name == name)

    def engine_of(self, model: Model) -> str:
        """The engine that runs one of the models."""
        return model.engine or self.engine

    def batch_of(self, model: Model) -> int:
        """Requests that a resident of one of the models decodes at once."""
        return model.max_batch or self.limits.max_batch

    def context_of(self, model: Model) -> int:
        """Prompt plus generated tokens of one request to one of the models, at most."""
        return model.context_tokens or self.limits.context_tokens

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


def load_scenario(path: str | Path, *, served: bool = False, field: str = "--scenario") -> Scenario:
    """Reads a scenario from a YAML file, or from the library by its name.

    Relative checkpoints and traces become relative to the file's folder.

    Args:
        path: A file; or a bare name, where there is no such file, of the library's scenarios.
        served: Whether it is for a gateway, and need not say what is asked for: an ``AssumedWorkload`` then.
        field: What it was given as.

    Raises:
        InputError: The file is missing, or a field breaks a rule.
        UnknownNameError: The library has no such scenario.
        BrokenFileError: It is no YAML mapping.
    """
    path = find_scenario(path, field=field)
    assumed = {"workload": AssumedWorkload()} if served else {}
    scenario = read_checked(Scenario, path, whole="scenario", assumed=assumed)
    models = [model.relative_to(path.parent) for model in scenario.models]
    return scenario.model_copy(
        update={"models": models, "workload": scenario.workload.relative_to(path.parent)}
    )
