"""How long loads take by where their bytes come from, as others have published it; all is flagged so.

A time is a start, which depends on the path, and bytes that cross what lies between: the disk, one reader's
or several readers' copies, the link at its pinned rate. Each factor has a prior; machines differ by more
than these say, so each machine has an effect of its own on each path, with a spread per kind of path, and a
prediction is of a machine that was never seen. Errors have a Student t distribution, so that a wrong row
moves little. How wide intervals are is found by holding sources out whole.

Source: Gelman et al., Bayesian Data Analysis, 2013, sections 5.4 (hierarchical model), 13.4 (expectation and
maximisation), 17.2 (t errors as weights); rows: ``shunter.models.published.load_rows``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np
import numpy.typing as npt
import pandas as pd

from shunter.errors import InputError, UnknownNameError
from shunter.models.fit.uncertain import NORMAL
from shunter.models.published.load_rows import FALL_ASLEEP, LOAD_SOURCES, LOADERS, load_rows

__all__ = ["LoadModel"]

Array = npt.NDArray[np.float64]

LINK_BYTES_PER_S = 31.508e9
"""Where the device's is unknown: PCIe 4.0 with 16 lanes, at 16 GT/s and 128 of 130 bits."""
LINK_SPREAD = 0.5
"""Of the logarithm of a link that is not known: from eight lanes of PCIe 4 to sixteen of PCIe 5."""
STORAGE_BYTES_PER_S = 3e9
STORAGE_SPREAD = 0.9
"""Of the logarithm of a disk's rate that is not known: 90 % are within a factor of 4.4 of an NVMe drive's
3 GB/s, from a SATA disk's 0.6 GB/s to a stripe's 13."""

_COPIES = ("disk", "page-cache", "sleep-2")
_LINKS = ("pinned", "sleep-1", FALL_ASLEEP[0])
_PRIORS = {
    "files": (0.5, 1.0),  # s to open files and set up, from a disk or the page cache
    "pinned": (0.1, 0.8),  # s to begin, where all is set up
    "wake": (0.15, 0.8),
    "reset": (0.5, 0.8),  # s to set up weights that were dropped
    "sleep": (0.1, 0.8),
    "storage": (1.2, 0.4),  # bytes over the disk's stated rate
    "reader": (1.0 / 2e9, 0.6),  # s a byte that one reader waits besides, and copies
    "plain": (1.0 / 5e9, 0.5),  # s a byte of one reader's copies of what memory holds
    "parallel": (1.0 / 12e9, 0.5),
    "link": (1.3, 0.25),  # bytes over the link's theoretical rate
    "free": (1.0 / 40e9, 0.8),  # s a byte that is given back
}
"""Medians and spreads of logarithms beforehand, engineering judgement, but for the link: 50 GB/s of 63, which
vLLM's KV connector reaches on H100 (``preemption.csv``)."""

_KINDS = {
    "disk": "disk",
    **dict.fromkeys(("page-cache", "sleep-2"), "file"),
    **dict.fromkeys((*_LINKS, FALL_ASLEEP[1]), "memory"),
}
_STARTS = ("files", "files", "pinned", "wake", "reset", "sleep", "sleep")
_EFFECT, _NOISE = 0.4, 0.15
_EFFECT_COUNTS, _NOISE_COUNTS = 4.0, 6.0
_FREEDOM = 4.0
_STEPS, _SETTLE = 30, 4
_LEAST_WIDENING, _MOST_WIDENING = 1.0, 3.0
_PATHS = (*LOAD_SOURCES, *FALL_ASLEEP)


