"""What a preemption measurement says in words, beside the paper: each answer is computed from the rows."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from shunter.profiling.preemption.paper import paper_lines
from shunter.profiling.preemption.tables import change_text, mean_text, seconds_text, slope_text
from shunter.uncertainty import UNDECIDED, said

_MATTERS = "the cut matters"
_COMPLETE = 0.05


def headline(results: dict[str, Any]) -> str:
    """What a preemption costs here, in one sentence.

    Args:
        results: From ``preemption_results``.
    """
    models = results["models"].values()
    costs = _range([s["overhead_mean_s"] for s in models], ".3g")
    share = _shares([s["swap_share"] for s in models])
    return (
        f"Preempting a model for another and bringing it back costs {costs} s here, {share} of it unloading "
        "and loading weights."
    )


def answers(results: dict[str, Any]) -> list[str]:
    """Does reload dominate here too, is it flat in the cut point, where does it differ from the paper?

    Args:
        results: From ``preemption_results``.
    """
    return [_dominates(results), _is_flat(results["models"]), _differs(results)]


def findings(results: dict[str, Any]) -> list[str]:
    """A line a model, the line over the models, and what went wrong: tokens that differ, memory kept."""
    lines = [_finding(name, s) for name, s in results["models"].items()]
    line = results["line_over_models"]
    if line:
        lines.append(
            f"Over the models, A's own overhead is about {seconds_text(line['intercept_s'])} + weights / "
            f"{line['bytes_per_s'] / 1e9:.2f} GB/s."
        )
    for name, s in results["models"].items():
        if s["tokens_equal"] < s["cycles"]:
            lines.append(
                f"{name}: in {s['cycles'] - s['tokens_equal']} of {s['cycles']} cycles the tokens differ "
                "from an uninterrupted run."
            )
        if s["memory_back"] < s["cycles"]:
            lines.append(
                f"{name}: in {s['cycles'] - s['memory_back']} of {s['cycles']} cycles the device's memory "
                "did not come back near its idle level after an unload."
            )
    return lines


def _dominates(results: dict[str, Any]) -> str:
    here = [s["swap_share"] for s in results["models"].values()]
    there = [cell["swap_share"] for cell in results["paper"]]
    loads = [s["load_share"] for s in results["models"].values()]
    return (
        f"Does reload dominate here too? {_more_than_half(results['models'])}: unloading and loading weights "
        f"is {_shares(here)} of the overhead, the loads alone {_shares(loads)} (unloading and loading in "
        f"the paper's six cells: {_shares(there)})."
    )


def _is_flat(models: dict[str, Any]) -> str:
    question = "Is it flat in the cut point?"
    judged = {name: s for name, s in models.items() if s["slope"]}
    if not judged:
        return f"{question} Too few cuts to tell."
    name, s = max(judged.items(), key=lambda item: abs(item[1]["change_over_cuts"]["slope"]))
    return (
        f"{question} {_flatness(judged)}. The largest change from the first cut to the last is {name}'s, "
        f"{change_text(s['change_over_cuts'])} of its overhead; its KV transfers alone change by "
        f"{slope_text(s['kv_slope'])} s per 1000 tokens."
    )


def _more_than_half(models: dict[str, Any]) -> str:
    above_half = {
        name: [None if s[end] is None else s[end] - 0.5 for end in ("swap_share_low", "swap_share_high")]
        for name, s in models.items()
    }
    return _told({name: said(*ends, above="yes", below="no") for name, ends in above_half.items()})


def _flatness(judged: dict[str, Any]) -> str:
    """No, undecided, or which models say what, and how much could hide; no interval shows a flat line."""
    found = {name: _verdict(s["slope"]) for name, s in judged.items()}
    text = _told({name: "no" if verdict == _MATTERS else verdict for name, verdict in found.items()})
    hidden = [s["change_over_cuts"] for name, s in judged.items() if found[name] == UNDECIDED]
    if not hidden:
        return text
    widest = max(abs(change[end]) for change in hidden for end in ("low", "high"))
    return f"{text} (a change by {widest:.1%} of the overhead is within the widest interval)"


def _told(found: dict[str, str]) -> str:
    """One word if all say the same, otherwise which model says what."""
    named: dict[str, list[str]] = {}
    for name, word in found.items():
        named.setdefault(word, []).append(name)
    text = "; ".join(f"{word} for {', '.join(names)}" for word, names in named.items())
    text = next(iter(named)) if len(named) == 1 else text
    return text[0].upper() + text[1:]


def _differs(results: dict[str, Any]) -> str:
    models, cells = results["models"].values(), results["paper"]
    rates = [s["load_bytes_per_s"] / 1e9 for s in models]
    paper_rates = [line["bytes_per_s"] / 1e9 for line in paper_lines(cells).values()]
    extra = [s["resume_extra_s"] / s["overhead_mean_s"] for s in models]
    return (
        f"Where does it differ from the paper? A's weights load at {_range(rates, '.2f')} GB/s (overhead "
        f"against weights in the paper: {_range(paper_rates, '.2f')} GB/s); KV transfers are "
        f"{_shares([s['kv_share'] for s in models])} of the overhead (paper: "
        f"{_shares([cell['kv_share'] for cell in cells])}); the overhead is "
        f"{_shares([s['overhead_of_baseline'] for s in models])} of A's uninterrupted computation (paper, "
        f"with jobs of 7000 tokens: {_shares([cell['overhead_of_baseline'] for cell in cells])}). A load "
        "that only maps its file (mmap) leaves the reading to the first step after it: A's first step after "
        f"it was resumed took {_shares(extra)} of the overhead longer than its later ones, so the loads "
        f"{'are complete' if max(extra) < _COMPLETE else 'are not complete: part of them is hidden there'}."
    )


def _finding(name: str, s: dict[str, Any]) -> str:
    text = f"{name}: {mean_text(s)} a cycle, {s['swap_share']:.1%} of it unloading and loading weights"
    if not s["slope"]:
        return f"{text}; too few cuts to tell whether the cut matters."
    verdict = _verdict(s["slope"])
    verdict = verdict if verdict == _MATTERS else f"{verdict} whether {_MATTERS}"
    return (
        f"{text}; {verdict}: {slope_text(s['slope'])} s per 1000 tokens, "
        f"{change_text(s['change_over_cuts'])} of the overhead from the first cut to the last."
    )


def _verdict(slope: dict[str, float]) -> str:
    """In words; a few slow cycles move the least squares, so that the two intervals have to agree."""
    squares, robust = (
        said(slope[low], slope[high], above="rises", below="falls")
        for low, high in (("low", "high"), ("robust_low", "robust_high"))
    )
    return _MATTERS if squares == robust != UNDECIDED else UNDECIDED


def _shares(values: Sequence[float]) -> str:
    return _range(values, ".1%")


def _range(values: Sequence[float], form: str) -> str:
    low, high = format(min(values), form), format(max(values), form)
    return low if low == high else f"{low} to {high}"
