"""Configurations to predict: rows in the dataset's columns, with what is left out filled in, and checked."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import pandas as pd

from shunter.catalog.devices import parse_device
from shunter.catalog.gpus import gpu_name
from shunter.catalog.model_names import quantization_in
from shunter.catalog.models import check_modelled
from shunter.catalog.work import (
    CONFIGURATION_COLUMNS,
    EXPERT_LAYERS_ON_HOST,
    FACT_COLUMNS,
    FAMILY_COLUMNS,
)
from shunter.errors import InputError, UnknownNameError
from shunter.models.datasheets import HOST
from shunter.models.physics import EXTRA_COLUMNS
from shunter.models.physics.features import with_heads
from shunter.models.published.rows import catalog_facts, check_stored, facts_of, model_name, spec_of
from shunter.models.state import FittedState
from shunter.profiling.dataset.schema import LEAST_BYTES_PER_S
from shunter.profiling.sweep.plan import parse_level

__all__ = ["sheet_names"]

PAGE_CACHES = ("warm", "cold")

_NEEDED = ("engine", "device", "model", "operation")
_MOST = 1e18


def complete(frame: pd.DataFrame, state: FittedState) -> pd.DataFrame:
    """Fills in columns that are missing, and adds ``datasheet``: the device's name there, empty without one.

    A device may be named with its memory budget, or as a GPU of the catalogue. Model facts come
    from the profiled model of that name, or from the catalogue (``Llama-3-8B Q4_K_M``);
    gpu_layers is all; page_cache is warm; batch is 1; tokens is prompt_tokens; context_tokens is the mean
    over decode_tokens steps after the prompt; max_batch and max_context_tokens are those of the profile.

    Args:
        frame: Configurations with at least engine, device, model and operation; shape (n_configurations,
            any).
        state: What was profiled.

    Returns:
        A new frame with every column that a prediction needs.

    Raises:
        InputError: A needed column or a name is missing, or a number is missing, negative or too large; or a
            model of the catalogue comes without its quantisation.
        UnknownNameError: Facts are missing and the model was not profiled.
    """
    missing = [name for name in _NEEDED if name not in frame]
    if missing:
        raise InputError("configurations", f"have the columns {', '.join(missing)}", list(map(str, frame)))
    frame = _named(frame)
    frame = _with_levels(_with_facts(frame.assign(device=_by_name(frame["device"], hardware_name)), state))
    prompt, decode = (_tokens(frame, name) for name in ("prompt_tokens", "decode_tokens"))
    defaults: dict[str, Any] = {
        "gpu_layers": frame["total_layers"],
        "page_cache": "warm",
        "batch": 1,
        "tokens": prompt,
        "context_tokens": prompt + (decode + 1) / 2,
        **_limits(frame, state),
    }
    frame = frame.assign(**{name: value for name, value in defaults.items() if name not in frame})
    if "engine_version" not in frame:
        frame = frame.assign(engine_version=frame["engine"].map(state.engine_versions).fillna(""))
    frame = _checked(frame)
    steps = frame["operation"].isin(("prefill", "decode"))
    check_rows(frame["batch"], ~steps | (frame["batch"] >= 1), "be at least 1 where tokens are computed")
    sheets = sheet_names(frame["device"], state.devices)
    if state.host_bandwidths:
        said = frame.get("host_bandwidth_bytes_per_s", pd.Series(np.nan, index=frame.index))
        known = pd.to_numeric(sheets.map(state.host_bandwidths))
        frame = frame.assign(host_bandwidth_bytes_per_s=said.fillna(known))
    return frame.assign(offload_ratio=1 - frame["gpu_layers"] / frame["total_layers"], datasheet=sheets)


def sheet_names(devices: pd.Series[Any], known: Mapping[str, str]) -> pd.Series[Any]:
    """Names in the data sheets; empty where there is none.

    Args:
        devices: Names of devices as configurations have them; shape (n_configurations,).
        known: Names in the data sheets of devices that are called otherwise, by device.
    """
    return _by_name(devices, lambda name: _sheet_name(name, known))


def _by_name(names: pd.Series[Any], found: Callable[[str], str]) -> pd.Series[Any]:
    """Looks each distinct name up once, since tables of configurations repeat few of them often."""
    codes, distinct = pd.factorize(names, use_na_sentinel=False)
    return pd.Series(np.array([found(str(n)) for n in distinct], dtype=object)[codes], index=names.index)


def _sheet_name(device: str, known: Mapping[str, str]) -> str:
    return known.get(device) or (HOST if device == HOST else gpu_name(device) or "")


def hardware_name(device: str) -> str:
    """A device's name without its memory budget, as datasets have it; unknown forms stay as they are."""
    try:
        return parse_device(device).hardware_name
    except InputError:
        return device


