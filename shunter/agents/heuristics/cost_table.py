"""As fifo-collated, and room is made by evicting what a table of costs says is cheapest."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from shunter.agents.base import Scores, value
from shunter.agents.heuristics.fifo_collated import FifoCollated
from shunter.agents.heuristics.rules import compose
from shunter.agents.parameters import choice, number


@dataclass(frozen=True)
class CostTable(FifoCollated):
    """Serves as ``fifo-collated`` does and evicts the resident of least cost, one after the other.

    The cost of a model is what bringing it back takes, times (1 + its arrivals per time scale) to a power.

    Args:
        max_wait: Time scales after which a waiting request goes first, swap or not; ``max_wait_s``: seconds.
        popularity: Power that 1 + arrivals per time scale is raised to.
        per: Whether costs are compared as they are (``model``), or per ``byte`` that an eviction frees.

    Source:
        llama-swap's matrix router: users write ``evict_costs``, and of the sets of models that may run
        together the one whose eviction costs least is chosen (docs/kb/guides/routing/groups-and-matrix.md).
        Simplified: memory says which models fit together, the cost is computed where users guess it, and the
        cheapest resident goes first, which need not be the cheapest set.
        https://github.com/mostlygeek/llama-swap
    """

    name = "cost-table"
    popularity: float = number(1.0, 0.0, 3.0, log=False)
    per: str = choice("model", "byte")

    def scores(self, candidates: NDArray[Any], context: NDArray[Any], mask: NDArray[np.bool_]) -> Scores:
        """Tiers of ``fifo-collated``; evictions by cost."""
        cost = value(candidates, "preempt_time") * (1.0 + value(candidates, "arrivals")) ** self.popularity
        if self.per == "byte":
            cost = cost / (value(candidates, "footprint") + 1e-3)
        evict = -np.minimum(cost, 1e8)
        return compose(candidates, self.tiers(candidates), self.served(candidates, mask), evict)
