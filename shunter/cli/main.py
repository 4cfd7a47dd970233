"""``shunter``: the commands, and what happens to errors."""

from __future__ import annotations

import errno
import functools
import importlib
import math
import os
import signal
import sys
import threading
import typing
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NoReturn

import typer
from rich.console import Console
from typer.core import TyperGroup

from shunter import __version__
from shunter.engines.base import EngineError
from shunter.errors import InputError, ShunterError, ShunterWarning, UnknownNameError, brief
from shunter.files import no_room
from shunter.outputs import giving_back, note_given
from shunter.scratch import scratch

__all__ = ["main"]

INTERRUPTED, TERMINATED = 128 + signal.SIGINT, 128 + signal.SIGTERM
"""Exit codes of work that was cut short, by Ctrl-C and by SIGTERM."""

COMMANDS = {
    "checkpoint": "Write a model of a known shape with random weights.",
    "profile": "Measure loads, prefills, decodes and preemptions of models on an engine.",
    "profile preemption": "Measure what preempting a model costs, part by part, as the seed paper did.",
    "profile offload": "Draw tokens per second against the share of layers left on the host.",
    "dataset show": "Print rows of a dataset, or of the published reference measurements.",
    "dataset validate": "Check every row of a dataset and say what it holds.",
    "dataset merge": "Put datasets together, no row twice.",
    "dataset diff": "Compare two datasets configuration by configuration.",
    "dataset convert": "Turn Parquet into CSV and back.",
    "dataset import": "Read results of llama-bench, vLLM bench, AIPerf and GuideLLM into a dataset.",
    "fit": "Fit a performance model to a dataset.",
    "predict": "Predict times and memory of configurations that were never measured.",
    "models compare": "Compare two performance models: errors, predictions and parameters.",
    "workload show": "Say what a request trace holds.",
    "workload convert": "Write a request trace in another format.",
    "workload fit": "Calibrate a synthetic twin of a trace, and say how alike they are.",
    "scenarios list": "List the scenarios that shunter ships.",
    "scenarios show": "Print a scenario, and what of each model fits each device, how fast.",
    "scenarios check": "Check a scenario, and measure the largest arrival rate that it sustains.",
    "train": "Train a policy in simulation.",
    "tune": "Search the parameters of heuristics, or of a training.",
    "policy show": "Say what a policy was trained on, and how it did.",
    "policy average": "Make several policies one, whose scores are the mean of theirs.",
    "policy explain": "Show why a policy does as it does, and what that is worth.",
    "policy export": "Write a policy as an ONNX graph.",
    "policy register": "Register a policy in MLflow, where the better one is champion.",
    "eval": "Compare policies in simulation and, with --real, on the real engine.",
    "track push": "Send runs to MLflow that it could not take when they were made.",
    "compare": "Set evaluations beside each other, from report folders or MLflow.",
    "serve": "Serve several models behind one OpenAI-compatible address, scheduled by a policy.",
    "replay": "Set simulation against what a gateway recorded, and other policies beside it.",
    "improve": "Train the next policy on what a gateway recorded; champion only if it is better.",
    "calibrate": "Update a performance model from a real evaluation; show the gap before and after.",
    "timeline": "Draw what the devices of one run did, as a web page or for Perfetto.",
    "export llama-swap": "Write llama-swap's configuration: what fits together, what evicting costs.",
    "export vllm": "Write a plan of vLLM's sleep mode and the script that carries it out.",
    "demo": "Run all of it, small, on this machine.",
    "doctor": "Say which engines and devices work here, and what to install next.",
    "verify": "Say whether files are as shunter wrote them.",
}
"""Each is a function of that name, its words joined by _, in the module of that name (or ``MODULES``), in
``shunter.cli`` or its folder in ``FOLDERS``; imported when it is asked for."""

