"""``shunter serve`` before clients: what they see of it, what it costs, and what its policies are worth.

``python -m benchmarks.serve [--quick] [--only GROUP] --json PATH``. Most groups measure the command itself,
in a process of its own, over fake servers; where ``--llama-server`` names a binary, real ones answer too.
"""

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console

from benchmarks.form import Row, main, reported
from benchmarks.serve_cancel import cancel_rows
from benchmarks.serve_histories import histories_rows
from benchmarks.serve_load import added_rows, broken_rows, crowd_rows, memory_rows
from benchmarks.serve_protocol import equal_rows, protocol_rows
from benchmarks.serve_real import FULL, QUICK, real_load_rows
from benchmarks.serve_starvation import starvation_rows
from shunter.agents.registry import DEFAULT_POLICIES
from shunter.errors import UnknownNameError

__all__ = ["run"]

SHIPPED = Path(__file__).parents[1] / "shunter" / "data" / "policies" / "generalist.safetensors"

_console = Console()


@dataclass(frozen=True)
class Given:
    """What a group is told.

    Attributes:
        quick: Less of everything.
        work: Folder to work in.
        llama_server: Path of the binary; None: real servers are left out.
    """

    quick: bool
    work: Path
    llama_server: str | None


async def _protocol(given: Given) -> list[Row]:
    return await protocol_rows(given.work / "protocol")


async def _equal(given: Given) -> list[Row]:
    return await equal_rows(given.work / "equal", given.llama_server, repeats=2 if given.quick else 10)


async def _cancel(given: Given) -> list[Row]:
    return await cancel_rows(given.work / "cancel", given.llama_server, times=2 if given.quick else 20)


async def _histories(given: Given) -> list[Row]:
    policies = ("cost-greedy", "lru-keepalive", "fifo-swap", "random", str(SHIPPED))
    return histories_rows(500 if given.quick else 10_000, policies)


async def _broken(given: Given) -> list[Row]:
    pairs, window_s = (3, 4.0) if given.quick else (10, 15.0)
    return await broken_rows(given.work / "broken", pairs=pairs, window_s=window_s)


async def _crowd(given: Given) -> list[Row]:
    return await crowd_rows(given.work / "crowd")


async def _memory(given: Given) -> list[Row]:
    warm_up, requests, longest_s = (1000, 2000, 12.0) if given.quick else (6000, 36_000, 300.0)
    return await memory_rows(given.work / "memory", warm_up=warm_up, requests=requests, longest_s=longest_s)


async def _added(given: Given) -> list[Row]:
    return await added_rows(given.work / "added", SHIPPED, probes=150 if given.quick else 1500)


async def _starvation(given: Given) -> list[Row]:
    policies = [(name, name) for name in DEFAULT_POLICIES] + [("the shipped generalist", str(SHIPPED))]
    return starvation_rows(policies, horizon_s=1200.0 if given.quick else 14_400.0)


async def _real(given: Given) -> list[Row]:
    scale = QUICK if given.quick else FULL
    return await real_load_rows(given.work / "real", given.llama_server, scale, _say)


GROUPS: dict[str, Callable[[Given], Awaitable[list[Row]]]] = {
    "protocol": _protocol,
    "equal": _equal,
    "cancel": _cancel,
    "histories": _histories,
    "broken": _broken,
    "crowd": _crowd,
    "memory": _memory,
    "added": _added,
    "starvation": _starvation,
    "real": _real,
}


def run(
    quick: bool,
    *,
    only: list[str] | None = None,
    work: Path | None = None,
    llama_server: str | None = None,
    **_: object,
) -> list[Row]:
    """Measures the groups that are wanted, one after another.

    Args:
        quick: A few minutes instead of a full run.
        only: Names of groups; None: all.
        work: Folder to work in, and to go on from.
        llama_server: Path of llama-server.

    Raises:
        UnknownNameError: There is no such group.
    """
    for name in only or ():
        if name not in GROUPS:
            raise UnknownNameError("--only", name, GROUPS)
    folder = (work or Path("runs") / ("serve-quick" if quick else "serve")).resolve()
    given = Given(quick, folder, llama_server)
    rows: list[Row] = []
    for name in only or GROUPS:
        begun_s = time.monotonic()
        rows += asyncio.run(_run(GROUPS[name], given))
        rows.append(reported(f"time of group {name}", round(time.monotonic() - begun_s, 1), "s"))
        _say(f"{name} is done")
    return rows


def _say(line: str) -> None:
    _console.print(f"{time.strftime('%H:%M:%S')} {line}", highlight=False, soft_wrap=True)


async def _run(group: Callable[[Given], Awaitable[list[Row]]], given: Given) -> list[Row]:
    return await group(given)


OPTIONS: dict[str, dict[str, Any]] = {
    "--only": {"nargs": "+", "help": "only these groups: " + ", ".join(GROUPS), "metavar": "GROUP"},
    "--work": {"type": Path, "help": "folder to work in, and to go on from (runs/serve)"},
    "--llama-server": {"help": "path of llama-server; without it only fake servers answer"},
}

if __name__ == "__main__":
    sys.exit(main("serve", run, "The gateway, measured.", more=OPTIONS))
