"""From a profile dataset to everything that a performance model knows, as plain checked data."""

from __future__ import annotations

import json
import math
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from shunter.catalog.gpus import gpu_name
from shunter.catalog.work import CONFIGURATION_COLUMNS, FACT_COLUMNS, FAMILY_COLUMNS
from shunter.errors import InputError
from shunter.models.configurations import sheet_names
from shunter.models.fit.around import corrections, with_others
from shunter.models.fit.intervals import FEW, group_half_width
from shunter.models.fit.pooled import fit_engine
from shunter.models.fit.profiled import profiled_work
from shunter.models.fit.regressors import GroupFit, fit_physics, mean_over_median, select_features
from shunter.models.fit.shared import CrossDeviceFit
from shunter.models.physics import PHYSICS
from shunter.models.physics.features import (
    TARGETS,
    Target,
    feature_frame,
    shape_names,
    with_heads,
)
from shunter.models.plausible import check_plausible
from shunter.models.state import CorrectionErrors, FittedState, ResidentMemory, TargetErrors
from shunter.models.validation.held_out import (
    HeldOut,
    better,
    fold_labels,
    hold_out,
    joined,
    log_error_interval,
)
from shunter.profiling.dataset.fingerprint import rows_digest
from shunter.profiling.dataset.schema import validate
from shunter.profiling.dataset.throttled import throttled, throttled_words

Array = npt.NDArray[np.float64]

_NO_ERRORS_KNOWN = (-float(np.log(2)), float(np.log(2)))


def fit_state(
    frame: pd.DataFrame,
    *,
    correction: bool = True,
    keep_throttled: bool = False,
    around: FittedState | None = None,
) -> FittedState:
    """Fits every target that a dataset has rows of.

    Args:
        frame: A profile dataset.
        correction: Whether to learn corrections where held-out configurations show that they help.
        keep_throttled: Whether rows count that were measured while their GPU was held back.
        around: What others measured: where it knows a GPU of the dataset, the dataset corrects it.

    Raises:
        InputError: It has no rows, a row breaks the schema, one model name stands for two checkpoints, or all
            rows are throttled.
    """
    frame = with_heads(validate(frame, "dataset")).reset_index(drop=True)
    if frame.empty:
        raise InputError("dataset", "have rows", "none")
    fingerprint = rows_digest(frame["row_id"])
    frame, throttled_notes = _unthrottled(frame, keep_throttled)
    devices = _sheets_by_hardware(frame)
    frame = frame.assign(datasheet=sheet_names(frame["device"], devices))
    notes = check_plausible(frame)
    models = _models(frame)
    notes = [*throttled_notes, *notes, *_notes(frame), *_outlier_notes(frame)]
    known = {fit.key: fit for fit in around.shared} if around else {}
    fits: list[GroupFit] = []
    shared: list[CrossDeviceFit] = []
    own: list[CrossDeviceFit] = []
    judged: list[CorrectionErrors] = []
    cv: dict[str, TargetErrors] = {}
    for target in TARGETS.values():
        held_out: list[tuple[HeldOut | None, HeldOut | None]] = []
        for key, rows in _groups(frame, target):
            fit, errors = _fit_group(target, key, rows.reset_index(drop=True), notes, correction)
            fits.append(fit)
            held_out.append(errors)
        for engine, rows in _on_sheets(frame, target):
            if (target.name, engine) in known:
                for corrected, verdict in corrections(target, rows, known[target.name, engine], correction):
                    own += [corrected.fit] if verdict.used else []
                    judged.append(verdict)
                    held_out.append((corrected.by_configuration, corrected.by_model))
                continue
            whole = fit_engine(target, engine, rows, correction=correction)
            notes += _few_notes(target, engine, rows)
            shared.append(whole.fit)
            held_out.append((whole.by_configuration, whole.by_model))
        if held_out:
            cv[target.name] = _target_errors(held_out)
        elif not any(name == target.name for name, _ in known):
            notes.append(f"{target.name}: not fitted, the dataset has no {target.operation} rows")
    state = FittedState(
        data_fingerprint=fingerprint,
        fits=tuple(fits),
        shared=tuple(shared),
        own=tuple(own),
        corrected=tuple(judged),
        devices=devices,
        host_bandwidths=_host_bandwidths(frame),
        engine_versions={str(e): str(v.mode().iloc[0]) for e, v in frame.groupby("engine")["engine_version"]},
        models=models,
        residents=tuple(_residents(frame)),
        profiled=profiled_work(frame),
        cv=cv,
        notes=tuple(notes),
    )
    return with_others(state, around) if around else state


def _unthrottled(frame: pd.DataFrame, keep: bool) -> tuple[pd.DataFrame, list[str]]:
    """Rows to fit, and what to say of those that were measured while their GPU was held back."""
    words = throttled_words(frame)
    if not words:
        return frame, []
    if keep:
        return frame, [f"throttled: {words}, fitted all the same"]
    kept = frame[~throttled(frame)].reset_index(drop=True)
    if kept.empty:
        raise InputError("dataset", "have rows that are not throttled (or give --keep-throttled)", words)
    return kept, [f"throttled: {words}, left out (--keep-throttled fits them)"]