@dataclass(frozen=True)
class LoadModel:
    """A fitted model; made by ``fit``.

    Attributes:
        log_factors: Logarithms of factors, in the order of ``parameters``; shape (n_parameters,).
        covariance: Theirs; shape (n_parameters, n_parameters).
        spreads: Of machines, by kind of path (``disk``, ``file``, ``memory``): standard deviations of
            logarithms.
        noise: Of single figures, likewise.
        widening: How many times as wide intervals were found to have to be.
        bytes_range: Of each path, fewest and most bytes on one GPU that were seen.
    """

    log_factors: Array
    covariance: Array
    spreads: dict[str, float]
    noise: dict[str, float]
    widening: float
    bytes_range: dict[str, tuple[float, float]]

    @property
    def parameters(self) -> dict[str, float]:
        """Factors by name: seconds, seconds a byte, or times as long as at the theoretical rate."""
        return dict(zip(_PRIORS, np.exp(self.log_factors).tolist(), strict=True))

    @classmethod
    def fit(cls, rows: pd.DataFrame) -> LoadModel:
        """Fits published rows.

        Args:
            rows: As from ``load_rows``; shape (n_rows, ...).
        """
        model = _fitted(rows)
        scores, weights = [], []
        for source in rows["source_url"].unique():
            out = rows["source_url"] == source
            if out.all():
                continue
            done = _fitted(rows[~out]).predict(rows[out])
            half = np.log(done["duration_s_high"] / done["duration_s_low"]) / 2
            error = np.abs(np.log(rows.loc[out, "duration_s"].to_numpy() / done["duration_s_predicted"]))
            scores.append(error / half)
            weights.append(np.full(len(half), 1 / len(half)))
        if scores:
            needed = _weighted_quantile(np.concatenate(scores), np.concatenate(weights), 0.9)
            widening = float(np.clip(needed, _LEAST_WIDENING, _MOST_WIDENING))
            return cls(**{**model.__dict__, "widening": widening})
        return model

    def predict(self, asked: pd.DataFrame) -> pd.DataFrame:
        """Predicts loads on a machine that was never seen.

        Args:
            asked: Columns ``path`` and ``bytes``, and, where known, ``loader``, ``gpu_count``,
                ``link_bytes_per_s`` and ``storage_bytes_per_s``, as in ``load_rows``; shape (n, ...). A path
                that is empty is not known: it may be any of those of a file or of pinned memory.

        Returns:
            Shape (n, ...): ``duration_s_predicted``, ``duration_s_low`` and ``duration_s_high`` (90 %
            interval), and ``why_out_of_range``, what is a guess or was never seen, or empty.

        Raises:
            UnknownNameError: An unknown path or loader.
            InputError: Bytes or rates are not positive.
        """
        frame = _completed(asked)
        known = frame["path"] != ""
        out = pd.DataFrame(np.nan, frame.index, ["duration_s_predicted", "duration_s_low", "duration_s_high"])
        out.loc[known] = self._predicted(frame[known])
        if not known.all():
            unknown = frame[~known]
            parts = [self._predicted(unknown.assign(path=path)) for path in LOAD_SOURCES[:3]]
            low, high = np.min([p[:, 1] for p in parts], axis=0), np.max([p[:, 2] for p in parts], axis=0)
            out.loc[~known] = np.column_stack([np.sqrt(low * high), low, high])
        return out.assign(why_out_of_range=self._why(frame)).set_axis(asked.index)

    def _predicted(self, frame: pd.DataFrame) -> Array:
        values = _terms(frame)
        parts = values * np.exp(self.log_factors)
        total = parts.sum(axis=1)
        slopes = parts / np.maximum(total, np.finfo(float).tiny)[:, None]
        names = list(_PRIORS)
        guessed = frame["storage_guessed"].to_numpy() * STORAGE_SPREAD * slopes[:, names.index("storage")]
        of_link = frame["link_guessed"].to_numpy() * LINK_SPREAD * slopes[:, names.index("link")]
        kind = frame["path"].map(_KINDS)
        variance = ((slopes @ self.covariance) * slopes).sum(axis=1) + guessed**2 + of_link**2
        for spread in (self.spreads, self.noise):
            variance += kind.map(spread).to_numpy(dtype=np.float64) ** 2
        half = NORMAL * self.widening * np.sqrt(variance)
        return np.column_stack([total, total * np.exp(-half), total * np.exp(half)])

    def _why(self, frame: pd.DataFrame) -> list[str]:
        found = []
        for _, row in frame.iterrows():
            said = ["published, not measured here"]
            if row["path"] == "":
                said.append("where the bytes come from is not told")
            else:
                low, high = self.bytes_range.get(row["path"], (np.inf, 0.0))
                share = row["bytes"] / row["gpu_count"]
                if high == 0.0:
                    said.append(f"no figure of {row['path']} is published")
                elif not low / 2 <= share <= high * 2:
                    said.append(f"{share / 1e9:.3g} GB: seen {low / 1e9:.3g} to {high / 1e9:.3g}")
            if row["storage_guessed"] and row["path"] in ("disk", ""):
                said.append(f"the disk's rate is not told, {STORAGE_BYTES_PER_S / 1e9:g} GB/s taken")
            if row["link_guessed"] and row["path"] in (*_LINKS, ""):
                said.append(f"the link is not known, {LINK_BYTES_PER_S / 1e9:.3g} GB/s taken")
            found.append("; ".join(said))
        return found


