"""How far simulation is from reality, beside how far reality is from itself, and whether the order holds."""

from __future__ import annotations

from typing import Any

import plotly.graph_objects as go
from plotly.subplots import make_subplots

from shunter.eval.fidelity.tables import fidelity_tables
from shunter.report.figures import error_bars
from shunter.report.page import COLOURS, Section
from shunter.report.words import interval_text

_QUANTITIES = ("response", "TTFT", "TPOT")


def fidelity_section(result: dict[str, Any]) -> Section | None:
    """Errors against noise, and pairs of policies in both modes; None if the evaluation holds none."""
    found = result.get("fidelity")
    if found is None:
        return None
    if found["refused"]:
        reasons = (f"Simulation and reality are not compared: {reason}." for reason in found["refused"])
        return Section("Fidelity", tuple(reasons))
    notes = [
        "Bars: the error of simulation in the mean. Diamonds: how far two real runs on the same requests "
        "differ, where a policy ran twice; no simulator can be nearer than that.",
        *(f"Note: {note}." for note in found["notes"]),
    ]
    figures = [_errors(found["requests"])]
    ranking = found.get("ranking")
    if ranking and ranking["pairs"]:
        notes.append(_order(ranking))
        figures.append(_pairs(ranking["pairs"]))
    return Section("Fidelity", tuple(notes), tuple(figures), tuple(fidelity_tables(result)))


def _order(ranking: dict[str, Any]) -> str:
    return (
        f"Order of policies: Kendall's tau {interval_text(ranking['tau'], '{:.2f}')}; "
        f"{ranking['significant']} of {len(ranking['pairs'])} pairs differ by more than chance in reality, "
        f"and simulation has the sign of {ranking['agreeing']} of these."
    )


def _errors(requests: list[dict[str, Any]]) -> go.Figure:
    figure = make_subplots(
        1, 3, shared_yaxes=True, subplot_titles=[f"mean {q}" for q in _QUANTITIES], horizontal_spacing=0.03
    )
    for column, quantity in enumerate(_QUANTITIES, 1):
        rows = [r for r in requests if (r["quantity"], r["statistic"]) == (quantity, "mean")]
        look = {"y": [r["policy"] for r in rows], "showlegend": column == 1}
        figure.add_bar(
            **look,
            x=[r["error"] for r in rows],
            orientation="h",
            name="simulated / real - 1",
            legendgroup="error",
            marker={"color": COLOURS[0]},
            row=1,
            col=column,
        )
        noisy = [r for r in rows if r["noise"] is not None]
        if noisy:
            for sign in (1, -1):
                figure.add_scatter(
                    x=[sign * r["noise"] for r in noisy],
                    y=[r["policy"] for r in noisy],
                    mode="markers",
                    name="reality against itself",
                    legendgroup="noise",
                    showlegend=column == 1 and sign == 1,
                    marker={"color": COLOURS[1], "symbol": "diamond", "size": 9},
                    row=1,
                    col=column,
                )
    figure.update_xaxes(tickformat="+.0%")
    figure.update_yaxes(autorange="reversed", automargin=True)
    height = 190 + 26 * len({r["policy"] for r in requests})
    return figure.update_layout(template="plotly_white", height=height, margin={"t": 60})


def _pairs(pairs: list[dict[str, Any]]) -> go.Figure:
    """Changes of one policy against another, with intervals, in both modes."""
    figure = go.Figure()
    names = [f"{pair['policy']} against {pair['against']}" for pair in pairs]
    for mode, colour, shift in (("simulated", COLOURS[0], -0.12), ("real", COLOURS[1], 0.12)):
        found = [pair[mode] for pair in pairs]
        figure.add_scatter(
            x=[f["value"] for f in found],
            y=[i + shift for i in range(len(pairs))],
            mode="markers",
            name=mode,
            marker={"color": colour, "size": 8},
            error_x=error_bars((f["value"], f["low"], f["high"]) for f in found),
            text=[f"{n}: {interval_text(f, '{:+.1%}')}" for n, f in zip(names, found, strict=True)],
            hovertemplate="%{text}<extra></extra>",
        )
    figure.add_vline(x=0, line={"color": "#888", "width": 1})
    figure.update_xaxes(title_text="relative change of the mean response", tickformat="+.0%")
    figure.update_yaxes(
        tickvals=list(range(len(names))), ticktext=names, autorange="reversed", automargin=True
    )
    height = 170 + 30 * len(pairs)
    return figure.update_layout(template="plotly_white", height=height, title="Pairs of policies")
