"""Published measurements as a profile dataset: what a performance model can be fitted to and judged on.

A row is taken over if it is a prefill, decode, load or KV copy with a time, its model's shape is known and
its device is named by a data sheet (or is a plain CPU whose memory bandwidth is known). The rest is left out,
and ``refused`` says why, row by row.
"""

from __future__ import annotations

import re
from functools import cache
from typing import Any

import numpy as np
import pandas as pd

from shunter.catalog.gpu_names import matching_gpus
from shunter.catalog.gpus import catalog_gpus
from shunter.catalog.model_names import known_model, nearest_models, quantization_in
from shunter.catalog.models import ModelSpec, check_modelled, known_models
from shunter.catalog.sizes import quantised_bytes
from shunter.catalog.work import family_facts
from shunter.errors import InputError, UnknownNameError
from shunter.models.datasheets import HOST, datasheet, host_bandwidth_bytes_per_s
from shunter.models.physics.rated import UBATCH_TOKENS
from shunter.models.physics.release import is_release_known
from shunter.profiling.dataset.reference import read_recent, read_reference
from shunter.profiling.dataset.schema import SCHEMA_VERSION, frame_of

__all__ = ["catalog_facts", "fitted_frame", "published_frame", "refused"]

NATIVE_BACKENDS = ("CUDA", "ROCm", "HIP", "Metal", "CPU")
"""What drives a GPU as its data sheet is about; Vulkan on the same one is a device of its own."""

QUANTISATIONS = (
    *("F32", "F16", "BF16", "FP8", "Q8_0", "Q6_K", "Q5_0", "Q5_1", "Q5_K_M"),
    *("Q4_0", "Q4_1", "IQ4_NL", "Q4_K_M"),
)
"""Of which any model may be; see ``quantised_bytes``."""

_DEFAULT_CONTEXT_TOKENS = 256.0


def model_name(text: str) -> str:
    """The one name of a model's shape: ``LLaMA 7B``, ``LLaMA-1 7b`` and ``Llama-2-7B`` are Llama-2-7B."""
    return known_model(text, known_models()) or text


def spec_of(text: str) -> ModelSpec | None:
    """Shape of a published model; None if it is not known."""
    return known_models().get(model_name(text))


def refused(row: Any) -> str:
    """Why a published row cannot be used; empty if it can.

    Args:
        row: A row of ``read_reference``.
    """
    if row["operation"] not in ("prefill", "decode", "load", "kv_save", "kv_restore"):
        return f"{row['metric']} is no operation of the dataset"
    if not np.isfinite(row["duration_s"]):
        return "its time is no number"
    if row["device"] is None:
        return "its device is not named"
    if row["device"] == "cpu" and host_bandwidth_bytes_per_s(_host(row)) is None:
        return "its CPU's memory is not named"
    if row["device"] != "cpu" and gpu_of(row) is None:
        return f"there is no data sheet of {row['device']}"
    if row["engine"] is None:
        return f"no engine of shunter's made it, but {row['software']}"
    if foreign := _foreign_backend(row):
        return f"its engine ran on {foreign}, the others on what the vendor's cards are made for"
    spec = spec_of(row["model"])
    if spec is None or spec.experts:
        return f"the shape of {row['model']} is not known, or not a dense transformer's"
    if row["quantization"] not in QUANTISATIONS and not is_sized(row):
        return f"its weights are {row['source_quantization']}, and their size is not stated"
    if unlike := _unlike(row):
        return unlike
    if row["operation"] in ("prefill", "decode") and not np.isfinite(row["gpu_layers"]):
        return "how many layers were on the GPU is not stated"
    return "its weights are larger than the GPU's memory" if _too_large(row) else ""


def _host(row: Any) -> str:
    """All that a row says of its host."""
    told = (row["cpu"], row.get("host_memory"))
    return ", ".join(text for text in told if isinstance(text, str))


