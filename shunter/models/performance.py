"""PerformanceModel: predicts time, memory and preemption cost of configurations that were never measured."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from shunter.catalog.gpus import similar_gpus
from shunter.errors import InputError, UnknownNameError
from shunter.models.configurations import complete, hardware_name, model_facts, sheet_names
from shunter.models.fit.fitting import fit_state
from shunter.models.fit.regressors import GroupFit
from shunter.models.fit.shared import CrossDeviceFit
from shunter.models.physics.features import TARGETS, Target
from shunter.models.preemption_cost import PreemptionCost
from shunter.models.scales import Scale, scale_factors
from shunter.models.state import (
    FittedState,
    ProfiledWork,
    ResidentMemory,
    TargetErrors,
    read_state,
    write_state,
)
from shunter.profiling.dataset.fingerprint import digest

__all__ = ["PerformanceModel"]

Array = npt.NDArray[Any]

PREDICTIONS = (
    "duration_s_predicted",
    "duration_s_low",
    "duration_s_high",
    "device_bytes_predicted",
    "device_bytes_low",
    "device_bytes_high",
    "host_bytes_predicted",
    "host_bytes_low",
    "host_bytes_high",
)
TIMED = {t.operation: t for t in TARGETS.values() if t.name.endswith("_s")}


class PerformanceModel:
    """Physics with learned corrections: time, memory and preemption cost of what was never measured.

    Devices with data sheets (GPUs of the catalogue, by name) are fitted together, so that one that was never
    measured is predicted from its data sheet; others, such as ``cpu:1-threads``, each by themselves.

    Example::

        model = PerformanceModel().fit(read_dataset("profile.parquet"))
        asked = model.configurations("transformers", "cpu", "tiny", operation="decode", batch=[1, 2, 4])
        model.predict(asked)["duration_s_predicted"]

    Args:
        correction: Whether to learn corrections on top of physics.
        keep_throttled: Whether rows count that were measured while their GPU was held back.

    Attributes:
        state_: All that was learned; set by ``fit`` and ``load``.
    """

    state_: FittedState

    def __init__(self, *, correction: bool = True, keep_throttled: bool = False) -> None:
        self.correction = correction
        self.keep_throttled = keep_throttled

    def fit(self, frame: pd.DataFrame, around: PerformanceModel | None = None) -> PerformanceModel:
        """Fits all targets.

        Args:
            frame: A profile dataset (``shunter.profiling.dataset.schema``).
            around: What others measured: rows of a GPU that it knows correct it, a few suffice, and what the
                dataset lacks is as it says.

        Returns:
            self.

        Raises:
            InputError: The dataset has no rows, or a row breaks the schema.
        """
        state = fit_state(
            frame,
            correction=self.correction,
            keep_throttled=self.keep_throttled,
            around=around.state_ if around else None,
        )
        return self._set(state)

    @property
    def digest(self) -> str:
        """Names what was learned: two models that predict alike in all have the same."""
        return digest(self.state_.model_dump(mode="json", exclude={"profiled"}))

    @property
    def cv(self) -> dict[str, TargetErrors]:
        """Cross-validated errors by target."""
        return self.state_.cv

    @property
    def notes(self) -> tuple[str, ...]:
        """What could not be fitted or told apart."""
        return self.state_.notes

    @property
    def models(self) -> pd.DataFrame:
        """Facts of the profiled models, by name."""
        return pd.DataFrame.from_dict(self.state_.models, orient="index").rename_axis("model")

    def parameters(self) -> pd.DataFrame:
        """What was calibrated, a row a parameter; ``device`` is empty for all with data sheets.

        Returns:
            Columns target, engine, device, page_cache, parameter and value.
        """
        rows = [
            (fit.target, fit.engine, fit.device, fit.page_cache, name, value)
            for fit in self.state_.fits
            for name, value in fit.physics.coefficients.items()
        ]
        for shared in self.state_.shared:
            physics = shared.physics
            rows += [(shared.target, shared.engine, "", "", n, v) for n, v in physics.factors.items()]
            rows += [
                (shared.target, shared.engine, device, "", "device_factor", float(np.exp(u)))
                for device, u in physics.deviations.items()
            ]
        rows += [
            (s.target, s.engine, s.device, s.page_cache, f"scale {s.model}".strip(), s.factor)
            for s in self.state_.scales
        ]
        return pd.DataFrame(rows, columns=["target", "engine", "device", "page_cache", "parameter", "value"])

    @property
    def profiled(self) -> tuple[ProfiledWork, ...]:
        """What the profile measured of small pieces of work; none once real runs have moved predictions."""
        return () if self.state_.scales else self.state_.profiled

    @property
    def residents(self) -> tuple[ResidentMemory, ...]:
        """Which model was profiled on which engine and device, at which levels and limits."""
        return self.state_.residents

    def configurations(self, engine: str, device: str, model: str, **configuration: Any) -> pd.DataFrame:
        """Builds configurations to predict.

        Args:
            engine: Name of the engine, as profiled.
            device: Name of the device, as profiled.
            model: Name of the model, as profiled.
            **configuration: ``operation`` and any of the dataset's configuration columns; scalars and arrays
                of one length are broadcast. Left out ones are as in ``complete``. Model facts may be given
                for another model.

        Returns:
            Shape (n_configurations, ...).
        """
        arrays = np.broadcast_arrays(*(np.atleast_1d(np.asarray(value)) for value in configuration.values()))
        n = len(arrays[0]) if arrays else 1
        columns = {"engine": [engine] * n, "device": [device] * n, "model": [model] * n}
        return self.complete(pd.DataFrame({**columns, **dict(zip(configuration, arrays, strict=True))}))

    def complete(self, frame: pd.DataFrame) -> pd.DataFrame:
        """Fills in columns that configurations lack: see ``shunter.models.configurations.complete``."""
        return complete(frame, self.state_)

    def predict(self, frame: pd.DataFrame) -> pd.DataFrame:
        """Predicts configurations, all at once.

        Args:
            frame: Configurations in the dataset's columns; what ``complete`` can fill in may be left out.

        Returns:
            The frame with ``duration_s_predicted`` (decode: of one step; half of all take less),
            ``duration_s_low`` and ``duration_s_high`` (90 % interval), ``duration_s_mean``, which sums of
            many are made of, the predicted, low and high of ``device_bytes`` and ``host_bytes`` (what the
            resident takes; load rows only, else NaN), and ``out_of_range``: a feature is outside what was
            seen for its target, so that the interval is widened.

        Raises:
            InputError: An engine without data for that operation; or a device without data and data
                sheet, or a page cache state without data on such a device; or one of those with several GPUs.
            UnknownNameError: An unknown operation.
        """
        configurations = self.complete(frame).reset_index(drop=True)
        out = np.full((len(configurations), len(PREDICTIONS)), np.nan)
        mean_s = np.empty(len(configurations))
        outside = np.zeros(len(configurations), dtype=bool)
        for operation, where_s, where in self.groups(configurations):
            rows = configurations.iloc[where]
            out[where, :3], outside[where] = self._predicted(TIMED[operation], where_s, rows)
            mean_s[where] = out[where, 0] * self.fit_of(TIMED[operation], where_s, rows).mean_over_median
            if operation == "load":
                for column, name in ((3, "device_bytes"), (6, "host_bytes")):
                    if self._knows(TARGETS[name], where_s, rows):
                        out[where, column : column + 3], _ = self._predicted(TARGETS[name], where_s, rows)
        columns = {name: out[:, i] for i, name in enumerate(PREDICTIONS)}
        return frame.assign(**columns, duration_s_mean=mean_s, out_of_range=outside)

    def groups(self, configurations: pd.DataFrame) -> Iterator[tuple[str, tuple[str, str, str], Array]]:
        """Configurations that one fit predicts.

        Args:
            configurations: As from ``complete``, with an index that counts from 0.

        Yields:
            Operation; engine, device and page cache, the last two empty where fits do not depend on them;
            positions of the rows.

        Raises:
            UnknownNameError: An unknown operation.
        """
        # Devices with data sheets share one fit, so that they need no groups of their own, unless corrected.
        sheets = configurations["datasheet"]
        local = (sheets == "") | sheets.isin({sheet for *_, sheet in self._own})
        keys = [
            configurations["operation"],
            configurations["engine"],
            *(configurations[n].where(local, "") for n in ("device", "page_cache")),
        ]
        groups: dict[Any, Any] = configurations.groupby(keys, sort=False).indices
        for (operation, *where_s), where in groups.items():
            if operation not in TIMED:
                raise UnknownNameError("operation", str(operation), TIMED)
            yield str(operation), (where_s[0], where_s[1], where_s[2]), where

    def saves_kv(self, engine: str, device: str) -> bool:
        """Whether KV saves were measured there: an engine that cannot save drops KV and recomputes."""
        where = ("kv_save_s", engine, hardware_name(device))
        shared = self._shared.get(where[:2])
        sheet = sheet_names(pd.Series([where[2]]), self.state_.devices)[0]
        of_sheet = shared is not None and sheet != "" and (not shared.devices or sheet in shared.devices)
        return any(key[:3] == where for key in self._fits) or of_sheet

    def preemption_parts(self, engine: str, device: str) -> tuple[str, ...]:
        """The operations of a preemption there: where KV cannot be saved, the tokens are processed again."""
        keeps = self.saves_kv(engine, device)
        return ("kv_save", "unload", "load", "kv_restore") if keeps else ("unload", "load", "prefill")

    def preemption_cost_s(
        self, engine: str, device: str, model: str, cut_tokens: int, **configuration: Any
    ) -> PreemptionCost:
        """Predicts the cost of one preemption: KV save, unload, load and KV restore.

        Args:
            engine: Name of the engine, as profiled.
            device: Name of the device, as profiled.
            model: Name of the model, as profiled.
            cut_tokens: Tokens in the request's KV cache when it is cut.
            **configuration: ``gpu_layers``, ``page_cache`` and other configuration columns, scalars.
        """
        parts = self.preemption_parts(engine, device)
        asked = self.configurations(
            engine, device, model, operation=parts, tokens=cut_tokens, **configuration
        )
        done = self.predict(asked).set_index("operation")
        part_s = done["duration_s_predicted"]
        return PreemptionCost(
            kv_save_s=float(part_s.get("kv_save", 0.0)),
            unload_s=float(part_s["unload"]),
            load_s=float(part_s["load"]),
            kv_restore_s=float(part_s[parts[-1]]),
            low_s=float(done["duration_s_low"].sum()),
            high_s=float(done["duration_s_high"].sum()),
            out_of_range=bool(done["out_of_range"].any()),
        )

    def offload_sensitivity(
        self, engine: str, device: str, model: str, *, context_tokens: float = 128
    ) -> float:
        """How much slower a decode step is at the most offloaded profiled level than with all layers there.

        Returns:
            The ratio of the predicted steps of one sequence, minus 1; 0 where no other level was profiled.
        """
        levels = [
            level
            for r in self.residents
            if (r.engine, r.device, r.model) == (engine, hardware_name(device), model)
            for level in r.gpu_layers
        ]
        total_layers = int(model_facts(self.state_, model)["total_layers"])
        fewest = min([*levels, total_layers])
        asked = self.configurations(
            engine,
            device,
            model,
            operation="decode",
            gpu_layers=[fewest, total_layers],
            context_tokens=context_tokens,
        )
        offloaded_s, whole_s = self.predict(asked)["duration_s_predicted"]
        return float(offloaded_s / whole_s - 1)

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Writes the model as JSON, whole or not at all.

        Args:
            path: A folder, created if need be, or a file that ends in ``.json``.

        Returns:
            The file.
        """
        return write_state(self.state_, path)

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> PerformanceModel:
        """Reads a saved model.

        Raises:
            InputError: There is none.
            BrokenFileError: The file is truncated or no performance model.
            VersionError: It has another format version.
        """
        return cls()._set(read_state(path))

    def with_scales(self, scales: Iterable[Scale], recalibrated_on: Iterable[str]) -> PerformanceModel:
        """The same model with other scales.

        Args:
            scales: Instead of its own.
            recalibrated_on: Fingerprints of the runs that they rest on.
        """
        changed = {"scales": tuple(scales), "recalibrated_on": tuple(recalibrated_on)}
        return PerformanceModel(correction=self.correction)._set(self.state_.model_copy(update=changed))

    def _set(self, state: FittedState) -> PerformanceModel:
        self.state_ = state
        self._fits = {fit.key: fit for fit in state.fits}
        self._shared = {fit.key: fit for fit in state.shared}
        self._own = {(*fit.key, sheet): fit for fit in state.own for sheet in fit.devices}
        return self

    def _predicted(
        self, target: Target, where: tuple[str, str, str], rows: pd.DataFrame
    ) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.bool_]]:
        """Values with both ends of their intervals, (n_configurations, 3), and what is out of range."""
        fitted, outside = self._fitted(target, where, rows)
        return fitted * scale_factors(self.state_.scales, target.name, where[0], rows)[:, None], outside

    def _fitted(
        self, target: Target, where: tuple[str, str, str], rows: pd.DataFrame
    ) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.bool_]]:
        fit = self.fit_of(target, where, rows)
        if isinstance(fit, GroupFit):
            return fit.predict(rows)
        predicted, half, outside = fit.predict(rows)
        return np.column_stack([predicted, predicted * np.exp(-half), predicted * np.exp(half)]), outside

    def fit_of(
        self, target: Target, where: tuple[str, str, str], rows: pd.DataFrame
    ) -> GroupFit | CrossDeviceFit:
        """The fit that predicts a group of configurations.

        Args:
            target: One of ``TARGETS``.
            where: Engine, device and page cache, as ``groups`` has them.
            rows: Complete configurations of the group.

        Raises:
            InputError: Nothing was measured there, and no data sheet helps.
        """
        engine, device, page_cache = where
        key = (target.name, engine, device, page_cache if target.by_page_cache else "")
        shared = self._shared.get((target.name, engine))
        if key in self._fits:
            return self._fits[key]
        own = self._own.get((target.name, engine, rows["datasheet"].iloc[0]))
        if own is not None:
            return own
        if shared is not None and rows["datasheet"].iloc[0]:
            return shared
        known = [" ".join(k[1:]).strip() for k in self._fits if k[0] == target.name]
        known += [f"{e} on any GPU of the catalogue" for name, e in self._shared if name == target.name]
        rule = f"be profiled for {target.name}; known: {', '.join(sorted(known)) or 'none'}"
        if shared is not None and (alike := similar_gpus(str(rows["device"].iloc[0]))):
            rule += f"; GPUs of such a name: {', '.join(alike)}"
        asked = (engine, device or str(rows["device"].iloc[0]), key[3])
        others = sorted({k[2] for k in self._fits if k[1] == engine and _same_but_threads(k[2], asked[1])})
        if others:
            rule += f"; with another number of threads it is another device: {', '.join(others)} was profiled"
        raise InputError("engine and device", rule, " ".join(asked).strip())

    def _knows(self, target: Target, where: tuple[str, str, str], rows: pd.DataFrame) -> bool:
        has_sheet = bool(rows["datasheet"].iloc[0])
        return (target.name, *where) in self._fits or not has_sheet or (target.name, where[0]) in self._shared


def _same_but_threads(one: str, other: str) -> bool:
    """Whether two devices, as datasets name them, differ in nothing but their number of threads."""
    plain = [re.sub(r"\d+-threads", "", name) for name in (one, other)]
    return plain[0] == plain[1] and "-threads" in one
