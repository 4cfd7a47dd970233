"""llama-server for real, on the CPU and on the loopback device, and its command line where there is none."""

from __future__ import annotations

import asyncio
import os
import signal
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from shunter.catalog.models import get_model, scaled_model
from shunter.errors import InputError, UnknownNameError
from shunter.profiling.checkpoints.synthetic import write_checkpoint
from shunter.serve.boundary import Launch, ServerFailed
from shunter.serve.gateway.fleet import Fleet
from shunter.serve.servers import llama_binary
from shunter.serve.servers.llama_binary import VARIABLE, find_binary
from shunter.serve.servers.llama_server import LlamaServer, rpc_libraries
from shunter.serve.servers.making import make_server
from shunter.serve.servers.processes import memory
from tests.serve.servers.helpers import runs, settings

SPEC = scaled_model(get_model("Qwen3-8B"), 12e6)


def _binary() -> str | None:
    try:
        return find_binary()
    except InputError:
        return None


BINARY = _binary()
real = [
    pytest.mark.engine,
    pytest.mark.skipif(BINARY is None, reason=f"no llama-server: make llama-server, or ${VARIABLE}"),
]
needs_rpc = pytest.mark.skipif(
    not all(Path(path).exists() for path in rpc_libraries()), reason="llama-cpp-python has no RPC"
)
DEVICES = [
    pytest.param("cpu:1-threads", None, marks=real),
    pytest.param("loopback:1-threads", None, marks=[*real, needs_rpc]),
    pytest.param("loopback:1-threads-share-50", 2, marks=[*real, needs_rpc]),
]


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("llama-server") / "tiny.gguf"
    return str(write_checkpoint(SPEC, path, format="gguf", quantization="Q8_0").path)


@pytest.fixture
def binary(tmp_path: Path) -> str:
    """A program that knows the options, and does nothing."""
    return _program(tmp_path / "llama-server", [*llama_binary._NEEDED, *llama_binary._OPTIONAL])


def _program(path: Path, known: list[str]) -> str:
    lines = "\n".join(f"-x,    {option} N" for option in known)
    path.write_text(f"#!/bin/sh\ncat <<'END'\n{lines}\nEND\n")
    path.chmod(0o755)
    return str(path)


def launch(checkpoint: str, device: str, gpu_layers: int | None, **changed: Any) -> Launch:
    return Launch("tiny", checkpoint, device, gpu_layers, **{"context_tokens": 256, "max_batch": 2} | changed)


@pytest.mark.parametrize(("device", "gpu_layers"), DEVICES)
def test_it_answers_from_where_its_layers_are_and_leaves_nothing(
    device: str, gpu_layers: int | None, checkpoint: str, tmp_path: Path
) -> None:
    async def main() -> None:
        server = LlamaServer(launch(checkpoint, device, gpu_layers, kv_type="q8_0"), settings(tmp_path))
        await server.start()
        pids = [server.pid, *server._rpc.pids()]
        device_bytes, host_bytes = server.memory_bytes()
        assert device_bytes > 5_000_000
        assert host_bytes > 10_000_000
        async with aiohttp.ClientSession(server.url) as client:
            body = {"model": "tiny", "prompt": "hello", "max_tokens": 5, "ignore_eos": True}
            async with client.post("/v1/completions", json=body) as answer:
                said = await answer.json()
            async with client.get("/slots") as answer:
                slots = await answer.json()
            async with client.get("/metrics") as answer:
                assert "llamacpp:requests_processing" in await answer.text()
        assert said["model"] == "tiny"
        assert said["usage"]["completion_tokens"] == 5
        assert [slot["n_ctx"] for slot in slots] == [256, 256]
        await server.stop()
        assert not any(map(runs, pids))
        assert server.memory_bytes() == (0, 0)
        assert not list((tmp_path / "servers").iterdir())

    asyncio.run(asyncio.wait_for(main(), 60))


