"""What the gateway writes down: the event log in the one schema, and requests as a trace, without text."""

from __future__ import annotations

import contextlib
import io
import json
import logging
import os
from datetime import UTC, datetime
from pathlib import Path
from typing import IO, Any

from shunter.envs.state.state import IDLE
from shunter.envs.workload.gateway_record import TRACE_NAME
from shunter.envs.world.world import World
from shunter.errors import ShunterError
from shunter.eval.execution.event_log import EventLog, write_event_logs
from shunter.serve.boundary import Asked, Usage
from shunter.serve.core.core import Core
from shunter.serve.core.effects import Job

__all__ = ["Recorder"]

_LOG = logging.getLogger(__name__)

_ROWS = 2000
"""Rows of the event log in one file."""


class Recorder:
    """Writes a folder: ``requests.jsonl``, a line as each request ends, and ``events-*.parquet``.

    Args:
        folder: Made if need be; a further recording gets files of its own beside those of before.
        world: Names models and devices.
        policy: Name of the policy, for the log.

    Attributes:
        broken: Why nothing is written any more, as on a full disk; None: it is. No request suffers for it.
    """

    broken: str | None = None

    def __init__(self, folder: Path, world: World, policy: str) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder
        self._started = datetime.now(UTC)
        self._run = f"{self._started:%Y%m%dT%H%M%S}"
        self._log = EventLog(world, {"run_id": self._run, "policy": policy, "seed": 0, "mode": "real"})
        self._core: Core | None = None
        self._parts = self._worlds = 0
        self._lines: IO[str] = _open_lines(folder / TRACE_NAME)

    def follow(self, core: Core, world: World) -> None:
        """Reads what it writes from this core's state, of this world."""
        if self._core is not None:
            self._write(self._log)
            self._worlds += 1
        # Requests of another world are numbered anew, so that its log is another run.
        run_id = f"{self._run}.{self._worlds}" if self._worlds else self._run
        self._log = EventLog(world, {**self._log.run, "run_id": run_id})
        self._core = core
        core.on_operation = self.operation

    def request(self, asked: Asked, job: Job, model: str, how: str, usage: Usage, now_ns: int) -> None:
        """Writes a request that has ended."""
        epoch_s = self._started.timestamp()
        line: dict[str, Any] = {
            "arrival_s": round(epoch_s + job.arrival_ns * 1e-9, 6),
            "model": model,
            "prompt_tokens": usage.prompt_tokens or job.prompt_tokens,
            "decode_tokens": usage.completion_tokens or job.tokens,
            "session": asked.session or "",
            "first_token_s": _after(job.first_ns, job),
            "finish_s": _after(now_ns, job),
            "sent_s": _after(job.sent_ns, job),
            "device": job.device,
            "status": how,
            "endpoint": asked.endpoint,
        }
        if self.broken is None:
            try:
                self._lines.write(json.dumps(line, separators=(",", ":")) + "\n")
                self._lines.flush()
            except OSError as error:
                self._break(error)

    def decision(self, device: int, choice: int, took_s: float) -> None:
        """Opens a row of the event log; what the decision before led to is known by now."""
        assert self._core is not None
        self._end(device)
        self._log.decide(self._core.state, device, self._core.mask, choice, took_s)
        if len(self._log.rows) >= _ROWS:
            self._write(self._log.cut())

    def change_policy(self, name: str) -> None:
        """Another policy decides from now on."""
        self._log.run = {**self._log.run, "policy": name}

    def failed(self, device: int, reason: str) -> None:
        """Notes that the load that a device is at has failed."""
        self._log.fail_operation(device, "load_failed", reason)

    def operation(self, device: int) -> None:
        """Adds what the device set out to do."""
        assert self._core is not None
        if self._core.state.device["op_kind"][device] != IDLE:
            self._log.begin(self._core.state, device)

    def _end(self, device: int) -> None:
        assert self._core is not None
        self._log.end_operation(self._core.state, device, self._core.used_bytes(device))

    def _write(self, log: EventLog) -> None:
        path = self.folder / f"events-{self._run}-{self._parts:04d}.parquet"
        if self.broken is None:
            try:
                write_event_logs([log], path)
            except (OSError, ShunterError) as error:
                self._break(error)
        self._parts += 1

    def _break(self, error: Exception) -> None:
        self.broken = str(error)
        _LOG.warning("Nothing more is written to %s: %s", self.folder, error)

    def close(self) -> None:
        """Writes what is left."""
        with contextlib.suppress(OSError):
            self._lines.close()
        if self._log.rows:
            self._write(self._log)
        self.broken = self.broken or "it is closed"


def _open_lines(path: Path) -> IO[str]:
    """Opens a file of lines to add some; half a line, which a kill left, is ended first."""
    file = path.open("a+b")
    size = file.seek(0, os.SEEK_END)
    if size:
        file.seek(size - 1)
        if file.read(1) != b"\n":
            file.write(b"\n")
    return io.TextIOWrapper(file, encoding="utf-8")


def _after(ns: int, job: Job) -> float | None:
    """Seconds since the request's arrival; None if it never came to that."""
    return None if ns < 0 else round((ns - job.arrival_ns) * 1e-9, 6)
