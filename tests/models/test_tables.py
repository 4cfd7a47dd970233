"""Tables of configurations: blank cells, units, reasons, names, and the example."""

import pandas as pd
import pytest

from shunter.errors import InputError, UnknownNameError
from shunter.models.published.performance import open_performance, published_performance
from shunter.models.tables import example_table, loads_by_source, predicted_table

ONE = {"engine": "llama-cpp", "device": "RTX 4090", "model": "Llama-3-8B Q4_K_M", "operation": "decode"}


def table(*rows):
    return pd.DataFrame([{**ONE, **row} for row in rows])


def test_a_blank_cell_is_a_column_left_out_row_by_row():
    asked = table(
        {"operation": "load", "page_cache": "cold", "batch": None},
        {"context_tokens": 900.0, "batch": 3},
        {"operation": "prefill", "tokens": 700},
    )
    done = predicted_table(published_performance(), asked)
    for i, row in asked.iterrows():
        alone = published_performance().predict(pd.DataFrame([row.dropna()]))
        assert done["duration_s_predicted"][i] == alone["duration_s_predicted"].iloc[0]
    assert done["unit"].tolist() == ["s", "s per step", "s"]
    assert list(done.columns[: len(asked.columns)]) == list(asked.columns)


def test_why_a_prediction_is_out_of_range_is_said():
    done = predicted_table(
        published_performance(),
        table({"context_tokens": 500.0}, {"context_tokens": 1e6}, {"operation": "load"}),
    )
    assert done["out_of_range"].tolist() == [False, True, True]
    assert done["why_out_of_range"][0] == ""
    assert "times the largest seen" in done["why_out_of_range"][1]
    assert done["why_out_of_range"][2] == "no load was measured: data sheets alone"


@pytest.mark.parametrize(
    ("model", "quantization"),
    [
        ("Llama-3-8B Q4_K_M", None),
        ("llama-3-8b q4_k_m", None),
        ("Llama-3.1-8B Q4_K_M", None),
        ("Llama-3-8B", "Q4_K_M"),
        ("llama-3.1-8b", "q4_k_m"),
        ("Llama-3-8B", "Q4_K - Medium"),
        ("Meta-Llama-3.1-8B-Instruct-Q4_K_M.gguf", None),
        ("bartowski/Meta-Llama-3.1-8B-Instruct-Q4_K_M.gguf", "Q4_K_M"),
    ],
)
def test_a_model_has_one_prediction_however_it_is_spelled(model, quantization):
    columns = ["duration_s_predicted", "duration_s_low", "duration_s_high"]
    want = predicted_table(published_performance(), table({}))
    asked = table({"model": model} | ({"quantization": quantization} if quantization else {}))
    got = predicted_table(published_performance(), asked)
    pd.testing.assert_frame_equal(got[columns], want[columns])
    assert got["model"][0] == model


def test_a_model_without_its_quantisation_or_of_nobody_is_told():
    with pytest.raises(InputError, match="must be named with its quantisation, as in Qwen3-8B Q4_K_M"):
        predicted_table(published_performance(), table({"model": "Qwen3-8B"}))
    with pytest.raises(UnknownNameError, match="model: unknown name 'Nobody-8B'"):
        predicted_table(published_performance(), table({"model": "Nobody-8B"}))


@pytest.mark.parametrize(
    ("model", "quantization", "message"),
    [
        ("Llama-3-8B Q4_K_M", "Q8_0", "quantization must be Q4_K_M, as Llama-3-8B Q4_K_M says. Got 'Q8_0'"),
        ("Qwen3-8B-Q8_0.gguf", "F16", "quantization must be Q8_0, as Qwen3-8B-Q8_0.gguf says. Got 'F16'"),
        ("Qwen3-8B", "IQ4_XS", "quantization: unknown name 'IQ4_XS'"),
        ("Qwen3-8B-IQ4_XS", "", "quantization: unknown name 'IQ4_XS'"),
        ("Gemma-3n-E4B", "Q4_K_M", "model must be of a family whose sizes are known"),
    ],
)
def test_what_contradicts_or_is_not_known_is_told_by_what_it_is(model, quantization, message):
    with pytest.raises((InputError, UnknownNameError), match=message):
        predicted_table(published_performance(), table({"model": model, "quantization": quantization}))


def test_tokens_are_computed_for_one_request_at_least():
    with pytest.raises(InputError, match=r"row 1, column batch must be at least 1 where .* Got 0"):
        predicted_table(published_performance(), table({}, {"batch": 0}))


def test_errors_name_the_row_of_the_table():
    asked = table({}, {"operation": "prefill", "tokens": 5}, {"operation": "prefill", "tokens": -5})
    with pytest.raises(InputError, match="configurations: row 2, column tokens must be a number"):
        predicted_table(published_performance(), asked)


@pytest.mark.parametrize(
    "column", ["batch", "gpu_layers", "tokens", "prompt_tokens", "max_batch", "gpu_count"]
)
def test_counts_are_whole_and_nothing_is_rounded(column):
    with pytest.raises(
        InputError, match=f"row 1, column {column} must be a whole number. Got '?1.5'? instead"
    ):
        predicted_table(published_performance(), table({column: 2}, {column: 1.5}))
    with pytest.raises(InputError, match=f"row 0, column {column} must be a whole number"):
        predicted_table(published_performance(), table({column: "1.5"}))
    texts = predicted_table(published_performance(), table({column: "2.0"}))
    assert texts["duration_s_predicted"][0] > 0
    assert predicted_table(published_performance(), table({"context_tokens": 250.5}))["unit"][0]


