"""Where prompt and decode lengths come from: traces as pairs, and published quantiles."""

from __future__ import annotations

import json
from collections.abc import Sequence
from functools import cache, lru_cache
from importlib.resources import as_file, files
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy.stats import norm

from shunter.envs.scenario.limits import Limits
from shunter.envs.scenario.model import Model
from shunter.envs.scenario.scenario import Scenario
from shunter.envs.scenario.workload import TracePart, Workload
from shunter.envs.workload.replay import edition, models_by_row, read_part, read_replay
from shunter.envs.workload.traces import Trace, read_trace

__all__ = ["length_pairs", "mean_lengths", "pairs_by_model", "remaining_tokens", "stacked_pairs"]

Pairs = NDArray[np.int64]

_QUANTILE_PAIRS = 20_000
_TRACES = {"azure2023_conv": "azure2023_conv.csv.gz"}
_QUANTILES = {
    "azure2023_code": "azure2023_code",
    "mooncake_conversation": "mooncake_conversation_trace",
    "mooncake_synthetic": "mooncake_synthetic_trace",
}


def length_pairs(workload: Workload, limits: Limits) -> Pairs:
    """All (prompt, decode) pairs of the workload, scaled and cut to the context limit.

    Returns:
        Shape (rows, 2), tokens: see ``cut_pairs``; of a replay a row for each of its requests, in order.

    Raises:
        InputError: A trace file is missing or broken.
    """
    if workload.replay:
        return cut_pairs(_pairs(read_replay(workload)), workload, limits)
    return _drawn(workload.lengths, workload.prompt_scale, workload.decode_scale, limits.context_tokens)


def pairs_of_workload(workload: Workload, limits: Limits, models: Sequence[Model]) -> list[Pairs]:
    """``length_pairs`` by each model's limits and, where it has some, its lengths.

    Args:
        workload: Says what the lengths are.
        limits: Lengths are cut to its context.
        models: Models, which may have other lengths and another context; those alike share one array.

    Raises:
        InputError: A trace file is missing or broken.
    """
    found: dict[tuple[object, int | None], Pairs] = {}
    for model in models:
        key = model.lengths, model.context_tokens
        if key not in found:
            own = (
                workload if model.lengths is None else workload.model_copy(update={"lengths": model.lengths})
            )
            context = {"context_tokens": model.context_tokens}
            bounds = limits if model.context_tokens is None else limits.model_copy(update=context)
            found[key] = length_pairs(own, bounds)
    return [found[model.lengths, model.context_tokens] for model in models]


def pairs_by_model(workload: Workload, limits: Limits, models: Sequence[Model]) -> list[Pairs]:
    """The (prompt, decode) pairs of each model's requests; those of models that ask alike are one array.

    Of a replay that says which model its requests ask for, a model's are its own, and those of requests that
    name none; where there are none of these, all.

    Args:
        workload: Says what the lengths are.
        limits: Lengths are cut to its context.
        models: Models, which may have other lengths and another context.

    Raises:
        InputError: A trace file is missing or broken.
    """
    pairs, rows = pairs_of_workload(workload, limits, models), models_by_row(workload, models)
    if rows is None:
        return pairs
    own = [whole[(rows == m) | (rows < 0)] for m, whole in enumerate(pairs)]
    return [part if len(part) else whole for part, whole in zip(own, pairs, strict=True)]


def mean_lengths(scenario: Scenario) -> NDArray[np.float64]:
    """Mean prompt and decode tokens of each model's requests, (models, 2)."""
    pairs = pairs_by_model(scenario.workload, scenario.limits, scenario.models)
    means = {id(own): own.mean(axis=0) for own in pairs}
    return np.array([means[id(own)] for own in pairs])


def cut_pairs(pairs: Pairs, workload: Workload, limits: Limits) -> Pairs:
    """Scales pairs and cuts them to the context limit.

    Returns:
        Like pairs; every entry at least 1, every sum at most ``limits.context_tokens``. Of a pair that is too
        long the answer keeps half of the context, or what its prompt leaves where that is more.
    """
    return _cut(pairs, workload.prompt_scale, workload.decode_scale, limits.context_tokens)


