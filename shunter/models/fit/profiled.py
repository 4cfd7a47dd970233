"""What a profile measured of the smallest pieces of work: done again, they tell how fast the machine is."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pandas as pd
from scipy.stats import t as student

from shunter.models.state import ProfiledWork

_CONFIDENCE = 0.90
_SURE = 0.05
"""Half width below which what is quicker counts."""

_PLACE = ["engine", "device", "model", "gpu_layers"]


def profiled_work(frame: pd.DataFrame) -> tuple[ProfiledWork, ...]:
    """A request measured alone, quick and often alike, for each model and level of an engine and device.

    Args:
        frame: A profile dataset. Rows that were imported, or of a device name that stands for several
            machines, do not count: whoever measures again does so as a sweep would, and where it was.

    Returns:
        One for each engine, device, model and gpu_layers whose work was measured twice or more.
    """
    alone = frame["batch"] == 1
    here = frame[alone & (frame["source"] == "") & ~frame["is_outlier"].astype(bool)]
    machines = here.groupby("device")["hardware_id"].transform("nunique")
    here = here[machines == 1]
    prefills = here[here["operation"] == "prefill"]
    found = []
    for place, decodes in here[here["operation"] == "decode"].groupby(_PLACE, sort=True):
        there = prefills[(prefills[_PLACE] == list(place)).all(axis=1)]
        sizes = decodes.groupby(["prompt_tokens", "steps"])
        whole = [work for size, rows in sizes if (work := _work(place, size, rows, there)) is not None]
        if whole:
            found.append(min(whole, key=_price))
    return tuple(found)


def _price(work: ProfiledWork) -> float:
    """Seconds that it takes, times how unsure they are."""
    return (work.prefill_s + work.decode_s) * max(work.half_width, _SURE)


def _work(place: Any, size: Any, decodes: pd.DataFrame, prefills: pd.DataFrame) -> ProfiledWork | None:
    engine, device, model, gpu_layers = place
    prompt_tokens, steps = map(int, size)
    prefill_s = prefills.loc[prefills["tokens"] == prompt_tokens, "duration_s"].to_numpy(dtype=np.float64)
    decode_s = decodes["duration_s"].to_numpy(dtype=np.float64) * steps
    repeats = min(len(prefill_s), len(decode_s))
    if repeats < 2 or prompt_tokens < 1:
        return None
    middle_s = float(np.median(prefill_s) + np.median(decode_s))
    spread = math.hypot(float(prefill_s.std(ddof=1)), float(decode_s.std(ddof=1))) / middle_s
    # Of one more measurement against the median of these.
    wide = float(student.ppf(0.5 + _CONFIDENCE / 2, repeats - 1)) * math.sqrt(1 + 1 / repeats)
    return ProfiledWork(
        engine=str(engine),
        device=str(device),
        model=str(model),
        gpu_layers=int(gpu_layers),
        prompt_tokens=prompt_tokens,
        steps=steps,
        prefill_s=float(np.median(prefill_s)),
        decode_s=float(np.median(decode_s)),
        half_width=wide * spread,
    )
