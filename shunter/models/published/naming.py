"""Which model of known shape another tool's file is about: by what it is called, checked by its size."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from shunter.catalog.checkpoints import read_checkpoint
from shunter.catalog.model_names import quantization_in
from shunter.catalog.models import known_models
from shunter.errors import InputError, ShunterError
from shunter.models.published.rows import (
    QUANTISATIONS,
    catalog_facts,
    model_name,
    quantization_name,
    sized_facts,
    spec_of,
)
from shunter.profiling.measurements.measurement import ModelSaid
from shunter.profiling.sweep.plan import model_facts

_FAMILIES = {
    "llama": (
        *("llama", "mistral", "codestral", "mixtral", "codellama", "tinyllama", "smollm2", "falcon3"),
        *("ministral", "solar", "yi-"),
    ),
    "llama4": ("llama-4",),
    "smollm3": ("smollm3",),
    "qwen2": ("qwen2.5", "deepseek-r1-distill-qwen", "qwen1.5-7b"),
    "qwen2moe": ("qwen1.5-moe",),
    "qwen3": ("qwen3",),
    "qwen3moe": ("qwen3",),
    "gemma": ("gemma-2b", "gemma-7b"),
    "gemma2": ("gemma-2-",),
    "gemma3": ("gemma-3",),
    "phi3": ("phi",),
    "gpt-oss": ("gpt-oss",),
    "olmo2": ("olmo-2", "olmo-3"),
    "granite": ("granite-3",),
    "command-r": ("command-r", "aya-expanse"),
    "internlm2": ("internlm2.5",),
    "seed_oss": ("seed-oss",),
    "minimax-m2": ("minimax-m2",),
}
"""Names of models by llama.cpp's name of what runs them."""

_EXACT = 2e-3
"""Counts of parameters differ by what few files have besides: rotary frequencies, unused tokens."""
_SAME_SIZE = 0.03
"""A catalogue's size of a quantisation is good to about this; what is farther off is its own size."""
_OTHER_SIZE = 0.25
"""What is farther off than this is another quantisation than it is called."""


@dataclass
class Namer:
    """Finds the dataset's columns of models, each once.

    Args:
        given: Names of the catalogue or checkpoints by what files call a model; "" is for any.
        quantization: Of files that say none; empty: not given.

    Attributes:
        notes: What was concluded, and from what, in words.
        found: Facts by the name of the dataset; a table that rounds sizes takes those that are there.
    """

    given: Mapping[str, str]
    quantization: str = ""
    notes: dict[str, None] = field(default_factory=dict)
    found: dict[str, dict[str, Any]] = field(default_factory=dict)

    def facts(self, said: ModelSaid, place: str) -> dict[str, Any]:
        """The dataset's model columns.

        Args:
            said: What the file says.
            place: File and row, as errors name it.

        Raises:
            InputError: Its shape is not known, or its quantisation, or its size is another one's.
        """
        facts = self._checkpoint(said) or self._named(said, place)
        kept = self.found.setdefault(str(facts["model"]), facts)
        apart = abs(facts["weight_bytes"] / kept["weight_bytes"] - 1)
        if (facts["params"], facts["quantization"]) != (kept["params"], kept["quantization"]) or apart > 0.01:
            rule = f"be one checkpoint wherever it is called {facts['model']} (--model tells them apart)"
            raise InputError(f"{place}, model", rule, said.text or said.file)
        return kept

    def _checkpoint(self, said: ModelSaid) -> dict[str, Any] | None:
        """Facts from a header: of a checkpoint that was given, or of the very file that was measured."""
        given = self._given(said)
        if given and Path(given).exists():
            return model_facts(read_checkpoint(given, field="--model"))
        if given or not said.file or not Path(said.file).is_file():
            return None
        try:
            checkpoint = read_checkpoint(said.file)
        except ShunterError:
            return None  # of the same name, but not it
        same = (checkpoint.spec.params, checkpoint.weight_bytes) == (said.params, said.weight_bytes)
        return model_facts(checkpoint) if same else None

    def _given(self, said: ModelSaid) -> str:
        names = (said.text, Path(said.file).name, Path(said.file).stem, "")
        return next((self.given[name] for name in names if name in self.given), "")

    def _named(self, said: ModelSaid, place: str) -> dict[str, Any]:
        given = self._given(said)
        called = given or Path(said.file).name or said.text
        name = model_name(called.replace("\\", "/").rstrip("/"))
        quantization = quantization_in(called.replace("\\", "/").rstrip("/"))
        # "llama 7B" is what llama.cpp calls any model of that architecture and about that size.
        is_described = called == said.text and said.architecture in _FAMILIES and said.params is not None
        if not given and (spec_of(name) is None or is_described):
            name = self._by_size(said)
        elif spec_of(name) is None:
            name = ""
        if not name:
            rule = "be a model of the catalogue, or told by --model (a name there, a checkpoint)"
            raise InputError(f"{place}, model", rule, given or said.text or said.file or "nothing")
        _check_params(said, name, place)
        wanted = quantization_name(said.quantization or quantization or self.quantization)
        if not wanted:
            rule = "say how its weights are stored (--quantization)"
            raise InputError(f"{place}, model", rule, said.text or said.file)
        return _sized(name, wanted, said, place)

    def _by_size(self, said: ModelSaid) -> str:
        """The only known model of a family that has so many parameters; empty if none has, or several."""
        families = _FAMILIES.get(said.architecture, ())
        if said.params is None or not families:
            return ""
        within = said.params_within or _EXACT * said.params
        apart = {
            name: abs(spec.params - said.params)
            for name, spec in known_models().items()
            if name.lower().startswith(families) and abs(spec.params - said.params) <= within
        }
        found = [name for name, params in apart.items() if params == 0] or list(apart)
        if len(found) != 1:
            return ""
        self.notes[
            f"{said.text!r} is taken for {found[0]}: no other known {said.architecture} has "
            f"{said.params / 1e9:.4g} billion parameters (--model says otherwise)"
        ] = None
        return found[0]


