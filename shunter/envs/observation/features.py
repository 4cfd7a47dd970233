"""The features that policies read: names, units, bounds and meaning, in one table."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

__all__ = [
    "CONTEXT_FEATURES",
    "CONTEXT_TABLE",
    "FEATURES",
    "FEATURES_VERSION",
    "FEATURE_TABLE",
    "Feature",
    "context_feature",
    "feature",
]

FEATURES_VERSION = 4
"""Raised whenever a feature is added, removed, or changes its meaning; policies name the one they need."""

FEATURE_MAX = 1e6
"""Upper bound of features that have no natural one; all are at least zero."""


class Feature(NamedTuple):
    """One feature.

    Attributes:
        name: Name, unique in its table.
        unit: ``scales`` are the scenario's time scales, ``device`` is a share of the device's memory.
        high: Upper bound; the lower one is 0.
        meaning: What it means, in a few words.
    """

    name: str
    unit: str
    high: float
    meaning: str


FEATURE_TABLE = (
    Feature("is_run", "flag", 1, "runs a quantum of a resident model"),
    Feature("is_load", "flag", 1, "loads a model, or changes its level"),
    Feature("is_evict", "flag", 1, "unloads a resident, or sends it to sleep; ends a sleeper"),
    Feature("is_wait", "flag", 1, "waits for the next event"),
    Feature("gpu_share", "share", 1, "of the model's layers on the device at this level"),
    Feature("requests", "count", FEATURE_MAX, "that this device could run now"),
    Feature("batch", "count", FEATURE_MAX, "of these, as many as fit a batch"),
    Feature("started", "count", FEATURE_MAX, "of these, with generated tokens"),
    Feature("oldest_age", "scales", FEATURE_MAX, "since the oldest of them arrived"),
    Feature(
        "swap_time", "scales", FEATURE_MAX, "predicted load, and unload when changing level; 0 if resident"
    ),
    Feature("join_time", "scales", FEATURE_MAX, "predicted restores, prefills and recomputes of the batch"),
    Feature("step_time", "scales", FEATURE_MAX, "predicted decode step of the batch"),
    Feature(
        "first_time", "scales", FEATURE_MAX, "predicted decode time until the first of the batch is done"
    ),
    Feature("batch_time", "scales", FEATURE_MAX, "predicted decode time of its mean remaining length"),
    Feature("step_halfwidth", "relative", FEATURE_MAX, "half width of the 90 % interval of step_time"),
    Feature("footprint", "device", FEATURE_MAX, "bytes at this level"),
    Feature("shortage", "device", FEATURE_MAX, "bytes that others must give up first"),
    Feature("resident_here", "flag", 1, "resident on this device at any level"),
    Feature("resident_elsewhere", "share", 1, "largest gpu_share at which another device holds the model"),
    Feature("running_elsewhere", "flag", 1, "another device runs or loads the model now"),
    Feature("unused_time", "scales", FEATURE_MAX, "since its last use on this device"),
    Feature("preempt_time", "scales", FEATURE_MAX, "predicted cost of evicting it and bringing it back"),
    Feature(
        "offload_sensitivity",
        "relative",
        FEATURE_MAX,
        "how much slower a step is with most layers on the host",
    ),
    Feature("arrivals", "1/scales", FEATURE_MAX, "estimated arrival rate"),
    Feature("turned_to_last", "flag", 1, "the device ran or loaded this model last"),
    Feature("cached", "flag", 1, "the host's memory holds the weights: a load need not read the disk"),
    Feature(
        "held", "count", FEATURE_MAX, "of requests, those whose KV is on this device: no other can run them"
    ),
    Feature("elsewhere", "flag", 1, "another device holds the model at any level, or loads it now"),
    Feature("startup_elsewhere", "scales", FEATURE_MAX, "predicted time until another device could run it"),
    Feature("serve_elsewhere", "scales", FEATURE_MAX, "and decoded a request of mean remaining length alone"),
    Feature("top_level", "flag", 1, "the highest level that fits this device"),
    Feature(
        "queue_time", "scales", FEATURE_MAX, "predicted time to serve all requests, a batch after the other"
    ),
    Feature("load_halfwidth", "relative", FEATURE_MAX, "half width of the 90 % interval of a load"),
    Feature(
        "slo_used",
        "share",
        FEATURE_MAX,
        "of the TTFT limit, that the oldest without a token waited; 0 without SLO",
    ),
    Feature(
        "guard_used",
        "share",
        FEATURE_MAX,
        "of the guard, that its longest waiting request waits; 0 without guard",
    ),
)
"""Features of a candidate, in order."""

CONTEXT_TABLE = (
    Feature("pending", "flag", 1, "room must be made for a load"),
    Feature("in_system", "count", FEATURE_MAX, "requests in the system"),
    Feature("claimable", "count", FEATURE_MAX, "requests that this device could run now"),
    Feature("free", "device", 1, "free bytes"),
    Feature("others_busy", "share", 1, "of the other devices that run or load"),
    Feature("next_completion", "scales", FEATURE_MAX, "predicted time until one of them is done"),
    Feature(
        "pending_shortage", "device", FEATURE_MAX, "bytes that must still be given up for the pending load"
    ),
    Feature("oldest_age", "scales", FEATURE_MAX, "largest of all candidates"),
)
"""Features of the whole system as the asking device sees it, in order."""

FEATURES = tuple(f.name for f in FEATURE_TABLE)
"""Names of the features of a candidate, in order."""

CONTEXT_FEATURES = tuple(f.name for f in CONTEXT_TABLE)
"""Names of the features of the whole system, in order."""


def feature(name: str) -> int:
    """Index of a candidate feature by name."""
    return FEATURES.index(name)


def context_feature(name: str) -> int:
    """Index of a feature of the whole system by name."""
    return CONTEXT_FEATURES.index(name)


def feature_bounds(table: tuple[Feature, ...]) -> NDArray[np.float32]:
    """Upper bounds of a table's features, shape (len(table),)."""
    return np.array([f.high for f in table], np.float32)


def feature_lines(table: tuple[Feature, ...]) -> list[str]:
    """The rows of a table as they stand in ``SchedulingEnv``'s docstring."""
    return [
        f"| {i} | {f.name} | {f.unit} | {'1' if f.high == 1 else '1e6'} | {f.meaning} |"
        for i, f in enumerate(table)
    ]
