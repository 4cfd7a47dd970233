"""Performance models: physics-first regressors of time and memory, their errors and intervals.

``performance.PerformanceModel`` predicts; ``fit`` makes one from a dataset, on the terms of ``physics``;
``validation`` says how wrong it is, ``card`` shows that; ``published`` is the one that needs no profile,
``tables`` and ``outside`` are for tables of configurations that people write.
"""

from __future__ import annotations

from shunter.models.performance import PerformanceModel
from shunter.models.preemption_cost import PreemptionCost

__all__ = ["PerformanceModel", "PreemptionCost"]