def test_more_layers_than_there_are_are_told_how_many_there_are():
    with pytest.raises(InputError, match=r"gpu_layers must be at most 33: .* Got 99"):
        predicted_table(published_performance(), table({"gpu_layers": 99}))


def test_an_empty_table_is_an_empty_table():
    done = predicted_table(published_performance(), table({}).head(0))
    assert done.empty
    assert {"duration_s_predicted", "unit", "why_out_of_range"} <= set(done)


def test_the_example_can_be_predicted():
    asked = example_table(open_performance("published"))
    done = predicted_table(open_performance("published"), asked)
    assert {"load", "prefill", "decode"} <= set(asked["operation"])
    assert (done["duration_s_predicted"] > 0).all()
    assert asked.isna().any().any()


def test_a_folder_called_published_is_ones_own(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    published_performance().with_scales([], ["mine"]).save("published")
    assert open_performance("published").state_.recalibrated_on == ("mine",)


def test_what_does_not_fit_its_device_is_out_of_range():
    done = predicted_table(
        published_performance(),
        table(
            {"context_tokens": 500.0},
            {"model": "Llama-3-70B F16", "context_tokens": 500.0},
            {"model": "Llama-3-70B F16", "context_tokens": 500.0, "gpu_layers": 9},
            {"model": "Llama-3-70B F16", "operation": "load"},
        ),
    )
    said = done["why_out_of_range"].str.contains(
        r"takes 1\d\d\.\d GB of a device of 25.\d GB: fewer gpu_layers"
    )
    assert said.tolist() == [False, True, False, True]
    assert done["out_of_range"][said].all()
    assert not done["out_of_range"][0]


def test_levels_are_written_as_in_scenarios():
    asked = table(*({"gpu_layers": level} for level in ("all", "50%", " 0% ", "16", 33)))
    done = predicted_table(published_performance(), asked)
    counts = table(*({"gpu_layers": level} for level in (33, 16, 0, 16, 33)))
    want = predicted_table(published_performance(), counts)
    assert done["duration_s_predicted"].tolist() == want["duration_s_predicted"].tolist()
    assert done["gpu_layers"].tolist() == asked["gpu_layers"].tolist()
    for level in ("101%", "half", "-1", "x%"):
        with pytest.raises(InputError, match="row 1, column gpu_layers must be"):
            predicted_table(published_performance(), table({}, {"gpu_layers": level}))


def test_a_bandwidth_in_another_unit_is_refused():
    for given in (83.2, 83_200, 0):
        with pytest.raises(
            InputError, match="column host_bandwidth_bytes_per_s must be a number of at least 1000"
        ):
            predicted_table(published_performance(), table({"host_bandwidth_bytes_per_s": given}))


def test_a_load_says_where_its_bytes_come_from_and_other_rows_do_not():
    load = {"operation": "load"}
    asked = table(
        {},
        {**load, "load_source": "pinned"},
        load,
        {**load, "load_source": "disk"},
        {**load, "load_source": "disk", "disk_bytes_per_s": 7e7},
    )
    done = predicted_table(published_performance(), asked)
    plain = predicted_table(published_performance(), table({}, load))
    columns = ["duration_s_predicted", "duration_s_low", "duration_s_high", "why_out_of_range"]
    assert done[columns].iloc[[0, 2]].to_numpy().tolist() == plain[columns].to_numpy().tolist()
    seconds = done["duration_s_predicted"]
    assert seconds[1] < seconds[3] < seconds[4]
    assert done["why_out_of_range"].iloc[[1, 3, 4]].str.startswith("published, not measured here").all()
    assert done["device_bytes_predicted"][1] == done["device_bytes_predicted"][2]


def test_loads_are_listed_by_source():
    asked = table({}, {"operation": "load"}, {"operation": "load", "load_source": "disk"})
    listed = loads_by_source(published_performance(), asked)
    assert listed["load_source"].tolist() == ["disk", "page-cache", "pinned", "sleep-1", "sleep-2", "unknown"]
    with pytest.raises(InputError, match="--load-sources must be asked of a table with loads"):
        loads_by_source(published_performance(), table({}))


@pytest.mark.parametrize(
    ("row", "said"),
    [
        ({"operation": "load", "load_source": "floppy"}, "load_source: unknown name 'floppy'"),
        ({"load_source": "disk"}, "load_source must be given of loads only"),
        ({"operation": "load", "disk_bytes_per_s": 1e9}, "disk_bytes_per_s must be given beside load_source"),
        (
            {"operation": "load", "load_source": "disk", "disk_bytes_per_s": -1.0},
            "disk_bytes_per_s must be a number above 0",
        ),
    ],
)
def test_a_source_that_makes_no_sense_is_refused(row, said):
    with pytest.raises((InputError, UnknownNameError), match=said):
        predicted_table(published_performance(), table(row))