def _groups(frame: pd.DataFrame, target: Target) -> list[tuple[tuple[str, str, str], pd.DataFrame]]:
    rows = frame[(frame["operation"] == target.operation) & (frame["datasheet"] == "")]
    rows = rows[np.isfinite(target.measured(rows))]  # what was imported has no memory
    rows = rows if target.by_page_cache else rows.assign(page_cache="")
    groups = rows.groupby(["engine", "device", "page_cache"], sort=True)
    return [((str(e), str(d), str(p)), group) for (e, d, p), group in groups]


def _on_sheets(frame: pd.DataFrame, target: Target) -> list[tuple[str, pd.DataFrame]]:
    """Rows of devices with data sheets, by engine: those that hold a measurement of the target."""
    rows = frame[(frame["operation"] == target.operation) & (frame["datasheet"] != "")]
    rows = rows[target.measured(rows) > 0]
    return [
        (str(engine), group.reset_index(drop=True)) for engine, group in rows.groupby("engine", sort=True)
    ]


def _sheets_by_hardware(frame: pd.DataFrame) -> dict[str, str]:
    """Data sheets of ``cuda:N`` by what the dataset says of its machine; none if machines differ in it."""
    found: dict[str, set[str]] = {}
    cuda = frame.loc[frame["device_kind"] == "cuda", ["device", "hardware"]].drop_duplicates()
    for device, hardware in cuda.itertuples(index=False):
        gpus = _gpus(hardware)
        index = device.partition(":")[2]
        if index.isdigit() and int(index) < len(gpus):
            found.setdefault(device, set()).add(gpu_name(gpus[int(index)]) or "")
    return {device: names.pop() for device, names in found.items() if len(names) == 1 and "" not in names}


def _host_bandwidths(frame: pd.DataFrame) -> dict[str, float]:
    """What own rows say of the host beside a GPU, where all say one thing; published ones are of many."""
    own = frame[(frame["datasheet"] != "") & (frame["hardware_id"] != "published")]
    said = own.dropna(subset="host_bandwidth_bytes_per_s").groupby("datasheet")["host_bandwidth_bytes_per_s"]
    return {str(sheet): float(of.iloc[0]) for sheet, of in said if of.nunique() == 1}


def _gpus(hardware: str) -> list[str]:
    try:
        facts = json.loads(hardware or "{}")
    except ValueError:
        facts = None
    if not isinstance(facts, dict) or not isinstance(facts.get("gpus") or [], list):
        raise InputError("dataset: column hardware", "be a JSON object, its gpus a list", hardware[:80])
    return [str(gpu) for gpu in facts.get("gpus") or []]


def _fit_group(
    target: Target, key: tuple[str, str, str], rows: pd.DataFrame, notes: list[str], correction: bool
) -> tuple[GroupFit, tuple[HeldOut | None, HeldOut | None]]:
    features, measured = feature_frame(target, rows), target.measured(rows)
    smallest = target.smallest(rows)
    configurations = rows["cell_id"].to_numpy(dtype=object)
    shapes = shape_names(rows)
    n_configurations = len(set(configurations))
    _, left_out = select_features(features, n_configurations)
    where = f"{target.name} on {key[0]} {key[1]}" + (f" ({key[2]})" if key[2] else "")
    folds = fold_labels(configurations)
    by_configuration, corrected = better(
        lambda corrected: hold_out(features, measured, smallest, rows, folds, corrected=corrected), correction
    )
    by_model = hold_out(features, measured, smallest, rows, shapes)
    if by_configuration is None:
        notes.append(
            f"{where}: one configuration only, so its error is unknown; the interval is a factor of 2"
        )
    physics = fit_physics(features, measured, smallest, rows, corrected=corrected)
    left_out = [name for name in left_out if name not in physics.coefficients]
    if left_out:
        notes.append(
            f"{where}: {n_configurations} configurations cannot tell apart, and so leave out, "
            f"{', '.join(left_out)}"
        )
    fit = GroupFit(
        target=target.name,
        engine=key[0],
        device=key[1],
        page_cache=key[2],
        physics=physics,
        ranges={str(name): (float(features[name].min()), float(features[name].max())) for name in features},
        seen_log_errors=log_error_interval(by_configuration) if by_configuration else _NO_ERRORS_KNOWN,
        unseen_log_errors=_unseen_interval(target, shapes, by_configuration, by_model),
        models=tuple(sorted(set(rows["model"]))),
        rows=len(rows),
        cells=n_configurations,
        mean_over_median=mean_over_median(np.maximum(measured, smallest), configurations),
    )
    return fit, (by_configuration, by_model)


