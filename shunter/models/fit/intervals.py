"""90 % prediction intervals from held-out errors: conformal, by what was held out.

The score is abs(log(measured / predicted)) of predictions by fits that lack the row's fold: CV+ with its
folds' fits replaced by the final one. Folds hold out configurations, whole models, or whole devices, so that
an unseen model or device has the width that unseen ones had.

Scores are divided by what widens an interval out of range, and are taken apart by kind of configuration where
there are enough of them (Mondrian).

On a device by itself models are few, and a quantile of what was held out says little. There the interval for
a new model is that of a hierarchical model: errors of models have one spread, which is drawn from a scaled
inverse chi-squared distribution around what is thought beforehand (``physics.TargetPhysics.model_spread``);
the next one's error has a Student t distribution. Where fits are shared over GPUs it is a lower bound, and
only of two shapes, beforehand within a factor of 2: with the six of the published decodes it was wider than
the quantile, which covers enough; of the published prefills' three, leaving one out leaves two.

Source: Barber et al., Predictive Inference with the Jackknife+, 2021; Vovk et al., Algorithmic Learning in a
Random World, 2005, section 4.5 (Mondrian); Dunn et al., Distribution-Free Prediction Sets for Two-Layer
Hierarchical Models, 2022 (what is new as a whole is held out as a whole); Gelman et al., Bayesian Data
Analysis, 2013, sections 2.6 and 3.2 (conjugate variance, Student predictive).
"""

from __future__ import annotations

import math
from typing import Annotated

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict, Field

Array = npt.NDArray[np.float64]
HalfWidth = Annotated[float, Field(ge=0)]

COVERAGE = 0.9
UNKNOWN = math.log(2.0)
"""Half width where nothing was held out: a factor of 2 either way."""
FEW = 10
"""Models below which the hierarchical model is asked: the tenth is the first that a 90 % quantile
can leave out."""

_PRIOR_GROUPS = 4
"""Models that the prior counts as: enough for a finite variance of what they say."""


def conformal_quantile(scores: Array, share: float) -> float:
    """Smallest score that a new one exceeds with at most 1 - share, so the largest if there are few.

    Args:
        scores: Scores of held-out rows, in any order; shape (n_rows,).
        share: Share of new scores that should be no larger, 0 to 1.

    Source: split conformal prediction, rank ceil((n + 1) share); Vovk et al., Algorithmic Learning in a
    Random World, 2005.
    """
    rank = min(len(scores), math.ceil((len(scores) + 1) * share))
    return float(np.sort(scores)[rank - 1])


def half_width(errors: Array) -> float:
    """Half width that 90 % of new errors stay within, as a log ratio.

    Args:
        errors: Log ratios of held-out rows; shape (n_rows,).
    """
    return conformal_quantile(np.abs(errors), COVERAGE)


def group_half_width(errors: Array, groups: npt.NDArray[np.generic], prior: float) -> float:
    """Half width that 90 % of a new group's errors stay within, as a log ratio.

    Args:
        errors: Log ratios of rows that were held out with their group; shape (n_rows,), may be 0.
        groups: What was held out together; shape (n_rows,).
        prior: Root mean square error of a group beforehand.
    """
    from scipy.stats import t

    _, inverse, count = np.unique(groups, return_inverse=True, return_counts=True)
    squares = np.bincount(inverse, errors**2, minlength=len(count)) / count
    freedom = _PRIOR_GROUPS + len(squares)
    variance = (_PRIOR_GROUPS * prior**2 + squares.sum()) / freedom
    return float(t.ppf((1 + COVERAGE) / 2, freedom) * math.sqrt(variance))


class LogErrors(BaseModel):
    """Half widths of 90 % intervals as log ratios, by what is new about a configuration.

    Attributes:
        cell: Model and device were seen.
        model: The model was not; None with fewer than two models.
        device: The device was not; None with fewer than two devices.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    cell: HalfWidth
    model: HalfWidth | None
    device: HalfWidth | None

    def half_width(self, new_model: npt.NDArray[np.bool_], new_device: npt.NDArray[np.bool_]) -> Array:
        """Half widths; what is new in both ways has the wider, and none is narrower than a seen one.

        Args:
            new_model: Whether a configuration's model was not seen; shape (n_configurations,).
            new_device: Whether a configuration's device was not seen; shape (n_configurations,).
        """
        model = max(self.cell, UNKNOWN if self.model is None else self.model)
        device = max(self.cell, UNKNOWN if self.device is None else self.device)
        widest = np.where(new_model, model, self.cell)
        return np.asarray(np.maximum(widest, np.where(new_device, device, 0.0)), dtype=np.float64)
