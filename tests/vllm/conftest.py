"""vLLM's interpreter is named by SHUNTER_VLLM_PYTHON, which ``make test-vllm`` sets; else tests skip."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from shunter.catalog.devices import parse_device
from shunter.catalog.models import ModelSpec
from shunter.engines.caller.client import WorkerEngine
from shunter.profiling.checkpoints.synthetic import write_checkpoint
from tests.engines.contract import SPEC


@pytest.fixture(scope="session")
def vllm_python() -> str:
    python = os.environ.get("SHUNTER_VLLM_PYTHON")
    if not python:
        pytest.skip("SHUNTER_VLLM_PYTHON names no interpreter with vLLM: run make test-vllm")
    return python


@pytest.fixture(scope="session")
def worker(vllm_python: str) -> Iterator[WorkerEngine]:
    with WorkerEngine("vllm", parse_device("cpu:1-threads"), python=vllm_python) as engine:
        yield engine


@pytest.fixture(scope="session")
def written(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str, ModelSpec], Path]:
    def write(quantization: str, spec: ModelSpec = SPEC) -> Path:
        folder = tmp_path_factory.mktemp("vllm") / quantization
        return write_checkpoint(spec, folder, format="safetensors", quantization=quantization).path

    return write
