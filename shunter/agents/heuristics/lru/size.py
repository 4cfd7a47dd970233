"""As count-lru, and the largest resident goes first."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from shunter.agents.base import Scores, value
from shunter.agents.heuristics.lru.count import CountLru
from shunter.agents.heuristics.rules import idle_first
from shunter.agents.parameters import whole


@dataclass(frozen=True)
class SizeLru(CountLru):
    """Serves as ``count-lru`` does; room is made by evicting the largest that nobody waits for.

    If somebody waits for all of them, the largest goes; of equally large ones the least recently used.

    Args:
        most: Residents on a device.

    Source:
        LocalAI: at most so many active backends, least recently used first, and its setting that evicts the
        largest first; busy ones are spared unless forced. https://localai.io/docs/advanced/vram-management/
        and https://localai.io/docs/features/runtime-settings/. Simplified: as ``count-lru``.
    """

    name = "size-lru"
    most: int = whole(8, 1, 8)

    def eviction_order(self, candidates: NDArray[Any]) -> Scores:
        """Which resident goes first, the highest."""
        share = np.minimum(value(candidates, "footprint"), 1.0)
        return idle_first(candidates) + 4e6 * share + value(candidates, "unused_time")
