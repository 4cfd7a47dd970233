"""What ``info`` says: the same keys for one environment, for many, and for those that ended."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from shunter.envs.sim.batch import Batch
from shunter.envs.sim.kernel import FINISHED, Outputs
from shunter.envs.state.records import COUNTS

Bools = NDArray[np.bool_]
Info = dict[str, Any]

OF_THE_STATE = ("device", "now_s", "requests_left", "served", "response_s", *COUNTS)
OF_THE_STEP = ("elapsed", "cost_request_s", "action_mask", "finished")
MASKS = tuple(f"_{key}" for key in (*OF_THE_STATE, *OF_THE_STEP))


def fields_of(records: NDArray[np.void]) -> dict[str, NDArray[Any]]:
    """Each field of records by its name, as views."""
    return {name: records[name] for name in records.dtype.names or ()}


def told(finished: NDArray[np.void]) -> dict[str, NDArray[Any]]:
    """Each field of ``Outputs.finished`` by its name, copied."""
    # As plain numbers they are copied in a third of the time.
    return fields_of(finished.view(np.int64).copy().view(FINISHED))


def counts_of(records: NDArray[np.void]) -> dict[str, NDArray[np.int64]]:
    """Each count of (E,) environments by its name, copied."""
    return dict(zip(COUNTS, records.view(np.int64).reshape(-1, len(COUNTS)).T.copy(), strict=True))


def single_info(batch: Batch, result: tuple[Any, ...], mask: NDArray[np.int8]) -> Info:
    """``info`` of the one environment of a batch after a step or a reset.

    Args:
        batch: With one environment.
        result: Fields of its ``RESULT``, in order.
        mask: (A,) the observation's.
    """
    _, elapsed, request_s, _, _, device, now_ns, served, response_ns, *_ = result
    finished = batch.out.finished[0]
    return {
        "device": device,
        "now_s": now_ns * 1e-9,
        "elapsed": elapsed,
        "cost_request_s": request_s,
        "requests_left": batch.length - served,
        "served": served,
        "response_s": response_ns * 1e-9,
        "action_mask": mask,
        **dict(zip(COUNTS, batch.state.counts.item(), strict=True)),
        "finished": told(finished),
    }


def batch_info(batch: Batch, mask: NDArray[np.int8]) -> Info:
    """``info`` of all environments of a batch after a step or a reset: arrays whose first axis is theirs.

    Of an environment whose episode was followed by the next in the same step, ``elapsed``,
    ``cost_request_s`` and ``finished`` speak of the step, hence of the old episode, all else of the new one.
    """
    clock = batch.state.clock[:, 0]
    served = clock["served"].copy()
    return {
        "device": clock["asking"].copy(),
        "now_s": clock["now_ns"] * 1e-9,
        "requests_left": batch.length - served,
        "served": served,
        "response_s": clock["response_ns"] * 1e-9,
        **counts_of(batch.state.counts),
        **_of_the_step(batch.out, mask),
        **dict.fromkeys(MASKS, np.ones(batch.environments, np.bool_)),
    }


def final_info(batch: Batch, over: Bools) -> Info:
    """``info`` of the episodes that ended in this step and were followed by others.

    Args:
        batch: With autoreset.
        over: (E,) where one ended.
    """
    result = batch.out.result
    served = result["served"].copy()
    return {
        "device": np.full(batch.environments, -1),
        "now_s": result["now_ns"] * 1e-9,
        "requests_left": batch.length - served,
        "served": served,
        "response_s": result["response_ns"] * 1e-9,
        **counts_of(batch.out.final_counts),
        **_of_the_step(batch.out, batch.out.final_mask.view(np.int8).copy()),
        **dict.fromkeys(MASKS, over),
    }


def _of_the_step(out: Outputs, mask: NDArray[np.int8]) -> Info:
    return {
        "elapsed": out.result["elapsed"].copy(),
        "cost_request_s": out.result["request_s"].copy(),
        "action_mask": mask,
        "finished": told(out.finished),
    }
