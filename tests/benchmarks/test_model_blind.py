"""Scoring a table of published rates: what it needs, what it says, and what it leaves out."""

import csv

import numpy as np
import pytest

from benchmarks import model_accuracy
from benchmarks.model_blind import blind_rows, placements, scored
from benchmarks.model_nested import nested_predictions
from shunter.errors import InputError
from shunter.models.published.performance import published_performance
from shunter.models.published.rows import fitted_frame, published_frame
from shunter.profiling.dataset.rates import read_rates
from shunter.profiling.dataset.reference import rates_reference

ROW = {
    **{"model": "Llama-3-8B", "params_b": 8.03, "quant": "Q4_K_M", "weight_bytes": "", "gpu": "RTX 4090"},
    **{"gpu_count": 1, "vram_gb": 24, "cpu": "", "layers_total": 32, "layers_gpu": 33, "prompt_tokens": 0},
    **{"decode_tokens": 128, "batch": 1, "phase": "decode", "tokens_per_s": 140.0},
    **{"software": "llama.cpp llama-bench b6123 (2025-08)"},
}


@pytest.fixture
def table(tmp_path):
    def written(*changes, without=()):
        path = tmp_path / "rates.csv"
        rows = [{**ROW, **change} for change in changes]
        names = [name for name in {name: None for row in rows for name in row} if name not in without]
        with open(path, "w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, names, extrasaction="ignore")
            writer.writeheader()
            writer.writerows(rows)
        return path

    return written


def test_a_table_is_scored_by_operation_and_placement(table):
    rate = (
        1
        / published_performance()
        .predict(published_frame(rates_reference(read_rates(table({})))))["duration_s_predicted"]
        .item()
    )
    path = table(
        {"tokens_per_s": rate},
        {"tokens_per_s": rate / 2},
        {"gpu": "A40", "layers_gpu": 16},
        {"phase": "prefill", "prompt_tokens": 512, "decode_tokens": 0, "tokens_per_s": 7000},
        {"model": "Nobody-9B"},
    )
    rows = {row.metric: row for row in blind_rows(path)}
    assert rows["rows scored"].value == 4
    assert "1: the shape of Nobody-9B" in rows["rows scored"].note
    assert rows["decode, all layers on one GPU: mean error"].value == pytest.approx(0.25, abs=1e-6)
    assert rows["decode, all layers on one GPU: median predicted / true"].value == pytest.approx(
        0.75, abs=1e-6
    )
    assert "decode, layers on a host that is not known: mean error" in rows
    assert rows["decode: mean error"].bar == "<= 0.08"
    assert 0 <= rows["prefill: inside the 90 % interval"].value <= 1


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"tokens_per_s": "fast"}, r"row 1, column tokens_per_s must be a number"),
        ({"tokens_per_s": 0}, r"column tokens_per_s must be above 0"),
        ({"phase": "load"}, r"column phase must be one of prefill, decode"),
        ({"batch": ""}, r"column batch must be stated"),
        ({"layers_gpu": -1}, r"column layers_gpu must be a number of at least 0"),
    ],
)
def test_a_bad_value_is_named(table, change, said):
    with pytest.raises(InputError, match=said):
        read_rates(table(change))


def test_missing_columns_are_named_and_end_with_2(table, tmp_path, capsys):
    path = table({}, without=("gpu", "phase"))
    with pytest.raises(InputError, match="lacks gpu, phase"):
        read_rates(path)
    assert model_accuracy._main(["--blind", str(path)]) == 2
    assert model_accuracy._main(["--blind", str(tmp_path / "nothing.csv")]) == 2
    assert len(capsys.readouterr().err.strip().splitlines()) == 2


def test_sizes_hosts_and_passes_that_are_stated_count(table):
    path = table(
        {"quant": "Q3_K_M", "weight_bytes": 4.0e9},
        {"quant": "Q3_K_M"},
        {"cpu": "EPYC 9354", "layers_gpu": 10},
        {"phase": "prefill", "prompt_tokens": 512, "decode_tokens": 0, "n_ubatch": 64},
        {"layers_gpu": 33, "model": "Llama-3-70B", "quant": "F16"},
    )
    frame = published_frame(rates_reference(read_rates(path)))
    assert frame["weight_bytes"].tolist()[0] == 4_000_000_000
    assert frame["host_bandwidth_bytes_per_s"].tolist()[1] == pytest.approx(460.8e9)
    assert len(frame) == 2  # one has no size, one passes of 64 tokens, one's 33 layers of 81 do not fit
    assert placements(frame)[:2] == ["all layers on one GPU", "layers on the host"]


def test_a_fold_is_predicted_without_its_rows():
    frame = fitted_frame()
    few = frame[frame["device"].isin(["RTX 4080", "RTX 5000 Ada", "RTX 4090"]) & (frame["gpu_count"] == 1)]
    few = few[few["batch"] == 1]
    wrong = few.assign(duration_s=few["duration_s"].where(few["device"] != "RTX 4080", 9.0))
    right = nested_predictions("decode", "GPU", few)
    other = nested_predictions("decode", "GPU", wrong)
    left, got = (
        done[done["group"] == "RTX 4080"]["duration_s_predicted"].to_numpy() for done in (right, other)
    )
    np.testing.assert_allclose(got, left)
    assert scored(few, published_performance())["half_width"].gt(0).all()


def test_a_gpu_of_several_sizes_is_the_one_of_its_memory(table):
    path = table(
        {"gpu": "RTX 3080", "vram_gb": 12}, {"gpu": "RTX 3080", "vram_gb": ""}, {"gpu": "MI50", "vram_gb": ""}
    )
    rows = {row.metric: row for row in blind_rows(path)}
    assert rows["rows scored"].value == 2
    assert "1: there is no data sheet of RTX 3080" in rows["rows scored"].note
    by_gpu = rows["decode: median predicted / true"].note
    assert "RTX 3080 12GB" in by_gpu
    assert "MI50 32GB" in by_gpu