@pytest.mark.parametrize(("device", "gpu_layers"), DEVICES[:1])
def test_a_model_that_does_not_load_says_why(device: str, gpu_layers: int | None, tmp_path: Path) -> None:
    async def main() -> None:
        server = LlamaServer(launch(str(tmp_path / "none.gguf"), device, gpu_layers), settings(tmp_path))
        with pytest.raises(ServerFailed, match=r"ended with status 1: .*No such file or directory") as failed:
            await server.start()
        assert not failed.value.out_of_memory

    asyncio.run(asyncio.wait_for(main(), 60))


@pytest.mark.parametrize(("device", "gpu_layers"), DEVICES[:1])
def test_a_context_that_its_memory_does_not_hold_is_told_as_that(
    device: str, gpu_layers: int | None, checkpoint: str, tmp_path: Path
) -> None:
    limited = tmp_path / "limited"
    limited.write_text(f'#!/bin/sh\nulimit -v 2000000\nexec {BINARY} "$@"\n')
    limited.chmod(0o755)

    async def main() -> None:
        huge = launch(checkpoint, device, gpu_layers, context_tokens=4_000_000, max_batch=1)
        with pytest.raises(ServerFailed) as failed:
            await LlamaServer(huge, settings(tmp_path, llama_server=str(limited))).start()
        assert failed.value.out_of_memory, failed.value

    asyncio.run(asyncio.wait_for(main(), 60))


@pytest.mark.parametrize(("device", "gpu_layers"), DEVICES[:2])
def test_a_server_or_a_device_that_is_killed_is_told_at_once(
    device: str, gpu_layers: int | None, checkpoint: str, tmp_path: Path
) -> None:
    async def main() -> None:
        server = LlamaServer(launch(checkpoint, device, gpu_layers), settings(tmp_path))
        await server.start()
        victim = server._rpc.pid or server.pid
        exited = asyncio.create_task(server.exited())
        os.kill(victim, signal.SIGKILL)
        told = "lost its device, whose process was killed" if server._rpc.pid else "was killed by SIGKILL"
        failed = await exited
        assert told in str(failed)
        assert not failed.out_of_memory
        await server.stop()

    asyncio.run(asyncio.wait_for(main(), 60))


@pytest.mark.parametrize(("device", "gpu_layers"), DEVICES[1:2])
def test_of_a_server_that_is_killed_its_device_s_process_ends_too(
    device: str, gpu_layers: int | None, checkpoint: str, tmp_path: Path
) -> None:
    async def main() -> None:
        told = asyncio.Event()
        fleet = Fleet(lambda engine, launch: LlamaServer(launch, settings(tmp_path)), lambda *at: told.set())
        await fleet.load(0, 0, "llama-cpp", launch(checkpoint, device, gpu_layers))
        server = fleet.servers[0, 0]
        assert isinstance(server, LlamaServer)
        pids = [server.pid, *server._rpc.pids()]
        os.kill(server.pid, signal.SIGKILL)
        await told.wait()
        await fleet.load(0, 0, "llama-cpp", launch(checkpoint, device, gpu_layers))
        assert not any(map(runs, pids)), "what it left would hold the device's memory beside the next one's"
        await fleet.stop()

    asyncio.run(asyncio.wait_for(main(), 60))


def test_the_command_says_all_that_matters_and_the_user_s_arguments_last(binary: str, tmp_path: Path) -> None:
    given = launch("m.gguf", "cuda:1", 7, max_batch=3, kv_type="q8_0", args=("--ctx-size", "9"))
    command = LlamaServer(given, settings(tmp_path, llama_server=binary)).command(8123)
    text = " ".join(command)
    assert text.endswith("--ctx-size 9")
    for part in (
        "--model m.gguf --alias tiny --host 127.0.0.1 --port 8123",
        "--device CUDA1 --gpu-layers 7",
        "--ctx-size 768 --parallel 3",
        "--cache-type-k q8_0 --cache-type-v q8_0 --flash-attn on",
        "--cache-ram 0",
    ):
        assert part in text
    cpu = LlamaServer(
        launch("m.gguf", "cpu:2-threads-cores-0-mmap", None), settings(tmp_path, llama_server=binary)
    )
    assert "--device none --gpu-layers 0 --threads 2" in " ".join(cpu.command(1))
    assert cpu.cores() == (0,)
    assert "--load-mode" not in cpu.command(1)


