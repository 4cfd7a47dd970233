"""Published measurements in the dataset's columns, as far as those apply.

Two tables are shipped: ``throughput.csv.gz`` (prefill and decode rates) and ``preemption.csv`` (preemption,
sleep, wake and load times, KV transfers). The figures are the sources', not shunter's; those of the paper
that shunter builds on (arXiv 2605.19593) come from machine-written summaries of it, so they are the paper's
only *as summarised*, which ``provenance`` says row by row.

How a source's figure becomes a row:

* ``operation``: the phase of a rate; for times, ``load`` (cold loads, reloads), ``kv_save`` and
  ``kv_restore`` (copies off and onto the GPU). Everything else, such as a sleep, a wake or a whole
  preemption, is no operation of the dataset: it stays missing there and is told by ``metric``.
* ``duration_s``: a time in seconds; of a prefill tokens / tokens_per_s, of a decode 1 / tokens_per_s.
* ``total_layers`` is the source's layers + 1 for the output layer. ``gpu_layers`` is what the source gives,
  capped there, since llama.cpp once counted the KV cache as layers too; it is all where the source says that
  all layers are on GPUs. The source's number stays in ``source_gpu_layers``.
* ``device`` is the GPU's name, ``cpu`` where there is none, missing where the source does not say;
  ``gpu_count`` over 1 is a model split over GPUs. ``source_device`` keeps the words.
* ``quantization`` in the dataset's spelling (FP16 is F16); ``source_quantization`` keeps the words.
* ``context_tokens`` of a decode is prompt_tokens + (decode_tokens + 1) / 2 where both are known.
* GB are read as 10^9 bytes. The paper's MB of KV cache are MiB, as its models' shapes show.

Nothing is filled in: what a source does not say is missing (NaN or None).
"""

from __future__ import annotations

import json
import re
from importlib.resources import as_file, files
from typing import Any

import numpy as np
import pandas as pd

from shunter.profiling.dataset.rates import TEXT_COLUMNS, read_rates

__all__ = ["PAPER", "rates_reference", "read_recent", "read_reference"]

PAPER = "arXiv 2605.19593"
"""Rows of the paper that shunter builds on have a ``system`` that begins so."""

_ENGINES = {"llama.cpp": "llama-cpp", "vLLM": "vllm", "HF Transformers": "transformers"}
_OPERATIONS = {
    "model_reload": "load",
    "cold_load": "load",
    "load_time": "load",
    "load_time_mean": "load",
    "kv_gpu_to_cpu": "kv_save",
    "kv_cpu_to_gpu": "kv_restore",
}
_PER_SECOND = {"s": 1, "ms": 1000}
_ALL_ON_GPU = r"all layers on GPU|-ngl 2000000"
_UNSAID = r"unknown|not stated|both"
_ORDER = (
    *("row_id", "system", "source", "provenance", "engine", "software", "device", "gpu_count"),
    *("vram_gb", "cpu", "model", "params", "quantization", "weight_bytes", "layers", "total_layers"),
    *("gpu_layers", "offload_ratio", "operation", "metric", "value", "unit", "batch", "prompt_tokens"),
    *("decode_tokens", "tokens", "context_tokens", "duration_s", "tokens_per_s", "kv_bytes"),
    *("kv_bytes_per_token", "page_cache", "includes_process_start", "storage_or_link", "event"),
    *("confidence", "notes", "source_gpu_layers", "source_device", "source_quantization"),
)

_NEWER = ("backend", "published", "host_memory", "depth_tokens", "n_ubatch", "flash_attention")
"""What newer tables of rates say besides: see ``benchmarks/published/README.md``."""


def read_reference() -> pd.DataFrame:
    """All published measurements.

    Returns:
        A row per figure. ``row_id`` is unique and stable (``r0000``… for throughput, ``p0000``… for
        preemption), ``source`` the URL, ``provenance`` how the figure came here, ``metric``, ``value`` and
        ``unit`` the source's own words. The other columns are the dataset's, in its units, and further ones
        of the sources; numbers are floats, missing ones NaN.
    """
    both = pd.concat([_throughput(), _preemption()], ignore_index=True)
    return _ordered(both)


def rates_reference(rates: pd.DataFrame) -> pd.DataFrame:
    """A table of published rates in the columns of ``read_reference``.

    Args:
        rates: As ``shunter.profiling.dataset.rates.read_rates`` has it.

    Returns:
        Its columns, and those that newer tables have besides: ``backend``, ``published``, ``host_memory``,
        ``depth_tokens``, ``n_ubatch``, ``flash_attention``; None and NaN where a table lacks them.
    """
    of_times = ("page_cache", "includes_process_start", "storage_or_link", "event", "confidence")
    found = _rates(rates).assign(**dict.fromkeys(("system", "provenance", *of_times)))
    more = {n: rates.get(n, None if n in TEXT_COLUMNS else np.nan) for n in _NEWER}
    return _ordered(found.assign(**more), _NEWER)


def read_recent() -> pd.DataFrame:
    """Published rates of 2025 and 2026, in the columns of ``rates_reference``; ids begin with l."""
    with as_file(files("shunter.data").joinpath("throughput_recent.csv.gz")) as path:
        return rates_reference(read_rates(path))


