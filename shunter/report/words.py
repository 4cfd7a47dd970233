"""Figures of an evaluation in words: what numbers look like, and what they come to."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from shunter.uncertainty import FEWEST_ROUNDS, FEWEST_SEQUENCES, UNDECIDED, said

__all__ = ["MODES", "best_of", "change_text", "decided_text", "format_metric", "headline", "verdict"]

MODES = ("simulated", "real")


def format_metric(metric: str, value: float | None) -> str:
    """A metric as tables show it: seconds with three digits, shares in percent, counts plain."""
    if value is None or np.isnan(value):
        return "-"
    if metric.endswith("_share"):
        return f"{value:.1%}"
    if metric == "tpot_mean_s":
        return f"{value * 1e3:.1f} ms"
    return f"{value:.3f} s" if metric.endswith("_s") else f"{value:.4g}"


def change_text(change: dict[str, Any]) -> str:
    """A paired change with its interval."""
    if change["change"] is None or np.isnan(change["change"]):
        return "unknown"
    if _unknown(change):
        return f"{change['change']:+.1%} (no interval)"
    return f"{change['change']:+.1%} [{change['low']:+.1%}, {change['high']:+.1%}]"


def decided_text(change: dict[str, Any]) -> str:
    """A paired change with its interval, and that it is undecided where the interval holds zero."""
    open_end = (
        ""
        if _unknown(change)
        else said(change["low"], change["high"], above="", below="", undecided=f", {UNDECIDED}")
    )
    return change_text(change) + open_end


def interval_text(found: dict[str, Any], form: str) -> str:
    """A figure with its interval, as far as they are known.

    Args:
        found: ``value``, ``low`` and ``high``.
        form: Format of each number, as for ``str.format``.
    """
    value, low, high = (found[name] for name in ("value", "low", "high"))
    if value is None or np.isnan(value):
        return "-"
    ends = "" if low is None or np.isnan(low) else f" [{form.format(low)}, {form.format(high)}]"
    return f"{form.format(value)}{ends}"


def headline(result: dict[str, Any]) -> str:
    """What an ``Evaluation.to_dict`` comes to in one sentence, from real runs where there are any."""
    mode, rows = _nearest_reality(result)
    words = f"the lowest mean response is that of {best_text(result)}"
    if len(rows) == 1:
        words = f"mean response of {best_text(result)}"
    elif _lowest(rows) == result["changes_against"]:
        words = f"no policy has a lower mean response than {best_text(result)}"
    return f"{mode.capitalize()}: {words}."


def best_text(result: dict[str, Any]) -> str:
    """The policy of the lowest mean response, real if there are such, and its change against the first."""
    best, row = best_of(result)
    first = result["changes_against"]
    mean = format_metric("response_mean_s", row["response_mean_s"])
    change = "" if best == first else f"; against {first}: {decided_text(row['response_change'])}"
    return f"{best} ({mean}{change})"


def best_of(result: dict[str, Any]) -> tuple[str, dict[str, Any]]:
    """The policy of the lowest mean response, real if there are such, and its figures there."""
    _, rows = _nearest_reality(result)
    name = _lowest(rows)
    return name, rows[name]


def _nearest_reality(result: dict[str, Any]) -> tuple[str, dict[str, Any]]:
    """Reality if anything ran there, else simulation; and each policy's figures in it."""
    mode = next(m for m in reversed(MODES) if any(m in p for p in result["policies"].values()))
    return mode, {name: p[mode] for name, p in result["policies"].items() if mode in p}


def _lowest(rows: dict[str, Any]) -> str:
    """Whose mean response is lowest."""
    return min(rows, key=lambda name: _or_inf(rows[name]["response_mean_s"]))


def verdict(result: dict[str, Any]) -> list[str]:
    """The findings of an ``Evaluation.to_dict``; each names its numbers and their uncertainty."""
    lines = []
    for mode in MODES:
        rows = {n: p[mode] for n, p in result["policies"].items() if mode in p}
        if rows:
            lines.append(" ".join(_mode_words(result, mode, rows)))
    lines += _error_words(result)
    if result["interrupted"]:
        lines.append("The evaluation was cut short: only complete runs are counted.")
    return lines


