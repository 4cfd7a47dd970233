from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml

from shunter.cli.main import main
from shunter.envs.scenario.library import find_scenario, scenario_names
from shunter.envs.scenario.scenario import load_scenario


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "200")


def run(capsys: pytest.CaptureFixture[str], *arguments: str, code: int = 0) -> str:
    with pytest.raises(SystemExit) as ended:
        main(list(arguments))
    captured = capsys.readouterr()
    assert ended.value.code == code, captured.err
    return captured.err if code else captured.out


def write_scenario(path: str, **changes: object) -> None:
    data = yaml.safe_load(find_scenario("trivial-two-models").read_text(encoding="utf-8"))
    data["workload"].pop("capacity_rate_per_s", None)
    Path(path).write_text(yaml.safe_dump({**data, **changes}, sort_keys=False), encoding="utf-8")


def test_list_names_them_all(capsys: pytest.CaptureFixture[str]) -> None:
    out = run(capsys, "scenarios", "list", "--json", "list.json")
    listed = json.loads(Path("list.json").read_text())
    assert tuple(s["name"] for s in listed) == scenario_names()
    assert "trivial-two-models" in out
    assert {s["split"] for s in listed} == {"train", "test"}


def test_list_has_a_line_a_scenario_and_crops_nothing(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    heading, *lines = run(capsys, "scenarios", "list").splitlines()
    assert heading.split() == ["scenario", "split", "devices", "models", "workload"]
    assert [line.split()[0] for line in lines] == list(scenario_names())
    described = run(capsys, "scenarios", "list", "--verbose")
    assert "…" not in described
    for name in scenario_names():
        assert load_scenario(name).description in described


def test_show_prints_the_file_and_what_fits(capsys: pytest.CaptureFixture[str]) -> None:
    out = run(capsys, "scenarios", "show", "trivial-two-models", "--json", "show.json")
    assert "# GPU: data sheet" in out
    assert "33/33" in out
    rows = json.loads(Path("show.json").read_text())["residency"]
    assert [row["model"] for row in rows] == ["llama-3-8b", "qwen3-8b"]
    assert all(row["tokens_per_s_low"] < row["tokens_per_s"] < row["tokens_per_s_high"] for row in rows)


def test_show_says_what_the_guard_is_and_whether_it_can_be_kept(capsys: pytest.CaptureFixture[str]) -> None:
    published = ("--performance", "published")
    assert "goes first; at this rate every model has its turn in" in run(
        capsys, "scenarios", "show", "trivial-two-models", "--json", "show.json"
    )
    shown = json.loads(Path("show.json").read_text())
    assert shown["guard_s"] > 0
    assert shown["guard_feasible"]
    write_scenario("busy.yaml", workload={"rate_per_s": 500.0, "lengths": "azure2023_code", "requests": 60})
    assert "this cannot be kept for all" in run(capsys, "scenarios", "show", "busy.yaml", *published)
    write_scenario("free.yaml", limits={"guard_s": False})
    assert "guard: off" in run(capsys, "scenarios", "show", "free.yaml", *published)


def test_check_measures_the_capacity_and_writes_it(capsys: pytest.CaptureFixture[str]) -> None:
    write_scenario("mine.yaml")
    out = run(
        capsys, "scenarios", "check", "mine.yaml", "--performance", "published", "--seeds", "2", "--write",
        "--json", "check.json", "--verbose",
    )  # fmt: skip
    result = json.loads(Path("check.json").read_text())
    assert "Estimated utilisation" in out.partition("capacity: ")[2]
    assert f"by {result['capacity']['policy']}" in out
    stated = load_scenario("mine.yaml").workload.capacity_rate_per_s
    assert stated == pytest.approx(result["capacity"]["rate_per_s"], rel=1e-3)
    assert 0.5 < result["utilisation"][0][0] < 0.7


def test_a_load_above_capacity_is_allowed_but_said(capsys: pytest.CaptureFixture[str]) -> None:
    write_scenario("busy.yaml", workload={"rate_per_s": 50.0, "lengths": "azure2023_code", "requests": 60})
    out = run(capsys, "scenarios", "check", "busy.yaml", "--performance", "published", "--seeds", "2")
    assert "its load exceeds capacity" in out
    assert "%" in out


def test_a_closed_loop_has_no_capacity(capsys: pytest.CaptureFixture[str]) -> None:
    write_scenario("closed.yaml", workload={"closed_loop": {"users": 3, "think_s": 2.0}, "requests": 60})
    out = run(capsys, "scenarios", "check", "closed.yaml", "--performance", "published")
    assert "closed loop" in out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("show", "laptp"), "unknown name 'laptp'; did you mean laptop"),
        (("check", "nowhere.yaml"), "be an existing YAML file"),
        (("check", "laptop", "--performance", "none"), "be a folder or file that shunter fit wrote"),
        (("check", "trivial-two-models", "--seeds", "1"), "seeds must be at least two"),
    ],
)
def test_bad_input(capsys: pytest.CaptureFixture[str], arguments: tuple[str, ...], message: str) -> None:
    assert message in run(capsys, "scenarios", *arguments, code=2)


def test_eval_takes_a_name_and_then_the_published_model(capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ("--policy", "cost-greedy", "--seeds", "1", "--json", "r.json")
    run(capsys, "eval", "--scenario", "trivial-two-models", *arguments)
    result = json.loads(Path("r.json").read_text())
    assert result["scenario"]["name"] == "trivial-two-models"
    assert "must be given to run on real engines" in run(
        capsys, "eval", "--scenario", "trivial-two-models", "--real", code=2
    )
