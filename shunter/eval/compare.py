"""Evaluations beside each other: what is unlike, and paired differences where requests are the same."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import PurePath
from typing import Any

import numpy as np

from shunter.eval.metrics.changes import paired_change
from shunter.eval.metrics.metrics import request_times
from shunter.eval.read_back import Recorded, RecordedRun
from shunter.report.words import MODES

__all__ = ["Change", "Comparison", "compare"]

_IGNORED = ("name", "description", "split")
"""Fields of a scenario that change no figure."""

ARRIVAL_TOLERANCE_S = 1e-6

SPEED_TOLERANCE = 0.05
"""Two sentinels that differ by less saw the same machine."""

ANOTHER_TIME = "the time at which engines ran"
"""What marks a real difference between evaluations: of one pair of times no spread is known."""


@dataclass(frozen=True)
class Mark:
    """Something that makes figures of two evaluations differ, apart from their policies.

    Attributes:
        run: Number of the evaluation that is unlike the first, from 2.
        what: Differs: a field of the scenario, the seeds, the performance model ...
        first: Its value in the first evaluation.
        other: Its value in evaluation ``run``.
        touches: Figures: of ``simulated`` or ``real``; ``means``, but no paired differences; or none.
    """

    run: int
    what: str
    first: str
    other: str
    touches: tuple[str, ...] = MODES


@dataclass(frozen=True)
class Change:
    """A policy's mean response in one evaluation against the first, on the same requests.

    Attributes:
        run: Number of the evaluation, from 2.
        policy: Its name.
        mode: ``simulated`` or ``real``.
        sequences: Request sequences that both have.
        change: Relative change of the mean response; NaN if refused.
        low: Lower end of the 95 % paired interval; NaN where there is none.
        high: Upper end of the 95 % paired interval; NaN where there is none.
        refused: Why there is no figure.
        marked: What differs besides, that touches this mode.
    """

    run: int
    policy: str
    mode: str
    sequences: int
    change: float = math.nan
    low: float = math.nan
    high: float = math.nan
    refused: str = ""
    marked: tuple[str, ...] = ()


@dataclass(frozen=True)
class Comparison:
    """Evaluations beside each other.

    Attributes:
        runs: The evaluations; the first is what the others are set against.
        metrics: Keys and names of metrics that any of them has.
        marks: What differs.
        changes: Changes of the policies that an evaluation shares with the first.
    """

    runs: tuple[Recorded, ...]
    metrics: dict[str, str]
    marks: tuple[Mark, ...]
    changes: tuple[Change, ...]

    @property
    def policies(self) -> list[str]:
        """All names, in the order in which they come."""
        return list(dict.fromkeys(name for run in self.runs for name in run.policies))

    def to_dict(self) -> dict[str, Any]:
        """Everything that the tables show, as plain data."""
        return {
            "runs": [
                {
                    "run": number,
                    "source": run.source,
                    "scenario": run.result["scenario"]["name"],
                    "rate_per_s": run.result.get("rate_per_s"),
                    "seeds": run.result["seeds"],
                    "provenance": run.result["provenance"],
                    "policies": {
                        name: {mode: run.result["policies"][name].get(mode) for mode in MODES}
                        for name in run.policies
                    },
                }
                for number, run in enumerate(self.runs, 1)
            ],
            "metrics": self.metrics,
            "marks": [asdict(mark) for mark in self.marks],
            "changes": [asdict(change) for change in self.changes],
        }


def compare(runs: Sequence[Recorded]) -> Comparison:
    """Sets evaluations beside the first of them.

    Args:
        runs: Two or more.
    """
    first, *others = runs
    marks = tuple(mark for number, run in enumerate(others, 2) for mark in _marks(number, first, run))
    changes = [
        _change(number, policy, mode, first, run, marks)
        for number, run in enumerate(others, 2)
        for policy in run.policies
        for mode in MODES
        if all(mode in one.result["policies"].get(policy, {}) for one in (first, run))
    ]
    metrics = {key: name for run in runs for key, name in run.result["metrics"].items()}
    return Comparison(tuple(runs), metrics, marks, tuple(changes))


def _marks(number: int, first: Recorded, other: Recorded) -> Iterator[Mark]:
    ours, theirs = (dict(_fields(run.result["scenario"])) for run in (first, other))
    for name in dict.fromkeys([*ours, *theirs]):
        if ours.get(name) != theirs.get(name):
            yield Mark(number, f"scenario: {name}", _said(ours.get(name)), _said(theirs.get(name)))
    if set(first.result["seeds"]) != set(other.result["seeds"]):
        yield Mark(
            number, "workload seeds", _said(first.result["seeds"]), _said(other.result["seeds"]), ("means",)
        )
    made = [run.result["provenance"] for run in (first, other)]
    digests = [(one.get("performance") or {}).get("digest") for one in made]
    versions = [one.get("versions", {}).get("shunter") for one in made]
    for what, pair, modes in (
        ("performance model", digests, ("simulated",)),
        ("engine version", [one.get("engine_version") for one in made], ("real",)),
        ("machine", [one.get("machine_id") for one in made], ("real",)),
        ("machine's speed", _speeds(first, other), ("real",)),
        ("shunter's version", versions, MODES),
        ("commit", [one.get("commit") for one in made], ()),
    ):
        # Nothing is compared in a mode that only one of them has.
        shown = [mode for mode in modes if all(_has(run, mode) for run in (first, other))]
        if pair[0] != pair[1] and (shown or not modes):
            yield Mark(number, what, _said(pair[0]), _said(pair[1]), tuple(shown))


def _speeds(first: Recorded, other: Recorded) -> list[str | None]:
    """How fast the machine was, as the sentinel saw it; alike where nobody looked or it differs by little."""
    slow: list[Any] = [(run.result.get("machine") or {}).get("slowdown") for run in (first, other)]
    if None in slow or max(slow) < (1 + SPEED_TOLERANCE) * min(slow):
        return [None, None]
    return [f"{value:.2f} × as long as profiled" for value in slow]


def _fields(value: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """A scenario as dotted names and values; checkpoints by file name, wherever they lie."""
    items: Any = value.items() if isinstance(value, Mapping) else enumerate(value)
    for key, of in items:
        name = f"{prefix}{key}"
        if name in _IGNORED:
            continue
        if isinstance(of, Mapping) or (isinstance(of, list) and any(isinstance(x, Mapping) for x in of)):
            yield from _fields(of, f"{name}.")
        else:
            yield name, PurePath(of).name if key == "checkpoint" and of else of


def _has(run: Recorded, mode: str) -> bool:
    return any(mode in policy for policy in run.result["policies"].values())


def _change(
    number: int, policy: str, mode: str, first: Recorded, other: Recorded, marks: Sequence[Mark]
) -> Change:
    """The paired change over the seeds that both have."""
    mine, theirs = other.runs(policy, mode), first.runs(policy, mode)
    seeds = {run.seed for run in mine} & {run.seed for run in theirs}
    mine, theirs = (_once([run for run in runs if run.seed in seeds]) for runs in (mine, theirs))
    said = Change(number, policy, mode, len(seeds))
    if not seeds:
        return replace(said, refused="no request sequence in common: other workload seeds")
    open_loop = not first.result["scenario"]["workload"].get("closed_loop")
    if not all(_same_requests(a, b, open_loop) for a, b in zip(mine, theirs, strict=True)):
        return replace(said, refused="other requests under the same seeds")
    found = paired_change(mine, theirs)
    marked = tuple(mark.what for mark in marks if mark.run == number and mode in mark.touches)
    figures = {name: found[name] for name in ("change", "low", "high")}
    if all(request_times(a).equals(request_times(b)) for a, b in zip(mine, theirs, strict=True)):
        figures.update(low=0.0, high=0.0)  # no claim of an interval: every request was answered alike
    elif mode == "real":
        # Two evaluations are two times of the machine, and one difference between them has no spread.
        figures.update(low=math.nan, high=math.nan)
        marked = (*marked, ANOTHER_TIME)
    return replace(said, **figures, marked=marked)


def _once(runs: list[RecordedRun]) -> list[RecordedRun]:
    """One run of each seed, in order of seeds; of repeats the first."""
    return [next(run for run in runs if run.seed == seed) for seed in sorted({run.seed for run in runs})]


def _same_requests(a: RecordedRun, b: RecordedRun, open_loop: bool) -> bool:
    """Whether both were asked for the same; in a closed loop policies make arrivals differ."""
    names = ["model", "prompt_tokens", "decode_tokens"]
    if len(a.requests) != len(b.requests) or not a.requests[names].equals(b.requests[names]):
        return False
    one, other = (run.requests["arrival_s"].to_numpy(np.float64) for run in (a, b))
    return not open_loop or np.allclose(one, other, rtol=0, atol=ARRIVAL_TOLERANCE_S, equal_nan=True)


def _said(value: Any) -> str:
    if value is None:
        return "unknown"
    text = ", ".join(map(str, value)) if isinstance(value, list) else str(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
