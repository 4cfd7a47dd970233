"""What the machine had to do with it, in words: its speed told apart from the simulator's error."""

from __future__ import annotations

from statistics import median
from typing import Any

from shunter.profiling.meters.watch import BUSY_CORES

__all__ = ["machine_lines", "machine_summary", "operations_pace"]

Plain = dict[str, Any]

ALIKE = 0.05
"""By how much a machine may be quicker or slower before it is called so."""


def machine_lines(result: Plain) -> list[str]:
    """The verdict's first line: how fast the machine was, and what that leaves of the simulation's error.

    Args:
        result: From ``Evaluation.to_dict``.

    Returns:
        One line; none where nothing ran for real, or nobody watched and nothing is to be said. Where a slower
        machine was simulated, which.
    """
    if result.get("slowdowns") is not None:
        return [str(result["slowdowns"])]
    machine = result.get("machine")
    if machine is None or not machine["runs"]:
        return []
    others, found = _others(machine), machine_summary(result)
    if machine["slowdown"] is None:
        busy = (machine["others_cores"] or 0.0) >= BUSY_CORES
        end = "how much slower that made it was not measured"
        return [f"Note: the machine was busy ({others}); {end}."] if busy else []
    pace = _pace(machine["slowdown"], machine["uncertainty"] or 0.0, measured=machine.get("profiled", False))
    corrected, plain = (found.get(f"{name}response_error_median") for name in ("corrected_", ""))
    if corrected is None or plain is None:
        return [f"The machine was {pace} ({others})."]
    return [
        f"The machine was {pace} ({others}); corrected for that, simulation is off by {corrected:.1%} in "
        f"mean response at the median policy, uncorrected by {plain:.1%}."
    ]


def machine_summary(result: Plain) -> dict[str, float]:
    """The machine's slowdown and the median errors of mean response, with and without it; as far as known."""
    machine = result.get("machine") or {}
    found = {
        "machine_slowdown": machine.get("slowdown"),
        "machine_others_cores": machine.get("others_cores"),
        "operations_pace": operations_pace(result),
        "response_error_median": _median_error(result, "simulation_error"),
        "corrected_response_error_median": _median_error(result, "corrected_error"),
    }
    return {name: value for name, value in found.items() if value is not None}


def operations_pace(result: Plain) -> float | None:
    """How many times as long as predicted all operations of real runs took; None where that is not known."""
    rows = result.get("fidelity", {}).get("operations") or []
    for row in rows:
        if (row["operation"], row["devices"]) == ("all", "any") and row["predicted_s"]:
            return float(row["measured_s"] / row["predicted_s"])
    return None


def _median_error(result: Plain, kind: str) -> float | None:
    errors = [policy.get(kind, {}).get("response_mean_s") for policy in result["policies"].values()]
    known = [abs(error) for error in errors if error is not None]
    return median(known) if known else None


def _pace(slowdown: float, unsure: float, *, measured: bool) -> str:
    """Words for a factor; where what it is relative to is no surer than that, this is said."""
    factor = max(slowdown, 1 / slowdown)
    if factor <= 1 + ALIKE:
        return "about as fast as when profiled"
    sign = "slower" if slowdown > 1 else "quicker"
    open_end = ""
    if factor <= 1 + unsure:
        open_end = f" if the sentinel's work is predicted right (± {unsure:.0%})"
        if measured:
            open_end = f", within what it took by chance then (± {unsure:.0%})"
    return f"{factor:.2f} × {sign} than when profiled{open_end}"


def _others(machine: Plain) -> str:
    cores = machine["others_cores"]
    text = "what other programs used is not known"
    if cores is not None:
        text = f"other programs used {cores:.1f} of {machine['cores']} cores"
    stolen = machine["stolen_cores"]
    return text if stolen is None or stolen < BUSY_CORES else f"{text}, other machines {stolen:.1f}"
