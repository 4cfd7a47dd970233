from __future__ import annotations

from pathlib import Path

import pytest

from shunter.cli.main import main
from shunter.models.performance import PerformanceModel
from shunter.profiling.dataset.table import read_dataset, write_dataset
from tests.cli.test_fit import data

__all__ = ["data"]


def run(capsys: pytest.CaptureFixture[str], *arguments: object) -> str:
    with pytest.raises(SystemExit) as ended:
        main([str(argument) for argument in arguments])
    assert ended.value.code == 0
    return capsys.readouterr().out


@pytest.fixture(scope="module")
def models(data: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """One model of all rows, one of a machine that takes twice as long to decode."""
    folder = tmp_path_factory.mktemp("models")
    frame = read_dataset(data)
    slower = frame.assign(row_id="slow-" + frame["row_id"])
    decode = slower["operation"] == "decode"
    slower.loc[decode, ["duration_s", "step_p50_s"]] *= 2
    slower.loc[decode, "tokens_per_s"] /= 2
    write_dataset(slower, folder / "slower.parquet")
    return {
        "fast": PerformanceModel().fit(frame).save(folder / "fast"),
        "slow": PerformanceModel().fit(read_dataset(folder / "slower.parquet")).save(folder / "slow"),
    }


def cells(line: str) -> list[str]:
    return [cell.strip() for cell in line.strip("│ ").split("│")]


def row(output: str, first: str, after: str) -> list[str]:
    lines = output[output.index(after) :].splitlines()
    return next(cells(line) for line in lines if cells(line)[0].startswith(first))


def test_errors_and_predictions_are_set_side_by_side(
    models: dict[str, Path],
    data: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    output = run(capsys, "models", "compare", models["fast"], models["slow"], "--dataset", data)

    errors = row(output, "decode_step_s", "Errors on the same rows")
    assert float(errors[1].split()[0]) < 5
    assert float(errors[3].split()[0]) == pytest.approx(100, abs=10)
    ratios = row(output, "decode_step_s", "Predictions of B over those of A")
    assert float(ratios[3]) == pytest.approx(2.0, rel=0.05)
    assert row(output, "load_s", "Predictions of B over those of A")[2:] == ["1.000"] * 3
    assert "note: A was fitted to exactly these rows" in output
    assert "note: B" not in output
    parameters = output[output.index("Parameters that differ") :]
    assert "decode_step_s" in parameters
    assert "load_s" not in parameters


def test_without_a_dataset_only_parameters_are_compared(
    models: dict[str, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    output = run(capsys, "models", "compare", models["fast"], models["fast"])

    assert "Errors on the same rows" not in output
    assert "decode_step_s" not in output
