"""``shunter improve``: the next policy from what a gateway recorded."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, cast

import typer

from shunter.cli.evaluations.replay import ServedPerformance, ServedScenario, record_notes
from shunter.cli.options import Verbose, check_new, open_console, progress, say_answer
from shunter.cli.policies.train import settings_given
from shunter.envs.scenario.scenario import load_scenario
from shunter.envs.world.served import served_world
from shunter.errors import InputError
from shunter.eval.traffic.record import read_record
from shunter.eval.traffic.replay import ran_policy
from shunter.train.settings import EvolutionSettings

_Record = Annotated[
    Path,
    typer.Argument(
        help="Folder of shunter serve --record, or a Parquet trace made of one.", show_default=False
    ),
]
_Against = Annotated[
    str | None,
    typer.Option(
        help="Policy to be better than: name or policy file.", show_default="the one that ran, by the record"
    ),
]


def improve(
    record: _Record,
    scenario: ServedScenario,
    performance: ServedPerformance = None,
    against: _Against = None,
    minutes: Annotated[
        float | None, typer.Option(help="About how long to search, see train.", show_default="3")
    ] = None,
    generations: Annotated[
        int | None, typer.Option(help="How many, whatever their time.", show_default="by --minutes")
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="Of the training.")] = 0,
    name: Annotated[
        str | None, typer.Option(help="To register under. Default: shunter-SCENARIO.", show_default=False)
    ] = None,
    out: Annotated[Path, typer.Option(help="Policy file to write.")] = Path("policy.safetensors"),
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace the policy file.")] = False,
    verbose: Verbose = False,
) -> None:
    """Train the next policy on what a gateway recorded; it becomes champion only if it is shown to be better.

    Training plays random stretches of the record's earlier part. Its last days, or its last third where it is
    of one day, are held back: on windows of them the new policy must be better than the one that ran, for
    certain, and then than the best heuristic and the champion before it, to become champion. A gateway
    that serves with --policy models:/NAME@champion takes it up by itself. Where an earlier call was cut off
    after its policy file, it is replaced.

    Examples:

    shunter improve record --scenario box.yaml

    shunter improve record --scenario box.yaml --performance perf --minutes 10 --name box
    """
    from shunter.sinks import registry_name, registry_name_of
    from shunter.train.improve import improve as make_better
    from shunter.train.improve import marker_of

    check_new("--out", out, overwrite=overwrite or marker_of(out).exists())
    if name is not None:
        registry_name("--name", name)
    if out.suffix != ".safetensors":
        raise InputError("--out", "end in .safetensors", str(out))
    console, found, served = open_console(), read_record(record), load_scenario(scenario, served=True)
    settings = cast(
        "EvolutionSettings",
        settings_given(EvolutionSettings(), minutes=minutes, generations=generations, seed=seed),
    )
    ran = ran_policy(found, against, option="--against")
    world = served_world(served, performance)
    with progress(console) as bar:
        done = make_better(
            found,
            world,
            ran,
            out,
            name=name or registry_name_of(served.name),
            settings=settings,
            on_progress=bar,
        )
    say_answer(console, [*done.words, *record_notes(found, served, performance)], verbose=verbose)
