"""A dataset with known physics: the fake engine runs real sweeps with durations from exact formulas."""

from dataclasses import dataclass
from pathlib import Path

import pandas as pd
import pytest

from shunter.catalog.checkpoints import Checkpoint
from shunter.catalog.devices import parse_device
from shunter.catalog.models import ModelSpec
from shunter.engines.fake.engine import FakeEngine
from shunter.profiling.dataset.table import read_dataset
from shunter.profiling.sweep.plan import SweepSettings, make_plan
from shunter.profiling.sweep.sweep import run_sweep

DEVICE = "loopback:1-threads"


def checkpoint(name: str, hidden_size: int, layers: int) -> Checkpoint:
    spec = ModelSpec(
        name=name,
        layers=layers,
        hidden_size=hidden_size,
        attn_heads=hidden_size // 64,
        kv_heads=hidden_size // 64,
        head_dim=64,
        intermediate_size=3 * hidden_size,
        vocab_size=512,
    )
    layer_bytes = 4 * spec.params_per_layer
    return Checkpoint(
        name, Path(f"/nowhere/{name}"), "safetensors", spec, "F32", 4 * spec.params, layer_bytes
    )


MODELS = {c.name: c for c in (checkpoint("a", 256, 6), checkpoint("b", 512, 10), checkpoint("c", 768, 14))}


@dataclass(frozen=True)
class Physics:
    """Times by bytes: the device reads 8 GB/s, the host 2 GB/s; what is moved moves at 1 GB/s."""

    def _device_share(self, model: str, gpu_layers: int) -> float:
        return max(gpu_layers - 1, 0) / MODELS[model].spec.layers

    def _read_bytes(self, model: str, gpu_layers: int) -> tuple[float, float]:
        c = MODELS[model]
        output = 4 * c.spec.embedding_params
        total = c.spec.layers * c.layer_weight_bytes + output
        device = output + (gpu_layers - 1) * c.layer_weight_bytes if gpu_layers else 0
        return device, total - device

    def load_s(self, model: str, checkpoint: str, gpu_layers: int) -> float:
        return 0.02 + MODELS[model].weight_bytes / 1e9

    def unload_s(self, model: str, gpu_layers: int) -> float:
        return 0.005

    def prefill_s(self, model: str, gpu_layers: int, tokens: int) -> float:
        device, host = self._read_bytes(model, gpu_layers)
        return tokens * (device / 4e10 + host / 1e10) + 2e-4 * MODELS[model].spec.layers

    def decode_step_s(self, model: str, gpu_layers: int, batch: int, context_tokens: float) -> float:
        device, host = self._read_bytes(model, gpu_layers)
        kv_bytes = MODELS[model].spec.kv_bytes_per_token() * batch * context_tokens
        share = self._device_share(model, gpu_layers)
        more = (batch - 1) * (device / 4e10 + host / 1e10)
        return device / 8e9 + host / 2e9 + more + kv_bytes * (share / 8e9 + (1 - share) / 2e9)

    def kv_save_s(self, model: str, gpu_layers: int, tokens: int) -> float:
        return (
            1e-3
            + tokens * MODELS[model].spec.kv_bytes_per_token() * self._device_share(model, gpu_layers) / 1e9
        )

    def kv_restore_s(self, model: str, gpu_layers: int, tokens: int) -> float:
        return self.kv_save_s(model, gpu_layers, tokens)

    def device_bytes(self, model: str, gpu_layers: int) -> int:
        return int(1.05 * self._read_bytes(model, gpu_layers)[0])


SETTINGS = SweepSettings(
    gpu_layers=("0", "25%", "50%", "75%", "all"),
    prompt_tokens=(16, 64),
    decode_tokens=(8,),
    batch=(1, 4),
    cut_tokens=(32, 128),
    repeats=2,
)


def sweep(path: Path, names: tuple[str, ...], physics: Physics) -> pd.DataFrame:
    layers = {name: MODELS[name].spec.total_layers for name in names}
    engine = FakeEngine(physics, device=DEVICE, total_layers=layers)
    checkpoints = [MODELS[name] for name in names]
    plan = make_plan(checkpoints, engine="fake", device=parse_device(DEVICE), settings=SETTINGS)
    run_sweep(plan, engine, path)
    return read_dataset(path)


@pytest.fixture(scope="session")
def physics() -> Physics:
    return Physics()


@pytest.fixture(scope="session")
def dataset(tmp_path_factory: pytest.TempPathFactory, physics: Physics) -> pd.DataFrame:
    return sweep(tmp_path_factory.mktemp("data") / "abc.parquet", ("a", "b", "c"), physics)


@pytest.fixture(scope="session")
def two_models(tmp_path_factory: pytest.TempPathFactory, physics: Physics) -> pd.DataFrame:
    return sweep(tmp_path_factory.mktemp("data") / "ac.parquet", ("a", "c"), physics)


@pytest.fixture(scope="session")
def one_model(tmp_path_factory: pytest.TempPathFactory, physics: Physics) -> pd.DataFrame:
    return sweep(tmp_path_factory.mktemp("data") / "b.parquet", ("b",), physics)