@cache
def published_loads() -> LoadModel:
    """The model of all published rows."""
    return LoadModel.fit(load_rows())


def _completed(asked: pd.DataFrame) -> pd.DataFrame:
    frame = asked.reset_index(drop=True)
    frame = frame.assign(path=frame["path"].fillna("").astype(str))
    _check_known("load source", frame["path"], ("", *_PATHS))
    for name, default in (("loader", LOADERS[0]), ("gpu_count", 1.0)):
        given = frame[name] if name in frame else pd.Series(default, index=frame.index)
        frame[name] = given.fillna(default)
    _check_known("loader", frame["loader"], LOADERS)
    for name, default, flag in (
        ("link_bytes_per_s", LINK_BYTES_PER_S, "link_guessed"),
        ("storage_bytes_per_s", STORAGE_BYTES_PER_S, "storage_guessed"),
    ):
        given = frame[name] if name in frame else pd.Series(np.nan, index=frame.index)
        frame[flag] = given.isna()
        frame[name] = given.fillna(default)
    for name in ("bytes", "gpu_count", "link_bytes_per_s", "storage_bytes_per_s"):
        numbers = frame[name].astype(float)
        bad = ~(np.isfinite(numbers) & (numbers > 0))
        if bad.any():
            raise InputError(name, "be a number above 0", frame.loc[bad, name].iloc[0])
    return frame


def _check_known(field: str, names: pd.Series[str], known: Sequence[str]) -> None:
    for name in names.unique():
        if name not in known:
            raise UnknownNameError(field, str(name), [k for k in known if k])


def _terms(frame: pd.DataFrame) -> Array:
    """What each factor multiplies; shape (n, n_parameters)."""
    values = dict.fromkeys(_PRIORS, np.zeros(len(frame)))
    path, size = frame["path"], frame["bytes"].to_numpy(dtype=np.float64)
    share = size / frame["gpu_count"].to_numpy(dtype=np.float64)
    for name, start in zip(_PATHS, _STARTS, strict=True):
        values[start] = values[start] + (path == name)
    several, cold = frame["loader"] == LOADERS[1], path == "disk"
    storage_s = size / frame["storage_bytes_per_s"].to_numpy(dtype=np.float64)
    values["storage"] = cold * storage_s
    values["reader"] = (cold & ~several) * size
    values["plain"] = (path.isin(_COPIES) & ~cold & ~several) * size
    values["parallel"] = (path.isin(_COPIES) & several) * size
    values["link"] = path.isin(_LINKS) * share / frame["link_bytes_per_s"].to_numpy(dtype=np.float64)
    values["free"] = (path == FALL_ASLEEP[1]) * share
    return np.column_stack([np.asarray(values[name], dtype=np.float64) for name in _PRIORS])


