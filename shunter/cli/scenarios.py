"""``shunter scenarios``: the library of scenarios, and what any scenario asks of its devices."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import pandas as pd
import typer

from shunter.agents.registry import HEURISTICS, make_policy
from shunter.cli.options import Json, Performance, Verbose, open_console, progress, say, seed_list
from shunter.envs.scenario.library import find_scenario, performance_of, scenario_names, write_capacity
from shunter.envs.scenario.scenario import Scenario, load_scenario
from shunter.envs.scenario.workload import TracePart, Workload
from shunter.envs.world.residency import residency
from shunter.envs.world.world import World, load_note, load_performance, make_world, sleep_note
from shunter.eval.metrics.capacity import GROWTH, SEEDS, Capacity, capacity, utilisation
from shunter.files import finite, write_json
from shunter.outputs import hold
from shunter.report.page import ReportTable

CONTENDERS = (
    *(name for name, kind in HEURISTICS.items() if not kind.oracle and name != "random"),
    "cost-greedy:copy_share=0.1",
)
"""Whose best is a scenario's capacity: every heuristic as it comes, and one that avoids second copies."""

ScenarioArgument = Annotated[
    Path, typer.Argument(help="Name in the library, or a file (YAML).", show_default=False)
]


def scenarios_list(verbose: Verbose = False, json_path: Json = None) -> None:
    """List the scenarios that shunter ships, a line each; --verbose says what they are for.

    Those of the split "test" hold models, GPUs and lengths that no other has: they are for judging policies
    that were tuned and trained on the others.

    Examples:

    shunter scenarios list
    """
    console = open_console()
    listed = [_listed(load_scenario(name)) for name in scenario_names()]
    columns = ("scenario", "split", "devices", "models", "workload")
    rows = [(s["name"], s["split"], ", ".join(s["devices"]), str(s["models"]), s["workload"]) for s in listed]
    if verbose:
        described = tuple((*row, s["description"]) for row, s in zip(rows, listed, strict=True))
        console.print(ReportTable("Scenarios", (*columns, "what for"), described).to_rich())
    else:
        for line in _aligned([columns, *rows]):
            say(console, line)
    if json_path is not None:
        write_json(json_path, finite(listed))


def scenarios_show(
    scenario: ScenarioArgument, performance: Performance = None, json_path: Json = None
) -> None:
    """Print a scenario, what of each model fits each device, how fast it loads and decodes, and the guard.

    Figures are predictions with their 90 % intervals; a * marks what was predicted beyond the data that the
    performance model was fitted to.

    Examples:

    shunter scenarios show paper-a6000

    shunter scenarios show my.yaml --performance perf
    """
    console = open_console()
    loaded = load_scenario(scenario)
    model = load_performance(loaded, performance_of(scenario, performance))
    table, world = residency(loaded, model), make_world(loaded, model)
    say(console, find_scenario(scenario).read_text(encoding="utf-8"))
    console.print(_residency_table(table).to_rich())
    say(console, _guard_line(world))
    if note := sleep_note(world):
        say(console, f"{_sleep_line(world)}; {note}")
    shown = {"scenario": loaded.model_dump(mode="json"), "residency": table.to_dict(orient="records")}
    guard = {"guard_s": world.guard_s, "guard_feasible": world.guard_feasible}
    if json_path is not None:
        write_json(json_path, finite({**shown, **guard}))


def scenarios_check(
    scenario: ScenarioArgument,
    performance: Performance = None,
    seeds: Annotated[
        str | None,
        typer.Option(help="Request sequences to measure on: a range or a list.", show_default=False),
    ] = None,
    write: Annotated[
        bool, typer.Option("--write", help="Write the capacity into the file, behind its load.")
    ] = False,
    verbose: Verbose = False,
    json_path: Json = None,
) -> None:
    """Check a scenario, and measure the largest arrival rate that the best heuristic sustains.

    Examples:

    shunter scenarios check paper-a6000

    shunter scenarios check my.yaml --performance perf --write
    """
    console = open_console()
    if write:
        hold("--write", find_scenario(scenario), make=False)
    world = make_world(scenario, performance_of(scenario, performance))
    workload = world.scenario.workload
    result: dict[str, Any] = {"scenario": world.scenario.name, "rate_per_s": world.rate_per_s}
    result["utilisation"] = utilisation(world, world.rate_per_s).tolist()
    if workload.closed_loop is not None:
        say(console, "closed loop: its users slow themselves down, so that it has no capacity")
    else:
        chosen = SEEDS if seeds is None else seed_list(seeds)
        with progress(console) as report:
            found = capacity(world, [make_policy(name) for name in CONTENDERS], chosen, on_progress=report)
        result["capacity"] = vars(found)
        for line in _capacity_lines(world, found):
            say(console, line)
        if write:
            say(console, f"written to {write_capacity(find_scenario(scenario), found.rate_per_s)}")
    if verbose:
        console.print(_utilisation_table(world).to_rich())
    if json_path is not None:
        write_json(json_path, finite(result))