def model_facts(state: FittedState, model: str) -> dict[str, Any]:
    """Facts of a profiled model, or of one of the catalogue with its quantisation (``Llama-3-8B Q4_K_M``).

    Raises:
        InputError: It is one of the catalogue, without, or of a family whose sizes are not known.
        UnknownNameError: It is neither.
    """
    facts = state.models.get(model) or facts_of(model)
    if facts is None and spec_of(model) is not None:
        if said := quantization_in(model):
            return catalog_facts(model, said)  # says that it is unknown
        rule = f"be named with its quantisation, as in {model_name(model)} Q4_K_M"
        raise InputError("model", rule, model)
    if facts is None:
        check_modelled(model, "model")
        raise UnknownNameError("model", model, state.models)
    return facts


def _named(frame: pd.DataFrame) -> pd.DataFrame:
    """Names as text: a table of configurations may hold a model called 7, but none without a name."""
    for name in _NEEDED:
        check_rows(frame[name], frame[name].notna(), "be a name")
    others = [name for name in _NEEDED if not pd.api.types.is_string_dtype(frame[name])]
    texts = {name: frame[name].map(str).astype("str") for name in others}  # of no rows too
    return frame.assign(**texts)


def _with_facts(frame: pd.DataFrame, state: FittedState) -> pd.DataFrame:
    lacking = [name for name in FACT_COLUMNS if name not in frame]
    if lacking == ["attn_heads"]:  # perhaps of models that nobody knows
        known = {name: facts["attn_heads"] for name, facts in state.models.items()}
        frame = frame.assign(attn_heads=frame["model"].map(known))
    elif lacking:
        frame = frame.assign(model=_one_name(frame, state))
        found = {str(name): model_facts(state, name) for name in frame["model"].unique()}
        columns = {c: frame["model"].map({name: row[c] for name, row in found.items()}) for c in lacking}
        frame = frame.assign(**columns)
    return with_heads(_with_families(frame, state))


def _with_levels(frame: pd.DataFrame) -> pd.DataFrame:
    """Levels as counts where they are written as in scenarios: ``all``, or a percentage of all layers."""
    if "gpu_layers" not in frame or pd.api.types.is_numeric_dtype(frame["gpu_layers"]):
        return frame
    levels = zip(frame.index, frame["gpu_layers"], frame["total_layers"], strict=True)
    counts = [
        parse_level(level, int(total), field=f"configurations: row {row}, column gpu_layers")
        if isinstance(level, str) and (level.strip() == "all" or level.strip().endswith("%"))
        else level
        for row, level, total in levels
    ]
    return frame.assign(gpu_layers=pd.Series(counts, frame.index, dtype=object))


def _with_families(frame: pd.DataFrame, state: FittedState) -> pd.DataFrame:
    """What is not said of windows and experts is what the profile or the catalogue says, or none."""
    if not set(FAMILY_COLUMNS) & set(frame):
        found = {
            str(name): {**(facts_of(str(name)) or {}), **state.models.get(str(name), {})}
            for name in frame["model"].unique()
        }
        told = {c: {name: row.get(c, 0.0) for name, row in found.items()} for c in FAMILY_COLUMNS}
        if any(value for row in told.values() for value in row.values()):
            frame = frame.assign(**{c: frame["model"].map(row) for c, row in told.items()})
    given = [name for name in (*FAMILY_COLUMNS, EXPERT_LAYERS_ON_HOST) if name in frame]
    return frame.assign(**{name: frame[name].fillna(0.0) for name in given}) if given else frame


