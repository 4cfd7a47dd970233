"""Scales: how much longer than fitted something takes, as found in real runs; applied to every prediction."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Annotated, Literal

import numpy as np
import numpy.typing as npt
import pandas as pd
from pydantic import BaseModel, ConfigDict, Field

__all__ = ["Scale"]

Positive = Annotated[float, Field(gt=0)]


class Scale(BaseModel):
    """One factor. A prediction is multiplied by all that match it: its device's and its model's there.

    Attributes:
        target: What it multiplies: a time, never memory.
        engine: Name of the engine whose predictions it multiplies.
        device: Name of the device that they are for, without memory budget.
        page_cache: ``warm`` or ``cold`` loads that it is for; empty: all loads, and other targets.
        model: Name of the only model that it is for, on top of its device's; empty: every model there.
        factor: Measured over fitted.
        rows: Rows that it rests on, each by the share that this target has in it.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    target: Literal["decode_step_s", "prefill_s", "load_s", "unload_s", "kv_save_s", "kv_restore_s"]
    engine: str
    device: str
    page_cache: Literal["", "warm", "cold"] = ""
    model: str = ""
    factor: Positive
    rows: Annotated[float, Field(ge=0)]

    @property
    def key(self) -> tuple[str, str, str, str, str]:
        """Target, engine, device, page cache and model that the factor is for."""
        return self.target, self.engine, self.device, self.page_cache, self.model


def scale_factors(
    scales: Iterable[Scale], target: str, engine: str, configurations: pd.DataFrame
) -> npt.NDArray[np.float64]:
    """What predictions are multiplied by, shape (n_configurations,).

    Args:
        scales: Any factors; those of other targets and engines are passed over.
        target: What is predicted.
        engine: Name of the engine of all configurations.
        configurations: Configurations with device, model and page_cache; shape (n_configurations, any).
    """
    factors = np.ones(len(configurations))
    mine = [scale for scale in scales if (scale.target, scale.engine) == (target, engine)]
    if not mine:
        return factors
    # Categories: each name is compared once, however many configurations repeat it.
    asked = [n for n in ("device", "page_cache", "model") if any(getattr(scale, n) for scale in mine)]
    columns = {name: pd.Categorical(configurations[name]) for name in asked}
    for scale in mine:
        where = np.ones(len(configurations), dtype=bool)
        for name, column in columns.items():
            wanted = getattr(scale, name)
            if wanted:
                where &= np.asarray(column == wanted)
        factors[where] *= scale.factor
    return factors
