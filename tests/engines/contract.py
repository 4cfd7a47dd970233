"""What every engine must obey: a mix-in of tests over fixtures that a subclass overrides."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from shunter.catalog.models import ModelSpec
from shunter.engines.base import (
    CheckpointError,
    DeviceMemoryError,
    Engine,
    LoadResult,
    RequestError,
    UnsupportedLevelError,
)

SPEC = ModelSpec(
    name="contract",
    layers=6,
    hidden_size=256,
    attn_heads=4,
    kv_heads=2,
    head_dim=64,
    intermediate_size=1024,
    vocab_size=512,
    qkv_bias=True,
)
"""About 6 M parameters: 24 MB in float32, well above the noise of a process's memory."""

CONTEXT_TOKENS = 128
MAX_BATCH = 3

_numbers = itertools.count()


class EngineContract:
    """Inherit it and give ``weight_bytes`` and the fixtures ``engine`` and ``checkpoint``."""

    reads_checkpoints = True
    weight_bytes: int

    @pytest.fixture
    def now_s(self, engine: Engine) -> Callable[[], float]:
        return time.monotonic

    @pytest.fixture
    def cramped(self, engine: Engine) -> Engine:
        """An engine whose device cannot hold the checkpoint with 8 requests of 4 million tokens."""
        return engine

    @pytest.fixture
    def model(self, engine: Engine, checkpoint: str) -> Iterator[str]:
        name = f"model-{next(_numbers)}"
        load(engine, name, checkpoint)
        yield name
        engine.unload(name)

    def test_says_what_it_can_do(self, engine: Engine, checkpoint: str) -> None:
        capabilities = engine.capabilities()
        assert capabilities.engine_version
        assert capabilities.checkpoint_formats
        assert set(capabilities.checkpoint_formats) <= {"gguf", "safetensors"}

    def test_refuses_levels_out_of_range(self, engine: Engine, checkpoint: str) -> None:
        for gpu_layers in (-1, SPEC.total_layers + 1):
            with pytest.raises(UnsupportedLevelError):
                load(engine, "refused", checkpoint, gpu_layers)
        with pytest.raises(RequestError):
            engine.unload("refused")

    def test_honours_a_partial_level_or_refuses_it(self, engine: Engine, checkpoint: str) -> None:
        if not engine.capabilities().partial_offload:
            with pytest.raises(UnsupportedLevelError):
                load(engine, "partial", checkpoint, 2)
            return
        growth = {}
        for gpu_layers in (0, 2, SPEC.total_layers):
            before_bytes = engine.memory().device_bytes
            assert load(engine, "partial", checkpoint, gpu_layers).total_layers == SPEC.total_layers
            growth[gpu_layers] = engine.memory().device_bytes - before_bytes
            engine.unload("partial")
        assert growth[0] < growth[2] < growth[SPEC.total_layers]

    def test_all_layers_by_number_or_by_none(self, engine: Engine, checkpoint: str) -> None:
        for gpu_layers in (None, SPEC.total_layers):
            assert load(engine, "all", checkpoint, gpu_layers).total_layers == SPEC.total_layers
            engine.unload("all")

    def test_device_memory_grows_by_the_weights_and_comes_back(self, engine: Engine, checkpoint: str) -> None:
        load(engine, "first", checkpoint)
        engine.unload("first")
        empty_bytes = engine.memory().device_bytes
        loaded_bytes = load(engine, "grown", checkpoint).memory.device_bytes
        grown_bytes = loaded_bytes - empty_bytes
        assert 0.8 * self.weight_bytes < grown_bytes < 1.5 * self.weight_bytes + 8e6
        engine.unload("grown")
        assert engine.memory().device_bytes - empty_bytes < 0.2 * self.weight_bytes

    def test_knows_the_footprint_beforehand(self, engine: Engine, checkpoint: str) -> None:
        sizes = {"context_tokens": 64, "max_batch": 2}
        planned = engine.footprint_bytes("m", checkpoint, None, **sizes)
        more_kv = engine.footprint_bytes("m", checkpoint, None, context_tokens=4096, max_batch=8)
        assert 0 < planned <= more_kv
        before = engine.memory().device_bytes
        engine.load("m", checkpoint, None, **sizes)
        assert engine.memory().device_bytes - before <= planned + 20e6
        with pytest.raises(UnsupportedLevelError):
            engine.footprint_bytes("m", checkpoint, 10_000, **sizes)
        engine.unload("m")

    def test_refuses_a_model_that_the_device_cannot_hold(self, cramped: Engine, checkpoint: str) -> None:
        before_bytes = cramped.memory().device_bytes
        with pytest.raises(DeviceMemoryError):
            cramped.load("vast", checkpoint, None, context_tokens=4_000_000, max_batch=8)
        assert cramped.memory().device_bytes - before_bytes < 1e6
        with pytest.raises(RequestError):
            cramped.unload("vast")

    def test_refuses_a_checkpoint_that_is_not_there(self, engine: Engine, tmp_path: Path) -> None:
        if self.reads_checkpoints:
            with pytest.raises(CheckpointError):
                load(engine, "nothing", str(tmp_path / "nothing"))
            (tmp_path / "text").write_text("no model")
            with pytest.raises(CheckpointError):
                load(engine, "nothing", str(tmp_path / "text"))

    def test_saved_and_restored_is_as_uninterrupted(self, engine: Engine, checkpoint: str) -> None:
        if not engine.capabilities().kv_save:
            self._parked_is_as_uninterrupted(engine, checkpoint)
            return
        load(engine, "kept", checkpoint)
        expected = generate(engine, "kept", "whole", prompt(1), 16)
        engine.drop_kv("kept", "whole")
        tokens = generate(engine, "kept", "cut", prompt(1), 7)
        saved = engine.save_kv("kept", "cut")
        assert saved.kv_tokens == len(prompt(1)) + 6
        engine.unload("kept")
        load(engine, "kept", checkpoint)
        restored = engine.restore_kv("kept", "cut")
        assert (restored.kv_tokens, restored.kv_bytes) == (saved.kv_tokens, saved.kv_bytes)
        tokens += engine.decode("kept", {"cut": 9}, max_steps=9).tokens["cut"]
        engine.unload("kept")
        assert tokens == expected
        assert len(set(tokens)) > 3

    def _parked_is_as_uninterrupted(self, engine: Engine, checkpoint: str) -> None:
        load(engine, "kept", checkpoint)
        expected = generate(engine, "kept", "whole", prompt(1), 16)
        tokens = generate(engine, "kept", "cut", prompt(1), 7)
        with pytest.raises(RequestError):
            engine.save_kv("kept", "cut")
        generate(engine, "kept", "in between", prompt(2), 40)
        tokens += engine.decode("kept", {"cut": 9}, max_steps=9).tokens["cut"]
        engine.unload("kept")
        assert tokens == expected
        assert len(set(tokens)) > 3

    def test_dropped_and_recomputed_is_as_uninterrupted(self, engine: Engine, model: str) -> None:
        expected = generate(engine, model, "whole", prompt(2), 16)
        tokens = generate(engine, model, "cut", prompt(2), 7)
        engine.drop_kv(model, "cut")
        again = engine.prefill(model, "cut", prompt(2) + tokens)
        assert again.tokens_prefilled == len(prompt(2)) + 7
        tokens += [again.token, *engine.decode(model, {"cut": 8}, max_steps=8).tokens["cut"]]
        assert tokens == expected

    def test_tokens_do_not_depend_on_the_company(self, engine: Engine, model: str) -> None:
        prompts = {name: prompt(seed)[: 9 * seed] for seed, name in enumerate("abc", start=1)}
        alone = {}
        for name, tokens in prompts.items():
            alone[name] = generate(engine, model, name, tokens, 13)
            engine.drop_kv(model, name)
        together = {name: [engine.prefill(model, name, tokens).token] for name, tokens in prompts.items()}
        for limits in ({"a": 4, "b": 4, "c": 4}, {"c": 3, "a": 3}, {"a": 5, "b": 8, "c": 5}):
            for name, tokens in engine.decode(model, limits, max_steps=8).tokens.items():
                together[name] += tokens
        assert together == alone

    def test_two_residents_keep_to_themselves(self, engine: Engine, model: str, checkpoint: str) -> None:
        expected = generate(engine, model, "r", prompt(3), 8)
        engine.drop_kv(model, "r")
        load(engine, "other", checkpoint)
        engine.prefill("other", "r", prompt(4))
        first = engine.prefill(model, "r", prompt(3)).token
        engine.decode("other", {"r": 5}, max_steps=5)
        tokens = [first, *engine.decode(model, {"r": 7}, max_steps=7).tokens["r"]]
        engine.unload("other")
        assert tokens == expected

    def test_a_request_leaves_the_batch_at_its_limit(self, engine: Engine, model: str) -> None:
        engine.prefill(model, "short", prompt(5))
        engine.prefill(model, "long", prompt(6))
        result = engine.decode(model, {"short": 3, "long": 6}, max_steps=10)
        assert {name: len(tokens) for name, tokens in result.tokens.items()} == {"short": 3, "long": 6}
        assert len(result.step_end_s) == 6
        assert len(engine.decode(model, {"short": 2}, max_steps=10).tokens["short"]) == 2

    def test_decode_stops_at_max_steps(self, engine: Engine, model: str) -> None:
        engine.prefill(model, "r", prompt(5))
        result = engine.decode(model, {"r": 9}, max_steps=4)
        assert (len(result.step_end_s), len(result.tokens["r"])) == (4, 4)

    def test_decode_runs_one_step_when_there_is_no_time(self, engine: Engine, model: str) -> None:
        engine.prefill(model, "r", prompt(5))
        assert len(engine.decode(model, {"r": 9}, max_steps=9, max_s=0.0).step_end_s) == 1
        assert len(engine.decode(model, {"r": 9}, max_steps=9, max_s=1e6).step_end_s) == 9

    def test_times_ascend_within_the_call(
        self, engine: Engine, checkpoint: str, now_s: Callable[[], float]
    ) -> None:
        marks = [now_s()]

        def inside(start_s: float, end_s: float) -> None:
            marks.extend([start_s, end_s, now_s()])

        loaded = load(engine, "timed", checkpoint)
        inside(loaded.start_s, loaded.end_s)
        prefilled = engine.prefill("timed", "r", prompt(1))
        inside(prefilled.start_s, prefilled.end_s)
        decoded = engine.decode("timed", {"r": 4}, max_steps=4)
        assert decoded.start_s < decoded.step_end_s[0]
        assert decoded.step_end_s == sorted(set(decoded.step_end_s))
        assert decoded.step_end_s[-1] <= decoded.end_s
        inside(decoded.start_s, decoded.end_s)
        if engine.capabilities().kv_save:
            for moved in (engine.save_kv("timed", "r"), engine.restore_kv("timed", "r")):
                marks.extend([moved.start_s, moved.end_s])
        unloaded = engine.unload("timed")
        inside(unloaded.start_s, unloaded.end_s)
        assert marks == sorted(marks)
        assert loaded.duration_s > 0

    def test_refuses_what_is_unknown(self, engine: Engine, model: str) -> None:
        calls: list[Callable[[], object]] = [
            lambda: engine.decode(model, {"ghost": 1}, max_steps=1),
            lambda: engine.save_kv(model, "ghost"),
            lambda: engine.restore_kv(model, "ghost"),
            lambda: engine.prefill("ghost", "r", [1]),
            lambda: engine.decode("ghost", {"r": 1}, max_steps=1),
            lambda: engine.save_kv("ghost", "r"),
            lambda: engine.restore_kv("ghost", "r"),
            lambda: engine.unload("ghost"),
        ]
        for call in calls:
            with pytest.raises(RequestError, match="ghost"):
                call()
        engine.drop_kv(model, "ghost")
        engine.drop_kv("ghost", "r")

    def test_refuses_what_the_state_does_not_allow(self, engine: Engine, model: str, checkpoint: str) -> None:
        with pytest.raises(RequestError, match="resident"):
            load(engine, model, checkpoint)
        engine.prefill(model, "r", prompt(1))
        with pytest.raises(RequestError):
            engine.prefill(model, "r", prompt(1))
        with pytest.raises(RequestError):
            engine.restore_kv(model, "r")
        if engine.capabilities().kv_save:
            engine.save_kv(model, "r")
        else:
            engine.drop_kv(model, "r")
        for call in (engine.save_kv, lambda m, r: engine.decode(m, {r: 1}, max_steps=1)):
            with pytest.raises(RequestError):
                call(model, "r")
        engine.drop_kv(model, "r")
        with pytest.raises(RequestError):
            engine.restore_kv(model, "r")

    def test_refuses_more_than_it_was_loaded_for(self, engine: Engine, model: str) -> None:
        with pytest.raises(RequestError):
            engine.prefill(model, "long", [1] * (CONTEXT_TOKENS + 1))
        for index in range(MAX_BATCH):
            engine.prefill(model, f"r{index}", prompt(index))
        with pytest.raises(RequestError):
            engine.prefill(model, "one more", prompt(1))
        with pytest.raises(RequestError):
            engine.decode(model, {"r0": CONTEXT_TOKENS}, max_steps=CONTEXT_TOKENS)
        if not engine.capabilities().kv_save:
            engine.drop_kv(model, "r0")
            engine.prefill(model, "one more", prompt(1))
            assert len(engine.decode(model, {"one more": 1, "r2": 1}, max_steps=1).tokens) == 2
            return
        engine.save_kv(model, "r0")
        engine.prefill(model, "one more", prompt(1))
        with pytest.raises(RequestError):
            engine.restore_kv(model, "r0")
        engine.drop_kv(model, "one more")
        engine.restore_kv(model, "r0")
        assert len(engine.decode(model, {"r0": 1, "r2": 1}, max_steps=1).tokens) == 2

    def test_unloading_forgets_the_live_and_keeps_the_saved(self, engine: Engine, checkpoint: str) -> None:
        kv_save = engine.capabilities().kv_save
        load(engine, "gone", checkpoint)
        engine.prefill("gone", "live", prompt(1))
        engine.prefill("gone", "saved", prompt(2))
        if kv_save:
            engine.save_kv("gone", "saved")
        engine.unload("gone")
        load(engine, "gone", checkpoint)
        with pytest.raises(RequestError):
            engine.decode("gone", {"live": 1}, max_steps=1)
        engine.prefill("gone", "live", prompt(1))
        if kv_save:
            assert engine.restore_kv("gone", "saved").kv_tokens == len(prompt(2))
        engine.unload("gone")

    def test_refuses_to_decode_nothing(self, engine: Engine, model: str) -> None:
        engine.prefill(model, "r", prompt(1))
        for limits, max_steps in (({}, 1), ({"r": 0}, 1), ({"r": 1}, 0)):
            with pytest.raises(RequestError):
                engine.decode(model, limits, max_steps=max_steps)
        with pytest.raises(RequestError):
            engine.prefill(model, "empty", [])

    def test_refuses_tokens_outside_the_vocabulary(self, engine: Engine, model: str) -> None:
        if self.reads_checkpoints:
            for token in (-1, SPEC.vocab_size):
                with pytest.raises(RequestError):
                    engine.prefill(model, "r", [1, token])
        assert engine.prefill(model, "r", [0, SPEC.vocab_size - 1]).tokens_prefilled == 2

    def test_the_page_cache_can_be_dropped(self, engine: Engine, model: str, checkpoint: str) -> None:
        engine.drop_page_cache(checkpoint)
        assert generate(engine, model, "r", prompt(1), 2)


def load(engine: Engine, name: str, checkpoint: str, gpu_layers: int | None = None) -> LoadResult:
    return engine.load(name, checkpoint, gpu_layers, context_tokens=CONTEXT_TOKENS, max_batch=MAX_BATCH)


def generate(engine: Engine, model: str, request: str, tokens: list[int], count: int) -> list[int]:
    first = engine.prefill(model, request, tokens).token
    return [first, *engine.decode(model, {request: count - 1}, max_steps=count).tokens[request]]


def prompt(seed: int) -> list[int]:
    return [(seed * 7919 + 31 * place * place + 5) % SPEC.vocab_size for place in range(30 + seed)]
