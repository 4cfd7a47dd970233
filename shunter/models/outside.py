"""Why a prediction is out of range: which of its features or terms are beyond what was measured."""

from __future__ import annotations

import pandas as pd

from shunter.models.fit.regressors import GroupFit, words_outside
from shunter.models.fit.shared import named_terms
from shunter.models.performance import TIMED, PerformanceModel
from shunter.models.physics import rated_configurations
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
            missing = [""] * len(rows)
        else:
            rated = rated_configurations(rows)
            values = named_terms(fit.physics.terms, fit.physics.values(rated))
            missing = fit.unknown(rows, rated)
        reasons = words_outside(fit.ranges, values)
        for position, reason, fact in zip(where, reasons, missing, strict=True):
            unmeasured = reason and not fit.rows
            said = f"no {operation} was measured: data sheets alone" if unmeasured else reason
            found[position] = "; ".join(filter(None, (fact, said)))
    return found
