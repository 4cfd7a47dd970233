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

__all__ = ["known_model", "nearest_models", "quantization_in"]

_EXTENSION = re.compile(r"\.(?:gguf|safetensors)$")
_QUANTISATION = (
    r"(?:(?:ud|qat)[-_ ])?i?q\d(?:[-_ ][0-9k])?(?:[-_ ](?:xxs|xs|nl|s|m|l|xl))*"
    r"(?:[- ]+(?:small|medium|large))?"
    r"|b?fp?(?:16|32|8|4)(?:-(?:dynamic|static|kv))*|mxfp4|nvfp4|nf4|(?:quantized\.)?w\d+a\d+|int[48]"
    r"|(?:mlx-)?[2-8]bit|awq|gptq|bnb|exl[23]"
)
_STORED = re.compile(rf"(?<![a-z0-9.])(?:{_QUANTISATION})(?![a-z0-9.])", re.I)
_NO_TYPE = re.compile(r"^(?:ud|qat|mlx|quantized)[-_. ]|-(?:dynamic|static|kv)", re.I)
_SAME_SHAPE_WORDS = re.compile(
    rf"(?<![a-z0-9.])(?:instruct|chat|it|base|gguf|hf|{_QUANTISATION})(?![a-z0-9.])"
)

_ALIASES = {
    "Aya-Expanse-8B": ("c4ai-aya-expanse-8B",),
    "Codestral-22B": ("Codestral-22B-v0.1", "Mistral-Small-2409"),
    "CodeLlama-34B": ("CodeLlama-34B-Python",),
    "Command-R-v01": ("c4ai-command-r-v01", "command-r-35b"),
    "DeepSeek-V2-Lite": ("DeepSeek-V2-Lite-Chat", "DeepSeek-Coder-V2-Lite"),
    "DeepSeek-V3": (
        *("DeepSeek-V3-0324", "DeepSeek-V3.1", "DeepSeek-V3.1-Terminus"),
        *("DeepSeek-R1", "DeepSeek-R1-0528", "DeepSeek-R1-Zero"),
    ),
    "Gemma-2B": ("Gemma-1.1-2B", "CodeGemma-2B", "CodeGemma-1.1-2B"),
    "Gemma-7B": ("Gemma-1.1-7B", "CodeGemma-7B", "CodeGemma-1.1-7B"),
    "Gemma-2-2B": ("ShieldGemma-2B",),
    "Gemma-2-9B": ("ShieldGemma-9B",),
    "Gemma-2-27B": ("ShieldGemma-27B",),
    "Gemma-3-27B": ("MedGemma-27B-text",),
    "Gemma-3-270M": ("FunctionGemma-270M",),
    "GLM-4-9B-0414": ("GLM-4-9B", "GLM-Z1-9B-0414"),
    "GLM-4.5": ("GLM-4.6", "GLM-4.7"),
    "gpt-oss-20b": ("gpt-oss-safeguard-20b",),
    "gpt-oss-120b": ("gpt-oss-safeguard-120b",),
    "Granite-3-2B": ("Granite-3.0-2B", "Granite-3.1-2B", "Granite-3.2-2B", "Granite-3.3-2B"),
    "Granite-3-8B": ("Granite-3.0-8B", "Granite-3.1-8B", "Granite-3.2-8B", "Granite-3.3-8B"),
    "InternLM2.5-7B": ("internlm2_5-7B",),
    "Kimi-K2": ("Kimi-K2-0905", "Kimi-K2-Thinking"),
    "Llama-2-7B": ("LLaMA-7B", "LLaMA-1-7B", "Vicuna-7B-v1.5", "CodeLlama-7B"),
    "Llama-2-13B": ("LLaMA-13B", "LLaMA-1-13B", "Vicuna-13B-v1.5"),
    "LLaMA-33B": ("LLaMA-1-33B", "LLaMA-30B", "Wizard-Vicuna-30B"),
    "Llama-3-8B": (
        *("Meta-Llama-3-8B", "Llama-3.1-8B", "Meta-Llama-3.1-8B", "DeepSeek-R1-Distill-Llama-8B"),
        *("Llama-Guard-3-8B", "Llama-3.1-Nemotron-Nano-8B-v1"),
    ),
    "Llama-3-70B": (
        *("Meta-Llama-3-70B", "Llama-3.1-70B", "Meta-Llama-3.1-70B", "Llama-3.3-70B"),
        *("DeepSeek-R1-Distill-Llama-70B", "Llama-3.1-Nemotron-70B"),
    ),
    "Llama-3.1-405B": ("Meta-Llama-3.1-405B",),
    "Llama-3.2-1B": ("Llama-Guard-3-1B",),
    "Llama-4-Scout": ("Llama-4-Scout-17B-16E",),
    "Llama-4-Maverick": ("Llama-4-Maverick-17B-128E",),
    "MiniMax-M2": ("MiniMax-M2.5", "MiniMax-M2.7"),
    "Ministral-8B": ("Ministral-8B-2410",),
    "Mistral-7B-v0.2": ("Mistral-7B-v0.1", "Zephyr-7B-beta"),
    "Mistral-7B-v0.3": ("Mathstral-7B-v0.1",),
    "Mistral-Large-123B": ("Mistral-Large-2407", "Mistral-Large-2411"),
    "Mistral-Nemo-12B": ("Mistral-Nemo-2407", "Mistral-Nemo"),
    "Mistral-Small-24B": (
        *("Mistral-Small-24B-2501", "Magistral-Small-2506", "Magistral-Small-2507"),
        *("Devstral-Small-2505", "Devstral-Small-2507"),
    ),
    "Mixtral-8x22B": ("Mixtral-8x22B-v0.1",),
    "Mixtral-8x7B": ("Mixtral-8x7B-v0.1",),
    "Olmo-3-7B": ("Olmo-3-1025-7B", "Olmo-3-7B-Think"),
    "Olmo-3-32B": ("Olmo-3-1125-32B", "Olmo-3-32B-Think"),
    "OLMo-2-7B": ("OLMo-2-1124-7B",),
    "OLMo-2-13B": ("OLMo-2-1124-13B",),
    "OLMo-2-32B": ("OLMo-2-0325-32B",),
    "Phi-3-medium": ("Phi-3-medium-4k", "Phi-3-medium-128k"),
    "Phi-3.5-mini": ("Phi-3-mini-4k", "Phi-3-mini-128k"),
    "Phi-4-14B": ("Phi-4", "Phi-4-reasoning", "Phi-4-reasoning-plus"),
    "Phi-4-mini": ("Phi-4-mini-reasoning",),
    "Qwen1.5-7B": ("Qwen-7B",),
    "Qwen1.5-MoE-A2.7B": ("Qwen1.5-MoE-A2.7B-Chat",),
    "Qwen2.5-0.5B": ("Qwen2.5-Coder-0.5B", "Qwen2-0.5B"),
    "Qwen2.5-1.5B": ("Qwen2.5-Coder-1.5B", "Qwen2.5-Math-1.5B", "Qwen2-1.5B"),
    "Qwen2.5-3B": ("Qwen2.5-Coder-3B",),
    "Qwen2.5-7B": (
        *("Qwen2.5-Coder-7B", "Qwen2.5-Math-7B", "Qwen2.5-7B-1M", "Qwen2-7B"),
        "DeepSeek-R1-Distill-Qwen-7B",
    ),
    "Qwen2.5-14B": ("Qwen2.5-Coder-14B", "Qwen2.5-14B-1M", "DeepSeek-R1-Distill-Qwen-14B"),
    "Qwen2.5-32B": ("Qwen2.5-Coder-32B", "QwQ-32B", "QwQ-32B-Preview", "DeepSeek-R1-Distill-Qwen-32B"),
    "Qwen2.5-72B": ("Qwen2.5-Math-72B", "Qwen2-72B"),
    "Qwen3-4B": ("Qwen3-4B-2507", "Qwen3-4B-Thinking-2507"),
    "Qwen3-8B": ("DeepSeek-R1-0528-Qwen3-8B",),
    "Qwen3-30B-A3B": ("Qwen3-30B-A3B-2507", "Qwen3-30B-A3B-Thinking-2507", "Qwen3-Coder-30B-A3B"),
    "Qwen3-235B-A22B": ("Qwen3-235B-A22B-2507", "Qwen3-235B-A22B-Thinking-2507"),
    "SmolLM2-135M": ("SmolLM-135M",),
    "SmolLM2-360M": ("SmolLM-360M",),
    "SmolLM2-1.7B": ("SmolLM-1.7B",),
    "SOLAR-10.7B": ("SOLAR-10.7B-v1.0",),
    "TinyLlama-1.1B": ("TinyLlama-1.1B-Chat-v1.0",),
    "Yi-9B": ("Yi-1.5-9B",),
    "Yi-34B": ("Yi-1.5-34B",),
}
"""Other names of a shape, what is no word of ``_SAME_SHAPE_WORDS`` kept.

Source: their pages, which say what they were fine-tuned from, and their sizes; Lightning-AI/litgpt
litgpt/config.py, keras-hub's presets and configurations in ai-dynamo/aiconfigurator, each of which lists a
shape and a count under several of these names.
"""


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
    """The three known models whose names are most like a text, best first: those that go on where it ends."""
    wanted = _plain(text)
    plain = {form: name for name in known for form in _plain_names(name)}
    longer = sorted(form for form in plain if wanted and form.startswith(wanted))
    close = [*longer, *difflib.get_close_matches(wanted, list(plain), n=3, cutoff=0.4)]
    return list(dict.fromkeys(plain[form] for form in close))[:3]


def quantization_in(text: str) -> str:
    """How a name says that its weights are stored; empty where it does not.

    Args:
        text: For example ``Qwen3-8B-UD-Q4_K_XL.gguf`` (Q4_K_XL), ``Llama-3-8B-FP8-dynamic`` (FP8) or
            ``Qwen3-8B-AWQ`` (AWQ).
    """
    found = _STORED.search(_EXTENSION.sub("", text.strip().rpartition("/")[2]))
    return _NO_TYPE.sub("", found[0]) if found else ""


def _plain_names(name: str) -> set[str]:
    return {_plain(form) for form in (name, *_ALIASES.get(name, ()))}


def _plain(text: str) -> str:
    """Lower case, a hyphen between parts and before numbers: ``Qwen2.5 7B`` is ``qwen-2.5-7b``."""
    low = re.sub(r"[\s_():-]+", "-", _EXTENSION.sub("", text.strip().rpartition("/")[2].lower()))
    low = re.sub(r"(?<=[a-z])(?=\d)", "-", _SAME_SHAPE_WORDS.sub("", low))
    return re.sub(r"-+", "-", low).strip("-")
