"""What a gateway that was killed left behind: each server has a small file that says how to end it."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import time
from dataclasses import asdict, dataclass
from pathlib import Path

from shunter.files import write_json
from shunter.serve.servers.processes.identity import boot_id, session_pids, start_ticks

_FOLDER = "servers"
_END_S = 5.0


@dataclass(frozen=True)
class Record:
    """A server that runs, as its file has it.

    Attributes:
        pid: Its process, which leads a session of its own.
        start: When that process started, in ticks since the machine did.
        owner_pid: The gateway's process.
        owner_start: When the gateway's process started.
        boot: The machine's run that both times count in.
        port: Where it listens; 0 if it has no fixed port.
        launch: Digest of what it was started with.
    """

    pid: int
    start: int
    owner_pid: int
    owner_start: int
    boot: str
    port: int
    launch: str


def keep_record(state_dir: Path, pid: int, port: int, launch: str) -> Path:
    """Writes the file of a server of this process; returns its path, to be deleted with the server."""
    owner = os.getpid()
    record = Record(pid, start_ticks(pid) or 0, owner, start_ticks(owner) or 0, boot_id(), port, launch)
    return write_json(state_dir / _FOLDER / f"{pid}.json", asdict(record))


def reap_leftovers(state_dir: Path) -> list[Record]:
    """Ends the servers of gateways that are no more, and returns them; those of a live gateway stay.

    A process is ended only if it is the recorded one: its id was not given to another since, as its start
    time tells. It returns when they are gone, so that their ports and their memory can be had.
    """
    reaped = []
    for path in sorted((state_dir / _FOLDER).glob("*.json")):
        record = _read(path)
        if record is not None and record.boot == boot_id():
            if start_ticks(record.owner_pid) == record.owner_start:
                continue
            if end_session(record.pid, record.start):
                reaped.append(record)
        path.unlink(missing_ok=True)
    return reaped


def end_session(leader: int, start: int) -> bool:
    """Kills what is left of a server's session and waits for its end.

    Args:
        leader: Process that began the session.
        start: When that process started.

    Returns:
        Whether there was anything. A leader of another start time is a stranger with the same id: that can
        only be once nothing of the session is left, since the kernel gives no id that a session still has.
    """
    now = start_ticks(leader)
    if now is not None and now != start:
        return False
    found, deadline_s = False, time.monotonic() + _END_S
    while (pids := session_pids(leader)) and time.monotonic() < deadline_s:
        found = True
        for pid in pids:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        time.sleep(0.01)
    return found


def _read(path: Path) -> Record | None:
    try:
        return Record(**json.loads(path.read_text(encoding="utf-8")))
    except (ValueError, TypeError, OSError):  # half a file of a full disk: nothing can be said of it
        return None