def _unseen_interval(
    target: Target, shapes: npt.NDArray[np.str_], by_configuration: HeldOut | None, by_model: HeldOut | None
) -> tuple[float, float] | None:
    """Log ratios of a model that was not seen; None where not even configurations could be held out."""
    if by_configuration is None:
        return None
    noise = float((by_configuration.log_errors() ** 2).mean())
    prior = math.sqrt(PHYSICS[target.name].model_spread ** 2 + noise)
    if by_model is not None and len(np.unique(shapes)) >= FEW:
        return log_error_interval(by_model)
    errors = by_model.log_errors() if by_model else np.empty(0)
    half = group_half_width(errors, shapes if by_model else errors, prior)
    return -half, half


def _target_errors(held_out: list[tuple[HeldOut | None, HeldOut | None]]) -> TargetErrors:
    by_configuration = joined(configuration for configuration, _ in held_out)
    by_model = joined(model for _, model in held_out)
    low, high = log_error_interval(by_configuration) if by_configuration else _NO_ERRORS_KNOWN
    return TargetErrors(
        held_out_cells=by_configuration.errors() if by_configuration else None,
        held_out_models=by_model.errors() if by_model else None,
        noise=by_configuration.noise() if by_configuration else None,
        interval=(float(np.expm1(low)), float(np.expm1(high))),
    )


def _models(frame: pd.DataFrame) -> dict[str, dict[str, float | int | str]]:
    columns = ["model", "checkpoint_format", "quantization", *FACT_COLUMNS]
    facts = frame[columns].drop_duplicates()
    twice = facts[facts["model"].duplicated(keep=False)]
    if len(twice):
        name = twice["model"].iloc[0]
        same = twice[twice["model"] == name].drop(columns="model")
        differ = [str(column) for column in same if same[column].nunique() > 1]
        rule = f"name one checkpoint in all rows, but {', '.join(differ)} differ: rename one of them"
        raise InputError("dataset: column model", rule, name)
    records: list[dict[str, Any]] = facts.drop(columns="model").to_dict("records")  # type: ignore[assignment]
    # Rows of an older schema do not say them, and may stand beside rows of this one.
    families = frame.groupby("model")[list(FAMILY_COLUMNS)].max().fillna(0.0)
    told = [families.loc[name].to_dict() for name in facts["model"]]
    return {
        str(name): {**record, **{str(k): v for k, v in family.items() if v}}
        for name, record, family in zip(facts["model"], records, told, strict=True)
    }


def _residents(frame: pd.DataFrame) -> list[ResidentMemory]:
    return [
        ResidentMemory(
            engine=str(engine),
            device=str(device),
            model=str(model),
            gpu_layers=tuple(sorted({int(level) for level in rows["gpu_layers"]})),
            max_batch=int(rows["max_batch"].max()),
            max_context_tokens=int(rows["max_context_tokens"].max()),
        )
        for (engine, device, model), rows in frame.groupby(["engine", "device", "model"], sort=True)
    ]


def _outlier_notes(frame: pd.DataFrame) -> list[str]:
    flagged = frame[frame["is_outlier"].astype(bool)]
    on_sheets = int((flagged["datasheet"] != "").sum())
    others = len(flagged) - on_sheets
    notes = [f"{on_sheets} rows flagged as outliers left out, but for intervals"] if on_sheets else []
    if others:
        notes.append(
            f"{others} rows flagged as outliers count only in their configurations' medians and in intervals"
        )
    return notes


def _few_notes(target: Target, engine: str, rows: pd.DataFrame) -> list[str]:
    counts = ((len(np.unique(shape_names(rows))), "model"), (rows["datasheet"].nunique(), "GPU"))
    few = [f"{n} {what}{'s' if n > 1 else ''}" for n, what in counts if n < FEW]
    if not few:
        return []
    return [
        f"{target.name} on {engine}: {' and '.join(few)} only, so errors and intervals for others rest on "
        f"few; rows of more of them would say more than further rows of these"
    ]


def _notes(frame: pd.DataFrame) -> list[str]:
    notes = []
    for (engine, device), rows in frame.groupby(["engine", "device"], sort=True):
        models = len(np.unique(shape_names(rows)))
        if (rows["datasheet"] != "").all():
            pass  # GPUs with data sheets are fitted as one: ``_few_notes``.
        elif models == 1:
            notes.append(
                f"{engine} {device}: one model only, so nothing shows how errors grow for another one: "
                f"intervals of others are what is thought beforehand"
            )
        elif models < FEW:
            notes.append(
                f"{engine} {device}: {models} models, so intervals of others rest in part on what is "
                f"thought beforehand"
            )
        for column, what in (("hardware_id", "machines"), ("engine_version", "engine versions")):
            if rows[column].nunique() > 1:
                notes.append(f"{engine} {device}: rows of {rows[column].nunique()} {what} are fitted as one")
        constant = [name for name in CONFIGURATION_COLUMNS if rows[name].nunique() == 1]
        if constant:
            notes.append(
                f"{engine} {device}: always the same, so its effect is unknown: {', '.join(constant)}"
            )
    return notes
