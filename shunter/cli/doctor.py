"""``shunter doctor``: what works here, and what to install next."""

from __future__ import annotations

import shutil
from dataclasses import asdict
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from shunter.cli.options import Json, open_console, progress, say
from shunter.errors import InputError
from shunter.files import write_json
from shunter.profiling.health import EngineCheck, Machine, check_engines, look_at_machine, next_steps
from shunter.serve.servers.llama_binary import find_binary


def doctor(
    python: Annotated[
        str | None,
        typer.Option(
            help="Interpreter whose engines to try; by default this one, for vllm .venv-vllm if it is here.",
            show_default=False,
        ),
    ] = None,
    timeout: Annotated[
        float, typer.Option(min=0.1, help="Seconds that an engine may take to start.")
    ] = 120.0,
    json_path: Json = None,
) -> None:
    """Say which engines and devices work on this machine, and what to install next.

    Each engine is started in a process of its own. What is missing is no error: the exit code is 0.

    Examples:

    shunter doctor

    shunter doctor --python ~/vllm-env/bin/python --json doctor.json
    """
    if python is not None and shutil.which(python) is None:
        raise InputError("--python", "be an interpreter that can be started", python)
    console = open_console()
    machine = look_at_machine()
    _show_machine(console, machine)
    with progress(console) as report:
        checks = check_engines(machine, python=python, timeout_s=timeout, progress=report)
    console.print(_engine_table(checks))
    for check in checks:
        if not check.works:
            say(console, f"{check.engine} on {check.device}: {check.detail}")
    steps = next_steps(machine, checks, python=python)
    try:
        say(console, f"shunter serve: starts {find_binary()} for GGUF models")
    except InputError as error:
        steps.append(f"for shunter serve on GGUF models: {error}")
    say(console, "Next:" if steps else "Nothing is missing.")
    for step in steps:
        say(console, f"- {step}")
    if json_path is not None:
        findings = {"machine": asdict(machine), "engines": [asdict(check) for check in checks], "next": steps}
        write_json(json_path, findings)


def _show_machine(console: Console, machine: Machine) -> None:
    gpus = ", ".join(machine.gpus) or "none found (nvidia-smi lists none)"
    memory = f"{machine.free_memory_bytes / 1e9:.1f} of {machine.memory_bytes / 1e9:.1f} GB free"
    say(console, f"CPU: {machine.cpu}, {machine.cores} cores to use")
    say(console, f"NVIDIA GPUs: {gpus}")
    say(console, f"memory: {memory}; disk here: {machine.free_disk_bytes / 1e9:.1f} GB free")
    say(console, ", ".join(f"{name} {version}" for name, version in machine.versions.items()))


def _engine_table(checks: list[EngineCheck]) -> Table:
    table = Table(title="Engines", title_justify="left")
    for column in ("engine", "device", "works", "version"):
        table.add_column(column, no_wrap=True)
    table.add_column("can", overflow="fold")
    for check in checks:
        can = check.detail if check.works else ""
        if check.works and check.python is not None:
            can += f"; by --python {check.python}"
        table.add_row(check.engine, check.device, "yes" if check.works else "no", check.version, can)
    return table
