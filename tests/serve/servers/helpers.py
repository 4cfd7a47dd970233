"""What tests of servers share."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from shunter.serve.boundary import Launch
from shunter.serve.servers.processes.identity import start_ticks
from shunter.serve.servers.starting import ServerSettings


def fake_launch(*args: str, model: str = "a", max_batch: int = 2, context_tokens: int = 100) -> Launch:
    return Launch(model, "none.gguf", "cpu:1-threads", None, context_tokens, max_batch, args=args)


def settings(folder: Path, **changed: Any) -> ServerSettings:
    return ServerSettings(state_dir=folder, **{"progress_s": 10.0, "grace_s": 5.0} | changed)


def runs(pid: int) -> bool:
    return start_ticks(pid) is not None


def wait_for(condition: Callable[[], bool], what: str, timeout_s: float = 60.0) -> None:
    deadline_s = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline_s, what
        time.sleep(0.01)
