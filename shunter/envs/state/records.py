"""The records that a state is made of: the system, its requests, models, devices and their operations.

Times are int64 nanoseconds since the episode's start; -1 means "not yet" or "none".
"""

from __future__ import annotations

import numpy as np

__all__ = ["FAR_NS", "record"]


FAR_NS = 1 << 62
"""Later than anything."""


def record(*names: str, small: tuple[str, ...] = (), floats: tuple[str, ...] = ()) -> np.dtype[np.void]:
    """A record of 32-bit integers (``small``), of 64-bit ones, and of floats.

    A decision mostly waits for memory: what is small is kept small.
    """
    fields: list[tuple[str, type]] = [(name, np.int32) for name in small]
    fields += [(name, np.int64) for name in names]
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
    "key",  # key of the environment's random numbers
    "episode",  # how many were begun before
    "starting",  # whether the episode's first decision is yet to be found
    "stalled",  # whether time stands still until the ring is filled or the pool of slots grown
    "free",  # first free slot, -1 if all are in use
    "asking",  # device that asks for a decision, -1 once the episode is over
    "sender",  # user of a closed loop who sends next
    "send_ns",  # when that user sends; FAR_NS if all wait for answers
    "objective",  # what ``cost`` counts, and until when a request must be served
    "ttft_ns",
    "tpot_ns",
    "most",  # decisions after which the episode is cut off, 0: however many
    "check_ns",  # before then nobody outside a quantum misses the SLO
    "missed",  # requests in the system that missed the SLO
    "drift",  # whether devices are slower than predicted now and then, see ``shunter.envs.rules.drift``
    floats=("cost", "cost_per_s"),  # accrued of an objective other than mean response, and at which rate
)
"""One record for the whole system."""

RING = record("arrival_ns", small=("model", "prompt_tokens", "decode_tokens"))
"""A request on its way; in a closed loop arrival_ns is its sender's pause after it, until it is admitted."""

USER = record("send_ns", "first_ns")
"""A user of a closed loop: when the next request is sent, FAR_NS until the answer is there; and the first."""

SLOT = record(
    "arrival_ns",
    "first_token_ns",
    "pause_ns",  # time in a closed loop from the answer to its sender's next request
    "limit_ns",  # after which its SLO is missed, as things stand
    "progress_ns",  # since when it waits: its arrival, then the end of the last quantum that advanced it
    small=(
        "id",  # which request of the episode, in order of arrival
        "model",
        "prompt_tokens",
        "decode_tokens",
        "generated",  # tokens so far
        "kv",  # one of the KV_ values
        "home",  # device that holds the KV, live or saved
        "owner",  # device whose running quantum contains the request
        "preemptions",  # how often it was left, started and unfinished, for another model
        "next",  # slot behind it in its model's queue, or the next free slot
        "previous",  # slot before it in its model's queue
        "user",  # user of a closed loop who sent it
        "missed",  # whether its SLO is missed
    ),
    floats=("weight",),  # what it adds to ``cost_per_s`` while it is in the system
)
"""A request in the system."""

MODEL = record(
    "last_arrival_ns",
    small=(
        "head",  # first slot of its queue: admitted, unfinished requests in order of arrival
        "tail",
        "queue_length",
        "unassigned",  # requests in its queue that nobody runs and whose KV is nowhere
        "unassigned_started",  # requests of ``unassigned`` that generated tokens
        "cached",  # whether its weights are in the host's memory
        "cached_at",  # how many loads there had been when they were last loaded from there
    ),
    floats=(
        "rate_per_s",  # estimated arrival rate, exponentially weighted
        "load_noise",  # standard normal: how far this episode's loads are from the prediction; 0: not at all
        "prefill_noise",
        "step_noise",
    ),
)
"""A model."""

PLACE = record(
    "last_used_ns",  # end of its last quantum or load there
    "oldest_ns",  # arrival of the oldest of its batch
    "tokenless_ns",  # arrival of the oldest of them without a token, -1 if none has
    "waiting_ns",  # since when the longest waiting request that the device could run waits, FAR_NS if none
    "tied_ns",  # since when the longest waiting request whose KV is on the device waits, FAR_NS if none
    small=(
        "resident",  # level at which the model is resident on the device
        "evicting",  # level of what the device's next operation unloads, or sends to sleep
        "asleep",  # level at which the model sleeps on the device, or is about to; -1 if it does not
        "held",  # requests of the model that nobody runs and whose KV is on the device
        "changed",  # whether the cached rows of its candidates must be written anew
        "stale",  # and whether its batch must be looked at anew
        "batch",  # requests that the device could run now, at most a batch
    ),
    floats=(
        "partial_s",  # where servers drain: seconds of work that the step or prefill under way has had
        "remaining",  # expected further tokens of its batch, on average
        "shortest",  # expected further tokens of the shortest of them
    ),
)
"""A model on a device; what is said of its batch is a cache for the observation."""

WORK = record(floats=("join_s", "step_s", "back_s"))
"""A model at a level on a device, cached for the observation: what its batch would take."""

DEVICE = record(
    "op_start_ns",
    "op_end_ns",
    "promoted_ns",  # whoever had arrived by then is served before anything else
    "serving_since_ns",  # where servers drain: since when its residents' requests run,
    "serving_end_ns",  # and until when they do before they are looked at again; -1 if none runs
    small=(
        "promoted_model",  # what the guard had the device turn to, -1 if nothing
        "pending_model",  # what the device wants to load but has no room for
        "pending_level",
        "last_model",  # model that the device turned to last
        "op_kind",
        "op_model",
        "op_level",
        "op_batch",
        "op_steps",
        "op_cold",  # whether a load reads from disk
        "op_wakes",  # whether a load wakes what slept
        "kept",  # where servers drain: whether it keeps its residents and is asked what else fits
    ),
    floats=(
        "busy_per_s",  # what an operation adds to ``cost_per_s``
        "load_delay",  # where servers drain: how much longer its load takes for what runs beside it, relative
        "slower",  # how much longer than predicted takes what it began last, relative; see ``drift``
    ),
)
"""A device and its current operation."""

ENTRY = record(
    "first_ns",  # its first token inside it
    "finish_ns",  # its last token inside it
    small=(
        "slot",
        "tokens",  # that the request gains in the operation
    ),
)
"""A request of a device's current quantum."""

DONE = record(
    "arrival_ns",
    "first_token_ns",
    "finish_ns",
    small=("model", "prompt_tokens", "decode_tokens", "preemptions"),
)
"""A request that finished lately; kept only where somebody asks after each step which did."""

OUTCOME = record("first_token_ns", "finish_ns", "preemptions", "attempts")
"""What became of a request, and how often an engine failed while it was for it; kept only where every request
is to be looked at afterwards."""

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
