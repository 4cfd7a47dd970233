"""``shunter export``: what was measured, as configuration of servers that people already run."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from shunter.cli.options import Performance, Verbose, check_new, open_console, say_answer
from shunter.envs.scenario.library import performance_of
from shunter.envs.scenario.limits import ASLEEP_BYTES
from shunter.envs.scenario.scenario import Scenario, load_scenario
from shunter.envs.world.world import load_performance
from shunter.errors import InputError, one_line
from shunter.export.llama_swap import MAX_QUEUE, PROCESS_BYTES, llama_swap_yaml
from shunter.export.placement import Home, checkpoint_path, homes_of
from shunter.export.sleep_plan import sleep_plan
from shunter.files import write_text, write_texts

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
    replicas: Annotated[
        int, typer.Option(help="Devices for each model whose replicas_max does not say.", min=1)
    ] = 1,
    max_queue: Annotated[
        int, typer.Option(help="Requests that may wait for one model; further ones get 429.", min=0)
    ] = MAX_QUEUE,
    process_mb: Annotated[
        int, typer.Option(help="GPU memory that each llama-server takes besides its model.", min=0)
    ] = PROCESS_BYTES // 10**6,
    overwrite: Overwrite = False,
    verbose: Verbose = False,
) -> None:
    """Write llama-swap's configuration: which models fit together, and what evicting each costs.

    Its matrix solver then keeps the models that are dearest to load again. Costs and sizes are those of the
    performance model; each model runs on one device (with --replicas on several, the next when the first is
    full), at its fastest level that fits there.

    Examples:

    shunter export llama-swap --scenario s.yaml --performance perf

    shunter export llama-swap --scenario laptop --models-dir ~/models --out config.yaml

    llama-swap --config llama-swap.yaml --listen 127.0.0.1:8080
    """
    check_new("--out", out, overwrite=overwrite)
    loaded = load_scenario(scenario)
    predicts = load_performance(loaded, performance_of(scenario, performance))
    homes = homes_of(loaded, predicts, process_bytes=process_mb * 1e6, replicas=replicas)
    text = llama_swap_yaml(loaded, homes, models_dir=models_dir, by_demand=by_demand, max_queue=max_queue)
    write_text(out, text)
    paths = [checkpoint_path(model, models_dir, ".gguf") for model in loaded.models]
    lines = [f"{_placed(loaded, home)}, {home.load.seconds:.3g} s to load" for home in homes]
    answer = f"{out}: {_count(loaded)}; llama-swap --config {out} serves them"
    say_answer(open_console(), [answer, *_notes(loaded, paths), *lines], verbose=verbose)


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
    port: Annotated[
        int, typer.Option(help="Of the first server; the others follow.", min=1, max=65535)
    ] = 8001,
    asleep_mb: Annotated[
        int, typer.Option(help="GPU memory that each server keeps while it sleeps.", min=0)
    ] = round(ASLEEP_BYTES / 1e6),
    overwrite: Overwrite = False,
    verbose: Verbose = False,
) -> None:
    """Write a plan of vLLM's sleep mode, and the script that carries it out.

    One server for each model; those that sleep leave the device to the others, but for what they keep there
    (--asleep-mb). Says at which level each sleeps, and what waking it is predicted to cost. Where sleep was
    never measured the plan says so.

    Examples:

    shunter export vllm --scenario s.yaml --performance perf

    bash vllm-sleep.sh start && bash vllm-sleep.sh wake small

    bash vllm-sleep.sh stop
    """
    script = out.with_suffix(".sh")
    if script == out:
        raise InputError("--out", "not end in .sh: the script beside the plan does", str(out))
    check_new("--out", out, overwrite=overwrite)
    check_new("--out, its script,", script, overwrite=overwrite)
    loaded = load_scenario(scenario)
    model = load_performance(loaded, performance_of(scenario, performance))
    planned = sleep_plan(
        loaded,
        homes_of(loaded, model),
        model,
        models_dir=models_dir,
        first_port=port,
        asleep_bytes=asleep_mb * 1e6,
    )
    write_texts({script: planned.script, out: planned.to_yaml()})
    paths = [checkpoint_path(each, models_dir) for each in loaded.models]
    lines = [
        f"{one_line(one['name'])}: sleeps at level {one['sleep_level']} on {one_line(one['device'])};"
        f" {one['note']}"
        for one in planned.plan["models"]
    ]
    answer = f"{out} and {script}: {_count(loaded)}; bash {script} start starts them"
    say_answer(open_console(), [answer, *_notes(loaded, paths), *lines], verbose=verbose)


def _count(scenario: Scenario) -> str:
    models, devices = len(scenario.models), len(scenario.devices)
    return f"{models} model{'s' * (models > 1)} on {devices} device{'s' * (devices > 1)}"


def _placed(scenario: Scenario, home: Home) -> str:

    device = one_line(scenario.devices[home.device].name)
    return f"{one_line(home.model)}: {home.gpu_layers}/{home.total_layers} layers on {device}"


def _notes(scenario: Scenario, paths: Sequence[Path]) -> list[str]:
    """What was taken for granted."""
    notes = []
    unnamed = [device.name for device in scenario.devices if device.device is None]
    if len(scenario.devices) > 1 and unnamed:
        which = ", ".join(map(one_line, unnamed[:3])) + ", …" * (len(unnamed) > 3)
        notes.append(f"note: {which} name no device: taken for the GPUs in the order of nvidia-smi")
    missing = [path for path in paths if not path.exists()]
    if missing:
        more = f", nor are {len(missing) - 1} more" if len(missing) > 1 else ""
        notes.append(f"note: {one_line(str(missing[0]))} is not on this machine{more}")
    return notes
