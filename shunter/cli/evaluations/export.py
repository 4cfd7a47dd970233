"""``shunter export``: what was measured, as configuration of servers that people already run."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from shunter.cli.options import Performance, check_new, open_console, say
from shunter.envs.scenario.library import performance_of
from shunter.envs.scenario.scenario import load_scenario
from shunter.envs.world.world import load_performance
from shunter.errors import InputError
from shunter.files import write_text

ScenarioOption = Annotated[
    Path, typer.Option(help="Scenario file (YAML), or a name of the library.", show_default=False)
]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace what is there.")]


def export_llama_swap(
    scenario: ScenarioOption,
    performance: Performance = None,
    out: Annotated[Path, typer.Option(help="llama-swap's configuration to write.")] = Path("llama-swap.yaml"),
    models_dir: Annotated[
        Path | None,
        typer.Option(
            help="Folder with NAME.gguf of each model that names no checkpoint.", show_default=False
        ),
    ] = None,
    by_demand: Annotated[
        bool, typer.Option("--by-demand", help="Weigh what evicting costs by each model's share of requests.")
    ] = False,
    overwrite: Overwrite = False,
) -> None:
    """Write llama-swap's configuration: which models fit together, and what evicting each costs.

    Its matrix solver then keeps the models that are dearest to load again. Costs and sizes are those of the
    performance model; each model runs on one device, at its fastest level that fits there.

    Examples:

    shunter export llama-swap --scenario s.yaml --performance perf

    shunter export llama-swap --scenario laptop --models-dir ~/models --out config.yaml

    llama-swap --config llama-swap.yaml --listen :8080
    """
    from shunter.export.llama_swap import llama_swap_yaml
    from shunter.export.placement import checkpoint_path, homes_of

    check_new("--out", out, overwrite=overwrite)
    loaded = load_scenario(scenario)
    homes = homes_of(loaded, load_performance(loaded, performance_of(scenario, performance)))
    text = llama_swap_yaml(loaded, homes, models_dir=models_dir, by_demand=by_demand)
    write_text(out, text)
    console = open_console()
    for m, home in enumerate(homes):
        device = loaded.devices[home.device].name
        layers = f"{home.gpu_layers}/{home.total_layers} layers"
        say(console, f"{home.model}: {layers} on {device}, {home.load.seconds:.3g} s to load")
        if not (path := checkpoint_path(loaded, m, models_dir, ".gguf")).exists():
            say(console, f"note: {path} is not on this machine")
    say(console, f"{out}: {len(homes)} models")


def export_vllm(
    scenario: ScenarioOption,
    performance: Performance = None,
    out: Annotated[Path, typer.Option(help="Plan to write (YAML); the script beside it ends in .sh.")] = Path(
        "vllm-sleep.yaml"
    ),
    models_dir: Annotated[
        Path | None,
        typer.Option(
            help="Folder with a Hugging Face folder NAME of each model that names no checkpoint.",
            show_default=False,
        ),
    ] = None,
    port: Annotated[int, typer.Option(help="Of the first server; the others follow.", min=1)] = 8001,
    overwrite: Overwrite = False,
) -> None:
    """Write a plan of vLLM's sleep mode, and the script that carries it out.

    One server for each model; those that sleep leave the device to the others. Says at which level each
    sleeps, and what waking it is predicted to cost. Where sleep was never measured the plan says so.

    Examples:

    shunter export vllm --scenario s.yaml --performance perf

    bash vllm-sleep.sh start && bash vllm-sleep.sh wake small
    """
    from shunter.export.placement import homes_of
    from shunter.export.sleep_plan import sleep_plan

    script = out.with_suffix(".sh")
    if script == out:
        raise InputError("--out", "not end in .sh: the script beside the plan does", str(out))
    check_new("--out", out, overwrite=overwrite)
    check_new("--out, its script,", script, overwrite=overwrite)
    loaded = load_scenario(scenario)
    model = load_performance(loaded, performance_of(scenario, performance))
    planned = sleep_plan(loaded, homes_of(loaded, model), model, models_dir=models_dir, first_port=port)
    write_text(out, planned.to_yaml())
    write_text(script, planned.script)
    console = open_console()
    for one in planned.plan["models"]:
        say(console, f"{one['name']}: sleeps at level {one['sleep_level']} on {one['device']}; {one['note']}")
    say(console, f"{out} and {script}: {len(planned.plan['models'])} models")
