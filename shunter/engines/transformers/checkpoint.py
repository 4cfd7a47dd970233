"""Hugging Face folders on torch: what they need, and getting their weights to where they belong."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM

from ..base import CheckpointError
from ..headers import read_tensors
from ..headers import weight_files as listed_files
from ..weights import Weights, weigh
from .kv import KvShape

_DTYPES = {"F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}


def weight_files(folder: str) -> list[Path]:
    """The safetensors files that hold a checkpoint's weights.

    Raises:
        CheckpointError: It is no folder with a config.json and such files.
    """
    files = listed_files(Path(folder))
    lacking = [path.name for path in (Path(folder) / "config.json", *files) if not path.is_file()]
    if lacking:
        raise CheckpointError(f"{folder} is no folder of a safetensors checkpoint: it lacks {lacking[0]}")
    return files


def read_config(folder: str) -> Any:
    """Reads config.json.

    Raises:
        CheckpointError: It cannot be read, or its layers keep anything but the keys and values of all tokens.
    """
    try:
        config = AutoConfig.from_pretrained(folder, local_files_only=True)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise CheckpointError(f"{folder}: {error}") from error
    text = config.get_text_config()
    kinds = set(getattr(text, "layer_types", None) or []) - {"full_attention"}
    if kinds or getattr(text, "kv_lora_rank", None) or not getattr(text, "num_attention_heads", None):
        what = ", ".join(sorted(kinds)) or "no plain attention"
        raise CheckpointError(
            f"{folder}: {config.model_type} models have layers that are not supported: {what}"
        )
    return config


def kv_shape(config: Any) -> KvShape:
    """Sizes of the keys and values."""
    text = config.get_text_config()
    kv_heads = getattr(text, "num_key_value_heads", None) or text.num_attention_heads
    head_dim = getattr(text, "head_dim", None) or text.hidden_size // text.num_attention_heads
    return KvShape(text.num_hidden_layers, kv_heads, head_dim)


def loaded_dtype(folder: str, config: Any) -> torch.dtype:
    """The type of the weights, and of keys and values, once loaded: the configuration's, or else the files'.

    Raises:
        CheckpointError: A file of weights cannot be read.
    """
    if config.dtype is not None:
        wanted: torch.dtype = config.dtype
        return wanted
    stored = (info.dtype for info in read_tensors(Path(folder)).values())
    return next((_DTYPES[dtype] for dtype in stored if dtype in _DTYPES), torch.float32)


def loaded_weights(folder: str, config: Any, dtype: torch.dtype) -> Weights:
    """Sizes of the model's parts once loaded in a type.

    Raises:
        CheckpointError: A file of weights cannot be read, or holds other layers than the configuration says.
    """
    text = config.get_text_config()
    return weigh(
        Path(folder),
        read_tensors(Path(folder)),
        layers=text.num_hidden_layers,
        is_tied=bool(text.tie_word_embeddings),
        element_bytes=dtype.itemsize,
    )


def weights_on_device(weights: Weights, gpu_layers: int) -> int:
    """Bytes of the weights that ``place`` leaves on a GPU with this many layers."""
    if gpu_layers == 0:
        return 0
    head_bytes = weights.head_bytes if gpu_layers == weights.total_layers else 0
    outside_bytes = weights.embedding_bytes + weights.rest_bytes + head_bytes
    return outside_bytes + sum(weights.layer_bytes[:gpu_layers])


def read_model(folder: str, config: Any) -> Any:
    """Builds the model over its files, whose pages are mapped but not yet read.

    Raises:
        CheckpointError: No architecture of this transformers version fits, or weights are missing or broken.
    """
    try:
        model, report = AutoModelForCausalLM.from_pretrained(
            folder, config=config, dtype="auto", local_files_only=True, output_loading_info=True
        )
    # The library and its file reader share no base class of errors, and a broken file can raise any of them.
    except Exception as error:
        raise CheckpointError(f"{folder}: {type(error).__name__}: {error}") from error
    check_complete(folder, report)
    return model.eval()


def check_complete(folder: str, report: dict[str, Any]) -> None:
    """Refuses a model that the library filled up with random weights.

    Raises:
        CheckpointError: Weights are missing or have another shape.
    """
    wrong = sorted(map(str, [*report["missing_keys"], *report["mismatched_keys"]]))
    if wrong:
        raise CheckpointError(f"{folder}: {len(wrong)} weights are missing or misshapen, first {wrong[0]}")


def place(model: Any, gpu_layers: int, device: torch.device) -> torch.device:
    """Brings the weights to where they belong, so that no first use has to, and says where to compute.

    With all layers on a GPU the model is there; with none it is on the host and computes there. In between,
    accelerate computes everything on the GPU and copies the other layers' weights there at each use.
    """
    total_layers = model.config.get_text_config().num_hidden_layers + 1
    if device.type == "cuda" and gpu_layers == total_layers:
        model.to(device)
        return device
    placement = device_map(model, gpu_layers, str(device)) if device.type == "cuda" and gpu_layers else {}
    for name, parameter in model.named_parameters():
        if _device_of(name, placement) == "cpu":
            # Mapped pages of the file would be read at the first forward pass, and may be evicted later.
            parameter.data = parameter.data.clone()
    if not placement:
        return torch.device("cpu")
    from accelerate import dispatch_model

    dispatch_model(model, placement, skip_keys=model._skip_keys_device_placement)
    return device


def device_map(model: Any, gpu_layers: int, device: str) -> dict[str, str]:
    """Where accelerate keeps each part: the first layers and the embedding on the device.

    The output layer counts last; where it shares its matrix with the embedding, it is on the device too.

    Raises:
        CheckpointError: The model has no list of as many layers as its configuration says.
    """
    layers = model.config.get_text_config().num_hidden_layers
    lists = {
        n: m for n, m in model.named_modules() if isinstance(m, torch.nn.ModuleList) and len(m) == layers
    }
    if not lists:
        raise CheckpointError(f"{model.config.model_type} models have no list of {layers} layers to split")
    path = next(iter(lists)).split(".")
    head = model.get_output_embeddings()
    shared = head.weight is model.get_input_embeddings().weight
    placement = {}
    for depth, step in enumerate(path):
        for name, child in model.get_submodule(".".join(path[:depth])).named_children():
            if name != step:
                held = shared or child is not head or gpu_layers > layers
                placement[".".join([*path[:depth], name])] = device if held else "cpu"
    for index in range(layers):
        placement[".".join([*path, str(index)])] = device if index < gpu_layers else "cpu"
    return placement


def _device_of(parameter: str, placement: dict[str, str]) -> str:
    parts = parameter.split(".")
    prefixes = (".".join(parts[:count]) for count in range(len(parts), 0, -1))
    return next((placement[prefix] for prefix in prefixes if prefix in placement), "cpu")