FUNCTIONS = {"eval": "eval_", "export llama-swap": "export_llama_swap"}
GROUPS = ("dataset", "export", "models", "policy", "scenarios", "track", "workload")
MODULES = {
    **{name: name.split()[0] for name in COMMANDS if " " in name and name.split()[0] in GROUPS},
    "dataset import": "dataset_import",
}
FOLDERS = {
    "profiles": (
        "checkpoint",
        "profile",
        "profile_offload",
        "profile_preemption",
        "dataset",
        "dataset_import",
    ),
    "performance": ("fit", "predict", "models", "calibrate"),
    "policies": ("train", "tune", "policy", "improve"),
    "evaluations": ("eval_", "compare", "replay", "timeline", "export"),
}


class _LazyGroup(TyperGroup):
    """Imports a command's module only when it is run: ``shunter --help`` stays quick."""

    listing = False

    def invoke(self, ctx: Any) -> Any:
        """Runs a command; one that Ctrl-C ends says so, which Typer's own way out does not."""
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt:
            Console(stderr=True).print("shunter: interrupted")
            raise typer.Exit(INTERRUPTED) from None

    def list_commands(self, ctx: Any) -> list[str]:
        return list(COMMANDS)

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        two_words = " ".join(args[:2])
        if two_words in COMMANDS:
            args = [two_words, *args[2:]]
        elif args[0] in GROUPS and args[1:] and not args[1].startswith("-"):
            raise UnknownNameError("command", two_words, _of_group(args[0]))
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: Any, formatter: Any) -> None:
        self.listing = True
        super().format_commands(ctx, formatter)

    def get_command(self, ctx: Any, name: str) -> Any:
        if name in GROUPS:
            return _group(name)
        if name not in COMMANDS:
            raise UnknownNameError("command", name, COMMANDS)
        single = typer.Typer(add_completion=False, rich_markup_mode=None)
        if self.listing:
            single.command(name, help=COMMANDS[name])(lambda: None)
        else:
            single.command(name)(_with_checked_options(_function(name)))
        return typer.main.get_command(single)


def _of_group(group: str) -> list[str]:
    return [name for name in COMMANDS if name.startswith(f"{group} ")]


def _group(group: str) -> Any:
    """What ``shunter GROUP --help`` shows: its commands; none is imported, as all of them are run by name."""
    names = _of_group(group)
    listed = typer.Typer(
        no_args_is_help=True,
        add_completion=False,
        rich_markup_mode=None,
        help=f"The commands of shunter {group}; each says more with --help.",
    )
    for name in names:
        listed.command(name.partition(" ")[2], help=COMMANDS[name])(lambda: None)
    listed.callback()(lambda: None)
    return typer.main.get_command(listed)


def _function(name: str) -> Callable[..., None]:
    function = FUNCTIONS.get(name, name.replace(" ", "_"))
    module = MODULES.get(name, function)
    folders = [folder for folder, modules in FOLDERS.items() if module in modules]
    path = ".".join(("shunter.cli", *folders, module))
    loaded: Callable[..., None] = getattr(importlib.import_module(path), function)
    return loaded


_NO_NAME = (errno.ENAMETOOLONG, errno.ELOOP, errno.EACCES, errno.EISDIR, errno.ENOTDIR)
"""What the system says of a path that is no file that one can open."""


def _with_checked_options(function: Callable[..., None]) -> Callable[..., None]:
    """A command that takes no option that is infinite or not a number, and no output that is an input too."""

    @functools.wraps(function)
    def checked(**options: Any) -> None:
        for name, value in options.items():
            values = value if isinstance(value, list | tuple) else [value]
            if any(isinstance(one, float) and not math.isfinite(one) for one in values):
                raise InputError(_option(function, name), "be a finite number", value)
        note_given(_files(function, options))
        function(**options)

    return checked


_NO_INPUT = ("name", "update")
"""Parameters that name no file, whatever lies there, or what a command replaces by something made of it."""

