"""How vLLM is run: settings from the worker's environment, all of them recorded with what was measured."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from ..base import EngineUnavailableError


@dataclass(frozen=True)
class Settings:
    """The settings, each with the variable that sets it.

    Attributes:
        prefix_caching: ``SHUNTER_VLLM_PREFIX_CACHING``: whether equal prompt beginnings share KV blocks.
        sleep_level: ``SHUNTER_VLLM_SLEEP_LEVEL``, GPU only. 0: an unload ends the model's engine. 1 or 2: it
            sends it to sleep, and the next load of the same model wakes it.
        process_per_model: ``SHUNTER_VLLM_PROCESS_PER_MODEL``: whether each load starts a process, as a server
            that is restarted does.
        warm_up: ``SHUNTER_VLLM_WARM_UP``: whether a worker starts with small models, so that no load contains
            what vLLM does only once per process. Where loads start processes, none does.
    """

    prefix_caching: bool = False
    sleep_level: int = 0
    process_per_model: bool = False
    warm_up: bool = True

    def suffix(self) -> str:
        """What follows the engine's version: the settings that change what is measured."""
        chosen = {
            "prefix caching": self.prefix_caching,
            f"sleep level {self.sleep_level}": self.sleep_level,
            "process per model": self.process_per_model,
            "no warm-up": not self.warm_up,
        }
        names = ", ".join(name for name, value in chosen.items() if value)
        return f" ({names})" if names else ""

    def versions(self) -> dict[str, str]:
        """All that change what is measured, for ``Capabilities.versions``."""
        return {
            "prefix_caching": str(int(self.prefix_caching)),
            "sleep_level": str(self.sleep_level),
            "process_per_model": str(int(self.process_per_model)),
            "warm_up": str(int(self.warm_up)),
        }


def read_settings(environment: Mapping[str, str]) -> Settings:
    """Reads the settings.

    Raises:
        EngineUnavailableError: One is not a number in its range, or two exclude each other.
    """

    def number(name: str, default: int, most: int) -> int:
        text = environment.get(f"SHUNTER_VLLM_{name}", str(default))
        if text not in [str(value) for value in range(most + 1)]:
            raise EngineUnavailableError(f"SHUNTER_VLLM_{name} must be 0 to {most}. Got {text!r} instead.")
        return int(text)

    settings = Settings(
        prefix_caching=bool(number("PREFIX_CACHING", 0, 1)),
        sleep_level=number("SLEEP_LEVEL", 0, 2),
        process_per_model=bool(number("PROCESS_PER_MODEL", 0, 1)),
        warm_up=bool(number("WARM_UP", 1, 1)),
    )
    if settings.process_per_model and settings.sleep_level:
        raise EngineUnavailableError(
            "SHUNTER_VLLM_SLEEP_LEVEL must be 0 with SHUNTER_VLLM_PROCESS_PER_MODEL: an ended process does "
            f"not sleep. Got {settings.sleep_level} instead."
        )
    return settings
