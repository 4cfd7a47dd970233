"""Whether a Hugging Face folder's tensors are of the sizes that its configuration says."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

from shunter.catalog.models import ModelSpec
from shunter.engines.headers import TensorInfo
from shunter.engines.tensor_sizes import Wanted, check_sizes
from shunter.errors import BrokenFileError

_FLOATS = ("F64", "F32", "F16", "BF16", "F8_E4M3", "F8_E5M2")
_EXPERT = re.compile(r"\.experts\.(?:(\d+)\.)?")


def check_tensors(path: Path, stored: Mapping[str, TensorInfo], spec: ModelSpec, *, scaled: bool) -> None:
    """Checks what is not packed, and of what is the scales.

    Args:
        path: The configuration; named in errors.
        stored: Tensors under names as plain models have them; of parts that see or hear, ``beside.…``.
        spec: What the configuration says.
        scaled: Whether weights are packed beside scales with a column for each of their rows (GPTQ, AWQ).

    Raises:
        HeaderError: A tensor is of another size.
        BrokenFileError: There are more or fewer experts.
    """
    own = {name: info for name, info in stored.items() if not name.startswith("beside.")}
    measurable = [
        (name, info)
        for name, info in own.items()
        if (scaled if name.endswith(".scales") else info.dtype in _FLOATS)
    ]
    check_sizes(path, measurable, _wanted(spec))
    _check_experts(path, own, spec.experts)


def _wanted(spec: ModelSpec) -> dict[str, Wanted]:
    """Sides of tensors by what their names end in."""
    value_dim, keys = spec.value_dim or spec.head_dim, f"head_dim {spec.head_dim}"
    queries = (spec.attn_heads * spec.head_dim, f"num_attention_heads {spec.attn_heads} x {keys}")
    kv_heads = f"num_key_value_heads {spec.kv_heads}"
    mlp = (spec.intermediate_size, f"intermediate_size {spec.intermediate_size}")
    rows = {
        "q_proj": queries,
        "q_b_proj": queries,
        "k_proj": (spec.kv_heads * spec.head_dim, f"{kv_heads} x {keys}"),
        "v_proj": (spec.kv_heads * value_dim, f"{kv_heads} x {keys}"),
        "qkv_proj": (
            (spec.attn_heads + 2 * spec.kv_heads) * spec.head_dim,
            f"num_attention_heads {spec.attn_heads}, {kv_heads}, {keys}",
        ),
        "kv_a_proj_with_mqa": (
            spec.kv_lora_rank + spec.rope_dim,
            f"kv_lora_rank {spec.kv_lora_rank} + qk_rope_head_dim {spec.rope_dim}",
        ),
        "o_proj": (spec.hidden_size, f"hidden_size {spec.hidden_size}"),
        "embed_tokens": (spec.vocab_size, f"vocab_size {spec.vocab_size}"),
    }
    if not spec.experts:  # whose projections are called the same
        rows |= {"gate_proj": mlp, "up_proj": mlp}
    wanted = {f"{name}.weight": Wanted(0, *row) for name, row in rows.items()}
    wanted |= {f"{name}.scales": Wanted(-1, *row) for name, row in rows.items()}
    if spec.experts:
        said = f"intermediate_size {spec.expert_size} x 2"
        wanted["experts.gate_up_proj_bias"] = Wanted(-1, 2 * spec.expert_size, said)
    return wanted


def _check_experts(path: Path, stored: Mapping[str, TensorInfo], experts: int) -> None:
    """Checks how many experts a layer has, stored one by one or in one piece."""
    found = 0
    for name, info in stored.items():
        if match := _EXPERT.search(name):
            found = max(found, int(match[1]) + 1 if match[1] else info.shape[0] if info.shape else 0)
    if found != experts:
        raise BrokenFileError(path, f"it says {experts} experts, and its tensors are of {found}")