class _Fit:
    """The most probable factors, machines' effects and spreads, by expectation and maximisation."""

    def __init__(self, rows: pd.DataFrame) -> None:
        frame = _completed(rows)
        self.values, self.log_s = _terms(frame), np.log(frame["duration_s"].to_numpy(dtype=np.float64))
        self.kind = frame["path"].map(_KINDS).to_numpy(dtype=str)
        machines, self.machine = np.unique(self.kind + frame["host"].to_numpy(dtype=str), return_inverse=True)
        self.machine_kind = np.empty(len(machines), dtype=self.kind.dtype)
        self.machine_kind[self.machine] = self.kind
        kinds = sorted(set(_KINDS.values()))
        self.spreads, self.noise = dict.fromkeys(kinds, _EFFECT), dict.fromkeys(kinds, _NOISE)
        medians, self.prior_spreads = np.array(list(_PRIORS.values())).T
        self.centre = np.concatenate([np.log(medians), np.zeros(len(machines))])
        self.x = self.centre.copy()
        for step in range(_STEPS):
            self._step()
            if step >= _SETTLE:
                self._estimate()

    def _step(self) -> None:
        """One of Newton's steps."""
        n, rows = len(_PRIORS), np.arange(len(self.log_s))
        parts = self.values * np.exp(self.x[:n])
        total = parts.sum(axis=1)
        jacobian = np.zeros((len(rows), len(self.x)))
        jacobian[:, :n] = parts / total[:, None]
        jacobian[rows, n + self.machine] = 1.0
        errors = self.log_s - np.log(total) - self.x[n + self.machine]
        noise = np.array([self.noise[kind] for kind in self.kind])
        weight = (_FREEDOM + 1) / (_FREEDOM + (errors / noise) ** 2)
        prior = np.concatenate([self.prior_spreads, [self.spreads[kind] for kind in self.machine_kind]])
        weighted = jacobian.T * (weight / noise**2)
        self.covariance = np.linalg.inv(weighted @ jacobian + np.diag(1 / prior**2))
        change = self.covariance @ (weighted @ errors - (self.x - self.centre) / prior**2)
        self.x = self.x + change * min(1.0, 1.0 / max(float(np.abs(change).max()), 1e-9))
        self.squares = weight * errors**2
        self.free = float((np.diag(self.covariance) / prior**2).sum()) - len(self.x) + len(rows)

    def _estimate(self) -> None:
        """Spreads of machines and of single figures, which count as some more beforehand."""
        n = len(_PRIORS)
        effects = self.x[n:] ** 2 + np.diag(self.covariance)[n:]
        for kind in self.spreads:
            here = effects[self.machine_kind == kind]
            sum_of_squares = _EFFECT_COUNTS * _EFFECT**2 + here.sum()
            self.spreads[kind] = float(np.sqrt(sum_of_squares / (_EFFECT_COUNTS + len(here))))
            here = self.squares[self.kind == kind]
            free = _NOISE_COUNTS + max(len(here) * self.free / len(self.kind), 0.0)
            self.noise[kind] = float(np.sqrt((_NOISE_COUNTS * _NOISE**2 + here.sum()) / free))


def _fitted(rows: pd.DataFrame) -> LoadModel:
    """A model without a widening."""
    fit, n, share = _Fit(rows), len(_PRIORS), rows["bytes"] / rows["gpu_count"]
    ranges = {str(path): (float(s.min()), float(s.max())) for path, s in share.groupby(rows["path"])}
    return LoadModel(fit.x[:n], fit.covariance[:n, :n], fit.spreads, fit.noise, 1.0, ranges)


def _weighted_quantile(values: Array, weights: Array, share: float) -> float:
    order = np.argsort(values)
    reached = np.cumsum(weights[order]) / weights.sum()
    return float(values[order][int(np.searchsorted(reached, share))])
