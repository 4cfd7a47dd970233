"""Own rows that correct what others measured of the same GPU, and what that is worth on rows held out."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pandas as pd

from shunter.models.fit.pooled import Pooled, fit_engine
from shunter.models.fit.shared import CrossDeviceFit
from shunter.models.physics.features import Target
from shunter.models.state import CorrectionErrors, FittedState
from shunter.models.validation.held_out import Errors, HeldOut


def corrections(
    target: Target, rows: pd.DataFrame, others: CrossDeviceFit, correction: bool
) -> Iterator[tuple[Pooled, CorrectionErrors]]:
    """Fits the rows of each GPU around what others measured.

    Args:
        target: One of ``TARGETS``.
        rows: Own rows of the target on one engine, with ``datasheet``; measured values are positive.
        others: Their fit of the target on the engine.
        correction: Whether corrections by model may be learned too.

    Yields:
        GPU by GPU: the fit, and the errors of both. It is used where its error on held-out configurations is
        smaller, or where there is one configuration only, so that none can be held out.
    """
    for device, group in rows.groupby("datasheet", sort=True):
        part = group.reset_index(drop=True)
        fitted = fit_engine(target, others.engine, part, correction=correction, around=others)
        before = _errors(target, part, others)
        after = fitted.by_configuration.errors() if fitted.by_configuration else None
        yield (
            fitted,
            CorrectionErrors(
                target=target.name,
                engine=others.engine,
                device=str(device),
                rows=len(part),
                before=before,
                after=after,
                used=after is None or after.mape < before.mape,
            ),
        )


def _errors(target: Target, rows: pd.DataFrame, others: CrossDeviceFit) -> Errors:
    """Errors of what others measured on rows that they had not seen."""
    configurations, models = (rows[name].to_numpy(dtype=object) for name in ("cell_id", "model"))
    measured, predicted = target.measured(rows), others.predict(rows)[0]
    wider = np.ones(len(rows))
    return HeldOut(measured, predicted, target.smallest(rows), configurations, models, wider).errors()


def with_others(state: FittedState, others: FittedState) -> FittedState:
    """A state of own rows with all that others measured beside it; what both have is one's own.

    Args:
        state: Fitted to own rows, around ``others``.
        others: What they knew.
    """
    mine, fitted = {fit.key for fit in state.shared}, {fit.key for fit in state.fits}
    names = {(r.engine, r.device, r.model) for r in state.residents}
    untouched = [r for r in others.residents if (r.engine, r.device, r.model) not in names]
    update = {
        "shared": (*state.shared, *(fit for fit in others.shared if fit.key not in mine)),
        "fits": (*state.fits, *(fit for fit in others.fits if fit.key not in fitted)),
        "devices": {**others.devices, **state.devices},
        "host_bandwidths": {**others.host_bandwidths, **state.host_bandwidths},
        "engine_versions": {**others.engine_versions, **state.engine_versions},
        "models": {**others.models, **state.models},
        "residents": (*state.residents, *untouched),
        "cv": {**others.cv, **state.cv},
        "scales": others.scales,
        "recalibrated_on": others.recalibrated_on,
        "notes": (*state.notes, "what was not measured here is as others measured it"),
    }
    return state.model_copy(update=update)
