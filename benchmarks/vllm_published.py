"""Errors of the published decode steps of vLLM on GPUs and sources that a fit has not seen.

``python -m benchmarks.vllm_published [--quick] --json PATH``; a minute. Each fold's rows are predicted by the
fit that is shipped, made anew without them: its spreads, noise and widths are chosen inside. Prefills are not
scored: no source tells the time of a prompt by itself, without a queue or a cache of prefixes.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence

import numpy as np
import pandas as pd

from benchmarks.form import Row, main, reported
from benchmarks.model_blind import scored
from benchmarks.model_nested import interval_rows
from shunter.models.published.performance import fit_vllm
from shunter.models.published.vllm_rows import refused_vllm, vllm_frame
from shunter.uncertainty import bootstrap

__all__ = ["held_out_steps", "run"]

_SPLITS = {"GPU": "device", "source": "source"}
_DRAWS = 1000


def run(quick: bool) -> list[Row]:
    """All rows; quick: by GPU only."""
    frame = vllm_frame()
    why = "; ".join(f"{count}: {reason}" for reason, count in refused_vllm().value_counts().items())
    rows = [reported("vLLM decode steps, used", len(frame), "rows", note=f"not used: {why}")]
    for split in list(_SPLITS)[: 1 if quick else 2]:
        rows += _rows(f"vLLM decode steps, leave one {split} out", held_out_steps(split, frame))
    return rows


def held_out_steps(split: str, frame: pd.DataFrame) -> pd.DataFrame:
    """Published steps, each predicted by a fit without its group.

    Args:
        split: ``GPU`` or ``source``; a repository is one source.
        frame: As from ``vllm_frame``.

    Returns:
        As from ``model_blind.scored``, with ``group``.
    """
    groups = frame[_SPLITS[split]].str.replace(r"(github\.com/[^/]+/[^/]+)/.*", r"\1", regex=True)
    parts = []
    for group in sorted(set(groups)):
        out = groups == group
        fit = fit_vllm(frame[~out].reset_index(drop=True))
        parts.append(scored(frame[out].reset_index(drop=True), fit).assign(group=group))
    together: pd.DataFrame = pd.concat(parts)
    return together


def _rows(name: str, done: pd.DataFrame) -> Iterator[Row]:
    """Each group counts alike: one of them has half of all rows."""
    by_group = done.groupby("group").agg(
        error=("error", "mean"), ratio=("ratio", "median"), rows=("error", "size")
    )
    errors = by_group["error"].to_numpy(dtype=np.float64)
    mean, low, high = bootstrap(errors, lambda sample: sample.mean(axis=-1), resamples=_DRAWS)
    listed = ", ".join(f"{g} {r['ratio']:.2f} ({r['rows']:.0f})" for g, r in by_group.iterrows())
    note = f"{len(done)} rows, {len(by_group)} groups; all rows alike {done['error'].mean():.3g}; median "
    note += f"predicted / true by group (rows): {listed}"
    yield reported(f"{name}: mean error, groups alike", mean, interval=(low, high), note=note)
    yield from interval_rows(name, done)


def _main(argv: Sequence[str] | None = None) -> int:
    return main("vllm_published", run, "Errors of vLLM's published decode steps on what was not seen.", argv)


if __name__ == "__main__":
    sys.exit(_main())
