"""A small world whose performance model was fitted on a sweep of the fake engine."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from shunter.catalog.checkpoints import read_checkpoint
from shunter.catalog.models import get_model, scaled_model
from shunter.engines.fake.engine import FakeEngine, LinearDurations
from shunter.envs.scenario.scenario import Scenario
from shunter.models.performance import PerformanceModel
from shunter.profiling.checkpoints.synthetic import write_checkpoint
from shunter.profiling.dataset.table import read_dataset
from shunter.profiling.sweep.sweep import SweepSettings, plan_models, run_sweep

SIZES = {"small": 3e6, "medium": 6e6, "large": 9e6}


@dataclass(frozen=True)
class SizedDurations(LinearDurations):
    """Costs in proportion to each model's own bytes per layer and layer count."""

    layer_bytes_of: tuple[tuple[str, int, int], ...] = ()

    def _of(self, model: str) -> tuple[int, int]:
        return next((b, n) for name, b, n in self.layer_bytes_of if name == model)

    def load_s(self, model: str, checkpoint: str, gpu_layers: int) -> float:
        layer_bytes, layers = self._of(model)
        return 0.05 + layer_bytes * layers / 2e7

    def decode_step_s(self, model: str, gpu_layers: int, batch: int, context_tokens: float) -> float:
        layer_bytes, layers = self._of(model)
        host = layers - gpu_layers
        return (
            layer_bytes * (gpu_layers + 3 * host) / 1e9 * (1 + 0.1 * (batch - 1))
            + 1e-7 * batch * context_tokens
        )

    def prefill_s(self, model: str, gpu_layers: int, tokens: int) -> float:
        layer_bytes, layers = self._of(model)
        return 1e-3 + tokens * layer_bytes * layers / 2e10

    def device_bytes(self, model: str, gpu_layers: int) -> int:
        return self._of(model)[0] * gpu_layers


def make_checkpoints(folder: Path) -> dict[str, Path]:
    paths = {}
    for name, params in SIZES.items():
        paths[name] = folder / name
        write_checkpoint(
            scaled_model(get_model("Qwen3-8B"), params), paths[name], format="safetensors", quantization="F32"
        )
    return paths


def durations_for(paths: dict[str, Path]) -> SizedDurations:
    checkpoints = {name: read_checkpoint(path) for name, path in paths.items()}
    return SizedDurations(
        layer_bytes_of=tuple((n, c.layer_weight_bytes, c.spec.total_layers) for n, c in checkpoints.items())
    )


def fake_engine(paths: dict[str, Path], **options: Any) -> FakeEngine:
    durations = durations_for(paths)
    layers = {name: n for name, _, n in durations.layer_bytes_of}
    return FakeEngine(durations, total_layers=layers, **options)


def fit_fake(paths: dict[str, Path], folder: Path) -> PerformanceModel:
    settings = SweepSettings(
        gpu_layers=("all", "50%"),
        prompt_tokens=(16, 64, 200),
        decode_tokens=(8,),
        repeats=1,
        context_tokens=256,
    )
    plan = plan_models(list(paths.values()), engine="fake", device="cpu:1-threads", settings=settings)
    run_sweep(plan, fake_engine(paths), folder / "fake.parquet")
    return PerformanceModel().fit(read_dataset(folder / "fake.parquet"))


def fake_scenario(paths: dict[str, Path], **changes: Any) -> Scenario:
    data: dict[str, Any] = {
        "name": "fake",
        "engine": "fake",
        "models": [{"name": n, "checkpoint": str(p), "levels": ["all", "50%"]} for n, p in paths.items()],
        "devices": [
            {"name": "d0", "device": "cpu:1-threads-50MB"},
            {"name": "d1", "device": "cpu:1-threads-65MB"},
        ],
        "workload": {"requests": 60, "load": 0.7, "prompt_scale": 0.05, "decode_scale": 0.1},
        "limits": {"context_tokens": 256},
    }
    return Scenario.parse({**data, **changes})
