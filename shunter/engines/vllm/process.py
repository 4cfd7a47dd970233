"""One model in a vLLM process of its own, as servers run it: a load starts the process, an unload ends it."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

from ..base import DecodeResult, EngineError, MemoryReport, PrefillResult
from ..worker import wire
from .load import LoadPlan

_BOOT = Path(__file__).parents[1] / "worker" / "boot.py"
_NAME = "model"
_SETTINGS = {
    "SHUNTER_VLLM_PROCESS_PER_MODEL": "0",
    "SHUNTER_VLLM_WARM_UP": "0",
    "SHUNTER_VLLM_SLEEP_LEVEL": "0",
}
_END_S = 10.0


class VllmProcess:
    """A resident model; does what ``VllmModel`` does, by a worker of the same engine in a new process.

    Args:
        plan: The load.
        device: As ``vllm.create`` got it.

    Raises:
        EngineError: As the process's engine raised it, or the process ended.
    """

    def __init__(self, plan: LoadPlan, device: dict[str, Any]) -> None:
        self.device_bytes = plan.device_bytes
        self._connection, theirs = socket.socketpair()
        command = [sys.executable, str(_BOOT), "--fd", str(theirs.fileno()), "--engine", "vllm"]
        # The budget is kept here, and of all GPUs this process sees its own only, as the first.
        command += ["--device", json.dumps(device | {"memory_bytes": None, "index": 0})]
        command += ["--caller-pid", str(os.getpid()), "--caller-is-main-thread"]
        with theirs:
            # In this worker's process group, so that whoever ends that group ends it too.
            self._process = subprocess.Popen(
                command, pass_fds=[theirs.fileno()], env={**os.environ, **_SETTINGS}
            )
        try:
            self._receive()
            self._call(
                "load",
                model=_NAME,
                checkpoint=plan.checkpoint,
                gpu_layers=plan.gpu_layers,
                context_tokens=plan.kv.context_tokens,
                max_batch=plan.kv.max_batch,
            )
        except BaseException:
            self._end()
            raise

    @property
    def memory(self) -> MemoryReport:
        """Memory of the process."""
        report: MemoryReport = self._call("memory")
        return report

    @property
    def preemptions(self) -> int:
        """As ``VllmModel.preemptions``."""
        return self.memory.kv_preemptions

    def prefill(self, request: str, tokens: list[int]) -> int:
        """Processes a prompt; gives the first token."""
        done: PrefillResult = self._call("prefill", model=_NAME, request=request, tokens=tokens)
        return done.token

    def step(self, active: list[str]) -> list[int]:
        """Runs one step of these requests; gives the next token of each."""
        done: DecodeResult = self._call("decode", model=_NAME, limits=dict.fromkeys(active, 1), max_steps=1)
        return [done.tokens[request][0] for request in active]

    def leave(self, request: str) -> None:
        """Forgets a request; one that is unknown is no error."""
        self._call("drop_kv", model=_NAME, request=request)

    def shutdown(self) -> None:
        """Ends the process and reaps it."""
        try:
            self._call("close")
            self._process.wait(_END_S)
        except (EngineError, subprocess.TimeoutExpired):
            pass  # it is killed below, which is all that is left to do
        finally:
            self._end()

    def _end(self) -> None:
        self._process.kill()
        self._process.wait()
        self._connection.close()

    def _call(self, name: str, **arguments: Any) -> Any:
        try:
            self._connection.sendall(wire.pack({"call": name, "args": arguments}))
        except OSError as error:
            raise EngineError(f"the model's vLLM process is gone: {error.strerror}") from error
        return wire.decode_value(self._receive()["result"])

    def _receive(self) -> dict[str, Any]:
        try:
            reply = wire.receive(self._connection)
        except (OSError, EOFError):
            reply = None
        if reply is None:
            raise EngineError(f"the model's vLLM process ended, status {self._process.poll()}")
        if "error" in reply:
            raise wire.decode_error(reply["error"])
        return reply