def _check_params(said: ModelSaid, name: str, place: str) -> None:
    spec, families = spec_of(name), _FAMILIES.get(said.architecture, ())
    if families and not model_name(name).lower().startswith(families):
        rule = f"be a model that llama.cpp runs as {said.architecture}, as the file says"
        raise InputError(f"{place}, model", rule, name)
    if said.params is None or spec is None:
        return
    if abs(said.params - spec.params) > max(said.params_within, 0.005 * spec.params):
        billions = f"{spec.params / 1e9:.4g} billion"
        rule = f"have the {billions} parameters of {model_name(name)} (--model tells its shape)"
        raise InputError(
            f"{place}, model {said.text or said.file!r}", rule, f"{said.params / 1e9:.4g} billion"
        )


def _sized(name: str, quantization: str, said: ModelSaid, place: str) -> dict[str, Any]:
    """The catalogue's facts, with the file's own size where that is another."""
    if quantization in (*QUANTISATIONS, "MXFP4"):
        facts = catalog_facts(name, quantization, field=f"{place}, model")
        size = said.weight_bytes
        apart = 0.0 if size is None else size / facts["weight_bytes"] - 1
        if abs(apart) > _OTHER_SIZE:
            rule = f"be about the {facts['weight_bytes']} bytes of {name} in {quantization}"
            raise InputError(f"{place}, model size", rule, f"{size:.0f}")
        if abs(apart) <= _SAME_SIZE:
            return {**facts, "checkpoint_format": ""}
    elif said.weight_bytes is None:
        rule = f"be one of {', '.join(QUANTISATIONS)}, as the file says no size"
        raise InputError(f"{place}, quantization", rule, quantization)
    facts = catalog_facts(name, "F16", field=f"{place}, model")
    scale = (said.weight_bytes or 0.0) / facts["weight_bytes"]
    if not 1 / 16 <= scale <= 4:
        rule = f"be 1 to 64 bits for each parameter of {name}"
        raise InputError(f"{place}, model size", rule, f"{said.weight_bytes:.0f} bytes")
    return {**sized_facts(facts, quantization, said.weight_bytes or 0.0), "checkpoint_format": ""}
