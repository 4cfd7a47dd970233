"""Shows a preemption measurement: answers in words, tables beside the paper's, and stacked bars."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

import pandas as pd

from shunter.files import write_json
from shunter.outputs import replaced_folder
from shunter.profiling.dataset.fingerprint import hardware
from shunter.profiling.preemption.answers import answers, findings, headline
from shunter.profiling.preemption.figures import overhead_bars, weights_figure
from shunter.profiling.preemption.paper import paper_cells
from shunter.profiling.preemption.plan import PreemptionPlan
from shunter.profiling.preemption.summary import line_over_models, summarise
from shunter.profiling.preemption.tables import preemption_tables
from shunter.report.page import ReportTable, write_page

__all__ = ["write_preemption_report"]


def preemption_results(rows: pd.DataFrame) -> dict[str, Any]:
    """Everything that tables and pages show of cycles (``read_measurement``), as plain data."""
    models = summarise(rows)
    return {"models": models, "line_over_models": line_over_models(models), "paper": paper_cells()}


def write_preemption_report(
    rows: pd.DataFrame, plan: PreemptionPlan, folder: Path
) -> tuple[list[ReportTable], list[str]]:
    """Writes ``preemption.html`` and ``results.json``: answers, stacked bars over the cuts, and all tables.

    Both or none, and ``results.json`` last.

    Args:
        rows: Cycles as from ``read_measurement``.
        plan: What was asked for.
        folder: An existing folder.

    Returns:
        The tables, and what the page says in words.
    """
    rows = rows.sort_values("weight_bytes", kind="stable")
    results, setting = preemption_results(rows), _setting(rows, plan)
    tables, lines = preemption_tables(results), [*answers(results), *findings(results), setting]
    found = {
        "setting": setting,
        "settings": asdict(plan.settings),
        "hardware": hardware(),
        "load_average": _spread(rows["load_average"]),
        "answers": answers(results),
        **results,
    }
    with replaced_folder(folder, last="results.json") as staged:
        write_page(
            staged / "preemption.html",
            title="What preempting a model costs",
            paragraphs=[headline(results), *lines],
            figures=[overhead_bars(rows), weights_figure(results)],
            tables=tables,
        )
        write_json(staged / "results.json", found)
    return tables, lines


def _setting(rows: pd.DataFrame, plan: PreemptionPlan) -> str:
    first, s, load = rows.iloc[0], plan.settings, _spread(rows["load_average"])
    return (
        f"{first['engine']} {first['engine_version']} on {first['device']}, {s.page_cache} page cache, "
        f"{len(rows)} cycles: job A of {s.job_tokens} tokens cut at {len(s.cuts)} points from {min(s.cuts)} "
        f"to {max(s.cuts)}, job B of {s.other_tokens} tokens on {plan.other.name}, prompts of "
        f"{s.prompt_tokens}. System load over one minute: {load['min']:.1f} to {load['max']:.1f} on "
        f"{hardware()['logical_cores']} cores."
    )


def _spread(values: pd.Series[Any]) -> dict[str, float]:
    return {"min": float(values.min()), "median": float(values.median()), "max": float(values.max())}
