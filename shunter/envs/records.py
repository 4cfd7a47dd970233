"""The records that a state is made of: the system, its requests, models, devices and their operations.

Times are int64 nanoseconds since the episode's start; -1 means "not yet" or "none".
"""

from __future__ import annotations

import numpy as np

__all__ = [
    "CLOCK",
    "COUNTS",
    "DEVICE",
    "ENTRY",
    "MODEL",
    "OUTCOME",
    "PLACE",
    "RING",
    "SLOT",
    "WORK",
    "record",
]


def record(*names: str, floats: tuple[str, ...] = ()) -> np.dtype[np.void]:
    """A record of integers, then of floats."""
    fields: list[tuple[str, type]] = [(name, np.int64) for name in names]
    return np.dtype(fields + [(name, np.float64) for name in floats], align=True)


CLOCK = record(
    "now_ns",
    "cost_ns",  # integral of in_system over time, request-nanoseconds
    "in_system",  # requests admitted and not finished
    "arrived",  # requests admitted in this episode
    "served",  # requests finished in this episode
    "response_ns",  # sum of their response times
    "taken",  # requests taken from the ring since the state was made
    "filled",  # requests put into the ring since then
    "last",  # what taken will be when the episode's requests have all arrived
    "length",  # requests of an episode
    "key",  # of the environment's random numbers
    "episode",  # how many were begun before
    "starting",  # whether the episode's first decision is yet to be found
    "stalled",  # whether time stands still until the ring is filled or the pool of slots grown
    "free",  # first free slot, -1 if all are in use
    "asking",  # device that asks for a decision, -1 once the episode is over
)
"""One record for the whole system."""

RING = record("arrival_ns", "model", "prompt_tokens", "decode_tokens")
"""A request on its way."""

SLOT = record(
    "id",  # which request of the episode, in order of arrival
    "model",
    "arrival_ns",
    "prompt_tokens",
    "decode_tokens",
    "generated",  # tokens so far
    "kv",  # one of the KV_ values
    "home",  # device that holds the KV, live or saved
    "owner",  # device whose running quantum contains the request
    "first_token_ns",
    "preemptions",  # how often it was left, started and unfinished, for another model
    "next",  # slot behind it in its model's queue, or the next free slot
    "previous",  # slot before it in its model's queue
)
"""A request in the system."""

MODEL = record(
    "head",  # first slot of its queue: admitted, unfinished requests in order of arrival
    "tail",
    "queue_length",
    "homeless",  # of these, how many nobody runs and whose KV is nowhere
    "homeless_started",  # of these, how many generated tokens
    "last_arrival_ns",
    "cached",  # whether its weights are in the host's memory
    "cached_ns",  # when they were last loaded from there
    floats=(
        "rate_per_s",  # estimated arrival rate, exponentially weighted
        "load_luck",  # standard normal: how far this episode's loads are from the prediction; 0: not at all
        "prefill_luck",
        "step_luck",
    ),
)
"""A model."""

PLACE = record(
    "resident",  # level at which the model is resident on the device
    "evicting",  # level of a resident that the device's next operation unloads
    "last_used_ns",  # end of its last quantum or load there
    "held",  # requests of the model that nobody runs and whose KV is on the device
    "stale",  # whether what follows must be computed anew
    "batch",  # requests that the device could run now, at most a batch
    "oldest_ns",  # arrival of the oldest of them
    floats=(
        "remaining",  # expected further tokens of these, on average
        "shortest",  # expected further tokens of the shortest of these
    ),
)
"""A model on a device; from ``batch`` on a cache for the observation."""

WORK = record(floats=("join_s", "step_s", "back_s"))
"""A model at a level on a device, cached for the observation: what its batch would take."""

DEVICE = record(
    "pending_model",  # what the device wants to load but has no room for
    "pending_level",
    "last_model",  # model that the device turned to last
    "op_kind",
    "op_model",
    "op_level",
    "op_start_ns",
    "op_end_ns",
    "op_batch",
    "op_steps",
    "op_cold",  # whether a load reads from disk
)
"""A device and its current operation."""

ENTRY = record(
    "slot",
    "tokens",  # that the request gains in the operation
    "first_ns",  # its first token inside it
    "finish_ns",  # its last token inside it
)
"""A request of a device's current quantum."""

OUTCOME = record("first_token_ns", "finish_ns", "preemptions")
"""What became of a request; kept only where every request is to be looked at afterwards."""

COUNTS = (
    "decisions",
    "swaps",
    "preemptions",
    "illegal_actions",
    "loading_ns",
    "running_ns",
    "recomputed_tokens",
    "evictions",
)
"""What is counted in an episode."""
