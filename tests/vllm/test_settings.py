"""Settings from the environment: needs no vLLM."""

from __future__ import annotations

import pytest

from shunter.engines.base import EngineUnavailableError
from shunter.engines.vllm.settings import Settings, read_settings


def test_without_variables_nothing_is_special() -> None:
    assert read_settings({"PATH": "/bin"}) == Settings()
    assert Settings().suffix() == ""


@pytest.mark.parametrize(
    ("variables", "suffix"),
    [
        ({"PREFIX_CACHING": "1"}, " (prefix caching)"),
        ({"PREFIX_CACHING": "1", "SLEEP_LEVEL": "2"}, " (prefix caching, sleep level 2)"),
        ({"PROCESS_PER_MODEL": "1"}, " (process per model)"),
        ({"WARM_UP": "0"}, " (no warm-up)"),
    ],
)
def test_each_setting_makes_another_version(variables: dict[str, str], suffix: str) -> None:
    settings = read_settings({f"SHUNTER_VLLM_{name}": value for name, value in variables.items()})
    assert settings.suffix() == suffix
    found = settings.versions()
    assert {name: found[name.lower()] for name in variables} == variables


@pytest.mark.parametrize("value", ["yes", "", "-1", "2"])
def test_refuses_what_is_no_switch(value: str) -> None:
    with pytest.raises(EngineUnavailableError, match="SHUNTER_VLLM_PROCESS_PER_MODEL must be 0 to 1"):
        read_settings({"SHUNTER_VLLM_PROCESS_PER_MODEL": value})


def test_a_process_that_ends_cannot_sleep() -> None:
    with pytest.raises(EngineUnavailableError, match="Got 1 instead"):
        read_settings({"SHUNTER_VLLM_PROCESS_PER_MODEL": "1", "SHUNTER_VLLM_SLEEP_LEVEL": "1"})
