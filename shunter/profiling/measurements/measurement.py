"""One measurement of another tool, as far as its file says what was measured."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from shunter.errors import InputError

__all__ = ["Measurement", "ModelSaid"]

_MOST = 1e18


@dataclass(frozen=True)
class ModelSaid:
    """What a file says of a model.

    Attributes:
        text: Its name there: a Hugging Face id, or llama.cpp's description (``llama 8B Q4_K - Medium``).
        file: Path of the checkpoint; empty: not said.
        architecture: llama.cpp's name of the family; empty: not said.
        params: Parameters; None: not said.
        params_within: How far off ``params`` may be, as a table rounds it.
        weight_bytes: Bytes of all tensors; None: not said.
        quantization: As said; empty: not said.
    """

    text: str
    file: str = ""
    architecture: str = ""
    params: float | None = None
    params_within: float = 0.0
    weight_bytes: float | None = None
    quantization: str = ""


@dataclass(frozen=True)
class Measurement:
    """Durations of one operation in one configuration.

    Attributes:
        place: File and row, as errors name it.
        tool: Who measured, with its version.
        engine: Name in the engine registry; empty: not said.
        engine_version: Empty: not said.
        measured_at: ISO 8601; empty: not said.
        model: What the file says of the model.
        operation: ``prefill`` or ``decode``.
        batch: Requests that the operation worked on.
        prompt_tokens: Prompt of each request; of a decode what its cache held at the beginning.
        decode_tokens: Tokens generated for each request.
        duration_s: One for each repeat; of a decode the mean or median step.
        cpu: Name of the processor; empty: not said.
        gpus: GPUs that share the layers; empty: none, or not said.
        backend: What drives them (``CUDA``, ``Vulkan``), ``CPU`` without; empty: not said.
        threads: CPU threads; None: not said.
        gpu_layers: Layers on the device; None: all.
        kv_on_host: Whether KV is in host memory wherever its layers are.
        settings: What else the measurement depends on, where it is not the tool's default.
        is_mean: Whether a duration is the mean of repeats that the file does not have.
    """

    place: str
    tool: str
    engine: str
    model: ModelSaid
    operation: str
    batch: int
    prompt_tokens: int
    decode_tokens: int
    duration_s: tuple[float, ...]
    engine_version: str = ""
    measured_at: str = ""
    cpu: str = ""
    gpus: tuple[str, ...] = ()
    backend: str = ""
    threads: int | None = None
    gpu_layers: int | None = None
    kv_on_host: bool = False
    settings: Mapping[str, str] = field(default_factory=dict)
    is_mean: bool = False


@dataclass(frozen=True)
class Reading:
    """What came of a file.

    Attributes:
        measurements: In the file's order.
        left_out: Why what else it holds is no measurement of one operation, by place.
    """

    measurements: tuple[Measurement, ...]
    left_out: Mapping[str, str]


class Fields:
    """Values of one record, checked as they are asked for.

    Args:
        place: File and row, as errors name it.
        values: By name; texts may stand for numbers, as CSV and SQL have them.
    """

    def __init__(self, place: str, values: Mapping[str, Any]) -> None:
        self.place, self._values = place, values

    def has(self, name: str) -> bool:
        """Whether there is a value."""
        return self._values.get(name) not in (None, "")

    def text(self, name: str) -> str:
        """A text; empty where there is none.

        Raises:
            InputError: It is a list or an object.
        """
        value = self._values.get(name)
        if isinstance(value, (list, dict)):
            raise InputError(f"{self.place}, {name}", "be a text", value)
        return "" if value is None else str(value).strip()

    def number(self, name: str, least: float = 0.0, most: float = _MOST) -> float:
        """A number.

        Raises:
            InputError: There is none, or it is less than ``least``, or more than ``most``: by default what is
                too large for anything real.
        """
        value = self._values.get(name)
        try:
            found = math.nan if isinstance(value, bool) or value is None else float(value)
        except (TypeError, ValueError, OverflowError):
            found = math.nan
        if not least <= found <= most:
            raise InputError(f"{self.place}, {name}", f"be a number of at least {least:g}", value)
        return found

    def above_zero(self, name: str) -> float:
        """A number above zero: a duration or a rate.

        Raises:
            InputError: It is none.
        """
        found = self.number(name)
        if found == 0.0:
            raise InputError(f"{self.place}, {name}", "be above zero", found)
        return found

    def count(self, name: str, missing: int | None = None, least: int = 0) -> int:
        """A whole number.

        Args:
            name: Of the value.
            missing: What it is where there is none; None: there must be one.
            least: Smallest allowed.

        Raises:
            InputError: It is none.
        """
        if missing is not None and not self.has(name):
            return missing
        found = self.number(name, least)
        if found != int(found):
            raise InputError(f"{self.place}, {name}", "be a whole number", self._values.get(name))
        return int(found)

    def flag(self, name: str) -> bool:
        """Whether it is on: true or 1; off where there is none.

        Raises:
            InputError: It is something else.
        """
        text = self.text(name).lower()
        if text not in ("", "0", "1", "true", "false"):
            raise InputError(f"{self.place}, {name}", "be 0 or 1", self._values.get(name))
        return text in ("1", "true")

    def part(self, *names: str) -> Fields:
        """Values of an object within; none where there is no such object."""
        value: Any = self._values
        for name in names:
            value = value.get(name) if isinstance(value, Mapping) else None
        return Fields(", ".join((self.place, *names)), value if isinstance(value, Mapping) else {})

    def children(self, name: str) -> list[Fields]:
        """Values of each object in an object by name; none where there is no such object."""
        value = self._values.get(name)
        parts = value if isinstance(value, Mapping) else {}
        return [Fields(f"{self.place}, {name}", v) for v in parts.values() if isinstance(v, Mapping)]

    def objects(self, name: str) -> tuple[Mapping[str, Any], ...]:
        """Objects of a list; none where there is no list.

        Raises:
            InputError: The list holds something else.
        """
        value = self._values.get(name)
        found = tuple(value) if isinstance(value, list) else ()
        for part in found:
            if not isinstance(part, Mapping):
                raise InputError(f"{self.place}, {name}", "hold objects", part)
        return found

    def names(self, name: str) -> tuple[str, ...]:
        """Texts of a list, or the only one; none where there is neither."""
        value = self._values.get(name)
        found = value if isinstance(value, list) else [value] if isinstance(value, str) else []
        return tuple(str(one) for one in found)

    def numbers(self, name: str) -> tuple[float, ...]:
        """Numbers of a list, each above zero; none where there is no list.

        Raises:
            InputError: There is something else.
        """
        values = self._values.get(name)
        if values is None:
            return ()
        if not isinstance(values, list):
            raise InputError(f"{self.place}, {name}", "be a list of numbers", values)
        at = Fields(f"{self.place}, {name}", {str(i): value for i, value in enumerate(values)})
        return tuple(at.above_zero(str(i)) for i in range(len(values)))


def split_names(text: str) -> tuple[str, ...]:
    """Names between commas; none of an empty text."""
    return tuple(name.strip() for name in text.split(",") if name.strip())
