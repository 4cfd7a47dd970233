"""Where physics is monotone, so are predictions after fitting, corrections and all."""

from functools import cache

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shunter.models import PerformanceModel
from shunter.models.published.rows import published_frame
from tests.models.conftest import DEVICE

MORE = settings(max_examples=40, deadline=None)
GPUS = ("RTX 3090", "RTX 4090", "RTX A6000", "A100 PCIe 80GB", "H100 SXM5 80GB", "RTX 2080")
MODELS = ("Llama-2-7B Q4_0", "Llama-3-8B F16", "Llama-3-70B Q4_K_M", "Qwen2.5-14B Q8_0")


@cache
def shared():
    """Fitted to published rows, offloaded ones among them, and to loads made up at a rate of 6 GB/s."""
    frame = published_frame()
    frame = frame[(frame["engine"] == "llama-cpp") & (frame["gpu_count"] == 1)]
    rows = frame[frame["operation"].isin(["decode", "prefill"])].iloc[::4]
    loads = rows.iloc[::5].drop_duplicates(["model", "device"])
    loads = loads.assign(
        operation="load",
        row_id="load " + loads["row_id"],
        duration_s=0.5 + loads["weight_bytes"] / 6e9,
    )
    return PerformanceModel().fit(rows), PerformanceModel().fit(loads)


@pytest.fixture(scope="module")
def local(dataset):
    """Fitted to a loopback device's sweep, with noise, so that corrections have something to learn."""
    noise = np.exp(0.1 * np.random.default_rng(0).standard_normal(len(dataset)))
    return PerformanceModel().fit(dataset.assign(duration_s=dataset["duration_s"] * noise))


def rising(values):
    return bool(np.all(np.diff(values) >= -1e-9 * np.abs(values[:-1])))


def times(model, engine, device, name, **configuration):
    asked = model.configurations(engine, device, name, **configuration)
    return model.predict(asked)["duration_s_predicted"].to_numpy()


@MORE
@given(
    st.sampled_from(GPUS),
    st.sampled_from(MODELS),
    st.integers(0, 40),
    st.lists(st.floats(1, 1e5), min_size=2, max_size=5),
    st.lists(st.integers(1, 256), min_size=2, max_size=5),
)
def test_a_gpu_s_step_never_gets_faster_with_context_or_batch(gpu, name, layers, contexts, batches):
    model = shared()[0]
    at = {"operation": "decode", "gpu_layers": min(layers, 30)}
    contexts, batches = np.sort(contexts), np.sort(batches)
    assert rising(times(model, "llama-cpp", gpu, name, **at, context_tokens=contexts, batch=batches[0]))
    assert rising(times(model, "llama-cpp", gpu, name, **at, context_tokens=contexts[0], batch=batches))


@MORE
@given(st.sampled_from(GPUS), st.sampled_from(MODELS), st.floats(1, 8000), st.integers(2, 30))
def test_layers_left_on_a_slower_host_never_make_a_gpu_s_step_faster(gpu, name, context, fewest):
    model = shared()[0]
    total = int(model.configurations("llama-cpp", gpu, name, operation="decode")["total_layers"].iloc[0])
    levels = np.arange(total - 1, min(fewest, total - 1) - 1, -1)
    steps = times(
        model,
        "llama-cpp",
        gpu,
        name,
        operation="decode",
        gpu_layers=levels,
        context_tokens=context,
        host_bandwidth_bytes_per_s=50e9,
    )
    assert rising(steps)


@MORE
@given(st.sampled_from(GPUS), st.lists(st.floats(1.0, 50.0), min_size=2, max_size=6), st.booleans())
def test_more_bytes_never_load_faster_on_a_gpu(gpu, factors, offloaded):
    model = shared()[1]
    configurations = model.configurations(
        "llama-cpp", gpu, "Llama-3-8B Q4_0", operation="load", gpu_layers=9 if offloaded else 33
    )
    sizes = np.sort(factors)
    grown = configurations.loc[[0] * len(sizes)].reset_index(drop=True)
    for column in ("weight_bytes", "layer_weight_bytes", "params"):
        grown[column] = grown[column] * sizes
    assert rising(model.predict(grown)["duration_s_predicted"].to_numpy())


@MORE
@given(
    st.sampled_from("abc"),
    st.sampled_from([0, 3, 5, 7]),
    st.lists(st.floats(1, 1e4), min_size=2, max_size=5),
    st.lists(st.integers(1, 64), min_size=2, max_size=5),
)
def test_a_local_step_never_gets_faster_with_context_or_batch(local, name, layers, contexts, batches):
    at = {"operation": "decode", "gpu_layers": layers}
    contexts, batches = np.sort(contexts), np.sort(batches)
    assert rising(times(local, "fake", DEVICE, name, **at, context_tokens=contexts, batch=batches[0]))
    assert rising(times(local, "fake", DEVICE, name, **at, context_tokens=contexts[0], batch=batches))
    assert rising(times(local, "fake", DEVICE, name, operation="prefill", gpu_layers=layers, tokens=contexts))


@MORE
@given(
    st.sampled_from("abc"),
    st.sampled_from(["decode", "load", "kv_save", "unload"]),
    st.lists(st.floats(1.0, 20.0), min_size=2, max_size=6),
    st.integers(0, 7),
)
def test_more_bytes_are_never_faster_on_a_local_device(local, name, operation, factors, layers):
    configurations = local.configurations(
        "fake", DEVICE, name, operation=operation, gpu_layers=layers, context_tokens=50.0
    )
    sizes = np.sort(factors)
    grown = configurations.loc[[0] * len(sizes)].reset_index(drop=True)
    for column in ("weight_bytes", "layer_weight_bytes", "params", "kv_bytes_per_token"):
        grown[column] = grown[column] * sizes
    assert rising(local.predict(grown)["duration_s_predicted"].to_numpy())


@pytest.mark.parametrize("name", ["a", "b", "c"])
def test_layers_on_a_local_device_four_times_as_fast_never_make_a_step_slower(local, name):
    total = int(local.models.loc[name, "total_layers"])
    steps = times(
        local,
        "fake",
        DEVICE,
        name,
        operation="decode",
        gpu_layers=np.arange(total, 0, -1),
        context_tokens=40.0,
    )
    assert rising(steps)
