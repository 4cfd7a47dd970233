"""Why a prediction is out of range: which of its features or terms are beyond what was measured."""

from __future__ import annotations

import pandas as pd

from shunter.models.fit.regressors import GroupFit, words_outside
from shunter.models.fit.shared import term_values
from shunter.models.performance import TIMED, PerformanceModel
from shunter.models.physics import PHYSICS, rated_configurations
from shunter.models.physics.features import TARGETS, feature_frame


def why_out_of_range(model: PerformanceModel, frame: pd.DataFrame) -> list[str]:
    """Says of each configuration what of its time is beyond what was measured; empty for what is not.

    Args:
        model: Any fitted model.
        frame: Configurations as ``PerformanceModel.predict`` takes them; shape (n_configurations, any).

    Raises:
        InputError: As ``PerformanceModel.predict``.
    """
    configurations = model.complete(frame).reset_index(drop=True)
    found = [""] * len(configurations)
    for operation, where_s, where in model.groups(configurations):
        target, rows = TIMED[operation], configurations.iloc[where]
        fit = model.fit_of(target, where_s, rows)
        if isinstance(fit, GroupFit):
            features = feature_frame(TARGETS[fit.target], rows)
            values = {name: features[name].to_numpy() for name in fit.ranges}
        else:
            terms = term_values(fit.target, rated_configurations(rows))
            names = [term.name for term in PHYSICS[fit.target].terms]
            values = dict(zip(names, terms.T, strict=True))
        reasons = words_outside(fit.ranges, values)
        for position, reason in zip(where, reasons, strict=True):
            unmeasured = reason and not fit.rows
            found[position] = f"no {operation} was measured: data sheets alone" if unmeasured else reason
    return found
