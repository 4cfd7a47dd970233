"""Published rates of vLLM under load as decode steps, in the columns of ``read_reference``.

Of a server under load a source says how many tokens leave it a second, and how long one request waits for
each. Their product is how many requests decode at once on average (Little's law), which need not be how many
were sent: those that wait for memory do not. Where no time per token is told, the step is what is left of a
request's time after its first token.
"""

from __future__ import annotations

from importlib.resources import as_file, files
from typing import Any

import numpy as np
import pandas as pd

from shunter.catalog.gpu_names import matching_gpus
from shunter.catalog.gpus import catalog_gpus
from shunter.models.published.rows import published_frame, refused

__all__ = ["refused_vllm", "vllm_frame"]

_STORED = {"FP16": "F16", "BF16": "BF16", "FP8": "FP8"}
_FORMS = {"https://github.com/dennislee22/vLLM-benchmarking": "A100 PCIe 80GB"}
"""A card whose form is not told, by source: two of its A100 have no peer access, as those on SXM have."""

_ALL_LAYERS = 1e4
_MOST_AT_ONCE = 256
"""Requests that vLLM runs at once by default: ``max_num_seqs`` of the releases of these rows."""


def vllm_frame() -> pd.DataFrame:
    """Usable rows as a dataset of decodes, as from ``published_frame``."""
    reference = _reference()
    usable = [_why_not(row) == "" for _, row in reference.iterrows()]
    return published_frame(reference[usable])


def refused_vllm() -> pd.Series[str]:
    """Why rows are not used, by row id."""
    reference = _reference()
    why = pd.Series([_why_not(row) for _, row in reference.iterrows()], reference["row_id"])
    return why[why != ""]


def _why_not(row: Any) -> str:
    notes = str(row["notes"])
    if row["gpu_count"] != 1:
        return "its model is split over GPUs by tensors, which no term is of, or on how many is not told"
    if "enforce-eager" in notes:
        return "it ran without CUDA graphs"
    if not np.isfinite(row["duration_s"]):
        return "its step cannot be told from its rates"
    return refused(row)


def _reference() -> pd.DataFrame:
    """All rows in the columns of ``read_reference``, with ``nan`` where a step cannot be told."""
    with as_file(files("shunter.data").joinpath("vllm.csv")) as path:
        raw = pd.read_csv(path)
    step_s, batch = _steps(raw)
    prompt, decode = raw["input_tokens"].round(), raw["output_tokens"].round()
    gpu = raw["gpu"]
    for source, name in _FORMS.items():
        gpu = gpu.mask(raw["source_url"].str.startswith(source) & gpu.eq("A100 80GB"), name)
    gpu = gpu.map({name: _named(name) for name in gpu.unique()})
    none = pd.Series([None] * len(raw), dtype=object)
    software = "vLLM " + raw["release"].fillna("").astype(str)
    return pd.DataFrame(
        {
            **dict.fromkeys(("cpu", "host_memory", "backend", "page_cache"), none),
            **dict.fromkeys(("depth_tokens", "n_ubatch", "flash_attention", "weight_bytes"), np.nan),
            "row_id": raw["row_id"],
            "source": raw["source_url"],
            "engine": "vllm",
            "software": software.str.strip(),
            "published": raw["published"],
            "operation": "decode",
            "metric": "output_tokens_per_s",
            "device": gpu,
            "gpu_count": raw["gpu_count"].astype(float),
            "model": raw["model"].str.removesuffix("-Instruct"),
            # A checkpoint whose type is not told is as it is published: of 16 bits.
            "quantization": raw["dtype"].fillna("BF16").map(_STORED).astype(object),
            "source_quantization": raw["dtype"],
            "gpu_layers": _ALL_LAYERS,
            "batch": batch,
            "prompt_tokens": prompt,
            "decode_tokens": decode,
            "tokens": np.nan,
            "context_tokens": prompt + (decode + 1) / 2,
            "duration_s": step_s,
            "includes_process_start": False,
            "notes": raw["notes"],
        }
    )


def _named(gpu: str) -> str:
    """Of a card's sizes that differ in nothing but memory the largest."""
    gpus = catalog_gpus()
    sheets = [gpus[name] for name in matching_gpus(gpu, gpus)]
    alike = {(s.bandwidth_bytes_per_s, s.matrix_flop_per_s, s.lane_clocks_per_s) for s in sheets}
    return max(sheets, key=lambda s: s.memory_bytes).name if len(alike) == 1 else gpu


def _steps(raw: pd.DataFrame) -> tuple[pd.Series[float], pd.Series[float]]:
    """Seconds of a step, and how many requests it is for on average."""
    at_once, rate = raw["concurrency"].clip(upper=_MOST_AT_ONCE), raw["output_tokens_per_s"]
    answer_tokens = rate / raw["requests_per_s"]
    after_first_s = at_once / raw["requests_per_s"] - raw["mean_ttft_ms"] / 1e3
    # All at once, most of the time to the first token is waiting to be let in: nothing is left to subtract.
    left_s = after_first_s.where(after_first_s > 0) / answer_tokens
    step_s = (raw["mean_tpot_ms"] / 1e3).fillna(left_s).fillna(at_once / rate)
    return step_s, (rate * step_s).clip(lower=1.0).round()
