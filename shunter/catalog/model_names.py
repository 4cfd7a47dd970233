"""Models by the names that files, hubs and people give them.

A name matches whole or not at all, so that Phi-4-mini is never taken for Phi-4. What does not change a
model's shape does not count: case, separators, the organisation in front, a quantisation or file format, and
words like ``Instruct`` or ``Chat``. Fine-tuned models and releases that share all widths are one model to a
clock; those that are known to are listed by name.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable

__all__ = ["known_model", "nearest_models"]

_EXTENSION = re.compile(r"\.(?:gguf|safetensors)$")
_QUANTISATION = (
    r"i?q\d(?:-[0-9k])?(?:-(?:xxs|xs|nl|s|m|l|xl))*|b?fp?(?:16|32|8|4)|mxfp4|nvfp4|nf4|w\d+a\d+|int[48]"
    r"|[48]bit|awq|gptq|bnb|exl2|gguf|hf"
)
_SAME_SHAPE_WORDS = re.compile(rf"(?<![a-z0-9.])(?:instruct|chat|it|base|{_QUANTISATION})(?![a-z0-9.])")

_ALIASES = {
    "Llama-2-7B": ("LLaMA-7B", "LLaMA-1-7B"),
    "Llama-2-13B": ("LLaMA-13B", "LLaMA-1-13B"),
    "LLaMA-33B": ("LLaMA-1-33B", "Wizard-Vicuna-30B"),
    "Llama-3-8B": ("Meta-Llama-3-8B", "Llama-3.1-8B", "Meta-Llama-3.1-8B", "DeepSeek-R1-Distill-Llama-8B"),
    "Llama-3-70B": (
        "Meta-Llama-3-70B",
        "Llama-3.1-70B",
        "Meta-Llama-3.1-70B",
        "Llama-3.3-70B",
        "DeepSeek-R1-Distill-Llama-70B",
    ),
    "Codestral-22B": ("Codestral-22B-v0.1",),
    "Llama-4-Scout": ("Llama-4-Scout-17B-16E",),
    "Mistral-Nemo-12B": ("Mistral-Nemo-2407", "Mistral-Nemo"),
    "Mistral-Small-24B": ("Mistral-Small-24B-2501",),
    "Mixtral-8x22B": ("Mixtral-8x22B-v0.1",),
    "Mixtral-8x7B": ("Mixtral-8x7B-v0.1",),
    "Phi-4-14B": ("Phi-4", "Phi-4-reasoning", "Phi-4-reasoning-plus"),
    "Qwen2.5-3B": ("Qwen2.5-Coder-3B",),
    "Qwen2.5-7B": ("Qwen2.5-Coder-7B", "DeepSeek-R1-Distill-Qwen-7B"),
    "Qwen2.5-14B": ("Qwen2.5-Coder-14B", "DeepSeek-R1-Distill-Qwen-14B"),
    "Qwen2.5-32B": ("Qwen2.5-Coder-32B", "DeepSeek-R1-Distill-Qwen-32B"),
}
"""Other names of a shape. Source: their pages, which say what they were fine-tuned from, and their sizes."""


def known_model(text: str, known: Iterable[str]) -> str | None:
    """The known model that a text names; None where there is none.

    Args:
        text: For example ``meta-llama/Llama-3.1-8B-Instruct``, ``phi-4 (14B)``, ``qwen2.5-7b-q4_k_m.gguf``.
        known: Names of models.
    """
    names = list(known)
    if text in names:
        return text
    wanted = _plain(text)
    found = [name for name in names if wanted in _plain_names(name)]
    return found[0] if len(found) == 1 else None


def nearest_models(text: str, known: Iterable[str]) -> list[str]:
    """The three known models whose names are most like a text, best first."""
    plain = {form: name for name in known for form in _plain_names(name)}
    close = difflib.get_close_matches(_plain(text), list(plain), n=3, cutoff=0.4)
    return list(dict.fromkeys(plain[form] for form in close))


def _plain_names(name: str) -> set[str]:
    return {_plain(form) for form in (name, *_ALIASES.get(name, ()))}


def _plain(text: str) -> str:
    """Lower case, a hyphen between parts and before numbers: ``Qwen2.5 7B`` is ``qwen-2.5-7b``."""
    low = re.sub(r"[\s_():-]+", "-", _EXTENSION.sub("", text.strip().rpartition("/")[2].lower()))
    low = re.sub(r"(?<=[a-z])(?=\d)", "-", _SAME_SHAPE_WORDS.sub("", low))
    return re.sub(r"-+", "-", low).strip("-")
