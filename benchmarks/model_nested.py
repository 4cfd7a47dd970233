"""Errors of the published performance model on GPUs, sources and years that it has not seen, chosen blind.

Each fold's rows are predicted by a ``PerformanceModel`` fitted to all others. All that is chosen is chosen by
that fit, from its rows: spreads of effects, noise, and how wide intervals are, which it finds by holding
groups out within. Terms and priors are what ``shunter.models.physics`` says; the fold has no part in them.

``python -m benchmarks.model_nested --json PATH``; ten minutes on 2 idle cores. ``--quick``: decodes, by GPU.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence

import numpy as np
import pandas as pd

from benchmarks.form import Row, at_most, main, reported
from benchmarks.model_blind import PLACEMENTS, held_to_coverage, scored
from shunter.catalog.gpus import catalog_gpus
from shunter.models.performance import PerformanceModel
from shunter.models.physics.release import NVIDIA, release_of
from shunter.models.published.performance import ENGINE
from shunter.models.published.rows import fitted_frame
from shunter.uncertainty import bootstrap, ratio_of_sums

__all__ = ["interval_rows", "nested_predictions", "run"]

SPLITS = ("GPU", "source", "year")
_WHOLE, _HOST = PLACEMENTS[0], PLACEMENTS[3]
_BARS: dict[tuple[str, str, str], float] = {
    ("decode", "GPU", _WHOLE): 0.07,
    ("decode", "source", _WHOLE): 0.09,
    ("prefill", "GPU", _WHOLE): 0.15,
    ("decode", "GPU", _HOST): 0.15,
}
_DRAWS = 1000


def run(quick: bool) -> list[Row]:
    """All rows: errors by placement, shares inside intervals and their widths, by operation and split."""
    rows: list[Row] = []
    for operation in ("decode",) if quick else ("decode", "prefill"):
        for split in SPLITS[:1] if quick else SPLITS:
            done = nested_predictions(operation, split)
            for placement in PLACEMENTS:
                part = done[done["placement"] == placement]
                if len(part):
                    bar = _BARS.get((operation, split, placement))
                    rows.append(_error_row(f"{operation}, {placement}, leave one {split} out", part, bar))
            for driver, part in _by_driver(done[done["placement"] == _WHOLE]).items():
                rows.append(_error_row(f"{operation}, {_WHOLE}, {driver}, leave one {split} out", part))
            rows += interval_rows(f"{operation}, leave one {split} out", done)
    return rows


def nested_predictions(operation: str, split: str, frame: pd.DataFrame | None = None) -> pd.DataFrame:
    """Predictions of published rows, each by a fit without its group.

    Args:
        operation: ``decode`` or ``prefill``.
        split: One of ``SPLITS``.
        frame: Published rows as a dataset; None: all that the shipped model is fitted to.

    Returns:
        As from ``model_blind.scored``, with ``group``: the rows whose lengths are stated.
    """
    rows = fitted_frame() if frame is None else frame
    rows = rows[(rows["engine"] == ENGINE) & (rows["operation"] == operation)].reset_index(drop=True)
    groups = _groups(rows, split)
    parts = []
    for group in sorted(set(groups)):
        out = groups == group
        parts.append(scored(rows[out], PerformanceModel().fit(rows[~out])).assign(group=group))
    done = pd.concat(parts)
    return done[(done["operation"] != "decode") | (done["steps"] > 0)]


def _groups(rows: pd.DataFrame, split: str) -> pd.Series[str]:
    if split == "year":
        return rows["engine_version"].map(lambda text: str(int(release_of(text).year)))
    return rows["device" if split == "GPU" else "source"].astype(str)


def _by_driver(done: pd.DataFrame) -> dict[str, pd.DataFrame]:
    """Rows of NVIDIA's GPUs and of others: what drives these differs more, and few have rows."""
    nvidia = done["device"].map(lambda name: catalog_gpus()[name].architecture in NVIDIA)
    return {"CUDA": done[nvidia], "ROCm or Metal": done[~nvidia]}


def _error_row(name: str, done: pd.DataFrame, bar: float | None = None) -> Row:
    by_group = done.groupby("group")["error"].agg(["sum", "size"]).to_numpy(dtype=np.float64)
    interval = None
    if len(by_group) > 1:
        _, low, high = bootstrap(by_group, ratio_of_sums, resamples=_DRAWS)
        interval = (low, high)
    alike = float((by_group[:, 0] / by_group[:, 1]).mean())
    note = f"{len(done)} rows, {len(by_group)} groups; median {done['error'].median():.3g}"
    note += f", groups alike {alike:.3g}, inside {done['inside'].mean():.3g}"
    row = reported(f"{name}: mean error", float(done["error"].mean()), interval=interval, note=note)
    return row if bar is None else at_most(row, bar)


def interval_rows(name: str, done: pd.DataFrame) -> Iterator[Row]:
    """Coverage with each group counting alike, since a group's rows err together."""
    share = float(done.groupby("group")["inside"].mean().mean())
    note = f"of all rows alike: {done['inside'].mean():.3g}; {done['group'].nunique()} groups"
    yield held_to_coverage(reported(f"{name}: inside the 90 % interval, groups alike", share, note=note))
    width = float(done.groupby("group")["half_width"].mean().mean())
    yield reported(f"{name}: mean log half width, groups alike", width)
    missed = done[~done["inside"]]
    if len(missed):
        flagged = float(missed["out_of_range"].mean())
        yield reported(f"{name}: share of misses flagged out of range", flagged, note=f"{len(missed)} misses")


def _main(argv: Sequence[str] | None = None) -> int:
    return main("model_nested", run, "Errors of the published model on what it has not seen.", argv)


if __name__ == "__main__":
    sys.exit(_main())
