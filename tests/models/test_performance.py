import json
import pickle

import numpy as np
import pandas as pd
import pytest

from shunter.catalog.work import FACT_COLUMNS
from shunter.errors import BrokenFileError, InputError, UnknownNameError, VersionError
from shunter.models import PerformanceModel
from shunter.models.configurations import complete
from shunter.models.physics.features import TARGETS
from shunter.seals import sealed

DEVICE = "loopback:1-threads"


@pytest.fixture(scope="module")
def model(dataset):
    return PerformanceModel().fit(dataset)


def predicted(model, operation, name="b", **configuration):
    configurations = model.configurations("fake", DEVICE, name, operation=operation, **configuration)
    return model.predict(configurations)["duration_s_predicted"].to_numpy()


def test_it_recovers_the_physics_at_configurations_that_were_not_measured(model, physics):
    levels = np.array([1, 4, 7, 10, 11])
    want = [physics.decode_step_s("b", int(level), 3, 50.0) for level in levels]
    got = predicted(model, "decode", gpu_layers=levels, batch=3, context_tokens=50.0)
    assert got == pytest.approx(want, rel=0.03)
    want = [physics.prefill_s("b", int(level), 40) for level in levels]
    assert predicted(model, "prefill", gpu_layers=levels, tokens=40) == pytest.approx(want, rel=0.03)
    assert predicted(model, "load") == pytest.approx([physics.load_s("b", "", 11)], rel=0.03)
    assert predicted(model, "unload") == pytest.approx([0.005], rel=0.03)
    want = [physics.kv_save_s("b", 6, 90)]
    assert predicted(model, "kv_save", gpu_layers=6, tokens=90) == pytest.approx(want, rel=0.03)
    assert predicted(model, "kv_restore", gpu_layers=6, tokens=90) == pytest.approx(want, rel=0.03)


def test_it_predicts_a_model_between_those_that_it_saw(two_models, dataset, physics):
    fitted = PerformanceModel().fit(two_models)
    facts = dataset.loc[dataset["model"] == "b", list(FACT_COLUMNS)].iloc[0]
    configurations = fitted.configurations(
        "fake", DEVICE, "b", operation="decode", gpu_layers=[0, 5, 11], batch=2, context_tokens=30, **facts
    )
    want = [physics.decode_step_s("b", level, 2, 30) for level in (0, 5, 11)]
    assert fitted.predict(configurations)["duration_s_predicted"].tolist() == pytest.approx(want, rel=0.05)


def test_memory_is_predicted_for_loads_only(model, physics):
    configurations = model.configurations("fake", DEVICE, "c", operation=["load", "decode"], gpu_layers=7)
    done = model.predict(configurations)
    assert done["device_bytes_predicted"][0] == pytest.approx(physics.device_bytes("c", 7), rel=0.02)
    assert done["device_bytes_predicted"].isna().tolist() == [False, True]
    assert done["host_bytes_predicted"].isna().tolist() == [False, True]


def test_errors_are_reported_for_held_out_configurations_and_held_out_models_apart(model):
    assert set(model.cv) == set(TARGETS)
    for target in set(TARGETS) - {"host_bytes"}:
        errors = model.cv[target]
        assert errors.held_out_cells.mape < 0.03
        assert errors.held_out_models.mape < 0.05
        assert errors.held_out_models.models == 3


def test_intervals_hold_the_prediction_and_most_noisy_measurements(dataset):
    rng = np.random.default_rng(1)
    noisy = dataset.assign(duration_s=dataset["duration_s"] * np.exp(0.2 * rng.standard_normal(len(dataset))))
    fitted = PerformanceModel().fit(noisy)
    done = fitted.predict(noisy)
    assert (done["duration_s_low"] <= done["duration_s_predicted"]).all()
    assert (done["duration_s_predicted"] <= done["duration_s_high"]).all()
    inside = noisy["duration_s"].between(done["duration_s_low"], done["duration_s_high"])
    assert 0.85 < inside.mean() < 0.97
    assert not done["out_of_range"].any()


def test_beyond_the_data_the_flag_is_set_and_the_interval_widens(dataset):
    rng = np.random.default_rng(1)
    noisy = dataset.assign(duration_s=dataset["duration_s"] * np.exp(0.1 * rng.standard_normal(len(dataset))))
    fitted = PerformanceModel().fit(noisy)
    configurations = fitted.configurations(
        "fake", DEVICE, "c", operation="decode", batch=[4, 8, 16], context_tokens=68.0
    )
    done = fitted.predict(configurations)
    assert done["out_of_range"].tolist() == [False, True, True]
    width = np.log(done["duration_s_high"] / done["duration_s_low"]).to_numpy()
    assert width[0] < width[1] < width[2]


