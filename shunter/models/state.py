"""What a performance model knows, as plain checked data, and its file: JSON, never pickle."""

from __future__ import annotations

import json
import os
import warnings
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from shunter.catalog.work import FACT_COLUMNS
from shunter.errors import BrokenFileError, InputError, ShunterWarning, VersionError
from shunter.files import write_json
from shunter.models.fit.regressors import GroupFit
from shunter.models.fit.shared import CrossDeviceFit
from shunter.models.scales import Scale
from shunter.models.validation.held_out import Errors
from shunter.reading import read_json
from shunter.seals import sealed, unsealed

__all__ = ["CorrectionErrors", "FittedState", "ProfiledWork", "performance_file"]

FORMAT_VERSION = 3
_UNSEALED_VERSION = 2
"""The version before, which has no digest: it is read, with a note."""

_FILE_NAME = "performance.json"


class TargetErrors(BaseModel):
    """Errors of one target over all engines and devices.

    Attributes:
        held_out_cells: Configurations of known models that were left out; None with fewer than two
            configurations.
        held_out_models: Whole models that were left out; None with fewer than two models.
        noise: How much repeats of a configuration differ from its median (0.1 is 10 %).
        interval: The 90 % interval for held-out configurations, relative to the prediction (-0.1 is 10 %
            less).
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    held_out_cells: Errors | None
    held_out_models: Errors | None
    noise: float | None
    interval: tuple[float, float]


class ResidentMemory(BaseModel):
    """What was profiled of one model on one engine and device: its levels and load limits."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    engine: str
    device: str
    model: str
    gpu_layers: tuple[int, ...]
    max_batch: int
    max_context_tokens: int


class ProfiledWork(BaseModel):
    """A request alone as the profile measured it: done again, it says how fast the machine is now.

    Attributes:
        engine: Name in the engine registry.
        device: The hardware, named without its memory budget.
        model: Name of the profiled model.
        gpu_layers: Layers on the device.
        prompt_tokens: Of the request.
        steps: Decode steps after its first token.
        prefill_s: Median of the repeats.
        decode_s: Median of the repeats, of all steps together.
        half_width: Half width of the 90 % interval of one more measurement of both together, relative.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    engine: str
    device: str
    model: str
    gpu_layers: int
    prompt_tokens: Annotated[int, Field(ge=1)]
    steps: Annotated[int, Field(ge=1)]
    prefill_s: Annotated[float, Field(gt=0)]
    decode_s: Annotated[float, Field(gt=0)]
    half_width: Annotated[float, Field(ge=0)]


class CorrectionErrors(BaseModel):
    """What own rows of one GPU did to a target that others had measured.

    Attributes:
        target: Name in ``TARGETS``.
        engine: Engine of the rows.
        device: Name in the data sheets.
        rows: Own rows.
        before: Errors of what others measured on the own rows.
        after: Errors of the correction on own configurations held out; None with fewer than two.
        used: Whether predictions are corrected: not if that makes them worse.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    target: str
    engine: str
    device: str
    rows: int
    before: Errors
    after: Errors | None
    used: bool


class FittedState(BaseModel):
    """A performance model as data; what is written to disk.

    Attributes:
        format: What the file is.
        version: Version of the file's format.
        data_fingerprint: Hash of the rows that were fitted.
        fits: One for each target, engine and device without data sheet, for loads also page cache.
        shared: One for each target and engine, for all devices with data sheets.
        own: Instead of these for their devices alone: corrected by what was measured on one's own.
        corrected: What these corrections are worth.
        devices: Name in the data sheets of devices that are called otherwise (``cuda:0``).
        host_bandwidths: Host memory beside own GPUs, bytes/s, by name in the data sheets, where it is known.
        engine_versions: The most frequent version of each engine.
        models: Facts by model name: the dataset's model columns.
        residents: What was profiled.
        profiled: What was measured of the smallest pieces of work.
        cv: Errors by target.
        notes: What could not be fitted, or not told apart, in words.
        scales: What real runs said since, by which predictions are multiplied.
        recalibrated_on: Fingerprints of these runs.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    format: Literal["shunter-performance-model"] = "shunter-performance-model"
    version: int = FORMAT_VERSION
    data_fingerprint: str
    fits: tuple[GroupFit, ...]
    shared: tuple[CrossDeviceFit, ...] = ()
    own: tuple[CrossDeviceFit, ...] = ()
    corrected: tuple[CorrectionErrors, ...] = ()
    devices: dict[str, str] = {}
    host_bandwidths: dict[str, Annotated[float, Field(gt=0)]] = {}
    engine_versions: dict[str, str] = {}
    models: dict[str, dict[str, float | int | str]]
    residents: tuple[ResidentMemory, ...]
    profiled: tuple[ProfiledWork, ...] = ()
    cv: dict[str, TargetErrors]
    notes: tuple[str, ...]
    scales: tuple[Scale, ...] = ()
    recalibrated_on: tuple[str, ...] = ()

    @field_validator("models")
    @classmethod
    def _whole(cls, models: dict[str, dict[str, float | int | str]]) -> dict[str, Any]:
        for name, facts in models.items():
            lacking = [column for column in FACT_COLUMNS if column not in facts]
            if lacking:
                raise ValueError(f"{name} lacks {', '.join(lacking)}")
        return models


def write_state(state: FittedState, path: str | os.PathLike[str]) -> Path:
    """Writes a state, whole or not at all.

    Args:
        state: What to write.
        path: A folder, created if need be, or a file that ends in ``.json``.

    Returns:
        The file.
    """
    content = {**json.loads(state.model_dump_json()), "version": FORMAT_VERSION}
    return write_json(performance_file(path), sealed(content))


_WHERE = "be a folder or file that shunter fit wrote (--performance published needs none: public figures)"


def read_state(path: str | os.PathLike[str]) -> FittedState:
    """Reads a state.

    Raises:
        InputError: There is none.
        BrokenFileError: The file is truncated, no performance model, or was changed since it was written.
        VersionError: It has another format version.
    """
    path = performance_file(path)
    if not path.is_file():
        raise InputError("performance model", _WHERE, str(path))
    content, is_sealed = unsealed(path, read_json(path, strict=True))
    version = content.get("version")
    if content.get("format") != "shunter-performance-model":
        raise BrokenFileError(path, "it is no performance model")
    if version not in (_UNSEALED_VERSION, FORMAT_VERSION):
        raise VersionError(path, "the performance model", version, FORMAT_VERSION)
    if not is_sealed and version == FORMAT_VERSION:
        raise BrokenFileError(path, "its digest is missing")
    if not is_sealed:
        note = "an older shunter wrote it, without a digest: damage to its numbers would go unseen"
        warnings.warn(f"{path}: {note}", ShunterWarning, stacklevel=2)
    try:
        return FittedState.model_validate({**content, "version": FORMAT_VERSION})
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(str(part) for part in first["loc"])
        raise BrokenFileError(path, f"{place}: {first['msg']}") from error


def performance_file(path: str | os.PathLike[str]) -> Path:
    """The file of a performance model, which is named by it or by its folder."""
    path = Path(path)
    return path if path.suffix == ".json" else path / _FILE_NAME
