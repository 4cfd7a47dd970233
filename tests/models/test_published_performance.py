import numpy as np
import pandas as pd
import pytest

from shunter.catalog.gpus import catalog_gpus
from shunter.errors import UnknownNameError
from shunter.models.published.performance import ENGINE, fit_published, published_performance
from shunter.models.published.rows import catalog_facts

OPERATIONS = ("decode", "prefill", "load", "unload", "kv_save", "kv_restore")


def predicted(gpu, model, **configuration):
    performance = published_performance()
    return performance.predict(performance.configurations(ENGINE, gpu, model, **configuration))


def test_the_shipped_model_is_what_fitting_gives():
    fresh, shipped = fit_published(), published_performance()
    assert fresh.state_.data_fingerprint == shipped.state_.data_fingerprint
    assert fresh.notes == shipped.notes
    for gpu in ("RTX A6000", "T4", "H100 PCIe 80GB"):
        configurations = fresh.configurations(
            ENGINE, gpu, "Llama-3-8B Q4_K_M", operation=OPERATIONS, tokens=700, context_tokens=700.0
        )
        columns = ["duration_s_predicted", "duration_s_low", "duration_s_high"]
        np.testing.assert_allclose(
            fresh.predict(configurations)[columns], shipped.predict(configurations)[columns], rtol=1e-3
        )


@pytest.mark.parametrize("operation", OPERATIONS)
def test_every_operation_takes_time_on_every_gpu(operation):
    everywhere = {"engine": ENGINE, "device": list(catalog_gpus()), "model": "Qwen2.5-7B Q8_0"}
    done = published_performance().predict(
        pd.DataFrame({**everywhere, "operation": operation, "tokens": 512})
    )
    assert (done["duration_s_predicted"] > 0).all()


def test_it_is_near_what_is_known():
    step = predicted("RTX A6000", "Llama-3-8B F16", operation="decode", context_tokens=512.0)
    assert 38 < 1 / step.duration_s_predicted[0] < 43  # published: 38.9 to 40.3
    assert not step.out_of_range[0]
    load = predicted("RTX 5000 Ada", "Qwen3-8B F16", operation="load")
    assert load.duration_s_low[0] < 4.7 < load.duration_s_high[0]  # the paper's reload, by transformers
    assert 3 < load.duration_s_predicted[0] < 8


@pytest.mark.parametrize(
    ("gpu", "gpu_layers", "batch", "expected_s"),
    [
        (
            "RTX 4090",
            33,
            1,
            [
                0.0071664418123501255,
                0.06115340279978649,
                2.543542338326287,
                0.05912898048000001,
                0.006783943125555415,
                0.006783943125555415,
            ],
        ),
        (
            "RTX 3090",
            17,
            3,
            [
                0.06955288794406035,
                1.4446764687335856,
                2.357329286337759,
                0.05912898048000001,
                0.006559971562777708,
                0.006559971562777708,
            ],
        ),
    ],
)
def test_predictions_stay_what_they_were(gpu, gpu_layers, batch, expected_s):
    """Of the shipped file: a change of terms must not move them. A new fit brings new ones."""
    configuration = {"gpu_layers": gpu_layers, "batch": batch, "tokens": 700, "context_tokens": 900.0}
    got = predicted(gpu, "Llama-3-8B Q4_K_M", operation=list(OPERATIONS), **configuration)
    np.testing.assert_allclose(got.duration_s_predicted, expected_s, rtol=1e-6)


def test_offloading_slows_down_more_than_in_proportion():
    steps = predicted("RTX 4090", "Llama-3-8B Q8_0", operation="decode", gpu_layers=np.array([33, 25, 17]))
    speed = 1 / steps.duration_s_predicted.to_numpy()
    assert speed[0] - speed[1] > 2 * (speed[1] - speed[2]) > 0


@pytest.mark.parametrize("operation", ["load", "unload", "kv_save", "kv_restore"])
def test_what_no_row_shows_is_marked_and_wide(operation):
    configuration = predicted("RTX 3090", "Llama-3-8B Q4_K_M", operation=operation, tokens=1000)
    assert configuration.out_of_range[0]
    assert configuration.duration_s_high[0] / configuration.duration_s_low[0] > 3
    assert any(
        note.startswith(f"{operation}_s on {ENGINE}: not measured") for note in published_performance().notes
    )


def test_memory_is_weights_and_kv_and_some_more():
    load = predicted("RTX 3090", "Llama-3-8B F16", operation="load", max_batch=4, max_context_tokens=2048)
    facts = catalog_facts("Llama-3-8B", "F16")
    assert 1.0 < load.device_bytes_predicted[0] / facts["weight_bytes"] < 1.2


def test_facts_need_a_known_model_and_quantisation():
    assert catalog_facts("Llama-3-8B", "FP16") == catalog_facts("Llama-3-8B", "F16")
    with pytest.raises(
        UnknownNameError, match=r"model\.catalog: unknown name 'Llama-3-9B'; did you mean Llama-3-8B"
    ):
        catalog_facts("Llama-3-9B", "F16")
    with pytest.raises(UnknownNameError, match=r"model\.quantization: unknown name 'Q4_K_L'; did you mean"):
        catalog_facts("Llama-3-8B", "Q4_K_L")


def test_intervals_of_what_nobody_published_are_the_priors_twice_as_wide() -> None:
    model = published_performance()
    configurations = model.configurations(
        "llama-cpp", "RTX A6000", "Llama-3-8B Q4_K_M", operation=["load", "unload"]
    )
    done = model.predict(configurations).set_index("operation")
    fits = {(fit.target, fit.engine): fit.errors[""].cell for fit in model.state_.shared}
    for operation, target in (("load", "load_s"), ("unload", "unload_s")):
        row = done.loc[operation]
        half = np.log(row["duration_s_high"] / row["duration_s_predicted"])
        assert half == pytest.approx(2 * fits[target, "llama-cpp"])
