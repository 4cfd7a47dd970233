"""Bad tables through ``shunter fit`` and ``shunter predict``: one clear line, or a note and honest work."""

import re

import numpy as np
import pandas as pd
import pytest

from shunter.catalog.work import FACT_COLUMNS, FAMILY_COLUMNS
from shunter.cli.main import main
from shunter.errors import InputError
from shunter.models import PerformanceModel
from shunter.models.plausible import check_plausible
from shunter.models.published.rows import catalog_facts
from tests.models.conftest import DEVICE, Physics, sweep


@pytest.fixture(scope="module")
def good(tmp_path_factory):
    return sweep(tmp_path_factory.mktemp("good") / "d.parquet", ("a", "b"), Physics())


@pytest.fixture(scope="module")
def perf(good, tmp_path_factory):
    return PerformanceModel().fit(good).save(tmp_path_factory.mktemp("perf"))


@pytest.fixture
def shunter(capsys, tmp_path, monkeypatch):
    """Runs a command: its exit code, stdout and stderr."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)

    def run(*args):
        with pytest.raises(SystemExit) as ended:
            main([str(a) for a in args])
        return ended.value.code, *capsys.readouterr()

    return run


@pytest.fixture
def fit(shunter, tmp_path):
    def run(frame, *more):
        frame.to_csv(tmp_path / "d.csv", index=False, lineterminator="\n")
        return shunter("fit", tmp_path / "d.csv", "--out", tmp_path / "perf", *(more or ["--quick"]))

    return run


def with_value(column, value, row=3):
    return lambda frame: frame.assign(
        **{column: frame[column].astype(float).where(np.arange(len(frame)) != row, value)}
    )


def whole(column, value):
    return lambda frame: frame.assign(**{column: value})


def again(frame, times):
    """The same configurations, measured in another session, with all durations so many times as long."""
    return frame.assign(duration_s=frame["duration_s"] * times, session_id="s2", row_id="2" + frame["row_id"])


def two_sessions(times):
    return lambda frame: pd.concat([frame, again(frame, times)])


def two_grids(times):
    """Like ``two_sessions``, but no configuration is in both."""
    longer = "tokens > 40 or context_tokens > 40"
    return lambda frame: pd.concat([frame.query(f"not ({longer})"), again(frame.query(longer), times)])


REFUSED = {
    "no rows": (lambda frame: frame.head(0), r"dataset must have rows\. Got 'none'"),
    "negative time": (with_value("duration_s", -1.0), r"row 3, column duration_s must be at least 0"),
    "NaN": (with_value("duration_s", np.nan), r"row 3, column duration_s must not be missing"),
    "infinite time": (with_value("duration_s", np.inf), r"row 3, column duration_s must be finite\. Got inf"),
    "infinite memory": (with_value("device_bytes", np.inf), "row 3, column device_bytes must be finite"),
    "a date": (with_value("duration_s", 1.7e12), r"row 3, column duration_s must be at most 1e\+06 s"),
    "text": (whole("duration_s", "fast"), "row 0, column duration_s must be a number. Got 'fast'"),
    "weights in MB": (whole("weight_bytes", 482), "column weight_bytes must be 1 to 64 bits for each"),
    "too many layers": (whole("gpu_layers", 99), "column gpu_layers must be at most total_layers. Got 99"),
    "no time at all": (whole("duration_s", 0.0), r"long enough to read the weights at 1e\+14 bytes/s"),
    "a session in ms": (two_sessions(1000.0), r"column duration_s of session '.*' must be in seconds as in"),
    "a session in ks": (two_sessions(1e-3), r"column duration_s of session '.*' must be in seconds as in"),
    "a grid in ms": (two_grids(1e3), r"column duration_s of session '.*' must be in seconds as in"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_fit_refuses_in_one_line_and_writes_nothing(name, good, fit, tmp_path):
    change, message = REFUSED[name]
    code, _, stderr = fit(change(good))
    assert code == 2
    assert re.search(message, stderr)
    assert len(stderr.splitlines()) == 1
    assert not (tmp_path / "perf").exists()


def test_a_step_faster_than_the_memory_of_the_data_sheet_is_refused(good):
    sizes = {"params": 8_000_000_000, "weight_bytes": 16_000_000_000, "layer_weight_bytes": 1_400_000_000}
    large = good[good["model"] == "b"].assign(device="RTX 4090", **sizes, duration_s=1e-3)
    with pytest.raises(InputError, match="at twice the bandwidth of the device's data sheet"):
        PerformanceModel().fit(large)


def test_a_step_of_a_mixture_reads_the_experts_that_it_uses_alone(good):
    """180 tokens a second of Qwen3-30B-A3B Q4_K_M on an RTX 3090: all of its 18.5 GB would take 19.8 ms."""
    facts = catalog_facts("Qwen3-30B-A3B", "Q4_K_M")
    shape = {name: facts[name] for name in (*FACT_COLUMNS, *FAMILY_COLUMNS)}
    rows = good[(good["operation"] == "decode") & (good["model"] == "b")]
    rows = rows.assign(device="RTX 3090", **shape, gpu_layers=facts["total_layers"], duration_s=1 / 180)
    assert check_plausible(rows.assign(datasheet="RTX 3090")) != []  # every one took the same time, it says
    with pytest.raises(InputError, match="at twice the bandwidth of the device's data sheet"):
        check_plausible(rows.assign(datasheet="RTX 3090", duration_s=1 / 1800))


NOTED = {
    "one model": (lambda frame: frame[frame["model"] == "b"], "one model only"),
    "one of everything": (
        lambda frame: frame[(frame["batch"] == 1) & (frame["gpu_layers"] == frame["total_layers"])],
        "always the same, so its effect is unknown: batch",
    ),
    "a row per configuration": (
        lambda frame: frame.drop_duplicates(["cell_id", "operation"]),
        "cannot tell apart",
    ),
    "one row": (lambda frame: frame[frame["operation"] == "load"].head(1), "its error is unknown"),
    "no loads": (lambda frame: frame[frame["operation"] != "load"], "load_s: not fitted, the dataset has no"),
    "all in ms": (lambda f: f.assign(duration_s=1000 * f["duration_s"]), "are its durations in seconds?"),
    "one time for all": (
        whole("duration_s", 1.0),
        "every decode took the very same time, in 40 configurations",
    ),
    "a stall": (with_value("duration_s", 9000.0), "1 configurations have repeats that differ by up to"),
    "a slower day": (two_sessions(3.0), "cannot tell apart"),
}


@pytest.mark.parametrize("name", NOTED)
def test_fit_goes_on_and_says_what_to_doubt(name, good, fit, tmp_path):
    change, note = NOTED[name]
    code, stdout, stderr = fit(change(good))
    assert (code, stderr) == (0, "")
    assert any(line.startswith("note: ") and note in line for line in stdout.splitlines())
    assert PerformanceModel.load(tmp_path / "perf").cv


HEAD = "engine,device,model,operation,batch,context_tokens"
CONFIGURATION = f"fake,{DEVICE},b,decode,"


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ("", "No columns to parse"),
        (f"{HEAD}\n{CONFIGURATION}1,10,3\n", "cannot be read: Length of header"),
        ("engine,device\nfake,cpu\n", "configurations must have the columns model, operation"),
        (
            f"{HEAD}\n{CONFIGURATION}1,10\n{CONFIGURATION}x,10\n",
            "row 1, column batch must be a number .* Got 'x'",
        ),
        (
            f"{HEAD}\n{CONFIGURATION},10\n{CONFIGURATION}nan,10\n",
            "row 1, column batch must be a number .* Got 'nan'",
        ),
        (f"{HEAD}\n{CONFIGURATION}-1,10\n", "row 0, column batch must be a number of at least 0 .* Got -1"),
        (f"{HEAD}\n{CONFIGURATION}inf,10\n", "row 0, column batch must be a number .* Got inf"),
        (f"{HEAD}\n{CONFIGURATION}1,1e999\n", "row 0, column context_tokens must be a number .* Got inf"),
        (f"{HEAD}\nfake,{DEVICE},,decode,1,1\n", "row 0, column model must be a name"),
        (f"{HEAD}\nfake,{DEVICE},b,,1,1\n", "row 0, column operation must be a name"),
        (f"{HEAD}\nfake,{DEVICE},7,decode,1,1\n", "model: unknown name '7'"),
        (
            f"{HEAD},page_cache\n{CONFIGURATION}1,1,hot\n",
            "column page_cache must be one of warm, cold. Got 'hot'",
        ),
        (f"{HEAD},params\n{CONFIGURATION}1,1,0\n", "column params must be a number of at least 1"),
    ],
)
def test_predict_refuses_in_one_line_and_writes_nothing(table, message, shunter, perf, tmp_path):
    (tmp_path / "configurations.csv").write_text(table)
    code, _, stderr = shunter(
        "predict", tmp_path / "configurations.csv", "--performance", perf, "--out", "new/out.csv"
    )
    assert code == 2
    assert re.search(message, stderr)
    assert len(stderr.splitlines()) == 1
    assert not (tmp_path / "new").exists()


def test_predict_of_no_configurations_is_an_empty_table(shunter, perf, tmp_path):
    (tmp_path / "configurations.csv").write_text(f"{HEAD}\n")
    code, stdout, _ = shunter(
        "predict", tmp_path / "configurations.csv", "--performance", perf, "--out", "out.csv"
    )
    assert (code, stdout.strip()) == (0, "out.csv: 0 configurations, 0 of them beyond what was profiled")
    assert pd.read_csv(tmp_path / "out.csv").empty


def test_predict_into_a_place_that_cannot_be_written_is_one_line(shunter, perf, tmp_path):
    (tmp_path / "configurations.csv").write_text(f"{HEAD}\n{CONFIGURATION}1,10\n")
    (tmp_path / "file").write_text("")
    code, _, stderr = shunter(
        "predict",
        tmp_path / "configurations.csv",
        "--performance",
        perf,
        "--out",
        tmp_path / "file" / "out.csv",
    )
    assert code == 2
    assert "--out must be in a folder, which file is not" in stderr
