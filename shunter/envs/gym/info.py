"""What ``info`` says: the same keys for one environment, for many, and for those that ended."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from shunter.envs.sim.batch import Batch
from shunter.envs.sim.kernel import Outputs
from shunter.envs.state.records import COUNTS

Bools = NDArray[np.bool_]
Info = dict[str, Any]


def fields_of(records: NDArray[np.void]) -> dict[str, NDArray[Any]]:
    """Each field of records by its name, as views."""
    return {name: records[name] for name in records.dtype.names or ()}


def single_info(batch: Batch, result: tuple[Any, ...], mask: NDArray[np.int8]) -> Info:
    """``info`` of the one environment of a batch after a step or a reset.

    Args:
        batch: With one environment.
        result: Fields of its ``RESULT``, in order.
        mask: (A,) the observation's.
    """
    _, elapsed, request_s, _, _, device, now_ns, served, response_ns, *_ = result
    return {
        "device": device,
        "now_s": now_ns * 1e-9,
        "elapsed": elapsed,
        "cost_request_s": request_s,
        "requests_left": batch.length - served,
        "served": served,
        "response_s": response_ns * 1e-9,
        "action_mask": mask,
        **dict(zip(COUNTS, batch.state.counts[0, 0].item(), strict=True)),
        "finished": fields_of(batch.out.finished[0].copy()),
    }


def batch_info(batch: Batch, mask: NDArray[np.int8]) -> Info:
    """``info`` of all environments of a batch after a step or a reset: arrays whose first axis is theirs.

    Of an environment whose episode was followed by the next in the same step, ``elapsed``,
    ``cost_request_s`` and ``finished`` speak of the step, hence of the old episode, all else of the new one.
    """
    clock, result = batch.state.clock[:, 0].copy(), batch.out.result.copy()
    facts = {
        "device": clock["asking"],
        "now_s": clock["now_ns"] * 1e-9,
        "requests_left": clock["length"] - clock["served"],
        "served": clock["served"],
        "response_s": clock["response_ns"] * 1e-9,
        **fields_of(batch.state.counts[:, 0].copy()),
    }
    return _with_masks(_joined(facts, result, batch.out, mask), np.ones(batch.environments, np.bool_))


def final_info(batch: Batch, over: Bools) -> Info:
    """``info`` of the episodes that ended in this step and were followed by others.

    Args:
        batch: With autoreset.
        over: (E,) where one ended.
    """
    result = batch.out.result.copy()
    facts = {
        "device": np.full(batch.environments, -1),
        "now_s": result["now_ns"] * 1e-9,
        "requests_left": batch.length - result["served"],
        "served": result["served"],
        "response_s": result["response_ns"] * 1e-9,
        **fields_of(batch.out.final_counts.copy()),
    }
    mask = batch.out.final_mask.view(np.int8).copy()
    return _with_masks(_joined(facts, result, batch.out, mask), over)


def _joined(facts: Info, result: NDArray[np.void], out: Outputs, mask: NDArray[np.int8]) -> Info:
    own = {"elapsed": result["elapsed"], "cost_request_s": result["request_s"], "action_mask": mask}
    return {**facts, **own, "finished": fields_of(out.finished.copy())}


def _with_masks(info: Info, which: Bools) -> Info:
    """With a mask for each key that says which environments it holds for, as Gymnasium's own faces have."""
    return {**info, **{f"_{key}": which for key in info}}