def test_an_unseen_level_between_is_in_range_but_a_first_split_is_not(one_model):
    whole = one_model[one_model["gpu_layers"].isin([0, 11])]
    fitted = PerformanceModel().fit(whole)
    configurations = fitted.configurations(
        "fake", DEVICE, "b", operation="decode", gpu_layers=[0, 5, 11], context_tokens=20
    )
    assert fitted.predict(configurations)["out_of_range"].tolist() == [False, True, False]


def test_an_engine_or_device_without_data_is_refused_with_the_known_ones(model):
    configurations = model.configurations("fake", "cuda:0", "b", operation="decode")
    with pytest.raises(InputError, match=r"known: fake loopback:1-threads. Got 'fake cuda:0' instead"):
        model.predict(configurations)
    configurations = model.configurations("fake", DEVICE, "b", operation="load", page_cache="cold")
    with pytest.raises(InputError, match="known: fake loopback:1-threads warm"):
        model.predict(configurations)


def test_another_number_of_threads_is_told_to_be_the_reason(model):
    other = DEVICE.replace("1-threads", "7-threads")
    with pytest.raises(InputError, match=f"threads it is another device: {DEVICE} was profiled") as caught:
        model.predict(model.configurations("fake", other, "b", operation="decode"))
    assert other in str(caught.value)
    with pytest.raises(InputError) as caught:
        model.predict(model.configurations("fake", "npu:0", "b", operation="decode"))
    assert "another device" not in str(caught.value)


def test_unknown_names_are_refused(model):
    with pytest.raises(UnknownNameError, match="model: unknown name 'bb'"):
        model.configurations("fake", DEVICE, "bb", operation="decode")
    with pytest.raises(UnknownNameError, match="did you mean decode"):
        model.predict(model.configurations("fake", DEVICE, "b", operation="decoding"))


@pytest.mark.parametrize(
    ("configuration", "message"),
    [
        ({"batch": -1}, "row 0, column batch must be a number of at least 0"),
        ({"tokens": [5.0, np.nan]}, "row 1, column tokens must be a number"),
        (
            {"gpu_layers": 12},
            r"column gpu_layers must be at most \d+: .* output layer",
        ),
    ],
)
def test_bad_configurations_are_named(model, configuration, message):
    with pytest.raises(InputError, match=message):
        model.configurations("fake", DEVICE, "b", operation="prefill", **configuration)


def test_configurations_without_an_operation_are_refused(model):
    with pytest.raises(InputError, match="operation"):
        model.predict(pd.DataFrame({"engine": ["fake"], "device": [DEVICE], "model": ["b"]}))


def test_preemption_costs_its_parts_and_mostly_the_reload(model, physics):
    cost = model.preemption_cost_s("fake", DEVICE, "c", 100)
    kv_s = physics.kv_save_s("c", 15, 100)
    assert cost.kv_save_s == pytest.approx(kv_s, rel=0.03)
    assert cost.total_s == pytest.approx(physics.load_s("c", "", 15) + 0.005 + 2 * kv_s, rel=0.03)
    assert cost.reload_share > 0.9
    assert cost.low_s <= cost.total_s <= cost.high_s
    assert not cost.out_of_range
    assert model.preemption_cost_s("fake", DEVICE, "c", 5000).out_of_range


def test_without_kv_save_the_tokens_are_processed_again(dataset, physics):
    fitted = PerformanceModel().fit(dataset[~dataset["operation"].isin(["kv_save", "kv_restore"])])
    cost = fitted.preemption_cost_s("fake", DEVICE, "b", 50)
    assert cost.kv_save_s == 0
    assert cost.kv_restore_s == pytest.approx(physics.prefill_s("b", 11, 50), rel=0.03)
    assert "kv_save_s: not fitted, the dataset has no kv_save rows" in fitted.notes


def test_offload_sensitivity_compares_the_fewest_profiled_layers_with_all(model, dataset):
    assert model.offload_sensitivity("fake", DEVICE, "b") == pytest.approx(3.0, rel=0.05)
    whole = PerformanceModel().fit(dataset[dataset["gpu_layers"] == dataset["total_layers"]])
    assert whole.offload_sensitivity("fake", DEVICE, "b") == 0.0


def test_a_saved_model_predicts_the_very_same(model, dataset, tmp_path):
    path = model.save(tmp_path / "perf")
    loaded = PerformanceModel.load(tmp_path / "perf")
    pd.testing.assert_frame_equal(model.predict(dataset), loaded.predict(dataset), check_exact=True)
    pd.testing.assert_frame_equal(model.models, loaded.models)
    assert (loaded.cv, loaded.notes, loaded.residents) == (model.cv, model.notes, model.residents)
    assert loaded.save(tmp_path / "again.json").read_bytes() == path.read_bytes()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["again.json", "perf"]