def _version(row: Any) -> str:
    """The engine's version with what else decides how it works: see ``shunter.models.physics.release``."""
    text = str(row["software"])
    published = row.get("published")
    if isinstance(published, str) and not is_release_known(text):
        text += f" ({published})"
    for name, flag in (("flash_attention", "-fa"), ("n_ubatch", "-ub")):
        value = known(row, name, np.nan)
        text += f", {flag} {value:.0f}" if np.isfinite(value) else ""
    return text


def _unlike(row: Any) -> str:
    """Why a rate is not that of the operation alone, as the others are; empty if it is."""
    notes = str(row["notes"])
    if "incl. prompt processing" in notes:
        return "its rate holds the time of the prompt"
    if re.match(r"-t \d", notes):
        return "it varies the host's threads, which are the tool's default elsewhere"
    return _unusual_prompt(row)


def _too_large(row: Any) -> bool:
    """Whether its weights do not fit, so that a driver moves them to and fro."""
    if row["device"] == "cpu" or not np.isfinite(known(row, "gpu_layers", np.nan)):
        return False
    sheet, facts = datasheet(gpu_of(row) or ""), _row_facts(row)
    share = min(1.0, row["gpu_layers"] / facts["total_layers"])
    memory = (sheet.memory_bytes if sheet else 0) * max(1.0, known(row, "gpu_count", 1.0))
    return bool(share * facts["weight_bytes"] > memory)


def gpu_of(row: Any) -> str | None:
    """A row's GPU: of several of its name that of its memory, or the largest if they differ in that alone."""
    return _gpu_of(row["device"], known(row, "vram_gb", 0.0))


@cache
def _gpu_of(name: str, vram_gb: float) -> str | None:
    gpus = catalog_gpus()
    of_size = matching_gpus(f"{name}, {vram_gb:g} GB", gpus) if vram_gb > 0 else []
    sheets = [gpus[found] for found in of_size or matching_gpus(name, gpus)]
    rates = {(s.bandwidth_bytes_per_s, s.matrix_flop_per_s, s.lane_clocks_per_s) for s in sheets}
    return max(sheets, key=lambda sheet: sheet.memory_bytes).name if len(rates) == 1 else None


def _foreign_backend(row: Any) -> str:
    """Vulkan and the like on a card that CUDA, ROCm or Metal drive too: a device of its own."""
    said = row.get("backend")
    if isinstance(said, str) and said not in NATIVE_BACKENDS:
        return said
    return next((name for name in ("Vulkan", "SYCL") if name in str(row["software"])), "")


def _unusual_prompt(row: Any) -> str:
    """Why a prefill is none of a prompt by itself, in passes of the usual size; empty if it is."""
    if row["operation"] != "prefill":
        return ""
    if known(row, "depth_tokens", 0.0) > 0:
        return f"its prompt follows {row['depth_tokens']:.0f} tokens"
    if known(row, "batch", 1.0) > 1:
        return "its prompts are several at once"
    if known(row, "n_ubatch", UBATCH_TOKENS) < min(UBATCH_TOKENS, row["tokens"]):
        return f"its passes are of {row['n_ubatch']:.0f} tokens"
    return ""


def is_sized(row: Any) -> bool:
    """Whether a row says how many bytes its weights are, and in which quantisation."""
    return row["quantization"] is not None and np.isfinite(known(row, "weight_bytes", np.nan))


def known(row: Any, name: str, default: float) -> float:
    """A row's number, or what it is where it is not stated."""
    value = row.get(name)
    return default if value is None or not np.isfinite(value) else float(value)


def published_frame(reference: pd.DataFrame | None = None) -> pd.DataFrame:
    """Published rows in the dataset's columns.

    Args:
        reference: Rows as from ``read_reference``, or your own in its columns; None: all of them.

    Returns:
        The usable rows: ``row_id`` is the source's; lengths that a source does not state are those of a short
        answer, 256 tokens, and ``steps`` is 0 then. Memory was not measured: its columns are missing.
    """
    reference = read_reference() if reference is None else reference
    usable = reference[[refused(row) == "" for _, row in reference.iterrows()]]
    rows = [_row(row) for _, row in usable.iterrows()]
    return frame_of(rows)


