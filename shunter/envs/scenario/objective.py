"""The objective section of a scenario file: what a schedule is judged by, and so what rewards are made of."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Literal, Self

import numpy as np
from pydantic import Field, model_validator

from shunter.envs.scenario.fields import Positive, Strict
from shunter.envs.state.records import FAR_NS
from shunter.envs.state.tables import MEAN_RESPONSE, PRICED, SLO, SLOWDOWN, Tables
from shunter.errors import UnknownNameError

__all__ = ["Objective", "Slo"]

_KINDS = {
    "mean-response": MEAN_RESPONSE,
    "slowdown": SLOWDOWN,
    "slo": SLO,
    "money": PRICED,
    "energy": PRICED,
}
_NONNEGATIVE = Annotated[float, Field(ge=0, allow_inf_nan=False)]


class Slo(Strict):
    """What is promised to every request; at least one of the two.

    Attributes:
        ttft_s: Longest time to the first token.
        tpot_s: Longest time per further token, on a request's average.
    """

    ttft_s: Positive | None = None
    tpot_s: Positive | None = None

    @model_validator(mode="after")
    def _something(self) -> Self:
        if self.ttft_s is None and self.tpot_s is None:
            raise ValueError("give ttft_s, tpot_s or both")
        return self


class Rate(Strict):
    """What a device takes while it loads or runs, and while it does not.

    Attributes:
        busy: Dollars per hour, or watts, while it loads or runs.
        idle: Dollars per hour, or watts, while it does neither.
    """

    busy: _NONNEGATIVE
    idle: _NONNEGATIVE = 0.0


class Tail(Strict):
    """How much the longest responses count, besides the mean.

    Attributes:
        quantile: What is above this quantile of an episode's responses counts by its own mean.
        weight: Weight of the mean above the quantile; the rest is the weight of the mean over all.
    """

    quantile: Annotated[float, Field(ge=0.5, lt=1)] = 0.99
    weight: Annotated[float, Field(gt=0, le=1)]


class Objective(Strict):
    """What is to be made small; the reward is minus what of it a step accrued.

    Attributes:
        metric: ``mean-response`` (requests in the system times seconds), ``slowdown`` (each response over
            that of the request alone on the best device, loaded and idle), ``slo`` (requests that miss the
            SLO, unfinished ones included), ``money`` (dollars) or ``energy`` (joules).
        slo: Needed for ``slo``; with any metric, attainment and goodput are reported.
        usd_per_hour: For ``money``: what each device costs in dollars per hour, by name; devices not named
            cost nothing.
        watts: For ``energy``: what each device draws in watts, by name; devices not named draw nothing.
        waiting_price: For ``money`` and ``energy``: dollars or joules per second of each request in the
            system. Without it the cheapest schedule would serve nobody.
        tail: With ``mean-response``: what a search makes small is partly the mean of the longest responses.
            Rewards know only sums over requests, so no algorithm that learns from them takes it.
        fairness: With ``mean-response``: ``models`` counts every model the same in a search, however rarely
            it is asked for. Rewards cannot, so no algorithm that learns from them takes it.
    """

    metric: Literal["mean-response", "slowdown", "slo", "money", "energy"] = "mean-response"
    slo: Slo | None = None
    usd_per_hour: dict[str, Rate] = Field(default_factory=dict)
    watts: dict[str, Rate] = Field(default_factory=dict)
    waiting_price: Positive | None = None
    tail: Tail | None = None
    fairness: Literal["requests", "models"] = "requests"

    @model_validator(mode="after")
    def _complete(self) -> Self:
        if self.metric == "slo" and self.slo is None:
            raise ValueError("have an slo with ttft_s, tpot_s or both for the metric slo")
        priced = self.metric in ("money", "energy")
        if priced and not self.rates:
            field = "usd_per_hour" if self.metric == "money" else "watts"
            raise ValueError(f"have {field} of at least one device for the metric {self.metric}")
        if priced != (self.waiting_price is not None):
            raise ValueError("give waiting_price for the metrics money and energy, and only for these")
        if self.metric != "mean-response" and (self.tail or self.fairness != "requests"):
            raise ValueError(
                f"have neither tail nor fairness for the metric {self.metric}: mean-response has"
            )
        return self

    @property
    def additive(self) -> bool:
        """Whether it is a sum over requests or devices, as rewards are."""
        return self.tail is None and self.fairness == "requests"

    @property
    def rates(self) -> Mapping[str, Rate]:
        """What devices take in the metric's own unit."""
        return {"money": self.usd_per_hour, "energy": self.watts}.get(self.metric, {})


def with_objective(tables: Tables, objective: Objective, devices: list[str]) -> Tables:
    """Tables that accrue an objective.

    Args:
        tables: Tables of the scenario.
        objective: The objective to accrue.
        devices: Names of the scenario's devices, in order.

    Raises:
        UnknownNameError: A rate is given for a device that there is none of.
    """
    for name in objective.rates:
        if name not in devices:
            raise UnknownNameError("objective: device", name, devices)
    seconds = 3600.0 if objective.metric == "money" else 1.0
    rates = [objective.rates.get(name, Rate(busy=0.0)) for name in devices]
    return tables.changed(
        objective=_KINDS[objective.metric],
        ttft_ns=_limit_ns(objective.slo.ttft_s if objective.slo else None),
        tpot_ns=_limit_ns(objective.slo.tpot_s if objective.slo else None),
        waiting_price=objective.waiting_price or 0.0,
        busy_rate=np.array([rate.busy / seconds for rate in rates]),
        idle_rate=np.array([rate.idle / seconds for rate in rates]),
    )


def _limit_ns(limit_s: float | None) -> int:
    return FAR_NS if limit_s is None else round(limit_s * 1e9)
