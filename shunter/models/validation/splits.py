"""Ways to hold rows of a dataset out, each a question of its own: what of the held-out was seen?"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pandas as pd

from shunter.models.physics.features import shape_names
from shunter.models.validation.held_out import fold_labels

__all__ = ["SPLITS"]

Rows = npt.NDArray[np.bool_]

RANDOM_FOLDS = 5
_LENGTH_OF = {
    "decode": "context_tokens",
    "prefill": "tokens",
    "kv_save": "tokens",
    "kv_restore": "tokens",
}
_BATCH_OF = {"decode": "batch"}

SPLITS = {
    "random cells": "other configurations of the same model, engine and device were seen",
    "leave one model out": "no row of the model was seen, in no quantisation",
    "leave one device out": "no row of the device was seen",
    "leave one engine out": "no row of the engine was seen",
    "longer context": "only shorter contexts, prompts and KV caches were seen",
    "larger batch": "only smaller batches were seen",
}
"""Names of the splits, and what was seen of what is predicted."""


@dataclass(frozen=True)
class Split:
    """One way to hold rows out.

    Attributes:
        name: One of ``SPLITS``.
        folds: Rows held out together; each array has shape (n_rows,). All other rows are fitted.
        impossible: Why the dataset does not allow it; empty if it does.
    """

    name: str
    folds: tuple[Rows, ...]
    impossible: str = ""


def make_splits(frame: pd.DataFrame) -> list[Split]:
    """All splits of a dataset, in the order of ``SPLITS``.

    Repeats of a configuration are always held out together. The extrapolations hold out the rows whose length
    or batch is above the middle one of those measured for their operation, engine and device.

    Args:
        frame: A profile dataset; shape (n_rows, ...).
    """
    return [
        _random(frame),
        _leave_one_out(frame, "leave one model out", "model", "models", shape_names(frame)),
        _leave_one_out(frame, "leave one device out", "device", "devices"),
        _leave_one_out(frame, "leave one engine out", "engine", "engines"),
        _beyond(frame, "longer context", _LENGTH_OF, "length"),
        _beyond(frame, "larger batch", _BATCH_OF, "batch"),
    ]


def _random(frame: pd.DataFrame) -> Split:
    labels = fold_labels(frame["cell_id"].to_numpy(dtype=object), RANDOM_FOLDS)
    folds = tuple(labels == fold for fold in range(int(labels.max()) + 1))
    if len(folds) < 2:
        return Split("random cells", (), "the dataset has one configuration only")
    return Split("random cells", folds)


def _leave_one_out(
    frame: pd.DataFrame, name: str, column: str, what: str, labels: npt.NDArray[np.str_] | None = None
) -> Split:
    names = frame[column].to_numpy(dtype=str)
    labels = names if labels is None else labels
    distinct = np.unique(labels)
    if len(distinct) < 2:
        same = ", ".join(np.unique(names))
        return Split(name, (), f"the dataset has one {column} only ({same}): it takes two {what}")
    return Split(name, tuple(labels == label for label in distinct))


def _beyond(frame: pd.DataFrame, name: str, column_of: dict[str, str], what: str) -> Split:
    out = np.zeros(len(frame), dtype=bool)
    for operation, column in column_of.items():
        asked = (frame["operation"] == operation).to_numpy()
        for _, rows in frame[asked].groupby(["engine", "device"], sort=True):
            values = np.unique(rows[column].to_numpy(dtype=np.float64))
            if len(values) > 1:
                middle = values[(len(values) - 1) // 2]
                out[frame.index.get_indexer(rows.index[rows[column] > middle])] = True
    if not out.any():
        return Split(name, (), f"the dataset has one {what} only of each {' and '.join(column_of)}")
    return Split(name, (out,))
