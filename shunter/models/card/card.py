"""The model card: what a performance model was fitted to, how wrong it is, and where its limits are."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import asdict, replace
from pathlib import Path

import pandas as pd

from shunter import __version__
from shunter.files import write_json
from shunter.models.card.errors import largest_errors_table
from shunter.models.card.parameters import parameter_table
from shunter.models.card.plots import card_figures, cut_costs, sensitivity
from shunter.models.performance import PerformanceModel
from shunter.models.validation.assessment import Validation
from shunter.models.validation.scores import Score
from shunter.models.validation.splits import SPLITS
from shunter.report.page import ReportTable, Section, write_markdown, write_page

__all__ = ["write_card"]

_NAMED = 3
"""Engines and devices in a title."""

_NAMES = ("card.md", "card.html", "validation.json")


def card_paths(saved: Path) -> tuple[Path, Path, Path]:
    """Where the card of a saved model is: Markdown, HTML and JSON, beside it."""
    stem = "" if saved.name == "performance.json" else f"{saved.stem}."
    text, page, data = (saved.with_name(stem + name) for name in _NAMES)
    return text, page, data


def write_card(
    model: PerformanceModel, frame: pd.DataFrame, validation: Validation, saved: Path
) -> tuple[Path, Path, Path]:
    """Writes the card beside a saved model.

    Returns:
        The Markdown file, the HTML page (self-contained, with plots) and the scores as JSON.
    """
    paths = card_paths(saved)
    title = card_title(model, frame)
    paragraphs = [_conclusion(validation), *_paragraphs(model, frame)]
    tables = card_tables(model, frame, validation)
    limits = _limits(model, validation)
    sections = [Section(one.title, tables=(replace(one, title="", prose=True),)) for one in tables]
    sections.append(Section("Limits and notes", tuple(limits)))
    drawn = f"Plots: {paths[1].name}"
    write_markdown(paths[0], title=title, paragraphs=[*paragraphs, drawn], sections=sections)
    figures = card_figures(model, frame, validation.held_out)
    limits_table = ReportTable("Limits and notes", ("note",), tuple((text,) for text in limits))
    write_page(paths[1], title=title, paragraphs=paragraphs, figures=figures, tables=[*tables, limits_table])
    write_json(paths[2], _as_json(validation))
    return paths


def card_title(model: PerformanceModel, frame: pd.DataFrame) -> str:
    """Engines, devices and dataset that a model is of."""
    engines, devices = (_named(frame[column].unique()) for column in ("engine", "device"))
    days = sorted({str(at)[:10] for at in frame["measured_at"]})
    when = " to ".join(dict.fromkeys((days[0], days[-1])))
    rows = f"{len(frame)} rows of {len(model.models)} models, measured {when}"
    return f"Performance model of {engines} on {devices} ({rows})"


def _named(names: Iterable[str]) -> str:
    """The first few of some names."""
    known = sorted(map(str, names))
    more = f" and {len(known) - _NAMED} more" if len(known) > _NAMED else ""
    return ", ".join(known[:_NAMED]) + more


def _conclusion(validation: Validation) -> str:
    """How wrong it is on what it had not seen, in one sentence."""
    scores = [s for s in validation.scores if s.predictor == validation.scores[0].predictor]
    split = next((name for name in SPLITS if any(s.split == name for s in scores)), None)
    known = [f"{s.target} {error_text(s)}" for s in scores if s.split == split and s.mape is not None]
    if split is None or not known:
        return "How wrong it is is not known: no row could be held out."
    return f"Mean error on held-out rows ({split}: {SPLITS[split]}): {', '.join(known)}."


def card_tables(model: PerformanceModel, frame: pd.DataFrame, validation: Validation) -> list[ReportTable]:
    """The tables, in the order of showing."""
    return [
        _measured_on(frame),
        *_error_tables(validation),
        *largest_errors_table(validation.held_out),
        *_interval_table(validation),
        *_scheduling_table(model),
        *parameter_table(model),
    ]


def _paragraphs(model: PerformanceModel, frame: pd.DataFrame) -> list[str]:
    return [
        f"Predicts the time of loads, unloads, prefills, decode steps and KV copies, and the memory of "
        f"residents, with 90 % intervals. Fitted by shunter {__version__} to {len(frame)} rows, "
        f"{frame['cell_id'].nunique()} configurations, of {len(model.models)} models; "
        f"fingerprint of the rows: {model.state_.data_fingerprint}; "
        f"file format version {model.state_.version}.",
        "All errors below are of predictions for rows that the predictor had not seen; each split says what "
        "was seen of their kind. Errors are relative to what was measured. The noise floor is how much "
        "repeats of one configuration differ from their median: no predictor can stay below it for long.",
    ]


def _measured_on(frame: pd.DataFrame) -> ReportTable:
    rows = []
    for (engine, device, _), group in frame.groupby(["engine", "device", "hardware_id"], sort=True):
        days = sorted({str(at)[:10] for at in group["measured_at"]})
        rows.append(
            (
                f"{engine} {', '.join(sorted(group['engine_version'].unique()))}",
                str(device),
                _hardware(str(group["hardware"].iloc[0])),
                ", ".join(sorted(group["model"].unique())),
                str(len(group)),
                days[0] if len(days) == 1 else f"{days[0]} to {days[-1]}",
                "unknown" if (load := group["load_average"]).isna().all() else f"{load.median():.1f}",
            )
        )
    columns = ("engine", "device", "hardware", "models", "rows", "measured", "system load")
    return ReportTable(
        "Measured on", columns, tuple(rows), "System load: median load average while measuring."
    )


def _hardware(text: str) -> str:
    try:
        facts = json.loads(text)
    except ValueError:
        return text
    if not isinstance(facts, dict):
        return text
    named = [str(facts.get("cpu_model", "")), *map(str, facts.get("gpus") or [])]
    return "; ".join(name for name in named if name) or text


def _error_tables(validation: Validation) -> Iterable[ReportTable]:
    predictors = list(dict.fromkeys(s.predictor for s in validation.scores))
    for split, seen in SPLITS.items():
        scores = [s for s in validation.scores if s.split == split]
        targets = dict.fromkeys(s.target for s in scores)
        if not targets:
            continue
        rows = []
        for target in targets:
            of_target = {s.predictor: s for s in scores if s.target == target}
            first = next(iter(of_target.values()))
            rows.append(
                (
                    target,
                    f"{first.rows} ({first.cells})",
                    *(error_text(of_target.get(name)) for name in predictors),
                    percent(first.median_ape),
                    percent(first.noise),
                )
            )
        columns = ("target", "rows (configurations)", *predictors, f"median, {predictors[0]}", "noise floor")
        yield ReportTable(f"Mean errors, {split}: {seen}", columns, tuple(rows), _ERRORS_NOTE)


_ERRORS_NOTE = (
    "Mean absolute percentage error of the median prediction, with its 95 % bootstrap interval over "
    "configurations."
)


def _interval_table(validation: Validation) -> list[ReportTable]:
    rows = [
        (
            s.split,
            s.target,
            str(s.rows),
            percent(s.coverage),
            _test(s),
            _width(s.mean_width),
            _width(s.constant_width),
        )
        for s in validation.scores
        if s.coverage is not None and s.predictor == validation.scores[0].predictor
    ]
    columns = ("split", "target", "rows", "inside", "test against 90 %", "mean width", "constant width")
    note = (
        "Inside: share of held-out rows within their 90 % interval. Test: two-sided binomial at 5 %, of as "
        "many trials as configurations, on splits with at least 50 rows. Width: (high - low) / predicted; "
        "constant: the same of the one factor that would have held 90 % of these rows, known only in "
        "hindsight. Configurations of one model or device share errors, so that the test rejects more often "
        "than in one of 20 cases."
    )
    return [ReportTable("90 % intervals", columns, tuple(rows), note)] if rows else []


def _width(share: float | None) -> str:
    return percent(share) if share is None or share < 10 else f"{share:.2g} times"


def _test(s: Score) -> str:
    if s.coverage_p is None or s.rows < 50:
        return "too few rows"
    p = f"p = {s.coverage_p:.2g}"
    if s.coverage_p >= 0.05:
        return f"not rejected ({p})"
    return f"REJECTED, too {'narrow' if (s.coverage or 0) < 0.9 else 'wide'} ({p})"


def _scheduling_table(model: PerformanceModel) -> list[ReportTable]:
    rows = []
    for resident in model.residents:
        costs, index = cut_costs(model, resident), sensitivity(model, resident)
        if costs.empty and index is None:
            continue
        first, last = (costs.iloc[0], costs.iloc[-1]) if len(costs) else (None, None)
        rows.append(
            (
                resident.model,
                f"{resident.engine} {resident.device}",
                *(
                    "unknown"
                    if cost is None
                    else f"{cost['total_s']:.3g} s [{cost['low_s']:.3g}, {cost['high_s']:.3g}]"
                    for cost in (first, last)
                ),
                "unknown" if last is None else percent(float(last["reload_share"])),
                "unknown" if index is None else f"{index:.2f}",
            )
        )
    columns = (
        "model",
        "on",
        "cut at the shortest context",
        "cut at the longest",
        "reload",
        "offload sensitivity",
    )
    note = (
        "Cost of preempting a model and bringing it back, all layers on the device: KV save, unload, load, "
        "KV restore (or prefill where the engine cannot save); contexts as profiled. Reload: share of "
        "loading weights at the longest context. Offload sensitivity: decode step at the fewest layers "
        "profiled over that with all, less 1."
    )
    return (
        [ReportTable("Preemption cost and offload sensitivity", columns, tuple(rows), note)] if rows else []
    )


def _limits(model: PerformanceModel, validation: Validation) -> list[str]:
    limits = [f"{split}: not tested, {why}." for split, why in validation.impossible.items()]
    for predictor, said in validation.refusals.items():
        limits += [f"{predictor} refused held-out rows: {text}" for text in said]
    limits.append(
        "Each device was profiled alone: engines that run at the same time on shared cores or memory slow "
        "each other down, which is not predicted."
    )
    return [*limits, *model.notes]


def error_text(s: Score | None) -> str:
    """The mean error with its interval, as far as there is one; ``refused`` without predictions."""
    if s is None or s.mape is None:
        return "refused"
    interval = (
        "" if s.mape_interval is None else " [{:.1f}, {:.1f}]".format(*(100 * x for x in s.mape_interval))
    )
    refused = f", {s.refused} rows refused" if s.refused else ""
    return f"{percent(s.mape)}{interval}{refused}"


def percent(share: float | None) -> str:
    """A share in percent; ``unknown`` for None."""
    return "unknown" if share is None else f"{100 * share:.1f} %"


def _as_json(validation: Validation) -> dict[str, object]:
    return {
        "scores": [asdict(s) for s in validation.scores],
        "impossible": validation.impossible,
        "refusals": {name: list(said) for name, said in validation.refusals.items()},
    }
