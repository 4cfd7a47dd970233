"""What no measurement can be, refused before it is fitted, and what a reader should doubt, as notes.

The schema checks each value by itself; here values are checked against each other and against physics, which
shows many mistaken units: milliseconds beside seconds, gigabytes as bytes.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pandas as pd

from shunter.catalog import work
from shunter.catalog.work import placed_configurations
from shunter.errors import InputError
from shunter.models.datasheets import HOST, datasheet
from shunter.profiling.dataset.schema import COLUMNS

Array = npt.NDArray[np.float64]
Rows = npt.NDArray[np.bool_]

_LONGEST_S = 1e6
_FASTEST_BYTES_PER_S = 1e14
"""Ten times the on-chip caches of the fastest GPUs: whoever reads weights faster did not read them."""
_SLOWEST_BYTES_PER_S = 2e7
"""A tenth of a hard disk: whoever reads weights slower hardly measured seconds."""
_UNCACHED_BYTES = 1e9
_BITS = (1.0, 64.0)
_APART = 300.0
_UNIT_DECADES = 3.0
_DECADES_OFF = 0.7
_WHERE = ["engine", "device", "hardware_id"]


def check_plausible(frame: pd.DataFrame) -> list[str]:
    """Checks rows that the schema allows.

    Args:
        frame: Validated rows, with ``datasheet`` (empty without one); shape (n_rows, ...).

    Returns:
        What can be fitted, but should be doubted.

    Raises:
        InputError: A value is infinite or of an impossible size, a decode step is faster than any memory or
            than twice the device's data sheet, or a session's durations are in another unit than the rest.
    """
    _check_finite(frame)
    _check_sizes(frame)
    _check_speed(frame)
    _check_units(frame)
    return [*_zeros(frame), *_constant(frame), *_slow(frame), *_far_apart(frame)]


def _refuse(frame: pd.DataFrame, bad: Rows, column: str, rule: str) -> None:
    if bad.any():
        row = int(bad.argmax())
        raise InputError(f"dataset: row {row}, column {column}", rule, frame[column].iloc[row])


def _check_finite(frame: pd.DataFrame) -> None:
    for column in COLUMNS:
        if column.dtype == "float64":
            _refuse(frame, np.isinf(frame[column.name].to_numpy(dtype=float)), column.name, "be finite")
    too_long = frame["duration_s"].to_numpy(dtype=float) > _LONGEST_S
    _refuse(frame, too_long, "duration_s", f"be at most {_LONGEST_S:g} s")


def _check_sizes(frame: pd.DataFrame) -> None:
    bits = 8 * frame["weight_bytes"].to_numpy(dtype=float) / frame["params"].to_numpy(dtype=float)
    rule = f"be {_BITS[0]:g} to {_BITS[1]:g} bits for each of params"
    _refuse(frame, (bits < _BITS[0]) | (bits > _BITS[1]), "weight_bytes", rule)
    layers = frame["gpu_layers"].to_numpy() > frame["total_layers"].to_numpy()
    _refuse(frame, layers, "gpu_layers", "be at most total_layers")


def _check_speed(frame: pd.DataFrame) -> None:
    decode = (frame["operation"] == "decode").to_numpy()
    at, duration_s = placed_configurations(frame), np.maximum(frame["duration_s"].to_numpy(dtype=float), 1e-6)
    count = frame["gpu_count"].fillna(1).to_numpy(dtype=float) if "gpu_count" in frame else 1.0
    # All requests of a batch may be sent to the same experts, which is the least that a step can read.
    read = work.weights_read_bytes(at, np.ones(len(frame)))
    fastest_s = (read.device + read.host) / (_FASTEST_BYTES_PER_S * count)
    rule = f"be long enough to read the weights at {_FASTEST_BYTES_PER_S:g} bytes/s"
    _refuse(frame, decode & (duration_s < fastest_s), "duration_s", rule)
    # Caches hold small models; beyond them, no step reads faster than the memory.
    peak_s = read.device / (2 * _peak_bytes_per_s(frame) * count)
    rule = "be long enough to read the weights at twice the bandwidth of the device's data sheet"
    large = read.device > _UNCACHED_BYTES
    _refuse(frame, decode & large & (duration_s < peak_s), "duration_s", rule)


def _peak_bytes_per_s(frame: pd.DataFrame) -> Array:
    codes, names = pd.factorize(frame["datasheet"])
    sheets = [datasheet(str(name)) if name not in ("", HOST) else None for name in names]
    peaks = [np.inf if sheet is None else sheet.bandwidth_bytes_per_s for sheet in sheets]
    return np.array(peaks, dtype=np.float64)[codes]


def _check_units(frame: pd.DataFrame) -> None:
    """Refuses sessions whose durations are a thousand times the others' in what both measured.

    Configurations that both measured say it best; without any, all operations of models of both must.
    """
    for key, unanimous in (("cell_id", False), ("model", True)):
        medians = frame.groupby([*_WHERE, "operation", key, "session_id"])["duration_s"].median().unstack()
        if medians.shape[1] < 2:
            return
        for session in medians:
            others = medians.drop(columns=session).median(axis=1)
            both = (medians[session] > 0) & (others > 0)
            decades = np.log10((medians[session] / others)[both].to_numpy(dtype=np.float64))
            if len(decades) >= 3 and _in_another_unit(decades, unanimous):
                times = 10 ** float(np.median(decades))
                raise InputError(
                    f"dataset: column duration_s of session {session!r}",
                    "be in seconds as in the other sessions",
                    f"{times:.3g} times theirs, in the median of {len(decades)} that both measured",
                )


def _in_another_unit(decades: Array, unanimous: bool) -> bool:
    units = np.maximum(np.round(np.abs(decades) / _UNIT_DECADES), 1) * _UNIT_DECADES
    near = np.abs(np.abs(decades) - units) < _DECADES_OFF
    same_side = np.sign(decades) == np.sign(np.median(decades))
    return bool((near & same_side).mean() >= (1.0 if unanimous else 0.8))


def _zeros(frame: pd.DataFrame) -> list[str]:
    rows = frame[(frame["duration_s"] == 0) & frame["operation"].isin(["load", "prefill", "decode"])]
    counts = rows.groupby("operation").size()
    return [f"{n} {op} rows have a duration of 0 s: they count as 1 us at most" for op, n in counts.items()]


def _constant(frame: pd.DataFrame) -> list[str]:
    groups = frame.groupby(["engine", "device", "operation"])
    counts = groups[["duration_s", "cell_id"]].nunique()
    same = counts[(counts["duration_s"] == 1) & (counts["cell_id"] > 1)]
    return [
        f"{engine} {device}: every {operation} took the very same time, in {configurations} configurations: "
        "nothing shows what it depends on"
        for engine, device, operation, _, configurations in same.reset_index().to_numpy().tolist()
    ]


def _slow(frame: pd.DataFrame) -> list[str]:
    """Nothing else shows the unit of a dataset whose durations are all in another one."""
    rows = frame[(frame["operation"] == "decode") & (frame["duration_s"] > 0)]
    if rows.empty:
        return []
    sides = work.weights_read_bytes(placed_configurations(rows), np.ones(len(rows)))
    read = pd.Series(sides.device + sides.host, index=rows.index)
    rates = rows.assign(rate=read / rows["duration_s"]).groupby(["engine", "device", "session_id"])
    medians = rates["rate"].median().reset_index()
    return [
        f"{engine} {device}: the decode steps of session {session!r} read weights at {speed / 1e6:.2g} MB/s "
        f"in the median, which is slower than a disk: are its durations in seconds?"
        for engine, device, session, speed in medians.to_numpy().tolist()
        if speed < _SLOWEST_BYTES_PER_S
    ]


def _far_apart(frame: pd.DataFrame) -> list[str]:
    repeats = frame[frame["duration_s"] > 1e-6].groupby([*_WHERE, "operation", "cell_id"])["duration_s"]
    times = (repeats.max() / repeats.min()).to_numpy()
    if not (times > _APART).any():
        return []
    return [
        f"{int((times > _APART).sum())} configurations have repeats that differ by up to "
        f"{times.max():.3g} times: stalls, or mixed units; configurations count by their medians"
    ]
