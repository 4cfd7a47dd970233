"""What an event log says of one run, over time: operations, residents, and requests."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from shunter.errors import InputError, UnknownNameError

__all__ = ["Timeline", "each", "pick_run", "queue_lengths", "read_timeline"]


@dataclass(frozen=True)
class Timeline:
    """One run as intervals of time, in seconds since its start.

    Attributes:
        run_id: The run's id in the log.
        title: Policy, mode and workload seed.
        devices: Names, in the order in which they first asked.
        models: Names of all that arrived or were loaded, sorted.
        decisions: The log's rows.
        operations: Those of them that were carried out to their end, by start: loads, quanta and evictions.
        residents: device, model, gpu_layers, start_s (end of the load), end_s (start of the operation that
            unloads it, or the end of the run).
        requests: request_id, model, arrival_s, first_token_s, finish_s; the last two missing if the log
            ends before them. Of a gateway also sent_s, device (the last server that had it; missing for none)
            and status: many run at once there, and the log does not say which.
        end_s: End of the run.
    """

    run_id: str
    title: str
    devices: tuple[str, ...]
    models: tuple[str, ...]
    decisions: pd.DataFrame
    operations: pd.DataFrame
    residents: pd.DataFrame
    requests: pd.DataFrame
    end_s: float

    @property
    def of_gateway(self) -> bool:
        """Whether clients' requests are known, and not quanta."""
        return "sent_s" in self.requests


def pick_run(events: pd.DataFrame, run_id: str | None) -> pd.DataFrame:
    """The rows of one run of an event log.

    Args:
        events: From ``read_event_log``.
        run_id: None if the log holds only one.

    Raises:
        InputError: The log is empty, or holds several runs and none is named.
        UnknownNameError: It holds no such run.
    """
    known = list(events["run_id"].unique())
    if not known:
        raise InputError("EVENTS", "hold at least one decision", "an empty event log")
    if run_id is None and len(known) > 1:
        raise InputError("--run", f"name one of the log's runs: {', '.join(known)}", None)
    if run_id is not None and run_id not in known:
        raise UnknownNameError("--run", run_id, known)
    return events[events["run_id"] == (run_id or known[0])].reset_index(drop=True)


def read_timeline(rows: pd.DataFrame) -> Timeline:
    """Reads the rows of one run.

    Args:
        rows: At least one decision, in order (see ``shunter.eval.execution.event_log.EVENT_COLUMNS``).
    """
    operations = rows.dropna(subset=["start_s", "end_s"]).sort_values("start_s", kind="stable")
    requests = _requests(rows, operations)
    first = rows.iloc[0]
    end_s = float(np.nanmax([rows["decided_s"].max(), operations["end_s"].max()]))
    return Timeline(
        run_id=str(first["run_id"]),
        title=f"{first['policy']}, {first['mode']}, workload seed {first['seed']}",
        devices=tuple(rows["device"].unique()),
        models=tuple(sorted({*requests["model"], *operations["model"].dropna()})),
        decisions=rows,
        operations=operations.reset_index(drop=True),
        residents=_residents(operations, end_s),
        requests=requests,
        end_s=end_s,
    )


def queue_lengths(timeline: Timeline) -> tuple[NDArray[np.float64], dict[str, NDArray[np.int64]]]:
    """Requests in the system of each model.

    Returns:
        Times at which the number of any model changes, 0 and the end included, and by model the numbers from
        each of them on.
    """
    requests = timeline.requests
    changes = pd.concat(
        [
            pd.DataFrame({"s": requests["arrival_s"], "model": requests["model"], "by": 1}),
            pd.DataFrame({"s": requests["finish_s"], "model": requests["model"], "by": -1}).dropna(),
        ]
    )
    table = changes.pivot_table(index="s", columns="model", values="by", aggfunc="sum", fill_value=0)
    times = np.union1d(table.index.to_numpy(np.float64), [0.0, timeline.end_s])
    lengths = table.reindex(times, fill_value=0).cumsum()
    return times, {model: lengths[model].to_numpy(np.int64) for model in table.columns}


def each(frame: pd.DataFrame) -> Iterator[Any]:
    """The rows, with columns as attributes; pandas does not say of what type these are."""
    yield from frame.itertuples()


def _residents(operations: pd.DataFrame, end_s: float) -> pd.DataFrame:
    rows: list[dict[str, Any]] = []
    for device, of_device in operations.groupby("device", sort=False):
        here: dict[str, dict[str, Any]] = {}
        asleep: set[str] = set()
        for operation in each(of_device):
            loads = operation.operation == "load" and not isinstance(operation.fault, str)
            was_here = operation.operation in ("run", "evict", "lose") and operation.model not in asleep
            if was_here and operation.model not in here:
                here[str(operation.model)] = _resident(device, operation, 0.0)  # from the start
            gone = {*operation.evicted, *operation.lost, *([operation.model] if loads else [])}
            for model in gone & here.keys():
                rows.append({**here.pop(model), "end_s": operation.start_s})
            if loads:
                here[str(operation.model)] = _resident(device, operation, operation.end_s)
            asleep -= here.keys() | set(operation.lost) | {operation.model}
            asleep |= {word.removeprefix("sleep ") for word in operation.servers if word.startswith("sleep ")}
        rows += [{**resident, "end_s": end_s} for resident in here.values()]
    frame = pd.DataFrame(rows, columns=["device", "model", "gpu_layers", "start_s", "end_s"])
    return frame.sort_values("start_s", kind="stable", ignore_index=True)


def _resident(device: Any, operation: Any, start_s: float) -> dict[str, Any]:
    layers = int(operation.gpu_layers)
    return {"device": device, "model": operation.model, "gpu_layers": layers, "start_s": start_s}


def _requests(rows: pd.DataFrame, operations: pd.DataFrame) -> pd.DataFrame:
    names = {"arrived_ids": "request_id", "arrived_models": "model", "arrived_s": "arrival_s"}
    arrived = rows[list(names)].explode(list(names)).dropna().rename(columns=names)
    columns = ["request_ids", "first_s", "finish_s"]
    served = operations[columns].explode(columns).dropna(subset=["request_ids"])
    times = served.groupby("request_ids").agg(first_token_s=("first_s", "min"), finish_s=("finish_s", "max"))
    frame = arrived.astype({"request_id": np.int64, "arrival_s": np.float64}).join(times, on="request_id")
    return frame.astype({"first_token_s": np.float64, "finish_s": np.float64}).reset_index(drop=True)
