"""``shunter timeline``: one run of an event log as a picture, or for Perfetto."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from shunter.cli.options import open_console, say
from shunter.eval.execution.event_log import read_event_log
from shunter.eval.timeline import pick_run, read_timeline
from shunter.eval.traffic.timeline import record_timeline
from shunter.export.perfetto import write_perfetto
from shunter.outputs import hold
from shunter.report.timeline import write_timeline


def timeline(
    events: Annotated[
        Path,
        typer.Argument(help="Event log (Parquet), or folder of shunter serve --record.", show_default=False),
    ],
    run: Annotated[
        str | None,
        typer.Option(
            help="Its run_id, if the log holds several; of a folder, the newest.", show_default=False
        ),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(help="Page to write; timeline.html if no --perfetto is asked for.", show_default=False),
    ] = None,
    perfetto: Annotated[
        Path | None, typer.Option(help="Trace to write, for ui.perfetto.dev.", show_default=False)
    ] = None,
    from_s: Annotated[float, typer.Option("--from", min=0, help="Start of the picture, seconds.")] = 0.0,
    to_s: Annotated[
        float | None,
        typer.Option("--to", min=0, help="End of the picture, seconds; default: all.", show_default=False),
    ] = None,
) -> None:
    """Draw what the devices of one run did: residents, loads, quanta and queues.

    Simulated and real runs look alike. The page works offline; the trace opens in ui.perfetto.dev.

    Examples:

    shunter timeline runs/eval/events.parquet --run cost-greedy/0/simulated

    shunter timeline runs/eval/events.parquet --run cost-greedy/0/real --perfetto trace.json

    shunter timeline record
    """
    console = open_console()
    page = out if out is not None or perfetto is not None else Path("timeline.html")
    for option, path in (("--out", page), ("--perfetto", perfetto)):
        hold(option, path, make=False)
    if events.is_dir():
        seen = record_timeline(events, run)
    else:
        seen = read_timeline(pick_run(read_event_log(events), run))
    if page is not None:
        write_timeline(seen, page, from_s=from_s, to_s=to_s)
        say(console, f"{page}: {seen.title}, {seen.end_s:.6g} s")
    if perfetto is not None:
        write_perfetto(seen, perfetto)
        say(console, f"{perfetto}: open it in ui.perfetto.dev or chrome://tracing")
