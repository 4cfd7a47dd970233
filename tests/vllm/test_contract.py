"""The contract over vLLM."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from shunter.engines.base import Engine, RequestError
from shunter.engines.caller.client import WorkerEngine
from tests.engines.contract import (
    CONTEXT_TOKENS,
    MAX_BATCH,
    SPEC,
    EngineContract,
    generate,
    load,
    prompt,
)

pytestmark = pytest.mark.engine


class TestVllm(EngineContract):
    weight_bytes = 4 * SPEC.params

    @pytest.fixture(scope="class")
    @classmethod
    def engine(cls, worker: WorkerEngine) -> Engine:
        return worker

    @pytest.fixture(scope="class")
    @classmethod
    def checkpoint(cls, written: Callable[..., Path]) -> str:
        return str(written("F32"))

    def test_says_what_it_can_do(self, engine: Engine, checkpoint: str) -> None:
        can = engine.capabilities()
        assert can.engine == "vllm"
        assert can.engine_version
        assert can.checkpoint_formats == ("safetensors",)
        assert not can.kv_save
        assert not can.partial_offload
        assert (can.versions["prefix_caching"], can.versions["sleep_level"]) == ("0", "0")

    def test_every_request_may_fill_its_context(self, engine: Engine, model: str) -> None:
        full = CONTEXT_TOKENS - len(prompt(0))
        for index in range(MAX_BATCH):
            engine.prefill(model, f"r{index}", prompt(index)[: len(prompt(0))])
        limits = {f"r{index}": full - 1 for index in range(MAX_BATCH)}
        result = engine.decode(model, limits, max_steps=CONTEXT_TOKENS)
        assert {len(tokens) for tokens in result.tokens.values()} == {full - 1}
        assert len(result.step_end_s) == full - 1
        with pytest.raises(RequestError, match="allows"):
            engine.decode(model, {"r0": 1}, max_steps=1)

    def test_a_resident_outlives_the_unload_of_another(
        self, engine: Engine, model: str, checkpoint: str
    ) -> None:
        expected = generate(engine, model, "r", prompt(3), 8)
        engine.drop_kv(model, "r")
        load(engine, "other", checkpoint)
        tokens = [engine.prefill(model, "r", prompt(3)).token]
        engine.unload("other")
        tokens += engine.decode(model, {"r": 7}, max_steps=7).tokens["r"]
        assert tokens == expected