def stacked_pairs(pairs: Sequence[Pairs]) -> Pairs:
    """Pairs of all models as one array, (models, N, 2); (1, N, 2) where all are alike.

    Those of a model that has fewer are repeated as evenly as can be.
    """
    if all(own is pairs[0] for own in pairs):
        return np.ascontiguousarray(pairs[0][None])
    most = max(map(len, pairs))
    return np.stack([own[np.arange(most) * len(own) // most] for own in pairs])


def remaining_by_model(pairs: Sequence[Pairs]) -> NDArray[np.float64]:
    """``remaining_tokens`` of each model's requests, (models, G); (1, G) where all are alike."""
    if all(own is pairs[0] for own in pairs):
        pairs = pairs[:1]
    rows = [remaining_tokens(own) for own in pairs]
    longest = max(map(len, rows))
    return np.array([np.pad(row, (0, longest - len(row)), mode="edge") for row in rows])


def remaining_tokens(pairs: Pairs) -> NDArray[np.float64]:
    """Expected further tokens of a request that has generated g, by the workload's length distribution.

    Returns:
        Shape (longest decode + 1,): entry g is E[L - g | L > g], the mean residual life.
    """
    lengths = np.sort(pairs[:, 1]).astype(np.float64)
    generated = np.arange(int(lengths[-1]) + 1)
    first_longer = np.searchsorted(lengths, generated, side="right")
    tail_sums = np.concatenate([np.cumsum(lengths[::-1])[::-1], [0.0]])[first_longer]
    tail_counts = lengths.size - first_longer
    return np.where(tail_counts > 0, tail_sums / np.maximum(1, tail_counts) - generated, 1.0)


def _drawn(
    lengths: str | Path | TracePart, prompt_scale: float, decode_scale: float, context_tokens: int
) -> Pairs:
    file = lengths.file if isinstance(lengths, TracePart) else lengths if isinstance(lengths, Path) else None
    of = None if file is None else edition(file)
    return _drawn_of(lengths, prompt_scale, decode_scale, context_tokens, of)


@lru_cache(64)
def _drawn_of(
    lengths: str | Path | TracePart,
    prompt_scale: float,
    decode_scale: float,
    context_tokens: int,
    _edition: tuple[int, int] | None,
) -> Pairs:
    """What ``length_pairs`` gives, the same array for everybody who asks."""
    is_file = isinstance(lengths, Path | TracePart)
    if isinstance(lengths, Path | TracePart):
        part = TracePart(file=lengths) if isinstance(lengths, Path) else lengths
        pairs = _pairs(read_part(part, needs_arrivals=part.from_s is not None or part.to_s is not None))
    elif lengths in _TRACES:
        pairs = _shipped(lengths)
    else:
        pairs = _from_quantiles(lengths)
    cut = _cut(pairs, prompt_scale, decode_scale, context_tokens, halves=not is_file)
    cut.setflags(write=False)
    return cut


def _cut(
    pairs: Pairs, prompt_scale: float, decode_scale: float, context_tokens: int, *, halves: bool = False
) -> Pairs:
    """What ``cut_pairs`` says; with ``halves`` no answer is longer than half of the context, prompts or not.

    So lengths that shunter ships are cut: measured capacities and trained policies rest on it.
    """
    scaled = np.maximum(1, np.rint(pairs * np.array([prompt_scale, decode_scale])))
    left = 0.0 if halves else context_tokens - scaled[:, 0]
    scaled[:, 1] = np.minimum(scaled[:, 1], np.maximum(context_tokens // 2, left))
    scaled[:, 0] = np.minimum(scaled[:, 0], context_tokens - scaled[:, 1])
    return np.asarray(scaled, np.int64)


def _pairs(trace: Trace) -> Pairs:
    return trace.frame[["prompt_tokens", "decode_tokens"]].to_numpy()


@cache
def _shipped(name: str) -> Pairs:
    with as_file(files("shunter.data").joinpath(_TRACES[name])) as path:
        return _pairs(read_trace(path))


@cache
def _from_quantiles(name: str) -> Pairs:
    """Pairs with a trace's marginal quantiles and rank correlation, joined by a Gaussian copula.

    Source:
        Kruskal (1958): Spearman's rho of a bivariate normal is 6/π · asin(r/2).
    """
    data = json.loads(files("shunter.data").joinpath("workload_quantiles.json").read_text(encoding="utf-8"))
    trace, levels = data["traces"][_QUANTILES[name]], data["quantile_levels"]
    r = 2 * np.sin(np.pi / 6 * trace["spearman"])
    rng = np.random.default_rng(0)  # the pairs are data: the same in every run and for every seed
    normal = rng.multivariate_normal([0, 0], [[1, r], [r, 1]], _QUANTILE_PAIRS)
    uniform = norm.cdf(normal)
    columns = [np.interp(uniform[:, i], levels, trace[q]) for i, q in enumerate(("prompt_q", "output_q"))]
    return np.asarray(np.rint(np.column_stack(columns)), np.int64)