def _capacity_lines(world: World, found: Capacity) -> list[str]:
    rate, stated = world.rate_per_s, world.scenario.workload.capacity_rate_per_s
    share = rate / found.rate_per_s
    lines = [
        f"capacity: {found.rate_per_s:.4g} requests/s (95 % {found.low:.4g} to {found.high:.4g}), by "
        f"{found.policy}: beyond it more than {GROWTH:.0%} of what arrives piles up",
        f"this scenario's rate: {rate:.4g} requests/s, {share:.0%} of capacity",
    ]
    lines += [note for note in (load_note(world), sleep_note(world)) if note is not None]
    if share > 1:
        lines.append("its load exceeds capacity: requests pile up for as long as they arrive")
    if stated is not None:
        within = found.low <= stated <= found.high
        lines.append(f"stated in the file: {stated:.4g}, {'within' if within else 'outside'} the interval")
    return lines


def _sleep_line(world: World) -> str:
    """What waking takes, over all models and devices that they fit, beside loads from nothing."""
    tables, ok = world.tables, world.tables.level_ok
    times = (tables.wake_s, tables.load_s, tables.fall_asleep_s)
    wakes, loads, falls = (f"{values[ok].min():.2f} to {values[ok].max():.2f} s" for values in times)
    kept = f"keeps up to {tables.asleep_bytes[ok].max() / 1e9:.2f} GB of its device"
    return f"a sleeper wakes in {wakes} where a load takes {loads}, falls asleep in {falls}, {kept}"


def _guard_line(world: World) -> str:
    if math.isinf(world.guard_s):
        return "guard: off, nothing bounds how long a policy lets requests wait"
    line = f"guard: whoever has waited {world.guard_s:.4g} s goes first"
    if world.guard_feasible:
        return f"{line}; at this rate every model has its turn in {world.rotation.rotation_s:.4g} s"
    return f"{line}; at this rate this cannot be kept for all, waits may become longer"


def _aligned(rows: Sequence[tuple[str, ...]]) -> list[str]:
    """A line for each row, columns below each other."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = ("  ".join(f"{text:{w}}" for text, w in zip(row, widths, strict=True)) for row in rows)
    return [line.rstrip() for line in lines]


def _listed(scenario: Scenario) -> dict[str, Any]:
    return {
        "name": scenario.name,
        "split": scenario.split,
        "devices": _counted([device.text for device in scenario.devices]),
        "models": len(scenario.models),
        "workload": _workload_text(scenario.workload),
        "description": scenario.description,
    }


def _counted(names: list[str]) -> list[str]:
    return [f"{names.count(n)} x {n}" if names.count(n) > 1 else n for n in dict.fromkeys(names)]


def _workload_text(workload: Workload) -> str:
    arrivals = workload.arrivals
    kind = (
        ("replay" if workload.replay else "")
        or ("bursts" if arrivals.bursts else "")
        or ("diurnal" if arrivals.diurnal else "")
        or ("steps" if arrivals.steps else "")
        or ("sessions" if workload.sessions else "")
        or arrivals.gaps
    )
    drift = ", drift" if workload.popularity_drift_s else ""
    lengths = workload.replay or workload.lengths
    file = lengths.file if isinstance(lengths, TracePart) else Path(lengths)
    return f"{kind}{drift}; {file.name}"


def _residency_table(table: pd.DataFrame) -> ReportTable:
    rows = []
    for row in table.to_dict(orient="records"):
        load = f"{row['load_s']:.1f} ({row['load_s_low']:.1f} to {row['load_s_high']:.1f})"
        speed = f"{row['tokens_per_s']:.1f} ({row['tokens_per_s_low']:.1f} to {row['tokens_per_s_high']:.1f})"
        rows.append(
            (
                f"{row['device']} ({row['gpu']})",
                row["model"],
                f"{row['gpu_layers']}/{row['total_layers']}",
                "yes" if row["fits"] else "no",
                f"{row['device_gb']:.1f}",
                load + "*" * row["load_out_of_range"],
                speed + "*" * row["decode_out_of_range"],
            )
        )
    columns = ("device", "model", "layers", "fits", "GB", "load s", "tokens/s")
    note = "GB with the KV of a full batch; * beyond the data of the performance model."
    return ReportTable("What fits where", columns, tuple(rows), note)


def _utilisation_table(world: World) -> ReportTable:
    shares = utilisation(world, world.rate_per_s)
    rows = tuple(
        (f"{device.name} ({device.text})", *("-" if math.isnan(u) else f"{u:.0%}" for u in row))
        for device, row in zip(world.scenario.devices, shares, strict=True)
    )
    columns = ("device", *(f"level {k + 1}" for k in range(shares.shape[1])))
    note = "At the scenario's rate, spread evenly, one request at a time: batching lowers it, swaps raise it."
    return ReportTable("Estimated utilisation, by the level of all models", columns, rows, note)