def test_a_gpu_by_its_address_is_the_only_one_that_it_sees(
    binary: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Gpu:
        def uuid(self) -> str:
            return "GPU-of-that-slot"

    uuid = "GPU-12345678-1234-1234-1234-123456789abc"
    monkeypatch.setattr(
        memory, "open_gpu", lambda _index, address: Gpu() if address == "0000:65:00.0" else None
    )
    for device, seen in ((f"cuda:{uuid}-20GB", uuid), ("cuda:0000:65:00.0", "GPU-of-that-slot")):
        server = LlamaServer(launch("m.gguf", device, 7), settings(tmp_path, llama_server=binary))
        assert server.environment()["CUDA_VISIBLE_DEVICES"] == seen
        assert "--device CUDA0" in " ".join(server.command(1))
    with pytest.raises(InputError, match="NVML finds by its PCI address"):
        LlamaServer(launch("m.gguf", "cuda:0000:66:00.0", 7), settings(tmp_path, llama_server=binary))


def test_settings_of_llama_cpp_in_the_environment_do_not_reach_it(
    binary: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LLAMA_ARG_PARALLEL", "7")
    monkeypatch.setenv("LLAMA_API_KEY", "secret")
    server = LlamaServer(launch("m.gguf", "cpu", None), settings(tmp_path, llama_server=binary))
    assert not [name for name in server.environment() if name.startswith("LLAMA_")]


def test_the_binary_is_what_was_given_or_found(
    binary: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv(VARIABLE, raising=False)
    monkeypatch.setenv("PATH", "/bin")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    with pytest.raises(InputError, match="make llama-server builds one"):
        find_binary()
    with pytest.raises(InputError, match=r"--llama-server must .*make llama-server"):
        find_binary(str(tmp_path / "none"))
    built = tmp_path / "cache/shunter/llama-server" / f"1.0-cpu-{llama_binary._processor()}" / "bin"
    built.mkdir(parents=True)
    cached = _program(built / "llama-server", [])
    assert find_binary() == cached
    monkeypatch.setenv(VARIABLE, binary)
    assert find_binary() == binary
    assert find_binary(cached) == cached


def test_a_binary_that_lacks_what_is_needed_is_named_with_what_is_missing(tmp_path: Path) -> None:
    known = [option for option in llama_binary._NEEDED if option != "--cache-ram"]
    old = _program(tmp_path / "old", known)
    with pytest.raises(InputError, match=rf"know --cache-ram \(.*{old}"):
        LlamaServer(launch("m.gguf", "cpu", None), settings(tmp_path, llama_server=old))
    without_rpc = _program(tmp_path / "without", list(llama_binary._NEEDED))
    with pytest.raises(InputError, match="DGGML_RPC=ON"):
        LlamaServer(
            launch("m.gguf", "loopback:1-threads", None), settings(tmp_path, llama_server=without_rpc)
        )
    script = tmp_path / "script"
    script.write_text("no program")
    script.chmod(0o755)
    with pytest.raises(InputError, match="be a binary that runs"):
        LlamaServer(launch("m.gguf", "cpu", None), settings(tmp_path, llama_server=str(script)))


def test_an_engine_without_a_server_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="has no server"):
        make_server("transformers", launch("m", "cpu", None), settings(tmp_path))
    with pytest.raises(UnknownNameError, match="did you mean llama-cpp"):
        make_server("lama-cpp", launch("m", "cpu", None), settings(tmp_path))


def test_cores_that_are_not_there_are_refused(binary: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="device must name cores that this process may use"):
        LlamaServer(
            launch("m.gguf", "cpu:1-threads-cores-999", None), settings(tmp_path, llama_server=binary)
        )
