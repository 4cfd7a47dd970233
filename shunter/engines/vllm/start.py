"""vLLM, one vLLM engine per resident model, on the CPU or one CUDA GPU.

Settings are read from the worker's environment: see ``settings``.
"""

from __future__ import annotations

import gc
import importlib.util
import os
import sys
import tempfile
from typing import Any

from ..base import Engine, EngineUnavailableError
from .settings import read_settings

if importlib.util.find_spec("vllm") is None:
    raise ImportError("No module named 'vllm'")

_VARIABLES = {
    "HF_HUB_OFFLINE": "1",
    "VLLM_NO_USAGE_STATS": "1",
    "VLLM_LOGGING_LEVEL": "ERROR",
    # Steps are taken by hand, which needs the scheduler in this process.
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
    # A request may fill its context to the last token; the engine's own limit is one more.
    "VLLM_ALLOW_LONG_MAX_MODEL_LEN": "1",
}
_FAMILIES = ("llama", "qwen2", "qwen3")
_TINY = {
    "hidden_size": 64,
    "intermediate_size": 64,
    "num_hidden_layers": 1,
    "vocab_size": 64,
    "num_attention_heads": 1,
    "num_key_value_heads": 1,
    "head_dim": 64,
}


def create(device: dict[str, Any]) -> Engine:
    """Makes the engine for a device given as the plain dictionary of a DeviceSpec.

    Raises:
        EngineUnavailableError: The device is none of vLLM's or is not there, or a setting does not fit it.
    """
    kind, name = device["kind"], device["name"]
    if kind not in ("cpu", "cuda"):
        raise EngineUnavailableError(f"engine 'vllm' runs on cpu and cuda devices, not on {name}")
    settings = read_settings(os.environ)
    os.environ.update(_VARIABLES)
    if kind == "cuda":
        # The process is to see no other GPU: vLLM takes the first one.
        os.environ["CUDA_VISIBLE_DEVICES"] = _visible(device["index"])
    import torch
    from vllm.platforms import current_platform  # type: ignore[import-not-found, unused-ignore]

    from .engine import VllmEngine

    if current_platform.device_type != kind:
        raise EngineUnavailableError(
            f"vLLM of {sys.executable} runs on {current_platform.device_type or 'no device'}, not on {name}"
        )
    if settings.sleep_level and not current_platform.is_sleep_mode_available():
        raise EngineUnavailableError(f"vLLM has no sleep mode on {name}: unset SHUNTER_VLLM_SLEEP_LEVEL")
    if device["threads"]:
        torch.set_num_threads(device["threads"])
    torch_device = torch.device("cpu" if kind == "cpu" else "cuda:0")
    engine = VllmEngine(device, torch_device, settings)
    if settings.warm_up and not settings.process_per_model:
        _warm_up(engine)
    return engine


def _visible(index: int) -> str:
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if not visible:
        return str(index)
    names = visible.split(",")
    if index >= len(names):
        raise EngineUnavailableError(f"CUDA_VISIBLE_DEVICES={visible} leaves no cuda:{index}")
    return names[index]


def _warm_up(engine: Engine) -> None:
    # The first engine of a process sets up torch.distributed, and the first of each family imports its model.
    from transformers import AutoConfig, AutoModelForCausalLM

    for family in _FAMILIES:
        with tempfile.TemporaryDirectory() as folder:
            config = AutoConfig.for_model(family, **_TINY)
            AutoModelForCausalLM.from_config(config).save_pretrained(folder)
            engine.load("warm-up", folder, None, context_tokens=16, max_batch=1)
            engine.prefill("warm-up", "r", [1, 2, 3])
            engine.decode("warm-up", {"r": 2}, max_steps=2)
            engine.unload("warm-up")
    gc.collect()
