"""The score card in a policy file: how it did on validation, scenario by scenario."""

from __future__ import annotations

import math
from typing import Annotated

from pydantic import Field

from shunter.agents.learned.policy import LearnedPolicy
from shunter.envs.scenario.fields import Strict

__all__ = ["Cell", "ScoreCard", "score_card_of"]


class Cell(Strict):
    """One scenario at one load.

    Attributes:
        scenario: Name of the scenario.
        load: Arrivals over what the devices can serve.
        response_s: The policy's mean response; None if it left requests unfinished.
        baseline: The heuristic with the lowest mean response on the same requests, chosen with hindsight.
        baseline_response_s: The baseline's mean response; None if every heuristic left requests unfinished.
        change: Relative change of the mean response; −0.1 is 10 % lower than the baseline.
        low: Lower end of the change's 95 % interval.
        high: Upper end of the change's 95 % interval.
        unfinished: Requests that the policy left.
    """

    scenario: str
    load: float
    response_s: float | None
    baseline: str
    baseline_response_s: float | None
    change: Annotated[float, Field(gt=-1, allow_inf_nan=False)] | None
    low: float | None
    high: float | None
    unfinished: int


class ScoreCard(Strict):
    """All cells.

    Attributes:
        seeds: Seeds of the workloads, the same in every cell.
        cells: One cell per world, in the order of the worlds.
    """

    seeds: Annotated[list[int], Field(min_length=1)]
    cells: list[Cell]

    @property
    def change(self) -> float | None:
        """Geometric mean over the cells; None if one has no figure."""
        changes = [cell.change for cell in self.cells]
        known = [math.log1p(change) for change in changes if change is not None]
        return math.expm1(sum(known) / len(known)) if known and len(known) == len(changes) else None

    def record(self) -> dict[str, str]:
        """Metadata of a policy file."""
        return {"score_card": self.model_dump_json()}


def score_card_of(policy: LearnedPolicy) -> ScoreCard | None:
    """The score card in the policy's file; None if it has none.

    Raises:
        BrokenFileError: It is no JSON.
        InputError: It has another form.
    """
    return policy.recorded("score_card", ScoreCard, "score card")
