"""The machine while real runs went on: what the sentinel and other programs did over time, and run by run."""

from __future__ import annotations

from typing import Any

import plotly.graph_objects as go
from plotly.subplots import make_subplots

from shunter.eval.fidelity.machine_words import operations_pace
from shunter.report.page import PALETTE, ReportTable, Section

_Plain = dict[str, Any]


def machine_section(result: _Plain) -> Section | None:
    """The course of the machine; None if nobody watched it."""
    machine = result.get("machine")
    if machine is None or not machine["runs"]:
        return None
    share = machine["sentinel_share"]
    notes = [
        "Above, how many times as long as predicted the sentinel took: the same small piece of work on the "
        "empty engines, before, between and after runs; 1 is the machine as it was profiled, as far as the "
        "prediction of this piece is right. Below, CPU cores that other programs used. Bands are runs, a "
        "colour for each policy.",
        "Corrected: the same requests simulated once more with all durations times what the sentinel saw "
        "around each run. What is left then is the simulator's own error.",
    ]
    if share is not None:
        notes.append(f"Measuring took {share:.1%} of the engines' time.")
    own = operations_pace(result)
    if own is not None and machine["slowdown"] is not None:
        notes.append(
            f"All operations of the runs took {own:.2f} times as long as predicted, the sentinel around them "
            f"{machine['slowdown']:.2f}: what lies between is what the predictions are wrong by, or what the "
            "machine did while the sentinel was not looking."
        )
    tables = (_errors(result), _runs(machine))
    return Section("The machine", tuple(notes), (_course(machine),), tuple(t for t in tables if t.rows))


def _course(machine: _Plain) -> go.Figure:
    figure = make_subplots(2, 1, shared_xaxes=True, vertical_spacing=0.08)
    names = list(dict.fromkeys(reading["device"] for reading in machine["sentinel"]))
    for number, name in enumerate(names):
        mine = [reading for reading in machine["sentinel"] if reading["device"] == name]
        figure.add_scatter(
            x=[reading["at_s"] for reading in mine],
            y=[reading["slowdown"] for reading in mine],
            name=f"sentinel on {name}",
            mode="lines+markers",
            line={"color": PALETTE[number % len(PALETTE)]},
            row=1,
            col=1,
        )
    figure.add_scatter(
        x=[look["at_s"] for look in machine["looks"]],
        y=[look["others_cores"] for look in machine["looks"]],
        name="other programs",
        mode="lines",
        line={"color": "#666", "width": 1},
        row=2,
        col=1,
    )
    policies = list(dict.fromkeys(run["policy"] for run in machine["runs"]))
    for run in machine["runs"]:
        figure.add_vrect(
            x0=run["start_s"],
            x1=run["end_s"],
            fillcolor=PALETTE[policies.index(run["policy"]) % len(PALETTE)],
            opacity=0.15,
            line={"color": "white", "width": 2},
            layer="below",
        )
    for number, policy in enumerate(policies):
        look = {"color": PALETTE[number % len(PALETTE)], "symbol": "square", "size": 12, "opacity": 0.3}
        figure.add_scatter(x=[None], y=[None], mode="markers", marker=look, name=f"runs of {policy}")
    figure.add_hline(y=1, line={"color": "#888", "dash": "dash", "width": 1}, row=1, col=1)
    figure.update_yaxes(title_text="times as long", rangemode="tozero", row=1, col=1)
    figure.update_yaxes(title_text=f"of {machine['cores']} cores", rangemode="tozero", row=2, col=1)
    figure.update_xaxes(title_text="seconds since watching began", row=2, col=1)
    return figure.update_layout(template="plotly_white", height=480, margin={"t": 40})


def _errors(result: _Plain) -> ReportTable:
    rows = []
    for name, policy in result["policies"].items():
        plain, corrected = (
            (policy.get(kind) or {}).get("response_mean_s")
            for kind in ("simulation_error", "corrected_error")
        )
        if plain is not None:
            rows.append((name, f"{plain:+.1%}", "-" if corrected is None else f"{corrected:+.1%}"))
    columns = ("policy", "uncorrected", "corrected for the machine")
    note = "simulated / real - 1 of the mean response."
    return ReportTable("Error of simulation, with and without the machine's part", columns, tuple(rows), note)


def _runs(machine: _Plain) -> ReportTable:
    names = "run policy seed start took slower others stolen queued clock throttled"
    rows = tuple(
        (
            str(number),
            run["policy"],
            f"{run['seed']}/{run['repeat']}" if run["repeat"] else str(run["seed"]),
            f"{run['start_s']:.0f} s",
            f"{run['end_s'] - run['start_s']:.1f} s",
            _text(run["slowdown"], "{:.2f} ×"),
            _text(run["others_cores"], "{:.2f}"),
            _text(run["stolen_cores"], "{:.2f}"),
            _text(run["queued_share"], "{:.0%}"),
            _text(run["clock_mhz"], "{:.0f} MHz"),
            _text(run["throttled"], "{:.0f}"),
        )
        for number, run in enumerate(machine["runs"], 1)
    )
    note = (
        "In the order in which they ran. Others, stolen: CPU cores that other programs, and other machines "
        "on the same host, used; queued: share of the time in which some task waited for a CPU; throttled: "
        "times that cores were slowed down for heat. What the machine does not say is -."
    )
    return ReportTable("Runs in order", tuple(names.split()), rows, note)


def _text(value: float | None, form: str) -> str:
    return "-" if value is None else form.format(value)