def _one_name(frame: pd.DataFrame, state: FittedState) -> pd.Series[Any]:
    """Each model under the name that it was fitted as, however the catalogue lets it be spelled."""

    def name_of(text: str) -> str:
        name, _, said = text.partition("\n")
        check_stored(name, said, field="configurations")
        if name in state.models or spec_of(name) is None:
            return name
        found = catalog_facts(name, said, field="configurations") if said else facts_of(name)
        return name if found is None else str(found["model"])

    said = frame["quantization"].fillna("") if "quantization" in frame else ""
    return _by_name(frame["model"] + "\n" + said, name_of)


def _limits(frame: pd.DataFrame, state: FittedState) -> dict[str, list[int]]:
    if {"max_batch", "max_context_tokens"} <= set(frame):
        return {}
    known = {(r.engine, r.device, r.model): (r.max_batch, r.max_context_tokens) for r in state.residents}
    most = (max(batch for batch, _ in known.values()), max(context for _, context in known.values()))
    keys = zip(frame["engine"], frame["device"], frame["model"], strict=True)
    pairs = [known.get(key, most) for key in keys]
    return {"max_batch": [pair[0] for pair in pairs], "max_context_tokens": [pair[1] for pair in pairs]}


def _tokens(frame: pd.DataFrame, name: str) -> pd.Series[Any]:
    """A column that others are filled in from, as numbers; 0 where there is none."""
    if name not in frame:
        return pd.Series(0, index=frame.index)
    values = pd.to_numeric(frame[name], errors="coerce")
    check_rows(frame[name], values.between(0, _MOST), f"be a number of at least 0 and at most {_MOST:g}")
    return values


def _checked(frame: pd.DataFrame) -> pd.DataFrame:
    """The frame with its numbers as numbers: text that says one is taken as it."""
    least = {
        "gpu_count": 1,
        "host_bandwidth_bytes_per_s": LEAST_BYTES_PER_S,
        **dict.fromkeys(FACT_COLUMNS, 1),
    }
    numbers = {}
    optional = (*EXTRA_COLUMNS, *FAMILY_COLUMNS, EXPERT_LAYERS_ON_HOST)
    for name in (*FACT_COLUMNS, *CONFIGURATION_COLUMNS, *optional):
        if name in frame:
            values = pd.to_numeric(frame[name], errors="coerce")
            rule = f"be a number of at least {least.get(name, 0)} and at most {_MOST:g}"
            good = (values >= least.get(name, 0)) & (values <= _MOST)
            # What a dataset may leave open, physics has a value for.
            check_rows(frame[name], good | frame[name].isna() if name in EXTRA_COLUMNS else good, rule)
            numbers[name] = values
    _check_layers({**frame, **numbers})
    known = frame["page_cache"].isin(PAGE_CACHES)
    check_rows(frame["page_cache"], known, f"be one of {', '.join(PAGE_CACHES)}")
    return frame.assign(**numbers)


def _check_layers(columns: Mapping[str, Any]) -> None:
    """No more layers on the device than there are: 99, which llama.cpp takes for all, is told the number."""
    over = (columns["gpu_layers"] > columns["total_layers"]).to_numpy()
    if over.any():
        i = int(over.argmax())
        total, model = columns["total_layers"].iloc[i], columns["model"].iloc[i]
        rule = (
            f"be at most {total:.0f}: {model} has {total - 1:.0f} layers and its output layer; blank is all"
        )
        check_rows(columns["gpu_layers"], pd.Series(~over, columns["gpu_layers"].index), rule)


def check_rows(values: pd.Series[Any], good: pd.Series[bool], rule: str) -> None:
    """Checks a column of configurations.

    Raises:
        InputError: A value is not good; names its row, the column, the rule and the value.
    """
    if not good.all():
        position = int((~good).to_numpy().argmax())
        row = values.index[position]  # of the table that they came from, though others were asked apart
        raise InputError(f"configurations: row {row}, column {values.name}", rule, values.iloc[position])
