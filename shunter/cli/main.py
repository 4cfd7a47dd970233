"""``shunter``: the commands, and what happens to errors."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable
from typing import Any

import typer
from rich.console import Console
from typer.core import TyperGroup

from shunter import __version__
from shunter.errors import ShunterError, UnknownNameError
from shunter.profiling.engines.base import EngineError

__all__ = ["app", "main"]

COMMANDS = {
    "checkpoint": "Write a model of a known shape with random weights.",
    "profile": "Measure loads, prefills, decodes and preemptions of models on an engine.",
    "fit": "Fit a performance model to a dataset.",
    "predict": "Predict times and memory of cells that were never measured.",
    "train": "Train a policy in simulation.",
    "eval": "Compare policies in simulation and, with --real, on the real engine.",
    "demo": "Run all of it, small, on this machine.",
}
"""Each is a function of that name in ``shunter.cli.<name>``, imported when it is asked for."""

FUNCTIONS = {"eval": "eval_"}


class _LazyGroup(TyperGroup):
    """Imports a command's module only when it is run: ``shunter --help`` stays quick."""

    listing = False

    def list_commands(self, ctx: Any) -> list[str]:
        return list(COMMANDS)

    def format_commands(self, ctx: Any, formatter: Any) -> None:
        self.listing = True
        super().format_commands(ctx, formatter)

    def get_command(self, ctx: Any, name: str) -> Any:
        if name not in COMMANDS:
            raise UnknownNameError("command", name, COMMANDS)
        single = typer.Typer(add_completion=False, rich_markup_mode=None)
        if self.listing:
            single.command(name, help=COMMANDS[name])(lambda: None)
        else:
            single.command(name)(_function(name))
        return typer.main.get_command(single)


def _function(name: str) -> Callable[..., None]:
    function = FUNCTIONS.get(name, name)
    loaded: Callable[..., None] = getattr(importlib.import_module(f"shunter.cli.{function}"), function)
    return loaded


app = typer.Typer(cls=_LazyGroup, no_args_is_help=True, add_completion=False, rich_markup_mode=None)


def _version(asked: bool) -> None:
    if asked:
        print(f"shunter {__version__}")
        raise typer.Exit


@app.callback()
def shunter(
    version: bool = typer.Option(
        False, "--version", help="Print the version and end.", is_eager=True, callback=_version
    ),
) -> None:
    """Learned scheduling of several LLMs on shared, unequal GPUs."""


def main(arguments: list[str] | None = None) -> Any:
    """Runs the command line; errors of ours are one line on stderr and their exit code."""
    console = Console(stderr=True)
    try:
        app(arguments, prog_name="shunter", standalone_mode=True)
    except (ShunterError, EngineError) as error:
        console.print(f"shunter: {error}", highlight=False, markup=False, soft_wrap=True, style="red")
        sys.exit(error.exit_code)
    except KeyboardInterrupt:
        console.print("shunter: interrupted")
        sys.exit(130)


if __name__ == "__main__":
    main()
