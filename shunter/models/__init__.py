"""Performance models: physics-first regressors of time and memory, their errors and intervals."""

from __future__ import annotations

from shunter.models.performance import PerformanceModel, PreemptionCost

__all__ = ["PerformanceModel", "PreemptionCost"]
