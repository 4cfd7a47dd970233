"""``shunter checkpoint``: writes a model with random weights."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TimeRemainingColumn, TransferSpeedColumn
from rich.table import Table

from shunter.catalog.models import ModelSpec, catalog_models, get_model, scaled_model
from shunter.cli.options import open_console, say
from shunter.errors import InputError
from shunter.outputs import hold
from shunter.profiling.checkpoints.synthetic import (
    CHECKPOINT_FORMATS,
    bytes_per_weight,
    check_kind,
    checkpoint_weight_bytes,
    write_checkpoint,
)


def checkpoint(
    out: Annotated[
        Path | None, typer.Argument(help="GGUF file (name.gguf) or folder to write.", show_default=False)
    ] = None,
    like: Annotated[
        str | None, typer.Option(help="Model of the catalogue whose shape to take.", show_default=False)
    ] = None,
    size: Annotated[
        str | None,
        typer.Option(
            help="Scale it down to about this many MB or GB of weights (240MB).", show_default=False
        ),
    ] = None,
    format: Annotated[
        str | None,
        typer.Option(help="gguf or safetensors; by default what OUT's name says.", show_default=False),
    ] = None,
    quantization: Annotated[
        str | None,
        typer.Option(
            help="gguf: Q8_0 (default), Q4_0, F16, F32; safetensors: BF16 (default), F16, F32.",
            show_default=False,
        ),
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="Same seed, same bytes.")] = 0,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace what is at OUT.")] = False,
    list_models: Annotated[bool, typer.Option("--list", help="List the catalogue's models and end.")] = False,
) -> None:
    """Write a model of a known shape with random weights: nothing is downloaded.

    Speed and memory use do not depend on the weights' values, so that engines can be profiled with it.

    Examples:

    shunter checkpoint small.gguf --like Qwen3-8B --size 240MB

    shunter checkpoint small-hf --like Llama-3-8B --size 500MB --quantization F16

    shunter checkpoint full.gguf --like Qwen2.5-3B --quantization Q4_0

    shunter checkpoint --list
    """
    console = open_console()
    if list_models:
        console.print(_model_table())
        return
    if out is None:
        raise InputError("OUT", "name the file or folder to write", None)
    if like is None:
        raise InputError("--like", "name a model of the catalogue (shunter checkpoint --list)", None)
    kind, quantization = _kind_of(out, format, quantization)
    spec = _wanted_shape(like, size, quantization)
    hold("OUT", out, folder=kind == "safetensors", make=False)
    with _progress(console) as progress:
        write = partial(write_checkpoint, seed=seed, overwrite=overwrite, progress=progress)
        written = write(spec, out, format=kind, quantization=quantization)
    weights = f"{_size_text(written.weight_bytes)} of {quantization} weights ({kind})"
    layers = f"{spec.total_layers} layers with the output layer"  # as --gpu-layers counts them
    say(console, f"{out}: {weights}, {spec.params / 1e6:.1f} M parameters, {layers}")


def parse_size_bytes(text: str) -> float:
    """Reads ``240MB`` or ``1.5GB`` as bytes (decimal).

    Raises:
        InputError: It has another form or is zero.
    """
    match = re.fullmatch(r"(\d+(?:\.\d+)?) ?(MB|GB)", text)
    if match is None or float(match[1]) == 0:
        raise InputError("--size", "be a number of MB or GB above zero, like 240MB", text)
    return float(match[1]) * {"MB": 1e6, "GB": 1e9}[match[2]]


def _kind_of(out: Path, format: str | None, quantization: str | None) -> tuple[str, str]:
    """Format and quantization, where they were left open what OUT's name says and the format's first."""
    kind = format or ("gguf" if out.suffix == ".gguf" else "safetensors")
    check_kind(kind, quantization or CHECKPOINT_FORMATS.get(kind, ("",))[0])
    return kind, quantization or CHECKPOINT_FORMATS[kind][0]


def _wanted_shape(like: str, size: str | None, quantization: str) -> ModelSpec:
    base = get_model(like, field="--like")
    if size is None:
        return base
    return scaled_model(base, parse_size_bytes(size) / bytes_per_weight(quantization))


def _size_text(size_bytes: float) -> str:
    return f"{size_bytes / 1e9:.2f} GB" if size_bytes >= 1e9 else f"{size_bytes / 1e6:.1f} MB"


def _model_table() -> Table:
    table = Table(title="Models of the catalogue (--like), layers with the output layer")
    table.add_column("model", no_wrap=True)
    table.add_column("family")
    for column in ("params", "layers", "vocab", "KV/token", "in Q8_0"):
        table.add_column(column, justify="right", no_wrap=True)
    for name, spec in sorted(catalog_models().items(), key=lambda item: item[1].params):
        table.add_row(
            name,
            spec.architecture,
            f"{spec.params / 1e9:.2f} B",
            str(spec.total_layers),
            str(spec.vocab_size),
            f"{spec.kv_bytes_per_token() / 1024:.0f} KiB",
            _size_text(checkpoint_weight_bytes(spec, "gguf", "Q8_0")),
        )
    return table


@contextmanager
def _progress(console: Console) -> Iterator[Callable[[int, int], None] | None]:
    if not console.is_terminal:
        yield None
        return
    columns = (BarColumn(), DownloadColumn(), TransferSpeedColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True) as bar:
        task = bar.add_task("writing", total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)
