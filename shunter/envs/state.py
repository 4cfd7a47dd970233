"""Structure of arrays that the dynamics work on: one episode's state, and the scenario's tables.

Both are named tuples of numpy arrays, so that the same functions compile for the simulator and serve the
real executor. Times are int64 nanoseconds since the episode's start; -1 means "not yet".
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

__all__ = [
    "EVICT",
    "IDLE",
    "KV_DROPPED",
    "KV_LIVE",
    "KV_NONE",
    "KV_SAVED",
    "KV_SAVING",
    "LOAD",
    "RUN",
    "WAIT",
]
__all__ += ["Requests", "State", "Tables", "new_state"]

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]

IDLE, WAIT, RUN, LOAD, EVICT = 0, 1, 2, 3, 4
"""What a device does (``State.op_kind``)."""

KV_NONE, KV_LIVE, KV_SAVING, KV_SAVED, KV_DROPPED = 0, 1, 2, 3, 4
"""Where a request's KV cache is (``State.kv``): never made, on its device, being saved, saved, dropped."""


class Tables(NamedTuple):
    """Everything fixed during an episode. D devices, M models, L levels, B batch sizes.

    Attributes:
        level_ok: (D, M, L) whether the level exists, the engine honours it and the device can hold it alone.
        gpu_share: (M, L) share of layers on the device, 1 - offload_ratio.
        footprint_bytes: (D, M, L) device memory of a resident: weights, KV budget and buffers.
        capacity_bytes: (D,) the device's budget.
        load_s: (D, M, L).
        unload_s: (D, M, L).
        prefill_s: (D, M, L, P) over ``prefill_tokens``.
        prefill_tokens: (P,) grid, ascending.
        step_s: (D, M, L, B, C) seconds per decode step for 1 to B requests over ``context_tokens``.
        context_tokens: (C,) grid of the mean context per request, ascending.
        kv_save_s: (D, M, L, C) over ``context_tokens``.
        kv_restore_s: (D, M, L, C) likewise.
        remaining_tokens: (G,) expected further tokens of a request that generated g so far.
        step_halfwidth: (D, M, L) half width of the 90 % interval of step_s, relative.
        offload_sensitivity: (D, M) how much slower a step is at the level with most layers on the host.
        kv_can_save: (D,) whether KV survives an eviction; otherwise it is dropped and recomputed.
        quantum_steps, quantum_ns, max_wait_ns, decision_ns, max_batch: (1,) limits.
        time_scale_s: (1,) the scenario's own unit of time.
    """

    level_ok: Bools
    gpu_share: Floats
    footprint_bytes: Floats
    capacity_bytes: Floats
    load_s: Floats
    unload_s: Floats
    prefill_s: Floats
    prefill_tokens: Floats
    step_s: Floats
    context_tokens: Floats
    kv_save_s: Floats
    kv_restore_s: Floats
    remaining_tokens: Floats
    step_halfwidth: Floats
    offload_sensitivity: Floats
    kv_can_save: Bools
    quantum_steps: Ints
    quantum_ns: Ints
    max_wait_ns: Ints
    decision_ns: Ints
    max_batch: Ints
    time_scale_s: Floats


class Requests(NamedTuple):
    """A workload drawn for one episode, sorted by arrival; each array has shape (N,)."""

    arrival_ns: Ints
    model: Ints
    prompt_tokens: Ints
    decode_tokens: Ints


class State(NamedTuple):
    """What changes during an episode. N requests, D devices, M models, B batch slots.

    Attributes:
        now_ns: (1,) the clock.
        arrived: (1,) requests admitted so far; they are the first ones of the arrays.
        in_system: (1,) admitted and not finished.
        cost_ns: (1,) integral of in_system over time, request-nanoseconds.
        generated: (N,) tokens generated.
        kv: (N,) one of the ``KV_`` values.
        home: (N,) device that holds the KV, live or saved; -1 for none.
        owner: (N,) device whose running quantum contains the request; -1 for none.
        first_token_ns, finish_ns: (N,).
        preemptions: (N,) how often an unfinished, started request was left for another model.
        queue: (M, N) admitted, unfinished requests of a model in order of arrival.
        queue_length: (M,).
        rate_per_s: (M,) estimated arrival rate, exponentially weighted.
        last_arrival_ns: (M,).
        resident: (D, M) level at which a model is resident, or -1.
        last_used_ns: (D, M) end of its last quantum or load there.
        evicting: (D, M) level of a resident that the device's next operation unloads, or -1.
        pending: (D, 2) model and level that the device wants to load but has no room for, or -1.
        last_model: (D,) model that the device turned to last, or -1.
        op_kind, op_model, op_level, op_start_ns, op_end_ns, op_batch, op_steps: (D,) current operation.
        op_request: (D, B) its requests.
        op_tokens: (D, B) tokens that each gains in it.
        op_first_ns, op_finish_ns: (D, B) first token and finish inside it, or -1.
        counts: (8,) see ``COUNTS``.
    """

    now_ns: Ints
    arrived: Ints
    in_system: Ints
    cost_ns: Ints
    generated: Ints
    kv: Ints
    home: Ints
    owner: Ints
    first_token_ns: Ints
    finish_ns: Ints
    preemptions: Ints
    queue: Ints
    queue_length: Ints
    rate_per_s: Floats
    last_arrival_ns: Ints
    resident: Ints
    last_used_ns: Ints
    evicting: Ints
    pending: Ints
    last_model: Ints
    op_kind: Ints
    op_model: Ints
    op_level: Ints
    op_start_ns: Ints
    op_end_ns: Ints
    op_batch: Ints
    op_steps: Ints
    op_request: Ints
    op_tokens: Ints
    op_first_ns: Ints
    op_finish_ns: Ints
    counts: Ints


DECISIONS, SWAPS, PREEMPTIONS, ILLEGAL, LOADING_NS, RUNNING_NS, RECOMPUTED_TOKENS, EVICTIONS = range(8)
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
"""Names of ``State.counts``, in order."""


def new_state(requests: int, devices: int, models: int, max_batch: int) -> State:
    """An empty system at time zero: nothing resident, nothing queued."""

    def ints(*shape: int, fill: int = 0) -> Ints:
        return np.full(shape, fill, np.int64)

    return State(
        now_ns=ints(1),
        arrived=ints(1),
        in_system=ints(1),
        cost_ns=ints(1),
        generated=ints(requests),
        kv=ints(requests),
        home=ints(requests, fill=-1),
        owner=ints(requests, fill=-1),
        first_token_ns=ints(requests, fill=-1),
        finish_ns=ints(requests, fill=-1),
        preemptions=ints(requests),
        queue=ints(models, requests, fill=-1),
        queue_length=ints(models),
        rate_per_s=np.zeros(models),
        last_arrival_ns=ints(models, fill=-1),
        resident=ints(devices, models, fill=-1),
        last_used_ns=ints(devices, models),
        evicting=ints(devices, models, fill=-1),
        pending=ints(devices, 2, fill=-1),
        last_model=ints(devices, fill=-1),
        op_kind=ints(devices),
        op_model=ints(devices, fill=-1),
        op_level=ints(devices, fill=-1),
        op_start_ns=ints(devices),
        op_end_ns=ints(devices),
        op_batch=ints(devices),
        op_steps=ints(devices),
        op_request=ints(devices, max_batch, fill=-1),
        op_tokens=ints(devices, max_batch),
        op_first_ns=ints(devices, max_batch, fill=-1),
        op_finish_ns=ints(devices, max_batch, fill=-1),
        counts=ints(len(COUNTS)),
    )
