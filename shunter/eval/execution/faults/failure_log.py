"""The failure log of an evaluation: rows as plain data, and as words, for the report and the terminal."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any

from shunter.eval.execution.runs import Run

__all__ = ["execution_lines"]


def failure_rows(runs: Iterable[Run]) -> list[dict[str, Any]]:
    """Every failure of these runs, in order, as plain data."""
    return [
        {
            "run_id": str(run.log.run["run_id"]),
            "time_s": failure.time_s,
            "device": failure.device,
            "operation": failure.operation,
            "model": failure.model,
            "kind": failure.fault.kind,
            "restart_s": failure.fault.restart_s,
            "lost": list(failure.fault.lost),
            "requeued": list(failure.requeued),
            "failed": list(failure.failed),
            "reason": failure.fault.reason,
        }
        for run in runs
        for failure in run.failures
    ]


def failure_lines(rows: Sequence[dict[str, Any]]) -> list[str]:
    """What went wrong, in words; nothing if nothing did."""
    if not rows:
        return []
    kinds = Counter(row["kind"] for row in rows)
    counts = ", ".join(f"{count} × {kind}" for kind, count in kinds.items())
    requeued, failed = (sum(len(row[name]) for row in rows) for name in ("requeued", "failed"))
    restart_s = sum(row["restart_s"] for row in rows)
    lines = [
        f"Engines failed {len(rows)} times ({counts}) and were started again in {restart_s:.1f} s in all; "
        f"requests went back into the queue {requeued} times, {failed} were given up."
    ]
    given_up = [(row["run_id"], i, row) for row in rows for i in row["failed"]]
    lines += [
        f"Given up: request {i} of {run_id}, at {row['time_s']:.1f} s: its last attempt was {row['kind']} "
        f"on {row['device']} ({row['reason']})"
        for run_id, i, row in given_up
    ]
    return lines


def execution_lines(result: dict[str, Any]) -> list[str]:
    """How the real runs went, in words.

    Args:
        result: From ``Evaluation.to_dict``.
    """
    shares = [p["real"]["overhead_share"] for p in result["policies"].values() if "real" in p]
    lines = failure_lines(result["failures"])
    if shares:
        lines.append(
            f"Deciding and keeping the books took {max(shares):.2%} of the engines' busy time, at the policy "
            "where it took most."
        )
    if result["broken"] is not None:
        lines.append(f"An engine failed and could not be started again: {result['broken']}")
    if result["partial"] is not None:
        lines.append(
            f"{result['partial']} was cut short: its events and failures are kept, it is in no figure."
        )
    return lines