def _ordered(rows: pd.DataFrame, more: tuple[str, ...] = ()) -> pd.DataFrame:
    texts = rows.select_dtypes(exclude="number").columns
    return rows.reindex(columns=[*_ORDER, *more]).assign(
        **{name: rows[name].astype(object).where(rows[name].notna(), None) for name in texts}
    )


def workload_quantiles() -> dict[str, Any]:
    """Quantiles of published traces' lengths and arrival gaps, with each trace's source and licence."""
    text = files("shunter.data").joinpath("workload_quantiles.json").read_text(encoding="utf-8")
    quantiles: dict[str, Any] = json.loads(text)
    return quantiles


def _throughput() -> pd.DataFrame:
    return _rates(_read("throughput.csv.gz"))


def _rates(raw: pd.DataFrame) -> pd.DataFrame:
    total_layers = raw["layers_total"] + 1
    everything = raw["notes"].str.contains(_ALL_ON_GPU, na=False) & raw["layers_gpu"].notna()
    gpu_layers = raw["layers_gpu"].mask(everything, total_layers).clip(upper=total_layers)
    tokens = raw["prompt_tokens"].where(raw["phase"] == "prefill")
    decoding = raw["phase"] == "decode"
    rate = raw["tokens_per_s"].astype(float)
    return _common(raw).assign(
        row_id=raw["row_id"],
        weight_bytes=raw["weight_bytes"],
        layers=raw["layers_total"],
        total_layers=total_layers,
        gpu_layers=gpu_layers,
        offload_ratio=1 - gpu_layers / total_layers,
        source_gpu_layers=raw["layers_gpu"],
        operation=raw["phase"],
        metric="tokens_per_s",
        value=raw["tokens_per_s"],
        unit="tokens/s",
        batch=raw["batch"].astype(float),
        prompt_tokens=raw["prompt_tokens"],
        decode_tokens=raw["decode_tokens"],
        tokens=tokens,
        context_tokens=(raw["prompt_tokens"] + (raw["decode_tokens"] + 1) / 2).where(decoding),
        tokens_per_s=rate,
        duration_s=(raw["batch"] / rate).where(decoding, tokens / rate),
    )


def _preemption() -> pd.DataFrame:
    raw = _read("preemption.csv")
    number = pd.to_numeric(raw["value"], errors="coerce")
    cold = raw["event"].str.startswith("cold load to GPU")
    restart = raw["event"] == "cold load (full restart)"
    per_token = number.where(raw["metric"] == "kv_per_token")
    return _common(raw).assign(
        row_id=[f"p{i:04}" for i in range(len(raw))],
        system=raw["system"],
        provenance=raw["provenance"],
        weight_bytes=raw["weight_gb"] * 1e9,
        operation=raw["metric"].map(_OPERATIONS),
        metric=raw["metric"],
        value=raw["value"],
        unit=raw["unit"],
        tokens=raw["seq_len"],
        duration_s=number / raw["unit"].map(_PER_SECOND),
        kv_bytes=raw["kv_mb"] * 2**20,
        kv_bytes_per_token=per_token * 2**20,
        page_cache=cold.map({True: "cold"}),
        includes_process_start=restart.astype(object).where(restart),
        storage_or_link=raw["storage_or_link"],
        event=raw["event"],
        confidence=raw["confidence"],
    )


def _read(name: str) -> pd.DataFrame:
    with as_file(files("shunter.data").joinpath(name)) as path:
        return pd.read_csv(path, dtype={"value": "str", "tokens_per_s": "str"})


def _common(raw: pd.DataFrame) -> pd.DataFrame:
    """The columns that both tables have, under the dataset's names."""
    words = raw["quant" if "quant" in raw else "dtype"]
    none = raw["gpu"].str.startswith("none", na=False)
    said = ~raw["gpu"].str.match(_UNSAID, na=False)
    return pd.DataFrame(
        {
            "source": raw["source_url"],
            "engine": raw["software"].map(_engine),
            "software": raw["software"],
            "device": raw["gpu"].where(said).mask(none, "cpu"),
            "source_device": raw["gpu"],
            "gpu_count": raw["gpu_count"].where(raw["gpu_count"] > 0),  # none is on a host alone
            "vram_gb": raw["vram_gb"],
            "cpu": raw["cpu"],
            "model": raw["model"],
            "params": (raw["params_b"] * 1e9).round(),
            "quantization": words.map(_quantization),
            "source_quantization": words,
            "notes": raw["notes"],
        }
    )


def _engine(software: Any) -> str | None:
    words = str(software).replace(",", " ").split()
    return next(
        (engine for name, engine in _ENGINES.items() if words[: len(name.split())] == name.split()), None
    )


def _quantization(words: Any) -> str | None:
    """``q4_0 (page says …)`` is Q4_0 and ``FP16`` is F16; ``16-bit (not stated)`` could be two things."""
    first = str(words).split()[0].upper()
    found = re.fullmatch(r"(?:FP?(16|32)|BF16|FP8|MXFP4|I?Q\d(?:_[0-9A-Z]+(?:_[SML])?)?)", first)
    if found is None:
        return None
    return f"F{found[1]}" if found[1] else first
