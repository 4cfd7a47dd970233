"""The contract over every engine."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from importlib.util import find_spec

import pytest

from shunter.engines.base import Engine
from shunter.engines.caller.client import start_engine
from shunter.engines.fake.engine import FakeEngine, LinearDurations
from shunter.profiling.checkpoints.synthetic import write_checkpoint
from tests.engines.contract import SPEC, EngineContract, generate, load, prompt


class TestFake(EngineContract):
    reads_checkpoints = False
    weight_bytes = LinearDurations().device_bytes("any", SPEC.total_layers)

    @pytest.fixture(scope="class")
    @classmethod
    def engine(cls) -> Iterator[Engine]:
        engine = FakeEngine(total_layers=SPEC.total_layers)
        yield engine
        engine.close()

    @pytest.fixture(scope="class")
    @classmethod
    def checkpoint(cls) -> str:
        return "no file"

    @pytest.fixture
    def now_s(self, engine: FakeEngine) -> Callable[[], float]:
        return lambda: engine.clock.now_s

    @pytest.fixture
    def cramped(self, engine: Engine) -> Engine:
        return FakeEngine(total_layers=SPEC.total_layers, memory_bytes=self.weight_bytes - 1)


@pytest.mark.engine
class TestTransformers(EngineContract):
    weight_bytes = 4 * SPEC.params

    @pytest.fixture(scope="class")
    @classmethod
    def engine(cls) -> Iterator[Engine]:
        with start_engine("transformers", "cpu:1-threads") as engine:
            yield engine

    @pytest.fixture(scope="class")
    @classmethod
    def checkpoint(cls, tmp_path_factory: pytest.TempPathFactory) -> str:
        folder = tmp_path_factory.mktemp("transformers") / "f32"
        return str(write_checkpoint(SPEC, folder, format="safetensors", quantization="F32").path)

    def test_bfloat16_goes_on_identically_in_the_same_batch(
        self, engine: Engine, tmp_path_factory: pytest.TempPathFactory
    ) -> None:
        folder = tmp_path_factory.mktemp("transformers") / "bf16"
        checkpoint = str(write_checkpoint(SPEC, folder, format="safetensors", quantization="BF16").path)
        load(engine, "bf16", checkpoint)
        expected = generate(engine, "bf16", "whole", prompt(1), 40)
        engine.drop_kv("bf16", "whole")
        tokens = generate(engine, "bf16", "cut", prompt(1), 11)
        engine.save_kv("bf16", "cut")
        engine.unload("bf16")
        load(engine, "bf16", checkpoint)
        engine.prefill("bf16", "takes its old slot", prompt(2))
        engine.restore_kv("bf16", "cut")
        tokens += engine.decode("bf16", {"cut": 29}, max_steps=29).tokens["cut"]
        engine.unload("bf16")
        assert tokens == expected


@pytest.mark.engine
@pytest.mark.skipif(find_spec("llama_cpp") is None, reason="llama-cpp-python is not installed")
class TestLlamaCpp(EngineContract):
    weight_bytes = 4 * SPEC.params

    @pytest.fixture(scope="class")
    @classmethod
    def engine(cls) -> Iterator[Engine]:
        with start_engine("llama-cpp", "loopback:1-threads-600MB") as engine:
            yield engine

    @pytest.fixture(scope="class")
    @classmethod
    def checkpoint(cls, tmp_path_factory: pytest.TempPathFactory) -> str:
        path = tmp_path_factory.mktemp("llama-cpp") / "f32.gguf"
        return str(write_checkpoint(SPEC, path, format="gguf", quantization="F32").path)