def test_fitting_twice_gives_the_same_file(dataset, tmp_path):
    first = PerformanceModel().fit(dataset).save(tmp_path / "1.json")
    second = PerformanceModel().fit(dataset).save(tmp_path / "2.json")
    assert first.read_bytes() == second.read_bytes()


class Bomb:
    def __reduce__(self):
        return (exec, ("raise SystemExit('unpickled')",))


def test_a_pickle_is_not_opened(tmp_path):
    (tmp_path / "performance.json").write_bytes(pickle.dumps(Bomb()))
    with pytest.raises(BrokenFileError, match="cannot be read"):
        PerformanceModel.load(tmp_path)


def test_damaged_files_are_named(model, tmp_path):
    path = model.save(tmp_path)
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(BrokenFileError, match="cut short"):
        PerformanceModel.load(tmp_path)
    path.write_text("[1, 2]")
    with pytest.raises(BrokenFileError, match="no JSON object"):
        PerformanceModel.load(tmp_path)
    content = json.loads(whole)
    content["fits"][0]["physics"]["coefficients"]["constant"] = "much"
    path.write_text(json.dumps(sealed(content)))
    with pytest.raises(BrokenFileError, match=r"fits\.0\.physics\.coefficients\.constant"):
        PerformanceModel.load(tmp_path)
    content = json.loads(whole) | {"version": 99}
    path.write_text(json.dumps(sealed(content)))
    with pytest.raises(VersionError, match=r"must be version 3 for this shunter. Got 99"):
        PerformanceModel.load(tmp_path)
    with pytest.raises(InputError, match="shunter fit wrote"):
        PerformanceModel.load(tmp_path / "nowhere")


def test_one_model_is_fitted_and_the_doubt_is_said(one_model, physics):
    fitted = PerformanceModel().fit(one_model)
    assert any("one model only" in note for note in fitted.notes)
    assert fitted.cv["decode_step_s"].held_out_models is None
    want = [physics.decode_step_s("b", 8, 2, 30)]
    assert predicted(fitted, "decode", gpu_layers=8, batch=2, context_tokens=30) == pytest.approx(
        want, rel=0.05
    )


def test_one_row_is_fitted_with_an_unknown_error(one_model):
    fitted = PerformanceModel().fit(one_model[one_model["operation"] == "decode"].head(1))
    assert fitted.cv["decode_step_s"].held_out_cells is None
    assert any("its error is unknown" in note for note in fitted.notes)


def test_bad_data_is_refused_by_row_and_column(dataset):
    for value in (-1.0, np.nan):
        frame = dataset.copy()
        frame.loc[3, "duration_s"] = value
        with pytest.raises(InputError, match="row 3, column duration_s"):
            PerformanceModel().fit(frame)
    with pytest.raises(InputError, match="have rows"):
        PerformanceModel().fit(dataset.head(0))


def test_one_name_for_two_checkpoints_is_refused(dataset):
    frame = dataset.copy()
    frame.loc[frame["model"] == "a", "model"] = "b"
    rule = r"name one checkpoint in all rows, but .*params.* differ: rename one of them\. Got 'b'"
    with pytest.raises(InputError, match=rule):
        PerformanceModel().fit(frame)


def test_many_configurations_at_once_give_what_each_gives_alone(model):
    levels, batches = np.meshgrid(np.arange(12), np.arange(1, 5))
    configurations = model.configurations(
        "fake",
        DEVICE,
        "b",
        operation="decode",
        gpu_layers=levels.ravel(),
        batch=batches.ravel(),
        context_tokens=9.0,
    )
    together = model.predict(configurations)
    alone = pd.concat([model.predict(configurations.iloc[[i]]) for i in range(0, len(configurations), 7)])
    pd.testing.assert_frame_equal(together.iloc[::7], alone)


def test_order_and_other_rows_do_not_matter(model, dataset):
    shuffled = dataset.sample(frac=1, random_state=0)
    pd.testing.assert_frame_equal(model.predict(shuffled).sort_index(), model.predict(dataset))


def test_a_table_without_heads_has_those_that_were_profiled(model):
    known = model.configurations("fake", DEVICE, "b", operation="decode")
    assert known["attn_heads"].tolist() == [8]
    found = complete(known.drop(columns="attn_heads"), model.state_)
    assert found["attn_heads"].tolist() == [8]
    stranger = complete(known.drop(columns="attn_heads").assign(model="other"), model.state_)
    assert stranger["attn_heads"].tolist() == [4]  # 128 wide
