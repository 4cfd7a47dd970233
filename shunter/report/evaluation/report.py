"""The report of an evaluation: one self-contained HTML page (plotly.js inside), and the same as Markdown."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from shunter.eval.evaluation import Evaluation
from shunter.eval.execution.faults.failure_log import execution_lines
from shunter.eval.fidelity.machine_words import machine_lines
from shunter.eval.fidelity.tables import fidelity_verdict
from shunter.eval.metrics.load_curves import load_curves
from shunter.models.performance import PerformanceModel
from shunter.report.evaluation.fidelity import fidelity_section
from shunter.report.evaluation.machine import machine_section
from shunter.report.evaluation.method import definitions_section, method_section
from shunter.report.evaluation.performance import performance_section
from shunter.report.evaluation.policies import policies_section, responses_section
from shunter.report.evaluation.reality import reality_section
from shunter.report.evaluation.runs import failures_section, timelines_section
from shunter.report.evaluation.statistics import statistics_section
from shunter.report.page import Section, write_page_and_markdown
from shunter.report.words import headline, verdict

__all__ = ["write_report"]


def write_report(
    evaluation: Evaluation,
    path: str | Path,
    *,
    title: str,
    performance: PerformanceModel | None = None,
    result: dict[str, Any] | None = None,
) -> Path:
    """Writes the page, and the same as Markdown beside it.

    Args:
        evaluation: What to show.
        path: Path of the HTML file.
        title: Title of the page.
        performance: The model that predicted; without it offload and preemption are not drawn.
        result: From ``evaluation.to_dict``, with ``provenance`` if that is known.
    """
    path = Path(path)
    result = result or evaluation.to_dict()
    sections = report_sections(evaluation, result, performance)
    told = [*machine_lines(result), *verdict(result), *fidelity_verdict(result), *execution_lines(result)]
    lines = [headline(result), *told]
    return write_page_and_markdown(path, title=title, paragraphs=lines, sections=sections)


def report_sections(
    evaluation: Evaluation, result: dict[str, Any], performance: PerformanceModel | None
) -> list[Section]:
    """All sections for which there is something to show, in order."""
    sections = [
        policies_section(result),
        responses_section(evaluation),
        statistics_section(result),
        machine_section(result),
        reality_section(evaluation, result),
        fidelity_section(result),
        load_curves([result]),
        performance_section(evaluation.world.scenario, performance),
        timelines_section(evaluation),
        failures_section(result),
        definitions_section(result),
        method_section(result),
    ]
    return [section for section in sections if section is not None]
