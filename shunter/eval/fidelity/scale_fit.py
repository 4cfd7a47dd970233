"""Fits scales to spans: how much longer each kind of part takes, where only sums of parts were measured.

A span should take the sum of its parts, each times its scale. Scales are products of a factor of the device
and one of the model there. Their logarithms are fitted to the logarithms of what was measured, as the most
probable ones under a normal prior around what is known already, outliers counting linearly only.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import least_squares

from shunter.models.fit.robust import pseudo_huber
from shunter.models.scales import Scale

Array = NDArray[np.float64]
Key = tuple[str, str, str, str, str]

PRIOR_ROWS = {"device": 4.0, "model": 8.0}
"""How many rows the fitted value counts as: n rows move a device's factor n / (n + 4) of the way. Engineering
judgement: rows of one run share its conditions, so a few of them say little."""

MOST_ROWS = 200.0
"""What earlier runs found counts as this many rows at most, so that a machine that changed is followed."""

OUTLIER = 0.3
"""Deviations beyond this, in the logarithm, count linearly: they happen when something else ran."""


@dataclass(frozen=True)
class Observation:
    """A measured span.

    Attributes:
        measured_s: How long it took, above 0.
        parts_s: What each part should have taken by the model as it is, by the key of the model's own scale.
    """

    measured_s: float
    parts_s: Mapping[Key, float]


def fit_scales(observations: Sequence[Observation], known: Mapping[Key, Scale]) -> dict[Key, Scale]:
    """Fits what has changed since the known scales, which the predictions contain.

    Args:
        observations: Spans, in any order.
        known: Scales so far.

    Returns:
        The known ones with those of the parts observed, by key: a device's and each model's.
    """
    of_models = sorted({key for o in observations for key in o.parts_s})
    if not of_models:
        return dict(known)
    keys = sorted({(*key[:4], "") for key in of_models}) + of_models
    position = {key: i for i, key in enumerate(keys)}
    members = np.zeros((len(of_models), len(keys)))
    for row, key in enumerate(of_models):
        members[row, position[(*key[:4], "")]] = members[row, position[key]] = 1.0
    parts_s = np.array([[o.parts_s.get(key, 0.0) for key in of_models] for o in observations])
    measured = np.log([o.measured_s for o in observations])
    prior_rows = np.array([_prior_rows(key, known.get(key)) for key in keys])
    log_scales, rows = _most_probable(parts_s, measured, members, prior_rows)
    changed = {
        key: _changed(key, known.get(key), float(log_scales[i]), float(rows[i])) for i, key in enumerate(keys)
    }
    return {**known, **changed}


def _most_probable(parts_s: Array, measured: Array, members: Array, prior_rows: Array) -> tuple[Array, Array]:
    """Logarithms of the factors, and the rows that each rests on; both (n_factors,)."""
    strength = np.sqrt(prior_rows)

    def spans(x: Array) -> tuple[Array, Array]:
        scaled = parts_s * np.exp(members @ x)
        total = scaled.sum(axis=1)
        return np.log(total) - measured, (scaled / total[:, None]) @ members

    def residuals(x: Array) -> Array:
        return np.concatenate([pseudo_huber(spans(x)[0], OUTLIER)[0], strength * x])

    def jacobian(x: Array) -> Array:
        off, shares = spans(x)
        return np.vstack([pseudo_huber(off, OUTLIER)[1][:, None] * shares, np.diag(strength)])

    found = least_squares(residuals, np.zeros(members.shape[1]), jac=jacobian, method="trf")
    return found.x, (spans(found.x)[1] ** 2).sum(axis=0)


def _prior_rows(key: Key, known: Scale | None) -> float:
    earlier = min(known.rows, MOST_ROWS) if known else 0.0
    return PRIOR_ROWS["model" if key[4] else "device"] + earlier


def _changed(key: Key, known: Scale | None, log_scale: float, rows: float) -> Scale:
    target, engine, device, page_cache, model = key
    return Scale.model_validate(
        {
            "target": target,
            "engine": engine,
            "device": device,
            "page_cache": page_cache,
            "model": model,
            "factor": (known.factor if known else 1.0) * float(np.exp(log_scale)),
            "rows": (known.rows if known else 0.0) + rows,
        }
    )
