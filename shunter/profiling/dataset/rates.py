"""Tables of published rates: prefills and decodes in tokens a second, a row each, as CSV.

The columns are those of ``shunter/data/throughput.csv.gz``; newer tables have further ones
(``benchmarks/published/README.md``), which may be missing.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pandas as pd

from shunter.errors import InputError
from shunter.reading import reading

__all__ = ["read_rates"]

PHASES = ("prefill", "decode")
TEXT_COLUMNS = (
    *("row_id", "model", "quant", "gpu", "cpu", "phase", "tokens_per_s", "software", "source_url", "notes"),
    *("published", "release", "backend", "host_memory"),
)
NUMBER_COLUMNS = {
    **{"params_b": 0.0, "weight_bytes": 1.0, "gpu_count": 0.0, "vram_gb": 0.0, "layers_total": 1.0},
    **{"layers_gpu": 0.0, "prompt_tokens": 0.0, "decode_tokens": 0.0, "context_tokens": 0.0, "batch": 1.0},
    **{"depth_tokens": 0.0, "n_ubatch": 1.0, "flash_attention": 0.0},
}
"""Numbers by their least value; each may be missing."""

_NEEDED = (
    *("model", "params_b", "quant", "weight_bytes", "gpu", "gpu_count", "vram_gb", "cpu", "layers_total"),
    *("layers_gpu", "prompt_tokens", "decode_tokens", "batch", "phase", "tokens_per_s", "software"),
)
_MAY_LACK = ("row_id", "source_url", "notes")
_STATED = ("model", "quant", "gpu", "batch", "phase", "tokens_per_s", "software")
_MOST = 1e15


def read_rates(path: str | os.PathLike[str]) -> pd.DataFrame:
    """Reads a table of published rates and checks each value.

    Args:
        path: A CSV file, may be gzipped.

    Returns:
        A row per rate. Text columns hold text or NaN (``tokens_per_s`` the source's digits), numbers floats;
        ``row_id``, ``source_url`` and ``notes`` are there in any case, ids the rows' numbers if need be.

    Raises:
        InputError: There is no such file; columns are missing or there twice; a value is missing that each
            row needs, is no number or out of range; two rows have one id.
        BrokenFileError: It is no CSV.
    """
    path = Path(path)
    if not path.is_file():
        raise InputError("table of rates", "be a CSV file", str(path))
    with reading(path):
        raw = pd.read_csv(path, dtype=str, skipinitialspace=True, keep_default_na=False, na_values=[""])
    missing = [name for name in _NEEDED if name not in raw]
    if missing or raw.empty:
        rule = f"have rows and the columns {', '.join(_NEEDED)}"
        raise InputError(str(path), rule, f"lacks {', '.join(missing)}" if missing else "no rows")
    texts = [name for name in TEXT_COLUMNS if name in raw and name not in _STATED]
    raw = raw.assign(**{name: raw[name].str.strip().replace("", None) for name in texts})
    ids = {"row_id": [str(i + 1) for i in range(len(raw))], "source_url": "", "notes": ""}
    raw = raw.assign(**{name: ids[name] for name in _MAY_LACK if name not in raw})
    numbers = {n: _numbers(path, raw, n, least) for n, least in NUMBER_COLUMNS.items() if n in raw}
    _check_rows(path, raw, _numbers(path, raw, "tokens_per_s", 0.0))
    return raw.assign(**numbers)


def _numbers(path: Path, raw: pd.DataFrame, name: str, least: float) -> pd.Series[Any]:
    found = pd.to_numeric(raw[name], errors="coerce").astype(float)
    good = raw[name].isna() | found.between(least, _MOST)
    _check(path, raw, name, good, f"be a number of at least {least:g} and at most {_MOST:g}, or blank")
    return found


def _check_rows(path: Path, raw: pd.DataFrame, rate: pd.Series[Any]) -> None:
    for name in _STATED:
        _check(path, raw, name, raw[name].notna(), "be stated")
    _check(path, raw, "tokens_per_s", rate > 0, "be above 0")
    _check(path, raw, "phase", raw["phase"].isin(PHASES), f"be one of {', '.join(PHASES)}")
    _check(path, raw, "row_id", ~raw["row_id"].duplicated(), "be of one row")


def _check(path: Path, raw: pd.DataFrame, name: str, good: pd.Series[bool], rule: str) -> None:
    if not good.all():
        at = int((~good).to_numpy().argmax())
        raise InputError(f"{path}: row {at + 1}, column {name}", rule, raw[name].iloc[at])