def _row_facts(row: Any) -> dict[str, Any]:
    """A row's model columns: of a quantisation whose sizes are not known, by the size that is stated."""
    name, quantization = row["model"], row["quantization"]
    if quantization in QUANTISATIONS or quantization == "MXFP4":
        return _known_facts(name, quantization)
    return sized_facts(_known_facts(name, "F16"), quantization, row["weight_bytes"])


@cache
def _known_facts(name: str, quantization: str) -> dict[str, Any]:
    """``catalog_facts``, once: rows repeat few models often."""
    return catalog_facts(name, quantization)


def sized_facts(facts: dict[str, Any], quantization: str, weight_bytes: float) -> dict[str, Any]:
    """The dataset's model columns with other weights: every tensor smaller by as much as all together.

    Args:
        facts: As from ``catalog_facts``.
        quantization: How the weights are stored.
        weight_bytes: What they take.
    """
    scale = weight_bytes / facts["weight_bytes"]
    return {
        **facts,
        "model": f"{facts['model'].rpartition(' ')[0]} {quantization}",
        "quantization": quantization,
        "weight_bytes": int(weight_bytes),
        "layer_weight_bytes": int(facts["layer_weight_bytes"] * scale),
        "tied_bytes": facts["tied_bytes"] * scale,
    }


def fitted_frame() -> pd.DataFrame:
    """All rows that the shipped model is fitted to: the reference's and those of 2025 and 2026."""
    both = pd.concat([published_frame(), published_frame(read_recent())], ignore_index=True)
    host = (both["gpu_layers"] < both["total_layers"]) | (both["kv_on_host"] > 0)
    return both[~host | both["host_bandwidth_bytes_per_s"].notna()].reset_index(drop=True)


_TEXT = ("session_id", "measured_at", "hardware", "versions", "checkpoint_format", "output")


def _row(row: Any) -> dict[str, Any]:
    facts = _row_facts(row)
    total_layers, tokens = facts["total_layers"], known(row, "tokens", 0)
    prompt, decode = known(row, "prompt_tokens", tokens), known(row, "decode_tokens", 0)
    device = HOST if row["device"] == "cpu" else gpu_of(row)
    layers = known(row, "gpu_layers", total_layers)
    return {
        **dict.fromkeys(_TEXT, ""),
        **facts,
        "schema_version": SCHEMA_VERSION,
        "source": row["source"],
        "repeat": 0,
        "row_id": row["row_id"],
        "cell_id": row["row_id"],
        "engine": row["engine"],
        "engine_version": _version(row),
        "device": device,
        "device_kind": "cpu" if device == HOST else "cuda",
        "hardware_id": "published",
        "operation": row["operation"],
        "gpu_layers": min(layers, total_layers),
        "offload_ratio": max(0.0, 1 - layers / total_layers),
        "page_cache": row["page_cache"] or "warm",
        "batch": known(row, "batch", 1),
        "prompt_tokens": prompt,
        "decode_tokens": decode,
        "tokens": tokens,
        "context_tokens": known(row, "context_tokens", _DEFAULT_CONTEXT_TOKENS),
        "max_batch": 1,
        "max_context_tokens": max(1, prompt + decode),
        "duration_s": row["duration_s"],
        # No steps: the context that the time belongs to is not known, so that intervals do not learn from it.
        "steps": decode if row["operation"] == "decode" and np.isfinite(row["prompt_tokens"]) else 0,
        "includes_process_start": bool(row["includes_process_start"]),
        "is_outlier": False,
        "gpu_count": max(1.0, known(row, "gpu_count", 1.0)),
        "kv_on_host": _kv_on_host(row),
        "host_bandwidth_bytes_per_s": host_bandwidth_bytes_per_s(_host(row)),
    }