def _mode_words(result: dict[str, Any], mode: str, rows: dict[str, Any]) -> Iterator[str]:
    best, first = _lowest(rows), result["changes_against"]
    yield (
        f"{mode.capitalize()}: {best} has the lowest mean response "
        f"({format_metric('response_mean_s', rows[best]['response_mean_s'])})."
    )
    changes = {name: row["response_change"] for name, row in rows.items() if name != first}
    if changes:
        yield f"Against {first}: {', '.join(f'{n} {change_text(c)}' for n, c in changes.items())}."
        yield _clear_words(first, changes) + _more_words(result, mode, changes)
    unserved = {n: row["unfinished"] for n, row in rows.items() if row["unfinished"] > 0}
    if unserved:
        counts = ", ".join(f"{name} {count:.0f}" for name, count in unserved.items())
        yield f"Requests that were not served, and that no mean counts: {counts}."
    illegal = {n: row.get("illegal_share") or 0.0 for n, row in rows.items()}
    shares = ", ".join(f"{n} in {share:.1%} of its decisions" for n, share in illegal.items() if share > 0)
    if shares:
        yield f"Chosen although the mask forbade it, so that something else was done: {shares}."


def _clear_words(first: str, changes: dict[str, Any]) -> str:
    """Which intervals are clear of zero."""
    claims = {
        "below": "lower by more than chance",
        "above": "higher by more than chance",
        "undecided": f"{UNDECIDED} against {first}",
    }
    found = {name: said(c["low"], c["high"], **claims) for name, c in changes.items()}
    parts = [
        f"{claim}: {', '.join(n for n in found if found[n] == claim)}"
        for claim in claims.values()
        if claim in found.values()
    ]
    text = "; ".join(parts)
    return f"{text[:1].upper()}{text[1:]}."


def _more_words(result: dict[str, Any], mode: str, changes: dict[str, Any]) -> str:
    """How many runs it takes to tell more apart, where not all is decided."""
    if all(said(c["low"], c["high"], above="y", below="y", undecided="") for c in changes.values()):
        return ""
    untold = any(_unknown(c) for c in changes.values())
    if mode == "simulated":
        return f" Intervals need {FEWEST_SEQUENCES} request sequences or more." if untold else ""
    runs = result.get("real_runs")
    if runs is None:  # of a version that did not count them
        return ""
    few = ""
    if untold:
        rounds = _times(runs["rounds"])
        few = f"{rounds} of each policy cannot tell a difference from chance ({FEWEST_ROUNDS} may); "
    text = f"{few}to tell {runs['resolution']:.0%} apart takes about {runs['runs_needed']} runs of each"
    measured = "" if runs["spread"] is not None else ", if they spread as usual"
    return f" {text[:1].upper()}{text[1:]}{measured}."


def _times(count: int) -> str:
    return f"{count} run" if count == 1 else f"{count} runs"


def _error_words(result: dict[str, Any]) -> Iterator[str]:
    errors = [
        (name, p["simulation_error"]["response_mean_s"])
        for name, p in result["policies"].items()
        if p.get("simulation_error", {}).get("response_mean_s") is not None
    ]
    if not errors:
        return
    worst = max(errors, key=lambda e: abs(e[1]))
    middle = float(np.median([abs(e) for _, e in errors]))
    if "fidelity" not in result:  # which says the same, beside what reality differs from itself
        yield (
            f"Simulation was off by {middle:.1%} in mean response at the median policy, by "
            f"{worst[1]:+.1%} at worst ({worst[0]})."
        )
    splits = {n: p["error_split"] for n, p in result["policies"].items() if "error_split" in p}
    parts = (f"{n} {x['durations']:+.1%} and {x['decisions']:+.1%}" for n, x in splits.items())
    passed, added, logged = (
        sum(x[key] for x in splits.values()) for key in ("infeasible", "missing", "decisions_logged")
    )
    yield (
        "Of the error, the predicted durations' part (the real decisions, replayed with them) and what "
        f"deciding differently adds: {', '.join(parts)} ({passed} of {logged} decisions could not be "
        f"taken again, {added} were added)."
    )


def _unknown(change: dict[str, Any]) -> bool:
    return change["low"] is None or bool(np.isnan(change["low"]))


def _or_inf(value: float | None) -> float:
    return float("inf") if value is None or np.isnan(value) else value
