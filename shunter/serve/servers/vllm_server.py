"""vLLM's server as an engine, in an interpreter of its own; an idle one can sleep, and be woken soon."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
from collections.abc import Coroutine
from typing import Any

import aiohttp

from shunter.catalog.checkpoints import read_checkpoint
from shunter.errors import InputError
from shunter.profiling.meters.energy import open_gpu
from shunter.serve.boundary import Launch, ServerFailed
from shunter.serve.servers.starting import ProcessServer, ServerSettings

VARIABLE = "SHUNTER_VLLM_PYTHON"

_KV_TYPES = {"f16": "auto", "q8_0": "fp8"}
_POLL_S = 0.05


class VllmServer(ProcessServer):
    """One ``vllm serve``; sleeps and wakes as ``Sleeper`` says.

    vLLM's ``/health`` answers 200 while it sleeps, and requests that come then wait without a word: none may
    be sent before ``wake`` has returned.

    Raises:
        InputError: The interpreter is missing, or the launch has a device, a level or a type of KV that vLLM
            does not have.
    """

    program = "vllm serve"

    def __init__(self, launch: Launch, settings: ServerSettings) -> None:
        super().__init__(launch, settings)
        given = settings.vllm_python or os.environ.get(VARIABLE) or ""
        self._python = shutil.which(os.path.expanduser(given)) if given else None
        if self._python is None:
            rule = "be an interpreter that has vLLM, which needs an environment of its own"
            raise InputError("--vllm-python" if settings.vllm_python else f"${VARIABLE}", rule, given)
        if self.device.kind not in ("cpu", "cuda"):
            raise InputError("device", "be cpu or cuda:N for vLLM", launch.device)
        if launch.kv_type not in _KV_TYPES:
            raise InputError("kv_type", f"be {' or '.join(_KV_TYPES)} for vLLM", launch.kv_type)
        if launch.gpu_layers is not None:
            total_layers = read_checkpoint(launch.checkpoint).spec.total_layers
            if launch.gpu_layers != total_layers:
                rule = f"be {total_layers} for {launch.model!r}, all of its layers: vLLM knows no levels"
                raise InputError("gpu_layers", rule, launch.gpu_layers)
        self._level = 0

    def command(self, port: int) -> list[str]:  # noqa: D102
        launch = self.launch
        command = [str(self._python), "-m", "vllm.entrypoints.cli.main", "serve", launch.checkpoint]
        command += ["--served-model-name", launch.model, "--host", "127.0.0.1", "--port", str(port)]
        command += ["--max-model-len", str(launch.context_tokens), "--max-num-seqs", str(launch.max_batch)]
        command += ["--kv-cache-dtype", _KV_TYPES[launch.kv_type], "--disable-uvicorn-access-log"]
        if self.device.kind == "cuda":
            command += ["--enable-sleep-mode", *self._memory_options()]
        return [*command, *launch.args]

    def _memory_options(self) -> list[str]:
        wanted_bytes = self.launch.memory_bytes or self.device.memory_bytes
        if wanted_bytes is None:
            return []
        gpu = open_gpu(self.device.index, address=self.device.address)
        total_bytes = gpu.memory_bytes()[1] if gpu else 0.0
        if not total_bytes > 0:
            rule = "be a GPU whose memory NVML tells, to give vLLM a share (pip install 'shunter[nvml]')"
            raise InputError("device", rule, self.launch.device)
        return ["--gpu-memory-utilization", f"{min(1.0, wanted_bytes / total_bytes):.4f}"]

    def environment(self) -> dict[str, str]:  # noqa: D102
        environment = dict(os.environ, VLLM_SERVER_DEV_MODE="1", VLLM_NO_USAGE_STATS="1")
        if self.device.kind == "cuda":
            environment["CUDA_VISIBLE_DEVICES"] = self.visible_gpu
        return environment

    def cores(self) -> tuple[int, ...]:  # noqa: D102
        return self.device.cores

    async def is_sleeping(self) -> bool:
        """Whether it sleeps, as it says itself.

        Raises:
            ServerFailed: It does not say.
        """
        return bool((await self._call("GET", "/is_sleeping")).get("is_sleeping"))

    async def sleep(self, level: int) -> None:  # noqa: D102
        await self._in_time(self._fall_asleep(level), "has not fallen asleep")

    async def wake(self) -> None:  # noqa: D102
        await self._in_time(self._wake_up(), "has not woken")

    async def _in_time(self, work: Coroutine[Any, Any, None], what: str) -> None:
        """Waits as long as for a load that makes no progress."""
        try:
            await asyncio.wait_for(work, self.settings.progress_s)
        except TimeoutError as error:
            raise ServerFailed(f"{self._called()} {what} within {self.settings.progress_s:g} s") from error

    async def _fall_asleep(self, level: int) -> None:
        await self._call("POST", "/sleep", level=str(level), mode="wait")
        await self._until_sleeping(True)
        self._level = level

    async def _wake_up(self) -> None:
        if self._gpu is not None:
            self._gpu.begin()
        if self._level == 2:  # no weights are left: they are read again before the KV has its place
            await self._call("POST", "/wake_up", tags="weights")
            await self._call("POST", "/collective_rpc", {"method": "reload_weights"})
            await self._call("POST", "/wake_up", tags="kv_cache")
            await self._call("POST", "/reset_prefix_cache")  # what it remembers of KV is no more
        else:
            await self._call("POST", "/wake_up")
        await self._until_sleeping(False)
        self._level = 0
        # The first token after a wake is slow; it is nobody's.
        body = {"model": self.launch.model, "prompt": "a", "max_tokens": 1}
        await self._call("POST", "/v1/completions", body)

    async def _until_sleeping(self, wanted: bool) -> None:
        while await self.is_sleeping() != wanted:
            await asyncio.sleep(_POLL_S)

    async def _call(self, method: str, path: str, body: object = None, **query: str) -> dict[str, object]:
        try:
            async with (
                aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=None)) as client,
                client.request(method, self.url + path, params=query, json=body) as answer,
            ):
                text = await answer.text()
                if answer.status != 200:
                    said = " ".join(text.split())[:200]
                    raise ServerFailed(f"{self._called()} answers {path} with {answer.status}: {said}")
                return dict(json.loads(text)) if text.startswith("{") else {}
        except (aiohttp.ClientError, OSError, ValueError) as error:
            why = str(error) or type(error).__name__
            raise ServerFailed(f"{self._called()} does not answer {path}: {why}") from error
