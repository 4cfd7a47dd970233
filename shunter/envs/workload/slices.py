"""Parts of a trace: from some time on, up to some time, so many requests."""

from __future__ import annotations

import math
from dataclasses import replace

from shunter.envs.workload.traces import Trace
from shunter.errors import InputError

__all__ = ["slice_trace"]


def slice_trace(
    trace: Trace,
    from_s: float | None = None,
    to_s: float | None = None,
    requests: int | None = None,
    *,
    field: str = "trace",
) -> Trace:
    """The part of a trace that arrives within an interval, or its first so many requests.

    Args:
        trace: The whole.
        from_s: Seconds after the trace's first request from which on requests belong to the part; None: all.
        to_s: Seconds after the trace's first request before which they arrive; None: to its end.
        requests: Number of requests of the interval that are taken, the first ones; None: all.
        field: What errors call the trace.

    Returns:
        The same requests, their arrivals counted from ``from_s``; the trace as it is where nothing is asked.

    Raises:
        InputError: The interval is empty or holds no request, or fewer than are asked for.
    """
    if from_s is None and to_s is None and requests is None:
        return trace
    since_s = trace.frame["arrival_s"] - trace.frame["arrival_s"].iloc[0]
    first_s = 0.0 if from_s is None else from_s
    end_s = math.inf if to_s is None else to_s
    if not end_s > first_s >= 0 or (to_s is not None and math.isinf(to_s)):
        interval = f"{first_s:g} s to {end_s:g} s"
        raise InputError(f"{field}: from and to", "be a finite interval that begins at 0 or later", interval)
    frame = trace.frame[(since_s >= first_s) & (since_s < end_s)]
    span = f"requests from {first_s:g} s to {'its end' if to_s is None else f'{end_s:g} s'}"
    if frame.empty:
        raise InputError(f"{field}: {span}", f"be at least one, of a trace of {since_s.iloc[-1]:g} s", 0)
    if requests is not None:
        if not 1 <= requests <= len(frame):
            raise InputError(f"{field}: requests", f"be 1 to {len(frame)}, the {span}", requests)
        frame = frame.iloc[:requests]
    moved = frame.assign(arrival_s=since_s[frame.index] - first_s)
    return replace(trace, frame=moved.reset_index(drop=True))
