"""Recalibration: what real runs took moves a performance model's times, and by how much is said.

Only times move, by factors (``shunter.models.scales``); their intervals move along and keep their relative
width. Judged on spans of the log that the fit had not seen.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from shunter.envs.scenario.scenario import Scenario
from shunter.envs.world.world import World, make_world
from shunter.errors import InputError
from shunter.eval.execution.recorded import real_runs
from shunter.eval.fidelity.scale_fit import Key, Observation, fit_scales
from shunter.eval.fidelity.spans import Part, run_spans
from shunter.eval.traffic.record import run_start
from shunter.eval.traffic.world import ended_loads
from shunter.models.performance import PerformanceModel
from shunter.models.scales import Scale
from shunter.profiling.dataset.fingerprint import digest

__all__ = ["Recalibration", "recalibrate"]

SHORTEST_S = 1e-6
"""Spans below the resolution of an engine's clock say nothing."""

WORSE = 0.01
"""Errors that grow by less are as they were."""


@dataclass(frozen=True)
class Move:
    """How far one time moved.

    Attributes:
        target: Which time moved.
        engine: Engine whose time it is.
        device: Device on which it is taken.
        model: Model whose time it is.
        before: What the fitted time was multiplied by before.
        after: What it is multiplied by now.
        rows: Rows of these logs that it rests on, each by the share that the target has in it.
    """

    target: str
    engine: str
    device: str
    model: str
    before: float
    after: float
    rows: float


@dataclass(frozen=True)
class SpanErrors:
    """How far predictions of spans were off, each by a fit that had not seen it.

    Attributes:
        target: What takes most of these spans; ``all`` for all of them.
        spans: How many.
        before: Mean absolute error relative to what was measured, of the model as it was.
        after: Mean absolute error of models recalibrated on the other half; None where there is no other
            half.
        sum_before: Error of the time that these spans took in all, relative to it: what does not even out.
        sum_after: ``sum_before`` of models recalibrated on the other half; None where there is no other half.
    """

    target: str
    spans: int
    before: float
    after: float | None
    sum_before: float
    sum_after: float | None


@dataclass(frozen=True)
class Recalibration:
    """What came of it.

    Attributes:
        performance: The model with new scales, from all runs that it had not seen.
        moves: Each time, device and model of these runs.
        errors: Errors of spans, by target.
        halves: What was held out in turn: ``seeds``, ``time``, or nothing (empty).
        runs: Fingerprints of the runs that counted.
        known: Runs that the model was recalibrated on before, which did not count again.
        notes: What else to know, in words.
    """

    performance: PerformanceModel
    moves: tuple[Move, ...]
    errors: tuple[SpanErrors, ...]
    halves: str
    runs: tuple[str, ...]
    known: int
    notes: tuple[str, ...]


@dataclass(frozen=True)
class _Run:
    fingerprint: str
    seed: int
    observations: list[Observation]


def recalibrate(
    performance: PerformanceModel, scenario: Scenario, logs: Sequence[pd.DataFrame]
) -> Recalibration:
    """Moves a performance model's times towards what real runs took.

    The world is compiled anew with the model as it is, so that its durations are what the scales multiply;
    one that engines were bound to has the same durations.

    Args:
        performance: The model as it is; not changed.
        scenario: Scenario of the runs; says what engine and devices they were on.
        logs: Event logs (``shunter.eval.execution.event_log``); rows of simulated runs are passed over.

    Raises:
        InputError: No run is real, one does not fit the scenario, or nothing in them was measured.
    """
    world = make_world(scenario, performance)
    real = [rows for log in logs for rows in real_runs(log)]
    if not real:
        raise InputError("event log", "hold a real run (shunter eval --real)", _modes(logs))
    new = {_fingerprint(rows): rows for rows in real}
    known = [name for name in new if name in performance.state_.recalibrated_on]
    runs = [_observed(world, name, rows) for name, rows in new.items() if name not in known]
    if runs and not any(run.observations for run in runs):
        raise InputError("event log", "hold operations that ended", f"{sum(map(len, real))} decisions")
    before = {scale.key: scale for scale in performance.state_.scales}
    observations = [o for run in runs for o in run.observations]
    after = fit_scales(observations, before)
    counted = tuple(run.fingerprint for run in runs)
    halves, errors = _held_out(runs, before)
    return Recalibration(
        performance.with_scales(after.values(), (*performance.state_.recalibrated_on, *counted)),
        tuple(_moves(observations, before, after)),
        errors,
        halves,
        counted,
        len(known),
        tuple(_notes(world, errors, len(known))),
    )


def _modes(logs: Iterable[pd.DataFrame]) -> str:
    found = sorted({str(name) for log in logs for name in log["mode"].unique()})
    return f"{' and '.join(found)} runs only" if found else "no rows"


def _fingerprint(rows: pd.DataFrame) -> str:
    """Digest of a run: its wall-clock times never come twice."""
    times = rows[["run_id", "device", "choice", "decided_s", "start_s", "end_s"]]
    return digest(times.astype(object).where(times.notna(), None).to_numpy().tolist(), 16)


