"""How wrong performance models are where they were not trained, against rivals, on published rows.

``python -m benchmarks.model_accuracy [--quick] --json PATH``; a full run takes some minutes on 2 cores.
``python -m benchmarks.model_accuracy --blind TABLE`` scores the shipped model on a table of published rates.
Errors are of the very class that users call: published rows become a profile dataset, and a
``PerformanceModel`` fitted without a fold predicts it. Held-out configurations of own sweeps are judged too:
those of ``SHUNTER_DATASETS=a.parquet:b.parquet``, or else of sweeps that it makes itself, five minutes an
engine (a few configurations with ``--quick``), which want an otherwise idle machine.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd

from benchmarks.form import Row, at_most, main, reported
from benchmarks.model_blind import blind_rows
from benchmarks.model_rivals import RIVALS
from benchmarks.model_splits import AccuracySplit, read_split
from benchmarks.model_sweeps import COVERAGE_ROWS, coverage_row, split_rows, sweep_rows
from benchmarks.profiling import own_sweeps
from shunter.errors import InputError
from shunter.models.card.errors import largest_errors
from shunter.models.performance import PerformanceModel
from shunter.models.published.rows import published_frame
from shunter.models.validation.assessment import assess, target_rows
from shunter.models.validation.baselines import Predictor
from shunter.models.validation.scores import Score, score
from shunter.profiling.dataset.reference import PAPER, read_reference
from shunter.profiling.dataset.table import read_dataset

__all__ = ["held_out_predictions", "preemption_cells", "run"]

_BARS: dict[str, float | None] = {
    "leave_gpu_out": 0.09,
    "leave_size_out": 0.12,
    "leave_sweep_model_out": 0.08,
    "several_gpus": None,
    "random": None,
    "long_context": None,
}
_PREEMPTION_BAR = 0.05
_MEAN_CUT_TOKENS = 2550


def run(quick: bool, blind: Path | None = None, json: Path | None = None) -> list[Row]:
    """All rows of the table; quick: no rivals, no prefill, and the three splits with bars only.

    Args:
        quick: Whether to leave out what takes long.
        blind: A table of published rates that the shipped model is scored on, instead of all else.
        json: Where the rows are written; not used here.
    """
    if blind is not None:
        return blind_rows(blind)
    frame = published_frame()
    decode = frame[(frame["operation"] == "decode") & (frame["engine"] == "llama-cpp")]
    rows: list[Row] = []
    for name, bar in _BARS.items():
        if not quick or bar is not None:
            rows += _split_rows(decode, read_split(name), bar, {} if quick else RIVALS)
    if not quick:
        rows += _prefill_rows(frame)
    rows += _preemption_rows()
    rows += _own_rows(quick)
    return [*rows, _speed_row(decode)]


def held_out_predictions(
    frame: pd.DataFrame, split: AccuracySplit, make: Callable[[], Predictor] = PerformanceModel
) -> pd.DataFrame:
    """Predictions of a split's scored rows by fits without their folds.

    Args:
        frame: Published rows (``published_frame``).
        split: What is held out together.
        make: Returns an unfitted predictor.

    Returns:
        The scored rows with the columns of ``PerformanceModel.predict`` and ``fold``.
    """
    parts: list[pd.DataFrame] = []
    for label, ids in split.folds.items():
        out = frame["row_id"].isin(ids)
        asked = frame[out & frame["row_id"].isin(split.scored)]
        done: pd.DataFrame = make().fit(frame[~out]).predict(asked)
        parts.append(done.assign(fold=label))
    return pd.concat(parts)


def _split_rows(
    frame: pd.DataFrame, split: AccuracySplit, bar: float | None, rivals: dict[str, Callable[[], Predictor]]
) -> list[Row]:
    done = held_out_predictions(frame, split)
    own = _score("shunter", split.name, done)
    head = reported(
        f"decode MAPE, {split.name}", own.mape, interval=own.mape_interval, note=_note(split, own)
    )
    rows = [head if bar is None else at_most(head, bar)]
    if len(split.folds) <= 3 and split.name != "long_context":
        for label, part in done.groupby("fold"):
            alone = _score("shunter", str(label), part)
            rows.append(reported(f"decode MAPE, {split.name}: {label}", alone.mape))
    for name, make in rivals.items():
        other = _score(name, split.name, held_out_predictions(frame, split, make))
        rows.append(reported(f"decode MAPE, {split.name}, {name}", other.mape, interval=other.mape_interval))
    return rows + _coverage_rows(split.name, own, _constant_width_s(frame, split, done))


def _note(split: AccuracySplit, own: Score) -> str:
    return f"{split.what} {own.rows} rows, {len(split.folds)} folds, {own.refused} refused"


def _score(predictor: str, split: str, done: pd.DataFrame) -> Score:
    return score(predictor, split, "decode_step_s", dict(target_rows(done))["decode_step_s"])


def _coverage_rows(name: str, own: Score, constant: float) -> list[Row]:
    if own.rows < COVERAGE_ROWS or own.coverage is None:
        return []
    return [
        coverage_row(f"decode 90 % interval, {name}", own),
        reported(
            f"decode 90 % interval, {name}: mean width over prediction",
            own.mean_width,
            note=f"one width in seconds for all that holds as many of them: {constant:.3g}",
        ),
    ]


def _constant_width_s(frame: pd.DataFrame, split: AccuracySplit, done: pd.DataFrame) -> float:
    """Mean over rows of the one width in seconds that holds 90 % of these errors, over the prediction."""
    error_s = (done["duration_s"] - done["duration_s_predicted"]).abs()
    return float((2 * error_s.quantile(0.9) / done["duration_s_predicted"]).mean())


def _prefill_rows(frame: pd.DataFrame) -> list[Row]:
    """Published prefills have no bar; their coverage has. The note says what is farthest off, and how far."""
    rows = frame[(frame["operation"] == "prefill") & (frame["engine"] == "llama-cpp")]
    validation = assess(rows, {"shunter": PerformanceModel})
    worst = "; ".join(" ".join(row[1:]) for row in largest_errors(validation.held_out)[:3])
    head, *more = split_rows("published llama-cpp", validation)
    return [replace(head, note=f"{head.note}; largest: {worst}"), *more]


def preemption_cells() -> pd.DataFrame:
    """The paper's preemption table, as summarised, as dataset rows: three for each of its six cells.

    The share of the swap (unload and reload) is a load, that of KV a save and a restore of the mean cut, in
    proportion to the paper's KV table; ``cell`` names the cell.
    """
    table = read_reference()
    table = table[table["system"].eq(f"{PAPER} (Table II)")]
    total = table[table["metric"] == "total_preemption_overhead"].reset_index(drop=True)
    swap = table[table["metric"].str.startswith("share_model_swap")].reset_index(drop=True)
    seconds, share = total["value"].astype(float), swap["value"].astype(float) / 100
    parts = {"load": share, "kv_save": (1 - share) * 0.58, "kv_restore": (1 - share) * 0.42}
    rows = [
        total.assign(
            operation=operation,
            duration_s=seconds * part,
            tokens=np.nan if operation == "load" else _MEAN_CUT_TOKENS,
            row_id=total["row_id"] + " " + operation,
        )
        for operation, part in parts.items()
    ]
    frame = published_frame(pd.concat(rows))
    return frame.assign(cell=frame["row_id"].str.split(" ").str[0])


def _preemption_rows() -> list[Row]:
    cells = preemption_cells()
    names = [c for c in cells if c != "cell"]
    errors = {}
    for cell in cells["cell"].unique():
        out = cells["cell"] == cell
        done = PerformanceModel().fit(cells.loc[~out, names]).predict(cells.loc[out, names])
        first = done.iloc[0]
        off = done["duration_s_predicted"].sum() / done["duration_s"].sum() - 1
        errors[f"{first['model']} on {first['device']}"] = float(off)
    note = "the paper as summarised; " + ", ".join(f"{k} {v:+.1%}" for k, v in errors.items())
    mape = float(np.mean(np.abs(list(errors.values()))))
    head = reported("preemption MAPE, leave one cell out, 6 cells", mape, note=note)
    return [at_most(head, _PREEMPTION_BAR)]


def _own_rows(quick: bool) -> list[Row]:
    paths = [p for p in os.environ.get("SHUNTER_DATASETS", "").split(os.pathsep) if p]
    sweeps = {os.path.basename(path): read_dataset(path) for path in paths}
    sweeps = sweeps or own_sweeps(quick=quick)
    return [row for name, frame in sweeps.items() for row in sweep_rows(name, frame)]


def _speed_row(frame: pd.DataFrame) -> Row:
    model = PerformanceModel().fit(frame)
    asked = pd.concat([frame] * (100_000 // len(frame) + 1), ignore_index=True).iloc[:100_000]
    taken = []
    for _ in range(3):
        began = time.perf_counter()
        model.predict(asked)
        taken.append(time.perf_counter() - began)
    note = f"median of {', '.join(f'{t:.2f}' for t in taken)}"
    return at_most(reported("predict 100,000 cells", float(np.median(taken)), "s", note=note), 1.0)


def _main(argv: Sequence[str] | None = None) -> int:
    blind = {
        "type": Path,
        "metavar": "TABLE",
        "help": "score the shipped model on a table of published rates",
    }
    what = "Errors of performance models on what they have not seen."
    try:
        return main("model_accuracy", run, what, argv, {"--blind": blind})
    except InputError as error:
        print(error, file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(_main())
