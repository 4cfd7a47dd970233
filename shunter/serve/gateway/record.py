"""What the gateway writes down: the event log in the one schema, and requests as a trace, without text."""

from __future__ import annotations

import logging
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from shunter.envs.state.state import IDLE
from shunter.envs.workload.gateway_record import TRACE_NAME
from shunter.envs.world.world import World
from shunter.errors import ShunterError
from shunter.eval.execution.event_log import EventLog, write_event_logs
from shunter.files import unwritable
from shunter.seals import sealed
from shunter.serve.boundary import Asked, Usage
from shunter.serve.core.core import Core
from shunter.serve.core.effects import Decision, Job
from shunter.serve.core.watch import Watch
from shunter.serve.lines import Lines

__all__ = ["Recorder"]

_LOG = logging.getLogger(__name__)

_ROWS, _LONGEST_S = 2000, 600.0
"""Rows of the event log in one file at most, and seconds: a kill loses what is in no file yet."""


class Recorder(Watch):
    """Writes a folder: ``requests.jsonl``, a sealed line as each request ends, and ``events-*.parquet``.

    Args:
        folder: Made if need be; a further recording gets files of its own beside those of before.
        world: Names models and devices.
        policy: Name of the policy, for the log.

    Attributes:
        texts: Where texts of requests and answers may be written; nothing here does.

    Raises:
        ShunterError: The folder cannot be written to.
    """

    def __init__(self, folder: Path, world: World, policy: str) -> None:
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise unwritable(folder, error) from None
        self.folder = folder
        self._started = datetime.now(UTC)
        self._run = f"{self._started:%Y%m%dT%H%M%S-%f}"
        self.texts = folder / f"texts-{self._run}.jsonl"
        self._log = EventLog(world, {"run_id": self._run, "policy": policy, "seed": 0, "mode": "real"})
        self._core: Core | None = None
        self._parts = self._worlds = 0
        self._written_s = 0.0
        self._lines = Lines(folder / TRACE_NAME)

    def follow(self, core: Core, world: World) -> None:
        """Reads what it writes from the state of this core, which it is told of, and of this world."""
        if self._core is not None:
            self._write(self._log)
            self._worlds += 1
        # Requests of another world are numbered anew, so that its log is another run.
        run_id = f"{self._run}.{self._worlds}" if self._worlds else self._run
        shadow = None if core.shadow is None else core.shadow.name
        self._log = EventLog(world, {**self._log.run, "run_id": run_id, "shadow": shadow})
        self._core = core

    def request(self, asked: Asked, job: Job, model: str, how: str, usage: Usage, now_ns: int) -> None:
        """Writes a request that has ended."""
        devices, epoch_s = self._log.world.scenario.devices, self._started.timestamp()
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
            "device_name": devices[job.device].name if job.device >= 0 else None,
            "status": how,
            "endpoint": asked.endpoint,
            "id": job.id,
        }
        self._lines.add(sealed(line))

    def decided(self, decision: Decision, device: int) -> None:
        """Opens a row of the event log, but for what only repeats another."""
        if decision.repeats:
            return
        core, other = self._followed(), decision.shadow_action
        self._log.decide(core.state, device, core.mask, decision.action, decision.took_ms / 1e3)
        self._log.explain(
            device,
            cause=decision.cause,
            shadow_choice_name=None if other is None else core.world.action_name(other),
        )
        if len(self._log.rows) >= _ROWS or decision.time_s - self._written_s >= _LONGEST_S:
            self._written_s = decision.time_s
            self._write(self._log.cut())

    def change_policy(self, name: str) -> None:
        """Another policy decides from now on."""
        self._log.run = {**self._log.run, "policy": name}

    def failed(self, device: int, reason: str) -> None:
        """Notes that the load that a device is at has failed."""
        self._log.fail_operation(device, "load_failed", reason)

    def server(self, device: int, what: str) -> None:
        """Notes what a server did in the operation that a device is at."""
        self._log.add_server(device, what)

    def began(self, device: int) -> None:
        """Adds what the device set out to do."""
        state = self._followed().state
        if state.device["op_kind"][device] != IDLE:
            self._log.begin(state, device)

    def over(self, device: int) -> None:
        """Adds what came of it."""
        core = self._followed()
        self._log.end_operation(core.state, device, core.used_bytes(device))

    def lost(self, device: int, model: int, level: int, reason: str) -> None:
        """Adds a row of its own: nobody decided that."""
        self._log.lose(self._followed().state, device, model, level, reason)

    def _followed(self) -> Core:
        assert self._core is not None
        return self._core

    def _write(self, log: EventLog) -> None:
        if not log.rows or self._lines.broken is not None:
            return
        path = self.folder / f"events-{self._run}-{self._parts:06d}.parquet"
        self._parts += 1
        try:
            write_event_logs([log], path)
        except (OSError, ShunterError) as error:
            self._lines.broken = str(error)
            _LOG.warning("Nothing more is written to %s: %s", self.folder, error)

    def close(self) -> None:
        """Writes what is left."""
        self._write(self._log)
        self._lines.close()


def _after(ns: int, job: Job) -> float | None:
    """Seconds since the request's arrival; None if it never came to that."""
    return None if ns < 0 else round((ns - job.arrival_ns) * 1e-9, 6)
