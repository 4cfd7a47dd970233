"""``vllm serve`` as a server, against a stand-in that speaks as vLLM does: vLLM itself was not tried."""

from __future__ import annotations

import asyncio
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from shunter.catalog.models import get_model, scaled_model
from shunter.errors import InputError
from shunter.profiling.checkpoints.synthetic import write_checkpoint
from shunter.serve.boundary import Launch, ServerFailed, Sleeper
from shunter.serve.servers import vllm_server
from shunter.serve.servers.vllm_server import VARIABLE, VllmServer
from tests.serve.servers import fake_vllm
from tests.serve.servers.helpers import runs, settings


@pytest.fixture
def python(tmp_path: Path) -> str:
    """An interpreter whose vLLM is the stand-in."""
    path = tmp_path / "python"
    path.write_text(f'#!/bin/sh\nshift 2\nexec {sys.executable} {fake_vllm.__file__} "$@"\n')
    path.chmod(0o755)
    return str(path)


def launch(device: str = "cuda:0", **changed: Any) -> Launch:
    return Launch(
        "tiny", "folder", device, **{"gpu_layers": None, "context_tokens": 64, "max_batch": 3} | changed
    )


@pytest.mark.parametrize("level", [1, 2])
def test_it_sleeps_gives_memory_back_and_wakes_with_a_first_token(
    level: int, python: str, tmp_path: Path
) -> None:
    async def main() -> None:
        server = VllmServer(launch(), settings(tmp_path, vllm_python=python))
        assert isinstance(server, Sleeper)
        await server.start()
        awake_bytes = server.memory_bytes()[1]
        assert awake_bytes > fake_vllm.WEIGHTS_BYTES
        assert not await server.is_sleeping()
        await server.sleep(level)
        assert await server.is_sleeping()
        assert server.memory_bytes()[1] < awake_bytes - fake_vllm.WEIGHTS_BYTES / 2
        await server.wake()
        assert not await server.is_sleeping()
        async with aiohttp.ClientSession(server.url) as client:
            async with client.get("/calls") as answer:
                calls = await answer.json()
            async with client.post("/v1/completions", json={"model": "tiny", "prompt": "a"}) as answer:
                assert (await answer.json())["choices"][0]["text"] == "t0"
        slept = f"/sleep?level={level}&mode=wait"
        woken = ["/wake_up"]
        if level == 2:
            woken = ["/wake_up?tags=weights", "/collective_rpc", "/wake_up?tags=kv_cache"]
            woken.append("/reset_prefix_cache")
        assert calls == [slept, *woken, "/v1/completions"]
        await server.stop()

    asyncio.run(asyncio.wait_for(main(), 30))


def test_without_a_sleep_mode_or_once_dead_it_says_so(python: str, tmp_path: Path) -> None:
    async def main() -> None:
        server = VllmServer(launch("cpu"), settings(tmp_path, vllm_python=python))
        await server.start()
        with pytest.raises(ServerFailed, match="answers /sleep with 404"):
            await server.sleep(1)
        await server.stop()
        with pytest.raises(ServerFailed, match="does not answer /sleep"):
            await server.sleep(1)

    asyncio.run(asyncio.wait_for(main(), 30))


async def sleep_and_wake(server: VllmServer) -> None:
    await server.sleep(1)
    await server.wake()


@pytest.mark.parametrize(
    ("kind", "path"),
    [
        ("hang", "/sleep"),
        ("hang", "/wake_up"),
        ("hang", "/v1/completions"),
        ("die", "/wake_up"),
        ("refuse", "/sleep"),
        ("garble", "/is_sleeping"),
    ],
)
def test_whatever_fails_in_a_sleep_or_a_wake_is_told_in_time(
    kind: str, path: str, python: str, tmp_path: Path
) -> None:
    async def main() -> None:
        given = launch(args=("--fail", f"{kind}@{path}"))
        server = VllmServer(given, settings(tmp_path, vllm_python=python))
        await server.start()
        server.settings = replace(server.settings, progress_s=0.5)
        pid = server.pid
        with pytest.raises(ServerFailed, match="within 0.5 s" if kind == "hang" else path):
            await sleep_and_wake(server)
        await server.stop()
        assert not runs(pid)

    asyncio.run(asyncio.wait_for(main(), 30))


class FakeGpu:
    def memory_bytes(self) -> tuple[float, float]:
        return 0.0, 80e9


def test_its_command_gives_it_its_share_of_the_gpu(
    python: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(vllm_server, "open_gpu", lambda _index, address: FakeGpu())
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,7")
    given = launch("cuda:1-20GB", kv_type="q8_0", args=("--dtype", "half"))
    server = VllmServer(given, settings(tmp_path, vllm_python=python))
    text = " ".join(server.command(8123))
    assert text.endswith("--enable-sleep-mode --gpu-memory-utilization 0.2500 --dtype half")
    for part in ("--max-model-len 64 --max-num-seqs 3", "--kv-cache-dtype fp8", "--port 8123"):
        assert part in text
    environment = server.environment()
    assert environment["CUDA_VISIBLE_DEVICES"] == "7"
    assert environment["VLLM_SERVER_DEV_MODE"] == "1"
    assert "0.5000" in VllmServer(
        launch("cuda:1", memory_bytes=40_000_000_000), settings(tmp_path, vllm_python=python)
    ).command(1)
    monkeypatch.setattr(vllm_server, "open_gpu", lambda _index, address: None)
    with pytest.raises(InputError, match="NVML"):
        server.command(1)


def test_what_vllm_cannot_be_given_is_refused_by_name(
    python: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv(VARIABLE, raising=False)
    with pytest.raises(InputError, match=rf"\${VARIABLE} must be an interpreter"):
        VllmServer(launch(), settings(tmp_path))
    for changed, match in (
        ({"device": "loopback:1-threads"}, "device must be cpu or cuda"),
        ({"kv_type": "q4_0"}, "kv_type must be f16 or q8_0"),
    ):
        with pytest.raises(InputError, match=match):
            VllmServer(launch(**changed), settings(tmp_path, vllm_python=python))


def test_all_layers_are_no_level(python: str, tmp_path: Path) -> None:
    spec = scaled_model(get_model("Qwen3-8B"), 12e6)
    folder = str(write_checkpoint(spec, tmp_path / "tiny", format="safetensors", quantization="BF16").path)
    given = Launch("tiny", folder, "cuda:0", spec.layers + 1, context_tokens=64, max_batch=1)
    VllmServer(given, settings(tmp_path, vllm_python=python))
    with pytest.raises(InputError, match=rf"gpu_layers must be {spec.layers + 1} for 'tiny'"):
        VllmServer(replace(given, gpu_layers=1), settings(tmp_path, vllm_python=python))