def _observed(world: World, fingerprint: str, rows: pd.DataFrame) -> _Run:
    seed = int(rows["seed"].iloc[0])
    if run_start(str(rows["run_id"].iloc[0])) is not None:
        return _Run(fingerprint, seed, list(_loads(world, rows)))
    try:
        spans = run_spans(world, world.draw(seed), rows)
    except InputError as error:
        raise InputError(
            f"event log: run {rows['run_id'].iloc[0]}", f"fit scenario {world.scenario.name}", str(error)
        ) from error
    observations = [
        Observation(span.measured_s, {_key(world, part): s for part, s in span.parts_s.items()})
        for span in spans
        if span.measured_s >= SHORTEST_S and span.predicted_s >= SHORTEST_S
    ]
    return _Run(fingerprint, seed, observations)


def _loads(world: World, rows: pd.DataFrame) -> Iterator[Observation]:
    """Loads of a gateway, evictions included; what its requests took is shared with all that ran beside."""
    if world.scenario.limits.host_memory_gb is not None:
        return
    for load in ended_loads(world, rows):
        parts = {Part("unload_s", load.device, m): seconds for m, seconds in load.evicted_s.items()}
        at = load.device, load.model, load.level
        parts[Part("load_s", load.device, load.model)] = float(world.tables.load_s[at])
        if load.took_s >= SHORTEST_S:
            yield Observation(load.took_s, {_key(world, part): s for part, s in parts.items()})


def _key(world: World, part: Part) -> Key:
    device = world.scenario.devices[part.device].hardware_name
    page_cache = "warm" if part.target == "load_s" else ""
    model = world.scenario.models[part.model]
    return part.target, world.scenario.engine_of(model), device, page_cache, model.name


def _factor(scales: dict[Key, Scale], key: Key) -> float:
    found = [scales[k].factor for k in ((*key[:4], ""), key) if k in scales]
    return float(np.prod(found))


def _predicted_s(o: Observation, before: dict[Key, Scale], after: dict[Key, Scale]) -> float:
    return sum(s * _factor(after, key) / _factor(before, key) for key, s in o.parts_s.items())


def _moves(
    observations: Sequence[Observation], before: dict[Key, Scale], after: dict[Key, Scale]
) -> Iterator[Move]:
    for key in sorted({key for o in observations for key in o.parts_s}):
        target, engine, device, _, model = key
        rows = after[key].rows - (before[key].rows if key in before else 0.0)
        yield Move(target, engine, device, model, _factor(before, key), _factor(after, key), rows)


def _halves(runs: Sequence[_Run]) -> tuple[str, tuple[list[Observation], list[Observation]]]:
    """Two parts: every other seed; or of one seed's runs, what came first and what came later."""
    seeds = sorted({run.seed for run in runs})
    if len(seeds) > 1:
        odd = set(seeds[::2])
        parts = [
            [o for run in runs if (run.seed in odd) == first for o in run.observations] for first in (1, 0)
        ]
        return "seeds", (parts[0], parts[1])
    cut = [(run.observations, len(run.observations) // 2) for run in runs]
    return "time", ([o for all_, n in cut for o in all_[:n]], [o for all_, n in cut for o in all_[n:]])


def _held_out(runs: Sequence[_Run], before: dict[Key, Scale]) -> tuple[str, tuple[SpanErrors, ...]]:
    name, (one, other) = _halves(runs)
    scored = []
    for seen, unseen in ((one, other), (other, one)):
        found = fit_scales(seen, before) if seen else None
        for o in unseen:
            was_s = sum(o.parts_s.values())
            now_s = np.nan if found is None else _predicted_s(o, before, found)
            most = max(o.parts_s, key=lambda key: o.parts_s[key])
            scored.append((most[0], o.measured_s, was_s, now_s))
    frame = pd.DataFrame(scored, columns=["target", "measured_s", "before_s", "after_s"])
    groups = [(str(target), rows) for target, rows in frame.groupby("target")]
    errors = [_span_errors(target, rows) for target, rows in [*groups, ("all", frame)] if len(rows)]
    return name if one and other else "", tuple(errors)


def _span_errors(target: str, rows: pd.DataFrame) -> SpanErrors:
    measured_s, all_s = rows["measured_s"], rows["measured_s"].sum()
    mean = {n: float((rows[n] / measured_s - 1).abs().mean()) for n in ("before_s", "after_s")}
    total = {n: float(rows[n].sum() / all_s - 1) for n in mean}
    unknown = bool(rows["after_s"].isna().any())
    return SpanErrors(
        target,
        len(rows),
        mean["before_s"],
        None if unknown else mean["after_s"],
        total["before_s"],
        None if unknown else total["after_s"],
    )


def _notes(world: World, errors: Sequence[SpanErrors], known: int) -> Iterator[str]:
    if known:
        yield f"{known} runs were counted in an earlier update, so they were not counted again"
    if world.scenario.limits.host_memory_gb is not None:
        yield "loads were left out: with limits.host_memory_gb a log does not say which were read from disk"
    for e in errors:
        if e.after is not None and e.after > e.before + WORSE:
            yield f"{e.target}: held-out spans are predicted worse than before; more runs would help"