_READ_OF_FOLDERS = (
    *("results.json", "performance.json", "plan.json", "predictions.json", "config.json"),
    *("requests.*", "events*.parquet", "*.safetensors", "*.gguf", "*.yaml"),
)
"""What commands read of a folder that they are given, as patterns of names."""


def _files(function: Callable[..., None], options: dict[str, Any]) -> Iterator[tuple[str, Path]]:
    """The files that a command was given, with what each is called on the command line."""
    for name, value in options.items():
        for one in value if isinstance(value, list | tuple) else [value]:
            is_path = isinstance(one, Path) or (isinstance(one, str) and os.path.exists(one))
            if is_path and name not in _NO_INPUT:
                option = _option(function, name)
                yield option, Path(one)
                yield from ((option, file) for pattern in _READ_OF_FOLDERS for file in _of(one, pattern))


def _of(folder: str | Path, pattern: str) -> Iterator[Path]:
    try:
        yield from Path(folder).glob(pattern)
    except OSError:
        return  # whoever reads it says why


def _option(function: Callable[..., None], name: str) -> str:
    """What a parameter of a command is called on the command line."""
    hint = typing.get_type_hints(function, include_extras=True)[name]
    for part in getattr(hint, "__metadata__", ()):
        for text in (part.default, *(part.param_decls or ())):  # Typer takes the first for a default
            if isinstance(text, str) and text.startswith("--"):
                return text
    return f"--{name.replace('_', '-')}"


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


def _in_a_line(
    message: Warning | str, category: type[Warning], filename: str, lineno: int, line: str | None = None
) -> str:
    """What Python prints of a warning: of ours what it says, not where in the code."""
    if issubclass(category, ShunterWarning):
        return f"shunter: note: {message}\n"
    return _formatwarning(message, category, filename, lineno, line)


_formatwarning = warnings.formatwarning


class _Terminated(KeyboardInterrupt):
    """SIGTERM: work ends as by Ctrl-C, with what it has done kept."""


@contextmanager
def _ending_as_by_ctrl_c() -> Iterator[None]:
    """While SIGTERM is Ctrl-C, but that the exit code tells; a command that knows better sets its own."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    terminated = False

    def end(number: int, frame: Any) -> None:
        nonlocal terminated
        terminated = True
        raise _Terminated

    before = signal.signal(signal.SIGTERM, end)
    try:
        yield
    except SystemExit as ended:
        if terminated and ended.code == INTERRUPTED:
            sys.exit(TERMINATED)
        raise
    finally:
        signal.signal(signal.SIGTERM, before)


def main(arguments: list[str] | None = None) -> Any:
    """Runs the command line; errors of ours are one line on stderr and their exit code, warnings a line."""
    with _ending_as_by_ctrl_c():
        _main(arguments)


def _main(arguments: list[str] | None) -> None:
    console = Console(stderr=True)
    warnings.formatwarning = _in_a_line
    try:
        with scratch(), giving_back():
            app(arguments, prog_name="shunter", standalone_mode=True)
    except (ShunterError, EngineError) as error:
        _end(console, error)
    except KeyboardInterrupt:
        console.print("shunter: interrupted")
        sys.exit(INTERRUPTED)
    except Exception as error:
        known = no_room(error) or _no_file(error)
        if known is None:
            raise
        _end(console, known)


def _no_file(error: Exception) -> ShunterError | None:
    """The one-line error of a path that no file can have, such as one too long, wherever it was given."""
    if isinstance(error, OSError) and error.errno in _NO_NAME and error.filename is not None:
        return InputError(brief(os.fsdecode(error.filename)), "be a file's name", os.strerror(error.errno))
    return None


def _end(console: Console, error: ShunterError | EngineError) -> NoReturn:
    console.print(
        f"shunter: {error}", highlight=False, markup=False, emoji=False, soft_wrap=True, style="red"
    )
    try:
        sys.stdout.flush()
    except OSError:  # what it holds cannot be written, and would be said once more at the very end
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    sys.exit(error.exit_code)


if __name__ == "__main__":
    main()
