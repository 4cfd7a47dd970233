"""What a hierarchical fit knows of its own parameters, and how wide that makes a prediction.

The variance of a prediction's logarithm is that of its calibrated parameters (by their covariance), of what
was never seen of it (its device, its generation, its release, and always whoever measured it: each has the
spread of those that were seen), of a host whose memory is not known, and of noise; all to first order.

Source: Gelman et al., Bayesian Data Analysis, 2013, sections 4.1 (normal approximation) and 5.4
(hierarchical normal model).
"""

from __future__ import annotations

from functools import cached_property
from typing import Annotated, Any, Self

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

Array = npt.NDArray[np.float64]
Spread = Annotated[float, Field(ge=0)]

HOST_SPREAD = 0.7
"""Of the logarithm of a bandwidth that is not known, around two channels of DDR4: 90 % of hosts are within a
factor of 3.2, from one channel to eight."""

NORMAL = 1.645
"""Half width of a 90 % interval over its standard deviation."""


class Uncertainty(BaseModel):
    """Covariance of parameters and spreads of effects, all of logarithms.

    Attributes:
        names: Parameters: ``factor:launch``, ``year:``, ``device:RTX 3090``, ``generation:Ada``, ``own:Ada``.
        covariance: Their covariance's lower triangle, row by row.
        spreads: Standard deviations of effects of what was not seen, by effect, all of ``SPREADS``.
        noise: Standard deviations of measurements by kind of configuration; "" is for any other.
        widening: By kind, how many times as wide intervals were found to have to be; "" is for any other.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    names: tuple[str, ...]
    covariance: tuple[float, ...]
    spreads: dict[str, Spread]
    noise: dict[str, Spread]
    widening: dict[str, Spread]

    @field_validator("spreads", mode="before")
    @classmethod
    def _all(cls, spreads: Any) -> Any:
        """Files of before have fewer."""
        return {**_SINCE, **spreads} if isinstance(spreads, dict) else spreads

    @model_validator(mode="after")
    def _whole(self) -> Self:
        """A file from elsewhere may lack what predictions look up."""
        n = len(self.names)
        if len(self.covariance) != n * (n + 1) // 2 or set(self.spreads) != set(SPREADS):
            raise ValueError("its uncertainty is not whole")
        if "" not in self.noise or "" not in self.widening:
            raise ValueError("its uncertainty says no noise")
        return self

    @cached_property
    def matrix(self) -> Array:
        """The covariance; shape (n_parameters, n_parameters)."""
        n = len(self.names)
        full = np.zeros((n, n))
        full[np.tril_indices(n)] = self.covariance
        return full + np.tril(full, -1).T

    def half_width(self, slopes: Array, kind: npt.NDArray[np.object_], unseen: Array) -> Array:
        """Half widths of 90 % intervals, as log ratios; shape (n_configurations,).

        Args:
            slopes: Derivatives of predictions' logarithms by ``names``; (n_configurations, n_parameters).
            kind: Kinds of configurations; (n_configurations,).
            unseen: Variances of what was not seen; (n_configurations,).
        """
        noise, wider = (_by_kind(table, kind) for table in (self.noise, self.widening))
        known = ((slopes @ self.matrix) * slopes).sum(axis=1)
        return np.asarray(NORMAL * wider * np.sqrt(known + unseen + noise**2), dtype=np.float64)


def _by_kind(table: dict[str, float], kind: npt.NDArray[np.object_]) -> Array:
    found = np.full(len(kind), table[""])
    for name in set(table) - {""}:
        found[kind == name] = table[name]
    return found


SPREADS = ("device", "generation", "own", "release", "source", "library", "kernels", "host")
_SINCE = {"kernels": 0.0, "host": 0.2}
"""What was assumed of the effects that older files do not name."""
