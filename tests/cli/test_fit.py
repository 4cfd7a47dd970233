from pathlib import Path

import pandas as pd
import pytest
import typer
from typer.testing import CliRunner

from shunter.catalog.checkpoints import Checkpoint
from shunter.catalog.devices import parse_device
from shunter.catalog.models import ModelSpec
from shunter.cli.options import ANSWER_LINES
from shunter.cli.performance.fit import fit
from shunter.cli.performance.predict import predict
from shunter.engines.fake.engine import FakeEngine
from shunter.errors import BrokenFileError, InputError, UnknownNameError
from shunter.models import PerformanceModel
from shunter.models.validation import baselines
from shunter.profiling.dataset.table import read_dataset, write_dataset
from shunter.profiling.sweep.plan import SweepSettings, make_plan
from shunter.profiling.sweep.sweep import run_sweep


def checkpoint(name, hidden_size):
    spec = ModelSpec(name, 8, hidden_size, hidden_size // 64, hidden_size // 64, 64, 3 * hidden_size, 512)
    return Checkpoint(name, Path(name), "gguf", spec, "F32", 4 * spec.params, 4 * spec.params_per_layer)


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    path = tmp_path_factory.mktemp("data") / "d.parquet"
    settings = SweepSettings(("0", "all"), (8, 32), (4,), (1, 2), (16, 64), repeats=1)
    models = [checkpoint("a", 128), checkpoint("b", 256)]
    plan = make_plan(models, engine="fake", device=parse_device("cpu:1-threads"), settings=settings)
    run_sweep(plan, FakeEngine(device="cpu:1-threads"), path)
    return path


@pytest.fixture
def run():
    app = typer.Typer()
    app.command()(fit)
    app.command()(predict)
    return lambda *args: CliRunner().invoke(app, [str(a) for a in args], catch_exceptions=False)


def test_fit_prints_the_errors_of_each_target_and_writes_the_model(run, data, tmp_path):
    result = run("fit", data, "--out", tmp_path / "perf", "--quick")
    assert result.exit_code == 0
    for target in (
        "load_s",
        "unload_s",
        "prefill_s",
        "decode_step_s",
        "kv_save_s",
        "kv_restore_s",
        "device_bytes",
    ):
        assert any(target in line and "%" in line for line in result.output.splitlines())
    lines = result.output.splitlines()
    assert lines[0].startswith("Mean relative error of held-out configurations: load_s ")
    assert lines[-1] == f"{tmp_path}/perf/performance.json: 2 models, 8 targets"
    assert len(lines) <= ANSWER_LINES
    verbose = run("fit", data, "--out", tmp_path / "again", "--quick", "--verbose")
    assert "repeats differ" in verbose.output
    assert sorted(PerformanceModel.load(tmp_path / "perf").models.index) == ["a", "b"]


def test_fit_of_a_broken_dataset_writes_nothing(run, data, tmp_path):
    broken = tmp_path / "broken.parquet"
    broken.write_bytes(data.read_bytes()[:-100])
    with pytest.raises(BrokenFileError, match=r"broken\.parquet: cannot be read"):
        run("fit", broken, "--out", tmp_path / "perf")
    assert not (tmp_path / "perf").exists()


@pytest.mark.parametrize("suffix", [".csv", ".parquet"])
def test_predict_fills_in_what_is_left_out(run, data, tmp_path, suffix):
    run("fit", data, "--out", tmp_path / "perf", "--quick")
    configurations = pd.DataFrame(
        {
            "engine": "fake",
            "device": "cpu:1-threads",
            "model": ["a", "b", "b"],
            "operation": ["decode", "load", "decode"],
            "context_tokens": [10.5, 0, 5000.0],
        }
    )
    source, out = tmp_path / f"configurations{suffix}", tmp_path / "new" / f"out{suffix}"
    (configurations.to_csv if suffix == ".csv" else configurations.to_parquet)(source, index=False)
    result = run("predict", source, "--performance", tmp_path / "perf", "--out", out)
    assert "3 configurations, 1 of them beyond what was profiled" in result.output
    assert "not used" not in result.output
    told = configurations.assign(contxt_tokens=7, remark="mine")
    (told.to_csv if suffix == ".csv" else told.to_parquet)(source, index=False)
    result = run("predict", source, "--performance", tmp_path / "perf", "--out", out)
    assert "'contxt_tokens' was not used; did you mean context_tokens?" in result.output
    assert "'remark' was not used\n" in result.output
    done = pd.read_csv(out) if suffix == ".csv" else pd.read_parquet(out)
    assert done["duration_s_predicted"][0] == pytest.approx(9e-3 + 2e-4, rel=0.05)
    assert done["duration_s_predicted"][1] == pytest.approx(0.14, rel=0.05)
    assert done["out_of_range"].tolist() == [False, False, True]
    assert list(done.columns[:5]) == list(configurations.columns)


def test_predict_refuses_what_it_cannot_read(run, data, tmp_path):
    run("fit", data, "--out", tmp_path / "perf", "--quick")
    with pytest.raises(InputError, match=r"end in \.csv or \.parquet"):
        run("predict", tmp_path / "configurations.txt", "--performance", tmp_path / "perf")
    with pytest.raises(InputError, match="existing table"):
        run("predict", tmp_path / "configurations.csv", "--performance", tmp_path / "perf")
    (tmp_path / "configurations.parquet").write_bytes(b"PAR1")
    with pytest.raises(BrokenFileError, match=r"configurations\.parquet"):
        run("predict", tmp_path / "configurations.parquet", "--performance", tmp_path / "perf")
    (tmp_path / "configurations.csv").write_text("engine,device,model,operation\nfake,cpu:1-threads,c,load\n")
    with pytest.raises(UnknownNameError, match="model: unknown name 'c'"):
        run("predict", tmp_path / "configurations.csv", "--performance", tmp_path / "perf")
    assert not (tmp_path / "predictions.csv").exists()


def test_fit_writes_a_card_that_says_what_could_not_be_tested(run, data, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    two = {name: baselines.PREDICTORS[name] for name in ("nearest neighbour", "gradient boosting")}
    monkeypatch.setattr(baselines, "PREDICTORS", two)
    run("fit", data, "--out", tmp_path / "perf")
    names = {"performance.json", "card.md", "card.html", "validation.json"}
    assert {p.name for p in (tmp_path / "perf").iterdir()} == names
    text = (tmp_path / "perf" / "card.md").read_text()
    assert "leave one device out: not tested, the dataset has one device only" in text
    assert "Mean errors, leave one model out: no row of the model was seen" in text


def test_a_template_is_written_once_and_can_be_predicted(run, data, tmp_path):
    run("fit", data, "--out", tmp_path / "perf", "--quick")
    perf, table = ("--performance", tmp_path / "perf"), tmp_path / "t.csv"
    assert "blank cells are filled in" in run("predict", "--template", table, *perf).output
    before = table.read_bytes()
    run("predict", table, *perf, "--out", tmp_path / "p.csv")
    done = pd.read_csv(tmp_path / "p.csv")
    assert set(done["unit"]) == {"s", "s per step"}
    assert (done["why_out_of_range"].notna() == done["out_of_range"]).all()
    with pytest.raises(InputError, match="--template must not exist yet"):
        run("predict", "--template", table, *perf)
    with pytest.raises(InputError, match="CONFIGURATIONS must be given, or --template instead"):
        run("predict", table, "--template", tmp_path / "u.csv", *perf)
    with pytest.raises(InputError, match="CONFIGURATIONS must be given, or --template instead"):
        run("predict", *perf)
    assert table.read_bytes() == before


def test_predict_takes_the_published_model_without_a_profile(run, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    run("predict", "--template", "t.csv", "--performance", "published")
    assert "6 configurations" in run("predict", "t.csv", "--performance", "published").output


def test_throttled_rows_are_counted_and_left_out(run, data, tmp_path):
    frame = read_dataset(data)
    hot = frame["row_id"].isin(frame["row_id"].sample(5, random_state=0))
    write_dataset(frame.assign(throttle_reasons=hot * 32.0), tmp_path / "hot.parquet")
    said = run("fit", tmp_path / "hot.parquet", "--out", tmp_path / "perf", "--quick", "--verbose").output
    assert f"note: throttled: 5 of {len(frame)} rows (heat 5), left out (--keep-throttled fits them)" in said
    kept = run(
        "fit", tmp_path / "hot.parquet", "--out", tmp_path / "k", "--quick", "--verbose", "--keep-throttled"
    ).output
    assert "fitted all the same" in kept


@pytest.mark.parametrize("option", [("--performance", "published"), ("--keep-throttled",)])
def test_options_of_a_fit_are_none_of_an_update(run, tmp_path, option):
    with pytest.raises(InputError, match=f"{option[0]} must be left out with --update"):
        run("fit", "--update", tmp_path, *option)
    with pytest.raises(InputError, match="--out must be given: published itself is not changed"):
        run("fit", "--update", "published", "--events", tmp_path / "e", "--scenario", tmp_path / "s")
