"""How wrong predictors are on rows that they had not seen, by split and target, side by side."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pandas as pd

from shunter.errors import InputError
from shunter.models.physics.features import TARGETS, Target
from shunter.models.validation.baselines import Predictor
from shunter.models.validation.scores import Score, score
from shunter.models.validation.splits import Split, make_splits

__all__ = ["Validation", "assess", "target_rows"]

Array = npt.NDArray[np.float64]
Report = Callable[[str, int, int], None]

_ASKED_BY = ["operation", "engine", "device", "model"]
_KEPT = (
    *("operation", "engine", "device", "model", "quantization", "gpu_layers", "page_cache"),
    *("batch", "tokens", "context_tokens", "cell_id", "row_id"),
)


@dataclass(frozen=True)
class Validation:
    """Everything that held-out rows say.

    Attributes:
        scores: One for each predictor, split and target with held-out rows.
        impossible: Why a split could not be made, by its name.
        refusals: What each predictor said of rows that it had no means to predict, by predictor.
        held_out: The first predictor's held-out rows: ``split``, ``target``, ``measured``, ``smallest``,
            ``predicted``, ``low``, ``high``, and columns that say what the configuration is.
    """

    scores: tuple[Score, ...]
    impossible: dict[str, str]
    refusals: dict[str, tuple[str, ...]]
    held_out: pd.DataFrame

    def of(self, predictor: str, split: str, target: str) -> Score | None:
        """The score of that name, if there is one."""
        return next(
            (s for s in self.scores if (s.predictor, s.split, s.target) == (predictor, split, target)), None
        )


def assess(
    frame: pd.DataFrame, predictors: Mapping[str, Callable[[], Predictor]], *, report: Report | None = None
) -> Validation:
    """Fits each predictor to each split's remaining rows and scores it on the held-out ones.

    Args:
        frame: A validated profile dataset; shape (n_rows, ...).
        predictors: Makers of unfitted predictors by name; the first is the one in question.
        report: Called with a text, fits done and fits in all.
    """
    frame = frame.reset_index(drop=True)
    splits = make_splits(frame)
    scores: list[Score] = []
    refusals: dict[str, tuple[str, ...]] = {}
    kept: list[pd.DataFrame] = []
    done, total = 0, len(predictors) * sum(len(split.folds) for split in splits)
    for name, make in predictors.items():
        said: dict[str, None] = {}
        for split in splits:
            parts = []
            for out in split.folds:
                parts.append(predict_rows(make().fit(frame[~out]), frame[out], said))
                done += 1
                if report is not None:
                    report(f"{name}: {split.name}", done, total)
            rows = target_rows(pd.concat(parts)) if parts else []
            scores += [score(name, split.name, target, asked) for target, asked in rows]
            if name == next(iter(predictors)):
                kept += [asked.assign(split=split.name, target=target) for target, asked in rows]
        if said:
            refusals[name] = tuple(said)
    held_out = pd.concat(kept, ignore_index=True) if kept else pd.DataFrame()
    return Validation(tuple(scores), _impossible(splits), refusals, held_out)


def _impossible(splits: list[Split]) -> dict[str, str]:
    return {split.name: split.impossible for split in splits if split.impossible}


def predict_rows(fitted: Predictor, frame: pd.DataFrame, said: dict[str, None]) -> pd.DataFrame:
    """Predictions of all rows; what is refused stays NaN, and why goes into ``said``."""
    try:
        return fitted.predict(frame)
    except InputError:
        pass  # some rows are refused: which, and why, is found out group by group
    parts = []
    for _, rows in frame.groupby(_ASKED_BY, sort=False):
        try:
            parts.append(fitted.predict(rows))
        except InputError as error:
            said[str(error)] = None
            parts.append(rows)
    return pd.concat(parts)


def target_rows(predicted: pd.DataFrame) -> list[tuple[str, pd.DataFrame]]:
    """Sorts dataset rows with predictions by target.

    Args:
        predicted: Dataset rows with the columns of ``PerformanceModel.predict``; what is missing counts as
            refused (predictions) or unknown (intervals).

    Returns:
        Target names and frames of ``measured``, ``smallest``, ``predicted``, ``low``, ``high`` and the
        columns that say what the configuration is. Targets without rows are left out.
    """
    found = []
    for target in TARGETS.values():
        rows = predicted[predicted["operation"] == target.operation]
        if len(rows):
            found.append((target.name, _target_frame(target, rows)))
    return found


def _target_frame(target: Target, rows: pd.DataFrame) -> pd.DataFrame:
    stem = "duration_s" if target.name.endswith("_s") else target.name
    values = {
        name: rows.get(f"{stem}_{name}", pd.Series(np.nan, index=rows.index)).to_numpy(dtype=np.float64)
        for name in ("predicted", "low", "high")
    }
    return rows[list(_KEPT)].assign(measured=target.measured(rows), smallest=target.smallest(rows), **values)
