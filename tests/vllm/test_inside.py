"""KV blocks, vLLM's own preemptions and prefix caching, seen from inside vLLM's interpreter."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from shunter import engines

pytestmark = pytest.mark.engine


@pytest.fixture(scope="module")
def found(vllm_python: str, written: Callable[..., Path]) -> dict[str, Any]:
    boot = Path(engines.__file__).with_name("worker") / "boot.py"
    script = Path(__file__).with_name("inside.py")
    command = [vllm_python, str(script), str(boot), str(written("F32"))]
    done = subprocess.run(command, capture_output=True, text=True, timeout=500, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    answer: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return answer


def test_the_blocks_asked_for_are_there_and_rule_preemption_out(found: dict[str, Any]) -> None:
    enough = found["enough"]
    assert enough["blocks"] == [enough["asked"], 32]
    assert "refusal" not in enough
    assert "stopped" not in enough
    assert (enough["steps"], enough["preemptions"], enough["vllm_preemptions"]) == (60, 0, 0)


def test_too_few_blocks_are_refused(found: dict[str, Any]) -> None:
    assert found["short"]["blocks"] == [10, 32]
    assert "9 KV blocks of 32 tokens" in found["short"]["refusal"]


def test_vllms_own_preemptions_stop_the_batch_and_are_counted_as_vllm_counts_them(
    found: dict[str, Any],
) -> None:
    short = found["short"]
    assert 0 < short["steps"] < 60
    assert "preemptions of its own" in short["stopped"]
    assert short["preemptions"] == short["vllm_preemptions"] == short["preemptions_after_leaving"] > 0


def test_prefix_caching_shares_whole_blocks_and_changes_no_token(found: dict[str, Any]) -> None:
    assert found["prefix_caching"]["shared_blocks"] == 100 // 32
    assert found["no_prefix_caching"]["shared_blocks"] == 0
    tokens = found["no_prefix_caching"]["tokens"]
    assert tokens[0] == tokens[1]
    assert found["prefix_caching"]["tokens"] == tokens


def test_an_engine_with_too_few_blocks_is_refused_and_its_preemptions_are_reported(
    found: dict[str, Any],
) -> None:
    short = found["short_engine"]
    assert "9 KV blocks of 32 tokens" in short["refusal"]
    assert "preemptions of its own" in short["stopped"]
    assert short["before"] == 0
    assert short["after"] == short["unloaded"] > 0


def test_vllm_on_the_cpu_ignores_offload_which_is_noticed(found: dict[str, Any]) -> None:
    assert found["offloaded"]["bytes"] == 0
    assert "left 0.0 MB" in found["offloaded"]["refusal"]
