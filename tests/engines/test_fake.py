from __future__ import annotations

import time
from pathlib import Path

import pytest

from shunter.catalog.models import ModelSpec
from shunter.engines.base import CheckpointError, DeviceMemoryError, UnsupportedLevelError
from shunter.engines.fake.engine import FakeEngine, FakeVirtualClock, FakeWallClock, LinearDurations, create
from shunter.profiling.checkpoints.synthetic import write_checkpoint


class OneSecondEach(LinearDurations):
    """Whole seconds, so that sums of them are exact."""

    def load_s(self, model: str, checkpoint: str, gpu_layers: int) -> float:
        return 4.0

    def prefill_s(self, model: str, gpu_layers: int, tokens: int) -> float:
        return float(tokens)

    def decode_step_s(self, model: str, gpu_layers: int, batch: int, context_tokens: float) -> float:
        return batch + 100 * context_tokens


def loaded(**options: object) -> FakeEngine:
    engine = FakeEngine(OneSecondEach(), FakeVirtualClock(1000.0), **options)  # type: ignore[arg-type]
    engine.load("m", "", None, context_tokens=100, max_batch=4)
    return engine


def test_the_clock_advances_by_the_formulas() -> None:
    engine = loaded()
    assert engine.clock.now_s == 1004.0
    result = engine.prefill("m", "r", [1, 2, 3])
    assert (result.start_s, result.end_s, engine.clock.now_s) == (1004.0, 1007.0, 1007.0)


def test_calls_start_where_the_caller_sets_the_clock() -> None:
    engine = loaded()
    engine.clock.now_s = 5000.0
    assert engine.prefill("m", "r", [1]).start_s == 5000.0


def test_a_step_costs_by_its_batch_and_its_mean_context() -> None:
    engine = loaded()
    engine.prefill("m", "a", [1, 2, 3])
    engine.prefill("m", "b", [1])
    start_s = engine.clock.now_s
    result = engine.decode("m", {"a": 2, "b": 1}, max_steps=9)
    first_s, second_s = 2 + 100 * 3.0, 1 + 100 * 5.0
    assert result.step_end_s == [start_s + first_s, start_s + first_s + second_s]


@pytest.mark.parametrize(("max_s", "steps"), [(0.0, 1), (301.0, 1), (301.5, 2), (702.0, 2), (702.5, 3)])
def test_a_step_starts_only_while_max_s_has_not_passed(max_s: float, steps: int) -> None:
    engine = loaded()
    engine.prefill("m", "a", [1, 2])  # steps of 301, 401, 501 s
    assert len(engine.decode("m", {"a": 9}, max_steps=9, max_s=max_s).step_end_s) == steps


def test_tokens_depend_on_model_and_history_only() -> None:
    def tokens(model: str, prompt: list[int]) -> list[int]:
        engine = FakeEngine()
        engine.load(model, "", 3, context_tokens=100, max_batch=1)
        first = engine.prefill(model, "r", prompt).token
        return [first, *engine.decode(model, {"r": 20}, max_steps=20).tokens["r"]]

    assert tokens("m", [1, 2]) == tokens("m", [1, 2])
    assert len({tuple(tokens(*case)) for case in (("m", [1, 2]), ("m", [2, 1]), ("n", [1, 2]))}) == 3


def test_layers_are_configurable_per_model() -> None:
    engine = FakeEngine(total_layers={"deep": 33})
    assert engine.load("deep", "", 20, context_tokens=9, max_batch=1).total_layers == 33
    assert engine.load("other", "", None, context_tokens=9, max_batch=1).total_layers == 9
    with pytest.raises(UnsupportedLevelError, match="0 to 9"):
        engine.load("third", "", 10, context_tokens=9, max_batch=1)


def test_can_stand_for_an_engine_without_partial_offload() -> None:
    engine = FakeEngine(partial_offload=False)
    with pytest.raises(UnsupportedLevelError, match="9 or None"):
        engine.load("m", "", 5, context_tokens=9, max_batch=1)


def test_the_budget_counts_all_residents_and_a_refusal_takes_no_time() -> None:
    durations = LinearDurations()
    engine = FakeEngine(durations, memory_bytes=12 * durations.layer_bytes)
    engine.load("a", "", 9, context_tokens=9, max_batch=1)
    before_s = engine.clock.now_s
    with pytest.raises(DeviceMemoryError):
        engine.load("b", "", 4, context_tokens=9, max_batch=1)
    assert engine.clock.now_s == before_s
    engine.load("b", "", 3, context_tokens=9, max_batch=1)
    report = engine.memory()
    assert (report.device_bytes, report.host_bytes) == (12 * durations.layer_bytes, 6 * durations.layer_bytes)


def test_saved_kv_takes_host_memory_until_it_is_restored() -> None:
    engine = loaded(kv_bytes_per_token=10)
    engine.prefill("m", "r", [1, 2, 3])
    assert engine.save_kv("m", "r").kv_bytes == 30
    assert engine.memory().host_bytes == 30
    engine.restore_kv("m", "r")
    assert engine.memory().host_bytes == 0


def test_the_wall_clock_waits_and_never_goes_back() -> None:
    clock = FakeWallClock()
    goal_s = time.monotonic() + 0.02
    clock.now_s = goal_s
    assert time.monotonic() >= goal_s
    clock.now_s = goal_s - 100
    assert clock.now_s >= goal_s


def test_the_worker_s_fake_keeps_to_its_device() -> None:
    engine = create({"name": "cpu:1-threads-50MB", "memory_bytes": 50_000_000})
    assert engine.capabilities().device == "cpu:1-threads-50MB"
    with pytest.raises(DeviceMemoryError, match="cpu:1-threads-50MB"):
        engine.load("m", "", None, context_tokens=9, max_batch=1)


@pytest.mark.parametrize("kind", ["gguf", "safetensors"])
def test_a_model_has_the_layers_of_its_checkpoint(tmp_path: Path, kind: str) -> None:
    spec = ModelSpec("deep", 20, 64, 1, 1, 64, 128, 512)
    path = str(write_checkpoint(spec, tmp_path / f"deep.{kind}", format=kind, quantization="F16").path)
    engine = FakeEngine()
    assert engine.load("deep", path, 21, context_tokens=9, max_batch=1).total_layers == 21
    engine.prefill("deep", "r", [1])
    step = engine.decode("deep", {"r": 1}, max_steps=1)
    assert step.duration_s == pytest.approx(LinearDurations(total_layers=21).decode_step_s("deep", 21, 1, 2))
    with pytest.raises(UnsupportedLevelError, match="0 to 21"):
        engine.load("again", path, 22, context_tokens=9, max_batch=1)


def test_a_file_that_is_no_checkpoint_is_refused(tmp_path: Path) -> None:
    (tmp_path / "text").write_text("no model")
    with pytest.raises(CheckpointError, match="not a GGUF file"):
        FakeEngine().load("m", str(tmp_path / "text"), None, context_tokens=9, max_batch=1)
