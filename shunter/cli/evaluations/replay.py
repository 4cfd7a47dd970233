"""``shunter replay``: simulation against what a gateway recorded."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from shunter.agents.registry import make_policy
from shunter.cli.options import Json, Verbose, open_console, say_answer
from shunter.envs.scenario.scenario import Scenario, load_scenario
from shunter.envs.world.served import is_assumed, served_world
from shunter.eval.traffic.record import Record, read_record
from shunter.eval.traffic.replay import check_answers, ran_policy, replay_record
from shunter.files import finite, write_json
from shunter.outputs import hold
from shunter.report.replay import replay_tables, replay_words, write_replay

_Record = Annotated[Path, typer.Argument(help="Folder of shunter serve --record.", show_default=False)]
ServedScenario = Annotated[
    Path, typer.Option(help="Scenario file (YAML) that was served.", show_default=False)
]
ServedPerformance = Annotated[
    Path | None,
    typer.Option(
        help="Fitted performance model. Default, as for serve: published figures where all devices are GPUs "
        "of the catalogue, else assumed from sizes.",
        show_default=False,
    ),
]
_Ran = Annotated[
    str | None,
    typer.Option(
        help="Policy that ran, where the record's name for it is none that can be found: a file, say.",
        show_default="the one in the record",
    ),
]
_Policies = Annotated[
    list[str] | None,
    typer.Option(help="What else might have decided: name or policy file; repeatable.", show_default=False),
]


def replay(
    record: _Record,
    scenario: ServedScenario,
    performance: ServedPerformance = None,
    ran: _Ran = None,
    policy: _Policies = None,
    out: Annotated[Path | None, typer.Option(help="Page to write.", show_default=False)] = None,
    json_path: Json = None,
    verbose: Verbose = False,
) -> None:
    """Set simulation against what a gateway's clients saw, and show what other policies would have done.

    The recorded requests, with the lengths that they had, are served anew in the simulator by the policy that
    ran; loads take what they took. Intervals are over blocks of time. The others are compared with the
    simulation of the one that ran, not with reality.

    Examples:

    shunter replay record --scenario box.yaml

    shunter replay record --scenario box.yaml --performance perf --policy lru-keepalive --out replay.html
    """
    hold("--out", out, make=False)
    console = open_console()
    found, served = read_record(record), load_scenario(scenario, served=True)
    check_answers(found)
    world = served_world(served, performance)
    replayed = replay_record(
        found, world, ran_policy(found, ran), [make_policy(text) for text in policy or ()]
    )
    places = []
    if json_path is not None:
        places.append(f"{write_json(json_path, finite(replayed.to_dict()))}: all figures")
    if out is not None:
        places.append(f"{write_replay(replayed, out)}: the page")
    notes = record_notes(found, served, performance)
    say_answer(console, [*replay_words(replayed), *notes], places, verbose=verbose)
    for table in replay_tables(replayed) if verbose else ():
        console.print(table.to_rich())


def record_notes(record: Record, scenario: Scenario, performance: Path | None) -> list[str]:
    """What else to know of what rests on a record, a line each."""
    assumed = "prefills and decodes were never measured, but assumed from sizes: give --performance"
    notes = [*([assumed] if is_assumed(scenario, performance) else []), *record.notes]
    return [f"note: {note}" for note in notes]
