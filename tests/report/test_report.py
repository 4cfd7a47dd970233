from __future__ import annotations

import html
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from shunter.errors import ShunterError
from shunter.eval.evaluation import Evaluation
from shunter.eval.metrics.metrics import request_times
from shunter.models.performance import PerformanceModel
from shunter.report.evaluation.fidelity import fidelity_section
from shunter.report.evaluation.policies import responses_section
from shunter.report.evaluation.reality import reality_section
from shunter.report.evaluation.report import report_sections, write_report
from shunter.report.evaluation.runs import failures_section
from shunter.report.evaluation.statistics import statistics_section
from shunter.report.page import write_page_and_markdown
from shunter.report.words import change_text, headline, verdict
from tests.browser import BROWSER, look


@pytest.fixture(scope="module")
def page(
    evaluation: Evaluation, fake_performance: PerformanceModel, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    path = tmp_path_factory.mktemp("report") / "report.html"
    return write_report(evaluation, path, title="A <title> & more", performance=fake_performance)


@pytest.mark.skipif(BROWSER is None, reason="needs chromium or chrome on PATH")
def test_a_browser_without_network_draws_every_figure_and_complains_of_nothing(
    page: Path, tmp_path: Path
) -> None:
    seen = look(page, tmp_path / "profile")
    assert seen.console == []
    assert seen.figures == seen.drawn == 11
    for text in ("Response times", "Simulation against reality", "On cpu:1-threads", "How it was measured"):
        assert text in seen.dom
    assert "A &lt;title&gt; &amp; more" in seen.dom


@pytest.mark.skipif(BROWSER is None, reason="needs chromium or chrome on PATH")
def test_an_error_in_a_page_would_be_seen(tmp_path: Path) -> None:
    page = tmp_path / "bad.html"
    page.write_text("<!doctype html><body><script>nothing_of_that_name()</script>", encoding="utf-8")
    assert "nothing_of_that_name" in " ".join(look(page, tmp_path / "profile").console)


def test_the_page_asks_nothing_of_the_network(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    assert not re.findall(r"<(?:script|img|iframe)[^>]*\ssrc=|<link", text)


def test_the_same_stands_in_markdown(page: Path, evaluation: Evaluation) -> None:
    text = page.with_suffix(".md").read_text(encoding="utf-8")
    result = evaluation.to_dict()
    for line in verdict(result):
        assert line in text
    for name in evaluation.policies:
        for mode in ("simulated", "real"):
            mean_s = result["policies"][name][mode]["response_mean_s"]
            assert f"| {name} | {mode} | {mean_s:.3f} s |" in text


def test_a_page_that_cannot_be_written_leaves_no_markdown(tmp_path: Path) -> None:
    (tmp_path / "r.html").mkdir()
    with pytest.raises(ShunterError, match=r"r\.html"):
        write_page_and_markdown(tmp_path / "r.html", title="t", paragraphs=["p"], sections=[])
    assert [path.name for path in tmp_path.iterdir()] == ["r.html"]


def test_sections_follow_the_data(evaluation: Evaluation, simulated_only: Evaluation) -> None:
    def titles(seen: Evaluation) -> list[str]:
        return [s.title for s in report_sections(seen, seen.to_dict(), None)]

    assert "Simulation against reality" in titles(evaluation)
    assert "Simulation against reality" not in titles(simulated_only)


def test_without_a_performance_model_the_page_says_so(simulated_only: Evaluation) -> None:
    sections = report_sections(simulated_only, simulated_only.to_dict(), None)
    (section,) = (s for s in sections if s.title == "What was predicted of the models")
    assert not section.figures
    assert "no performance model" in section.notes[0]


def test_response_curves_end_at_the_longest_response(evaluation: Evaluation) -> None:
    (figure,) = responses_section(evaluation).figures
    curves = {trace.name: trace for trace in figure.data if trace.showlegend}
    assert len(curves) == 2 * len(evaluation.policies)
    times = np.concatenate([request_times(run).response_s for run in evaluation.real["cost-greedy"]])
    curve = curves["cost-greedy, real"]
    assert curve.x[-1] == times.max()
    assert curve.y[-1] == 1.0
    assert np.all(np.diff(curve.x) >= 0)


def test_requests_that_were_not_served_are_never_reached(evaluation: Evaluation) -> None:
    from dataclasses import replace

    run = evaluation.simulated["fifo-swap"][0]
    cut = replace(run, requests=run.requests.assign(finish_s=run.requests.finish_s.where(lambda s: s < 5)))
    served = int(cut.requests.finish_s.notna().sum())
    seen = Evaluation(evaluation.world, ["fifo-swap"], [0], {"fifo-swap": [cut]})
    (figure,) = responses_section(seen).figures
    assert figure.data[0].y[-1] == served / len(run.requests) < 1
    assert f"fifo-swap {len(run.requests) - served}." in verdict(seen.to_dict())[0]


def test_the_scatter_shows_each_request_of_each_policy(evaluation: Evaluation) -> None:
    section = reality_section(evaluation, evaluation.to_dict())
    assert section is not None
    requests, operations = section.figures
    free = {t.name: t for t in requests.data if t.mode == "markers" and t.xaxis == "x"}
    assert set(free) == set(evaluation.policies)
    run = evaluation.real["fifo-swap"][0]
    assert set(request_times(run).response_s) <= set(free["fifo-swap"].x)
    decodes = next(t for t in operations.data if t.name.startswith("decode"))
    # Every decode step takes a tenth longer on these engines; prefills in the same span do not.
    assert 1.0 < np.median(np.array(decodes.x) / np.array(decodes.y)) <= 1.1 + 1e-6


def test_failures_are_listed_where_they_are_recorded() -> None:
    failures = [
        {"run_id": "a/0/real", "time_s": 1.25, "kind": "killed", "requeued": [3, 4], "failed": []},
        {"run_id": "a/0/real", "time_s": 2.5, "kind": "hung", "reason": "no answer"},
    ]
    section = failures_section({"failures": failures})
    assert section is not None
    (table,) = section.tables
    assert table.columns == ("run id", "time, s", "kind", "requeued", "failed", "reason")
    assert table.rows[0] == ("a/0/real", "1.25", "killed", "3, 4", "none", "-")
    assert failures_section({}) is None
    nothing = failures_section({"failures": []})
    assert nothing is not None
    assert not nothing.tables


def test_statistics_and_fidelity_appear_with_their_data(evaluation: Evaluation) -> None:
    statistics = {
        "sequences": 2,
        "iqm": {"value": 0.9, "low": 0.8, "high": 1.0},
        "probability_of_improvement": 0.75,
        "profile": {"0.5": 0.0, "1.0": 1.0},
    }
    waits = {"small": {"mean_s": 0.5, "max_s": 2.0}, "all models": {"mean_s": 0.6, "max_s": 9.0}}
    of = {"cost-greedy": {"real": {"statistics": statistics, "waits": waits}}, "other": {"real": {}}}
    section = statistics_section({"changes_against": "other", "policies": of})
    assert section is not None
    assert len(section.tables[0].columns) == 7
    assert section.tables[0].rows == (
        ("cost-greedy", "real", "2", "0.900 [0.800, 1.000]", "75%", "2.000 s", "small"),
    )
    result = evaluation.to_dict()
    section = fidelity_section(result)
    assert section is not None
    ranking = result["fidelity"]["ranking"]
    tau = f"tau {ranking['tau']['value']:.2f}"
    assert tau in " ".join(section.notes)
    assert len(section.figures) == 2
    assert "Operations: predicted against measured" in [table.title for table in section.tables]
    assert fidelity_section({"fidelity": {"refused": ["unlike budgets"]}}).notes == (  # type: ignore[union-attr]
        "Simulation and reality are not compared: unlike budgets.",
    )


def test_a_change_that_nobody_knows_is_called_so() -> None:
    for missing in (None, float("nan")):
        assert change_text({"change": missing, "low": missing, "high": missing}) == "unknown"
    assert change_text({"change": -0.1, "low": None, "high": None}) == "-10.0% (no interval)"


def policy(change: float, low: float, high: float, mean_s: float, unfinished: float = 0) -> dict[str, Any]:
    changed = {"change": change, "low": low, "high": high, "unit": "runs"}
    return {
        "simulated": {"response_mean_s": mean_s, "unfinished": unfinished, "response_change": changed},
    }


def test_the_verdict_follows_the_intervals() -> None:
    result = {
        "changes_against": "a",
        "interrupted": True,
        "policies": {
            "a": policy(0, 0, 0, 2.0),
            "b": policy(-0.2, -0.3, -0.1, 1.6),
            "c": policy(0.1, -0.1, 0.3, 2.2, unfinished=3),
            "d": policy(0.5, 0.4, 0.6, 3.0),
            "e": policy(0.1, float("nan"), float("nan"), 2.2),
        },
    }
    line, end = verdict(result)
    assert line.startswith("Simulated: b has the lowest mean response (1.600 s). Against a: b -20.0% [")
    assert "Lower by more than chance: b; higher by more than chance: d; undecided against a: c, e." in line
    assert line.endswith("no mean counts: c 3.")
    assert "cut short" in end


def test_a_page_opens_with_one_sentence_of_what_came_of_it(page: Path, evaluation: Evaluation) -> None:
    said = headline(evaluation.to_dict())
    assert said.startswith("Real: ")
    assert said.count(". ") == 0
    opening = page.read_text(encoding="utf-8").partition("<h1>")[2].partition("<nav>")[0]
    assert f"<p class=lead>{html.escape(said)}</p><details>" in opening
    assert page.with_suffix(".md").read_text(encoding="utf-8").split("\n\n")[1] == said


@pytest.mark.parametrize(
    ("change", "ends"),
    [
        ({"change": -0.2, "low": -0.3, "high": -0.1}, "-20.0% [-30.0%, -10.0%])."),
        ({"change": -0.2, "low": -0.5, "high": 0.1}, "-20.0% [-50.0%, +10.0%], undecided)."),
    ],
)
def test_the_first_sentence_says_no_more_than_the_interval(change: dict[str, float], ends: str) -> None:
    none = {"change": 0.0, "low": 0.0, "high": 0.0}
    policies = {
        "a": {"simulated": {"response_mean_s": 10.0, "response_change": none}},
        "b": {"simulated": {"response_mean_s": 8.0, "response_change": change}},
    }
    result = {"policies": policies, "changes_against": "a"}
    assert headline(result) == f"Simulated: the lowest mean response is that of b (8.000 s; against a: {ends}"
    policies["b"]["simulated"]["response_mean_s"] = 11.0
    assert headline(result) == "Simulated: no policy has a lower mean response than a (10.000 s)."
