"""What an explanation calls things: what a weight does, and how two choices differ."""

from __future__ import annotations

from shunter.agents.learned.inputs import (
    CANDIDATE_FEATURE,
    CANDIDATE_SCALE,
    CONTEXT_FEATURE,
    CONTEXT_SCALE,
    KINDS,
)
from shunter.envs.observation.features import CONTEXT_TABLE, FEATURE_TABLE

__all__ = ["PHRASES", "group_of"]

CONSTANT = "constant"
"""The inputs that are the same for all candidates of a kind."""

PHRASES = {
    "gpu_share": "the more of its layers are on the device at that level",
    "requests": "the more requests this device could run",
    "batch": "the fuller its batch would be",
    "started": "the more of its requests have tokens already",
    "oldest_age": "the longer its oldest request has waited",
    "swap_time": "the longer its load takes",
    "join_time": "the longer its prefills and restores take",
    "step_time": "the slower its decode steps are",
    "first_time": "the longer until the first of its batch is done",
    "batch_time": "the longer its batch decodes",
    "step_halfwidth": "the less sure its step time is",
    "footprint": "the more of the device's memory it takes",
    "shortage": "the more memory others must give up first",
    "resident_here": "if it is resident on this device",
    "resident_elsewhere": "the more of it another device holds",
    "running_elsewhere": "if another device runs or loads it now",
    "unused_time": "the longer this device has not used it",
    "preempt_time": "the dearer it is to evict it and bring it back",
    "offload_sensitivity": "the more it suffers from layers on the host",
    "arrivals": "the more often it is asked for",
    "turned_to_last": "if the device turned to it last",
    "cached": "if the host's memory holds its weights",
    "held": "the more of its requests have their KV on this device",
    "elsewhere": "if another device holds or loads it",
    "startup_elsewhere": "the longer until another device could run it",
    "serve_elsewhere": "the longer until another device would have served a request of it",
    "top_level": "if that is the highest level that fits",
    "queue_time": "the longer all its requests take to serve",
    "load_halfwidth": "the less sure its load time is",
    "slo_used": "the nearer its oldest request without a token is to the TTFT limit",
    "guard_used": "the nearer its longest wait is to the guard",
    "all: pending": "while room must be made for a load",
    "all: in_system": "the more requests are in the system",
    "all: claimable": "the more requests this device could run, of any model",
    "all: free": "the more memory is free",
    "all: others_busy": "the more of the other devices are busy",
    "all: next_completion": "the longer until another device is done",
    "all: pending_shortage": "the more memory is still lacking for the pending load",
    "all: oldest_age": "the longer the oldest request of any model has waited",
    CONSTANT: "whatever else",
}
"""When a weight speaks, by feature; those of the whole system begin with ``all:``."""

ACTS = {"run": "run a resident", "load": "load a model", "evict": "evict a resident", "wait": "wait"}

_DIFFERENCES = {
    ("run", "run"): "serves another resident",
    ("run", "load"): "loads a model instead of running a resident",
    ("load", "run"): "keeps running instead of loading",
    ("load", "load"): "loads another model",
    ("second copy", "run"): "runs a resident instead of a second copy",
    ("second copy", "wait"): "waits instead of loading a second copy",
    ("second copy", "load"): "loads a model that no device holds instead of a second copy",
    ("second copy", "second copy"): "loads another model's second copy",
    ("load", "second copy"): "loads a second copy instead of a model that no device holds",
    ("run", "second copy"): "loads a second copy instead of running a resident",
    ("wait", "second copy"): "loads a second copy instead of waiting",
    ("load", "wait"): "waits instead of loading",
    ("wait", "load"): "loads instead of waiting",
    ("run", "wait"): "waits instead of running",
    ("wait", "run"): "runs instead of waiting",
    ("evict", "evict"): "evicts another resident",
    ("wait", "prefetch"): "prefetches instead of waiting",
    ("prefetch", "wait"): "waits instead of prefetching",
    ("prefetch", "prefetch"): "prefetches another model",
}
"""How the policy differs, by what the untrained one chose and what it chose itself."""

_NOUNS = {
    "run": "running a resident",
    "load": "loading",
    "second copy": "loading a second copy",
    "prefetch": "prefetching",
    "other level": "changing a resident's level",
    "evict": "evicting",
    "wait": "waiting",
}


def difference_words(untrained: str, chosen: str) -> str:
    """How a choice differs from the untrained one, both of ``shunter.eval.explain.replay.WHATS``."""
    generic = f"prefers {_NOUNS[chosen]} to {_NOUNS[untrained]}"
    if untrained == chosen:
        generic = f"differs in {_NOUNS[chosen]}"
    return _DIFFERENCES.get((untrained, chosen), generic)


def group_of(index: int) -> str:
    """The feature that an input of the linear part reads; a key of ``PHRASES``."""
    if index < len(CANDIDATE_FEATURE):
        name = FEATURE_TABLE[CANDIDATE_FEATURE[index]].name
        return CONSTANT if name.removeprefix("is_") in KINDS else name
    index -= len(CANDIDATE_FEATURE)
    return f"all: {CONTEXT_TABLE[CONTEXT_FEATURE[index]].name}" if index < len(CONTEXT_FEATURE) else CONSTANT


def input_words(kind: str, index: int, weight: float) -> str:
    """What one weight of the linear part does.

    Args:
        kind: Kind of candidates that the weight is for.
        index: Index of the weight's input.
        weight: Its sign counts.
    """
    scales = [*CANDIDATE_SCALE, *CONTEXT_SCALE, 0.0]
    where = {1.0: " (small values told apart)", 0.05: " (large values told apart)"}.get(scales[index], "")
    readily = "more" if weight > 0 else "less"
    return f"{readily} ready to {ACTS[kind]}, {PHRASES[group_of(index)]}{where}"
