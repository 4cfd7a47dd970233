"""``shunter dataset import``: what other tools measured, as rows of a dataset."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated

import typer

from shunter.cli.options import Verbose, open_console, place, say_answer
from shunter.engines.caller.entries import engine_entry
from shunter.errors import InputError
from shunter.models.published.imported import ImportOptions, imported_rows
from shunter.profiling.dataset.table import append_rows, read_dataset
from shunter.profiling.measurements.read import read_measurements

_Files = Annotated[
    list[Path], typer.Argument(help="Results of other tools.", metavar="FILE…", show_default=False)
]
_Out = Annotated[
    Path,
    typer.Option(help="Dataset to write, or to add to (.parquet or .csv).", callback=place("--out")),
]
_Model = Annotated[
    list[str] | None,
    typer.Option(
        help="What the model is, if its name does not say: one of the catalogue, or a checkpoint; of several "
        "models 'NAME IN THE FILE=MODEL', repeatable.",
        show_default=False,
    ),
]
_Quantization = Annotated[
    str, typer.Option(help="How weights are stored, if files do not say: BF16, Q4_K_M, …", show_default=False)
]
_Device = Annotated[
    str, typer.Option(help="If files do not say: 'RTX 4090', cpu:8-threads.", show_default=False)
]
_Engine = Annotated[str, typer.Option(help="If files do not say: vllm, llama-cpp, …", show_default=False)]
_EngineVersion = Annotated[str, typer.Option(help="If files do not say.", show_default=False)]
_Bandwidth = Annotated[
    float | None,
    typer.Option(help="GB/s of the host's memory at its peak, for layers on the host.", show_default=False),
]
_Tokens = Annotated[
    int | None, typer.Option(min=1, help="Of vLLM's latencies, whose files do not say.", show_default=False)
]


def dataset_import(
    files: _Files,
    out: _Out = Path("imported.parquet"),
    model: _Model = None,
    quantization: _Quantization = "",
    device: _Device = "",
    engine: _Engine = "",
    engine_version: _EngineVersion = "",
    host_bandwidth: _Bandwidth = None,
    batch: _Tokens = None,
    prompt_tokens: _Tokens = None,
    decode_tokens: _Tokens = None,
    verbose: Verbose = False,
) -> None:
    """Read what other tools measured into a dataset: it is fitted and drawn as if shunter had measured it.

    Files are those of llama-bench (csv, json, jsonl, md, sql), vllm bench serve and latency (json), AIPerf
    (json, csv, jsonl) and GuideLLM (json, yaml, csv). What they do not say stays missing; what a row cannot
    be without is asked for by the options below. What is no measurement of one operation, such as a prompt
    and its answer in one time, is left out, with the reason.

    Rows say where they come from (source). Importing a file again adds nothing.

    Examples:

    llama-bench -m model.gguf -ngl 0,8,16,24,99 -o json > bench.json

    shunter dataset import bench.json --out bench.parquet

    shunter dataset import table.md --device 'RTX 4090' --model 'llama 8B Q4_K - Medium=Llama-3-8B'

    shunter fit bench.parquet --performance published --out perf
    """
    if out.suffix not in (".parquet", ".csv"):
        raise InputError("--out", "end in .parquet or .csv", str(out))
    if engine:
        engine_entry(engine, field="--engine")
    if host_bandwidth is not None and not 0.1 <= host_bandwidth <= 1e5:
        raise InputError("--host-bandwidth", "be 0.1 to 100000 GB/s", host_bandwidth)
    shape = _latency_shape(batch, prompt_tokens, decode_tokens)
    readings = read_measurements(dict.fromkeys(files), shape)
    left_out = {place: why for reading in readings.values() for place, why in reading.left_out.items()}
    found = [m for reading in readings.values() for m in reading.measurements]
    if not found:
        place, why = next(iter(left_out.items()), (str(files[0]), "it is empty"))
        raise InputError("FILES", "hold a prefill or a decode step", f"{place}: {why}")
    options = ImportOptions(
        models=_models(model or []),
        quantization=quantization,
        device=device,
        engine=engine,
        engine_version=engine_version,
        host_bandwidth_bytes_per_s=host_bandwidth and 1e9 * host_bandwidth,
    )
    known = read_dataset(out) if out.exists() else None
    imported = imported_rows(found, options, known)
    added = len(append_rows(out, imported.rows)) - (0 if known is None else len(known))
    there = len(imported.rows) - added
    written = f"{out}: {added} rows added" + (f", {there} were there already" if there else "")
    left_out.update(imported.left_out)
    tools = ", ".join(dict.fromkeys(m.tool for m in found))
    lines = [f"{len(imported.rows)} rows of {tools}", *_left_out_words(left_out)]
    notes = [f"note: {note}" for note in imported.notes]
    say_answer(open_console(), [*lines, *notes], [written], verbose=verbose)


def _latency_shape(batch: int | None, prompt: int | None, decode: int | None) -> tuple[int, int, int] | None:
    """What vLLM's latencies are of: all three numbers, or none."""
    if batch and prompt and decode:
        return batch, prompt, decode
    given = (batch, prompt, decode)
    if any(given):
        raise InputError("--batch, --prompt-tokens and --decode-tokens", "be given together", given)
    return None


def _models(given: Sequence[str]) -> dict[str, str]:
    """``NAME=MODEL`` by name; a model alone is for any."""
    found: dict[str, str] = {}
    for text in given:
        name, sign, model = text.rpartition("=")
        if not model or (sign and not name):
            raise InputError("--model", "be a model, or 'NAME IN THE FILE=MODEL'", text)
        if name in found:
            raise InputError("--model", f"be given once for {name or 'all files'}", text)
        found[name] = model
    return found


def _left_out_words(left_out: Mapping[str, str]) -> list[str]:
    """Reasons, each with how many there are and the first."""
    places: dict[str, list[str]] = defaultdict(list)
    for where, why in left_out.items():
        places[why].append(where)
    return [
        f"left out: {where[0]}{f' and {len(where) - 1} more' if len(where) > 1 else ''}: {why}"
        for why, where in places.items()
    ]
