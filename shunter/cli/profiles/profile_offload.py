"""``shunter profile offload``: decode speed against the offload ratio, from profile datasets."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import pandas as pd
import typer

from shunter.cli.options import open_console, place, progress, say
from shunter.files import write_json
from shunter.outputs import replaced_folder
from shunter.profiling.dataset.table import read_dataset
from shunter.profiling.dataset.throttled import throttled_words
from shunter.profiling.offload_report import (
    offload_curves,
    offload_findings,
    offload_tables,
    write_offload_page,
)


def profile_offload(
    data: Annotated[
        list[Path], typer.Argument(help="Datasets that shunter profile wrote (Parquet).", metavar="DATASET…")
    ],
    out: Annotated[
        Path, typer.Option(help="Folder to write.", callback=place("--out", folder=True, held=True))
    ] = Path("offload"),
    batch: Annotated[int, typer.Option(min=1, help="Requests decoded together.")] = 1,
) -> None:
    """Draw tokens per second against the share of layers left on the host.

    Per model and context length, absolute and relative to all layers on the device, with quartiles and range
    of the repeats. OUT gets offload.html and results.json. No engine is needed: profile several levels first.

    Examples:

    shunter profile --engine llama-cpp --model a.gguf --gpu-layers 0,25%,50%,75%,all --out a.parquet

    shunter profile offload a.parquet --out offload
    """
    from shunter.tracking.fits import log_offload
    from shunter.tracking.runs import now_ms, tracking

    console, begun_ms = open_console(), now_ms()
    frames = []
    with progress(console) as report:
        for index, path in enumerate(data):
            report(str(path), index, len(data))
            frames.append(read_dataset(path))
    rows = pd.concat(frames, ignore_index=True)
    curves = offload_curves(rows.drop_duplicates("row_id"), batch=batch)
    sources = [
        f"{path}: {len(frame)} rows. {_setting(frame)}" for path, frame in zip(data, frames, strict=True)
    ]
    points = json.loads(curves.to_json(orient="records"))
    findings = offload_findings(curves)
    results = {"sources": sources, "findings": findings, "points": points}
    with replaced_folder(out, last="results.json") as staged:
        write_offload_page(curves, staged / "offload.html", sources=sources)
        write_json(staged / "results.json", results)
    for table in offload_tables(curves):
        console.print(table.to_rich())
    for line in [*findings, *sources]:
        say(console, line)
    say(console, f"{out}: {len(curves)} points in offload.html and results.json")
    name = f"profile offload: {', '.join(dict.fromkeys(curves['model']))}, {len(curves)} points"
    with tracking("offload", name, begun_ms=begun_ms) as tracker:
        datasets = list(zip(data, frames, strict=True))
        log_offload(tracker, out, datasets, curves, batch=batch, words=findings)


def _setting(rows: pd.DataFrame) -> str:
    load, held_back = rows["load_average"].dropna(), throttled_words(rows)
    heat = f" Measured while the GPU was held back: {held_back}." if held_back else ""
    if load.empty:
        return f"System load while it was measured: unknown.{heat}"
    return f"System load over one minute while it was measured: {load.min():.1f} to {load.max():.1f}.{heat}"
