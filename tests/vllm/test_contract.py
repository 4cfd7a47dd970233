"""The contract over vLLM, with what its missing KV save changes."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from shunter.profiling.engines.base import Engine, RequestError
from shunter.profiling.worker import WorkerEngine
from tests.profiling.engines.contract import (
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

    def test_saved_and_restored_is_as_uninterrupted(self, engine: Engine, checkpoint: str) -> None:
        """It refuses to save, and a request that was left alone in its resident goes on unharmed."""
        load(engine, "kept", checkpoint)
        expected = generate(engine, "kept", "whole", prompt(1), 16)
        tokens = generate(engine, "kept", "cut", prompt(1), 7)
        with pytest.raises(RequestError, match="recompute"):
            engine.save_kv("kept", "cut")
        generate(engine, "kept", "in between", prompt(2), 40)
        tokens += engine.decode("kept", {"cut": 9}, max_steps=9).tokens["cut"]
        engine.unload("kept")
        assert tokens == expected
        assert len(set(tokens)) > 3

    def test_times_ascend_within_the_call(
        self, engine: Engine, checkpoint: str, now_s: Callable[[], float]
    ) -> None:
        marks = [now_s()]
        loaded = load(engine, "timed", checkpoint)
        prefilled = engine.prefill("timed", "r", prompt(1))
        decoded = engine.decode("timed", {"r": 4}, max_steps=4)
        unloaded = engine.unload("timed")
        assert decoded.start_s < decoded.step_end_s[0]
        assert decoded.step_end_s == sorted(set(decoded.step_end_s))
        assert decoded.step_end_s[-1] <= decoded.end_s
        for result in (loaded, prefilled, decoded, unloaded):
            marks.extend([result.start_s, result.end_s])
        marks.append(now_s())
        assert marks == sorted(marks)
        assert loaded.duration_s > 0

    def test_refuses_what_the_state_does_not_allow(self, engine: Engine, model: str, checkpoint: str) -> None:
        with pytest.raises(RequestError, match="resident"):
            load(engine, model, checkpoint)
        engine.prefill(model, "r", prompt(1))
        for call in (lambda: engine.prefill(model, "r", prompt(1)), lambda: engine.restore_kv(model, "r")):
            with pytest.raises(RequestError):
                call()
        engine.drop_kv(model, "r")
        with pytest.raises(RequestError):
            engine.decode(model, {"r": 1}, max_steps=1)

    def test_refuses_more_than_it_was_loaded_for(self, engine: Engine, model: str) -> None:
        with pytest.raises(RequestError):
            engine.prefill(model, "long", [1] * (CONTEXT_TOKENS + 1))
        for index in range(MAX_BATCH):
            engine.prefill(model, f"r{index}", prompt(index))
        with pytest.raises(RequestError):
            engine.prefill(model, "one more", prompt(1))
        with pytest.raises(RequestError):
            engine.decode(model, {"r0": CONTEXT_TOKENS}, max_steps=CONTEXT_TOKENS)
        engine.drop_kv(model, "r0")
        engine.prefill(model, "one more", prompt(1))
        assert len(engine.decode(model, {"one more": 1, "r2": 1}, max_steps=1).tokens) == 2

    def test_unloading_forgets_the_live_and_keeps_the_saved(self, engine: Engine, checkpoint: str) -> None:
        load(engine, "gone", checkpoint)
        engine.prefill("gone", "live", prompt(1))
        engine.unload("gone")
        load(engine, "gone", checkpoint)
        with pytest.raises(RequestError):
            engine.decode("gone", {"live": 1}, max_steps=1)
        engine.prefill("gone", "live", prompt(1))
        engine.unload("gone")

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
