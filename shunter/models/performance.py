"""PerformanceModel: predicts time, memory and preemption cost of cells that were never measured."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from shunter.errors import InputError, UnknownNameError
from shunter.models.cells import complete, hardware_name, model_facts
from shunter.models.features import TARGETS, Target, feature_frame
from shunter.models.fitting import fit_state
from shunter.models.regressors import GroupFit
from shunter.models.state import FittedState, Resident, TargetErrors, read_state, write_state

__all__ = ["PerformanceModel", "PreemptionCost"]

PREDICTIONS = (
    "duration_s_predicted",
    "duration_s_low",
    "duration_s_high",
    "device_bytes_predicted",
    "host_bytes_predicted",
)
_GROUPED_BY = ("operation", "engine", "device", "page_cache")
_TIMED = {t.operation: t for t in TARGETS.values() if t.name.endswith("_s")}


@dataclass(frozen=True)
class PreemptionCost:
    """What it costs to take a model off its device in the middle of a request and to bring it back.

    Attributes:
        kv_save_s: Saving the request's KV; 0 where the engine cannot.
        unload_s: Freeing the model.
        load_s: Loading it again.
        kv_restore_s: Restoring the KV, or processing the tokens again where the engine cannot.
        low_s: Lower end of the total's interval; the ends of the parts are added, so it is no less than 90 %.
        high_s: Upper end.
        out_of_range: Whether a part was asked for beyond its data.
    """

    kv_save_s: float
    unload_s: float
    load_s: float
    kv_restore_s: float
    low_s: float
    high_s: float
    out_of_range: bool

    @property
    def total_s(self) -> float:
        """Seconds in all."""
        return self.kv_save_s + self.unload_s + self.load_s + self.kv_restore_s

    @property
    def reload_share(self) -> float:
        """Share of the total that is loading weights."""
        return self.load_s / self.total_s if self.total_s else 0.0


class PerformanceModel:
    """Linear models of physical features with learned corrections, one per target, engine and device.

    Example::

        model = PerformanceModel().fit(read_dataset("profile.parquet"))
        cells = model.cells("transformers", "cpu", "tiny", operation="decode", batch=[1, 2, 4])
        model.predict(cells)["duration_s_predicted"]

    Attributes:
        state_: All that was learned; set by ``fit`` and ``load``.
    """

    state_: FittedState

    def fit(self, frame: pd.DataFrame) -> PerformanceModel:
        """Fits all targets.

        Args:
            frame: A profile dataset (``shunter.profiling.schema``).

        Returns:
            self.

        Raises:
            InputError: The dataset has no rows, or a row breaks the schema.
        """
        return self._set(fit_state(frame))

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

    @property
    def residents(self) -> tuple[Resident, ...]:
        """Which model was profiled on which engine and device, at which levels and limits."""
        return self.state_.residents

    def cells(self, engine: str, device: str, model: str, **cell: Any) -> pd.DataFrame:
        """Builds cells to predict.

        Args:
            engine: As profiled.
            device: As profiled.
            model: As profiled.
            **cell: ``operation`` and any of the dataset's cell columns; scalars and arrays of one length are
                broadcast. Left out ones are as in ``complete``. Model facts may be given for another model.

        Returns:
            Shape (n_cells, ...).
        """
        arrays = np.broadcast_arrays(*(np.atleast_1d(np.asarray(value)) for value in cell.values()))
        n_cells = len(arrays[0]) if arrays else 1
        columns = {"engine": [engine] * n_cells, "device": [device] * n_cells, "model": [model] * n_cells}
        return self.complete(pd.DataFrame({**columns, **dict(zip(cell, arrays, strict=True))}))

    def complete(self, frame: pd.DataFrame) -> pd.DataFrame:
        """Fills in columns that cells lack: see ``shunter.models.cells.complete``."""
        return complete(frame, self.state_)

    def predict(self, frame: pd.DataFrame) -> pd.DataFrame:
        """Predicts cells, all at once.

        Args:
            frame: Cells in the dataset's columns; what ``complete`` can fill in may be left out.

        Returns:
            The frame with ``duration_s_predicted`` (decode: of one step), ``duration_s_low`` and
            ``duration_s_high`` (90 % interval), ``device_bytes_predicted`` and ``host_bytes_predicted`` (what
            the resident takes; load rows only, else NaN), and ``out_of_range``: a feature is outside what was
            seen for its target, engine and device, so that the interval is widened.

        Raises:
            InputError: An engine and device, or a page cache state, without data for that operation.
            UnknownNameError: An unknown operation.
        """
        cells = self.complete(frame).reset_index(drop=True)
        out = np.full((len(cells), len(PREDICTIONS)), np.nan)
        outside = np.zeros(len(cells), dtype=bool)
        groups: dict[Any, Any] = cells.groupby(list(_GROUPED_BY), sort=False).indices
        for (operation, engine, device, page_cache), where in groups.items():
            if operation not in _TIMED:
                raise UnknownNameError("operation", str(operation), _TIMED)
            rows = cells.iloc[where]
            fit = self._fit_of(_TIMED[operation], engine, device, page_cache)
            out[where, :3], outside[where] = _with_interval(fit, rows)
            if operation == "load":
                for column, name in ((3, "device_bytes"), (4, "host_bytes")):
                    target = TARGETS[name]
                    fit = self._fit_of(target, engine, device, page_cache)
                    out[where, column] = fit.physics.predict(feature_frame(target, rows), rows)
        columns = {name: out[:, i] for i, name in enumerate(PREDICTIONS)}
        return frame.assign(**columns, out_of_range=outside)

    def saves_kv(self, engine: str, device: str) -> bool:
        """Whether KV saves were measured there: an engine that cannot save drops KV and recomputes."""
        where = ("kv_save_s", engine, hardware_name(device))
        return any(key[:3] == where for key in self._fits)

    def preemption_cost_s(
        self, engine: str, device: str, model: str, cut_tokens: int, **cell: Any
    ) -> PreemptionCost:
        """Predicts the cost of one preemption: KV save, unload, load and KV restore.

        Args:
            engine: As profiled.
            device: As profiled.
            model: As profiled.
            cut_tokens: Tokens in the request's KV cache when it is cut.
            **cell: ``gpu_layers``, ``page_cache`` and other cell columns, scalars.
        """
        keeps = self.saves_kv(engine, device)
        operations = ["kv_save", "unload", "load", "kv_restore"] if keeps else ["unload", "load", "prefill"]
        asked = self.cells(engine, device, model, operation=operations, tokens=cut_tokens, **cell)
        done = self.predict(asked).set_index("operation")
        part_s = done["duration_s_predicted"]
        return PreemptionCost(
            kv_save_s=float(part_s["kv_save"]) if keeps else 0.0,
            unload_s=float(part_s["unload"]),
            load_s=float(part_s["load"]),
            kv_restore_s=float(part_s["kv_restore" if keeps else "prefill"]),
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
        asked = self.cells(
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

    def _set(self, state: FittedState) -> PerformanceModel:
        self.state_ = state
        self._fits = {fit.key: fit for fit in state.fits}
        return self

    def _fit_of(self, target: Target, engine: str, device: str, page_cache: str) -> GroupFit:
        key = (target.name, engine, device, page_cache if target.by_page_cache else "")
        if key not in self._fits:
            known = sorted(" ".join(k[1:]).strip() for k in self._fits if k[0] == target.name)
            rule = f"be profiled for {target.name}; known: {', '.join(known) or 'none'}"
            raise InputError("engine and device", rule, " ".join(key[1:]).strip())
        return self._fits[key]


def _with_interval(
    fit: GroupFit, rows: pd.DataFrame
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.bool_]]:
    features = feature_frame(TARGETS[fit.target], rows)
    predicted, outside = fit.physics.predict(features, rows), fit.doublings_outside(features)
    low, high = fit.log_errors(rows["model"].to_numpy(dtype=object))
    # Errors add up in the logarithm as one goes further from what was seen: one more width a doubling.
    ends = [predicted * np.exp(end * (1 + outside)) for end in (low, high)]
    return np.column_stack([predicted, *ends]), outside > 0