def catalog_facts(model: str, quantization: str, *, field: str = "model") -> dict[str, Any]:
    """The dataset's model columns of a model of the catalogue; its name there gets the quantisation added.

    Args:
        model: Name of a model in the catalogue, or another name of a model of that shape, see ``model_name``.
        quantization: One of ``QUANTISATIONS``, or MXFP4 for gpt-oss; FP16 is F16.
        field: Named in errors.

    Raises:
        UnknownNameError: Either is unknown.
        InputError: It is of a family whose sizes are not known, or not published in that quantisation.
    """
    check_modelled(model, f"{field}.catalog")
    spec = spec_of(model)
    if spec is None:
        known = known_models()
        raise UnknownNameError(f"{field}.catalog", model, known, nearest_models(model, known))
    given, quantization = quantization, quantization_name(quantization)
    check_stored(model, given, field=field)
    if quantization not in (*QUANTISATIONS, "MXFP4"):
        raise UnknownNameError(f"{field}.quantization", given, (*QUANTISATIONS, "MXFP4"))
    if quantization == "MXFP4" and not spec.all_biases:
        raise InputError(f"{field}.quantization", "be another: MXFP4 is of gpt-oss alone", model)
    sizes = quantised_bytes(spec, quantization)
    return {
        "model": f"{model_name(model)} {quantization}",
        "quantization": quantization,
        "params": spec.params,
        "weight_bytes": int(sizes.total),
        "layer_weight_bytes": int(sizes.layer),
        "layers": spec.layers,
        "total_layers": spec.total_layers,
        "hidden_size": spec.hidden_size,
        "attn_heads": spec.attn_heads,
        "kv_bytes_per_token": spec.kv_bytes_per_token(),
        "vocab_size": spec.vocab_size,
        **family_facts(
            spec,
            expert_share=sizes.expert_share,
            tied_bytes=sizes.output if spec.tied_embeddings else 0.0,
        ),
    }


def check_stored(model: str, quantization: str, *, field: str) -> None:
    """Checks that a name does not say another quantisation than is given beside it.

    Args:
        model: A model's name, ``Qwen3-8B-AWQ``.
        quantization: Empty: none is given.
        field: Named in errors.

    Raises:
        InputError: It does.
    """
    said = quantization_name(quantization_in(model))
    if said and quantization and said != quantization_name(quantization):
        raise InputError(f"{field}.quantization", f"be {said}, as {model} says", quantization)


def quantization_name(text: str) -> str:
    """The dataset's name of a quantisation: ``FP16`` and ``f16`` are F16, ``Q4_K - Medium`` is Q4_K_M."""
    size = re.compile(r"\s*-\s*(small|medium|large)\b.*", re.I)
    plain = re.sub(r"[- ]", "_", size.sub(lambda found: f"_{found[1][0]}", text.strip()).upper())
    return {"FP16": "F16", "FLOAT16": "F16", "BFLOAT16": "BF16", "FP32": "F32", "MXFP4_MOE": "MXFP4"}.get(
        plain, plain
    )


def facts_of(name: str) -> dict[str, Any] | None:
    """The dataset's model columns by a name with its quantisation; None if either is unknown.

    Args:
        name: For example ``Llama-3-8B Q4_K_M`` or ``Meta-Llama-3.1-8B-Instruct-Q4_K_M.gguf``.
    """
    quantization = quantization_name(quantization_in(name))
    if spec_of(name) is None or quantization not in (*QUANTISATIONS, "MXFP4"):
        return None
    return catalog_facts(name, quantization)


def _kv_on_host(row: Any) -> float:
    """1 where the KV cache stays in host memory though layers are on the GPU, as early CUDA code did."""
    text = str(row["notes"])
    return float("KV cache stayed on CPU" in text or "KV cache on CPU" in text)
