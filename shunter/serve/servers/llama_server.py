"""llama-server of llama.cpp as an engine: GPU layers on a GPU or on the loopback device, or the CPU alone."""

from __future__ import annotations

import asyncio
import importlib.util
import os
from pathlib import Path

from shunter.engines.base import CheckpointError
from shunter.engines.llama_cpp.ggml import (
    GPU_PREFIXES,
    RPC_BUILD_HINT,
    loopback_command,
    loopback_environment,
)
from shunter.engines.llama_cpp.gguf import read_facts
from shunter.errors import InputError
from shunter.serve.boundary import Launch, ServerFailed
from shunter.serve.servers.failures import server_failed
from shunter.serve.servers.llama_binary import NAME, find_binary, options
from shunter.serve.servers.processes.memory import host_bytes
from shunter.serve.servers.processes.processes import ServerProcess
from shunter.serve.servers.starting import ProcessServer, ServerSettings

_ALL_LAYERS = 999
"""More than any model has; not all versions know a word for it."""

_DEVICE_START_S = 30.0
_CHECKED_BYTES = 4_000_000
"""Weights from which on the device's memory tells whether they are there."""


class LlamaServer(ProcessServer):
    """One llama-server, with a device process of its own where its device is the loopback device.

    A request has ``context_tokens`` for itself: the context is that times ``max_batch``, in as many slots.
    The server's cache of prompts in host memory, 8 GiB by default, is off unless ``args`` turn it on. Models
    for embeddings or reranking need ``--embeddings`` or ``--reranking`` in ``args``.

    Raises:
        InputError: The binary is missing or lacks an option, or the device is none of llama.cpp's.
    """

    program = NAME

    def __init__(self, launch: Launch, settings: ServerSettings) -> None:
        super().__init__(launch, settings)
        self._binary = find_binary(settings.llama_server)
        self._options = options(self._binary)
        if self.device.kind == "loopback":
            self._check_rpc()
        self._rpc = self._new_device()
        self._rpc_port = 0

    def _check_rpc(self) -> None:
        if "--rpc" not in self._options:
            rule = "be built with -DGGML_RPC=ON: the loopback device needs its option --rpc"
            raise InputError(NAME, rule, self._binary)
        if not all(Path(path).exists() for path in rpc_libraries()):
            raise InputError("device", f"be one that can be started: {RPC_BUILD_HINT}", self.launch.device)

    def command(self, port: int) -> list[str]:  # noqa: D102
        launch = self.launch
        slots = max(1, launch.max_batch)
        command = [self._binary, "--model", launch.checkpoint, "--alias", launch.model]
        command += ["--host", "127.0.0.1", "--port", str(port)]
        command += self._device_options()
        command += ["--ctx-size", str(launch.context_tokens * slots), "--parallel", str(slots)]
        command += ["--cache-type-k", launch.kv_type, "--cache-type-v", launch.kv_type]
        if launch.kv_type != "f16":  # llama.cpp quantises values only where it attends by flash attention
            command += ["--flash-attn", "on"]
        command += ["--no-webui", "--metrics", "--slots", "--jinja", "--cache-ram", "0"]
        if "--fit" in self._options:  # it changes what was not asked to be changed, by the memory of now
            command += ["--fit", "off"]
        if "--no-repack" in self._options:  # as shunter's engine computes, which measured the profiles
            command.append("--no-repack")
        return [*command, *self._mapping_options(), *launch.args]

    def _device_options(self) -> list[str]:
        device, threads = self.device, ["--threads", str(self._threads())]
        if device.kind == "cpu":
            return ["--device", "none", "--gpu-layers", "0", *threads]
        given = self.launch.gpu_layers
        layers = ["--gpu-layers", str(_ALL_LAYERS if given is None else given)]
        if device.kind == "loopback":
            return ["--rpc", f"127.0.0.1:{self._rpc_port}", "--device", "RPC0", *layers, *threads]
        return ["--device", f"{GPU_PREFIXES[device.kind]}{device.index}", *layers, *threads]

    def _threads(self) -> int:
        if self.device.kind == "loopback":  # its threads are the device's
            return 1
        return self.device.threads or max(1, len(os.sched_getaffinity(0)) // 2)

    def _mapping_options(self) -> list[str]:
        if self.device.mmap:
            return []
        if "--load-mode" in self._options:
            return ["--load-mode", "none"]
        return ["--no-mmap"] if "--no-mmap" in self._options else []

    def environment(self) -> dict[str, str]:  # noqa: D102
        # What it is started with stands on its command line, and nowhere else.
        kept = {name: value for name, value in os.environ.items() if not name.startswith("LLAMA_")}
        return kept | ({"CUDA_VISIBLE_DEVICES": self.visible_gpu} if self.device.address else {})

    def cores(self) -> tuple[int, ...]:  # noqa: D102
        return self.device.cores if self.device.kind == "cpu" else ()

    async def prepare(self) -> None:  # noqa: D102
        if self.device.kind != "loopback":
            return
        device, threads = self.device, self.device.threads or 1
        command = loopback_command(
            rpc_libraries(), threads, device.cores, device.share_percent, serves_descendants=True
        )
        self._rpc = self._new_device()
        await self._rpc.start(command, loopback_environment(threads), piped=True)
        try:
            line = await asyncio.wait_for(self._rpc.first_line(), _DEVICE_START_S)
            self._rpc_port = int(line)
        except (TimeoutError, ValueError) as error:
            tail = self.log.tail()
            raise server_failed(f"the device process of {self.launch.device} does not start", tail) from error

    async def release(self) -> None:  # noqa: D102
        await self._rpc.end(0)

    async def check(self) -> None:  # noqa: D102
        layers = self.launch.gpu_layers
        if self.device.kind != "loopback" or layers == 0:
            return
        # A build that silently keeps layers on the host would answer all the same, and all figures be wrong.
        expected_bytes = await asyncio.to_thread(_weight_bytes, self.launch.checkpoint, layers)
        held_bytes = self.memory_bytes()[0]
        if expected_bytes >= _CHECKED_BYTES and held_bytes < expected_bytes / 2:
            why = f"holds {held_bytes / 1e6:.1f} MB, not the {expected_bytes / 1e6:.1f} MB of its layers"
            raise ServerFailed(f"gpu_layers were not honoured: {self.launch.device} {why}")

    async def _ends(self) -> str:
        if self.device.kind != "loopback":
            return await self.process.wait()
        # A server whose device is gone finds out with its next request only.
        ends = [asyncio.create_task(process.wait()) for process in (self.process, self._rpc)]
        try:
            await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
            if ends[0].done():
                return ends[0].result()
            return f"lost its device, whose process {ends[1].result()}"
        finally:
            for end in ends:
                end.cancel()

    def memory_bytes(self) -> tuple[int, int]:  # noqa: D102
        device, host = super().memory_bytes()
        return (host_bytes(self._rpc.pids()), host) if self.device.kind == "loopback" else (device, host)

    def _new_device(self) -> ServerProcess:
        return ServerProcess(f"the device process of {self.launch.device}", self.log, self.settings.state_dir)


def rpc_libraries() -> tuple[str, str]:
    """Paths of libggml and libggml-rpc as llama-cpp-python brings them, whether or not they are there.

    The names are those by which one links to the other: by another it would be loaded twice.
    """
    spec = importlib.util.find_spec("llama_cpp")
    places = spec.submodule_search_locations if spec else None
    folder = Path(places[0] if places else "llama_cpp") / "lib"
    return str(folder / "libggml.so.0"), str(folder / "libggml-rpc.so.0")


def _weight_bytes(checkpoint: str, gpu_layers: int | None) -> int:
    try:
        facts = read_facts(checkpoint)
    except CheckpointError:  # a kind of model that shunter knows no sizes of
        return 0
    return facts.device_weight_bytes(min(gpu_layers or facts.total_layers, facts.total_layers))
