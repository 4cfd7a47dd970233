"""A gateway as users run it, ``shunter serve`` in a process of its own, and the servers behind it."""

from __future__ import annotations

import asyncio
import json
import os
import re
import sys
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
import psutil
import yaml

from shunter.catalog.models import get_model, scaled_model
from shunter.profiling.checkpoints.synthetic import bytes_per_weight, write_checkpoint
from shunter.serve.boundary import Launch
from shunter.serve.servers.making import make_server
from shunter.serve.servers.starting import ServerSettings

__all__ = ["Site", "events_of", "fake_scenario", "open_site", "tiny_checkpoint", "twin_server"]

ROOT = Path(__file__).parents[1]
CONTEXT_TOKENS = 192
ROOMY = "loopback:1-threads-2000MB"
"""Holds every model of a fake scenario at once."""

_START_S = 240.0
_END_S = 30.0
_URL = re.compile(rb"http://[\w.]+:\d+")


@dataclass
class Site:
    """A gateway that runs.

    Attributes:
        url: Where it listens.
        pid: Its process.
        folder: What it was given and what it writes.
        client: Asks it, and anybody else, over as many connections as it takes.
    """

    url: str
    pid: int
    folder: Path
    client: aiohttp.ClientSession

    async def state(self) -> dict[str, Any]:
        """Its snapshot."""
        async with self.client.get(f"{self.url}/running") as answer:
            return dict(await answer.json())

    async def model(self, name: str) -> dict[str, Any]:
        """What its snapshot says of a model."""
        return next(model for model in (await self.state())["models"] if model["name"] == name)

    async def warm(self, name: str, **fields: Any) -> str:
        """Has a model loaded; returns its server's URL.

        Raises:
            RuntimeError: It does not load.
        """
        status = 0
        for _ in range(60):
            async with self.post(name, max_tokens=1, **fields) as answer:
                await answer.read()
                status = answer.status
            if status == 200 and (url := await self.upstream(name)):
                return url
            await asyncio.sleep(0.2)
        raise RuntimeError(f"{name} does not load: status {status}")

    async def upstream(self, name: str) -> str:
        """The URL of a model's server; empty if there is none."""
        pids = [
            resident["pid"]
            for device in (await self.state())["devices"]
            for resident in device["residents"]
            if resident["model"] == name and resident["pid"]
        ]
        if not pids:
            return ""
        command = psutil.Process(pids[0]).cmdline()
        return f"http://127.0.0.1:{command[command.index('--port') + 1]}"

    def post(self, model: str, path: str = "/v1/completions", url: str = "", **fields: Any) -> Any:
        """Asks the gateway, or another URL."""
        body = {"model": model, "prompt": "one two three"} | fields
        return self.client.post(f"{url or self.url}{path}", json=body)


def tiny_checkpoint(folder: Path, megabytes: float = 4.0) -> Path:
    """A GGUF file with random weights; written if it is not there."""
    path = folder / f"tiny-{megabytes:g}.gguf"
    if not path.exists():
        folder.mkdir(parents=True, exist_ok=True)
        spec = scaled_model(get_model("Qwen3-8B"), megabytes * 1e6 / bytes_per_weight("Q8_0"))
        write_checkpoint(spec, path, format="gguf", quantization="Q8_0")
    return path


def fake_scenario(
    folder: Path, models: Mapping[str, Mapping[str, Any]], device: str = ROOMY, **limits: Any
) -> dict[str, Any]:
    """A scenario over fake servers.

    Args:
        folder: Where checkpoints go.
        models: What each model's entry says beside its name; ``args`` are options of the fake.
        device: The device that all share.
        limits: Further limits.
    """
    checkpoint = str(tiny_checkpoint(folder))
    return {
        "name": "fake",
        "engine": "fake",
        "devices": [{"name": "device-0", "device": device}],
        "models": [{"name": name, "checkpoint": checkpoint} | dict(more) for name, more in models.items()],
        "workload": {"rate_per_s": 1.0},
        "limits": {"max_batch": 4, "context_tokens": CONTEXT_TOKENS, "preemption": "drain"} | limits,
    }


@asynccontextmanager
async def open_site(
    folder: Path, scenario: Mapping[str, Any], *options: str, key: str = ""
) -> AsyncIterator[Site]:
    """Runs a gateway; nothing of it is left afterwards.

    Args:
        folder: For its files; made if need be.
        scenario: What the scenario file says.
        options: Further options of ``shunter serve``.
        key: API key that it wants.

    Raises:
        RuntimeError: It ends at once, or says nothing.
    """
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "scenario.yaml"
    path.write_text(yaml.safe_dump(dict(scenario)), encoding="utf-8")
    command = ["serve", "--scenario", str(path), "--port", "0", "--state", str(folder / "state")]
    with (folder / "errors.log").open("wb") as errors:
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-c", "from shunter.cli.main import main; main()"),
            *(*command, "--drain", "1s", *options),
            stdout=asyncio.subprocess.PIPE,
            stderr=errors,
            env=dict(os.environ, PYTHONPATH=str(ROOT), COLUMNS="200"),
        )
    try:
        url = await asyncio.wait_for(_said_url(process), _START_S)
        connector = aiohttp.TCPConnector(limit=0, force_close=True)
        timeout = aiohttp.ClientTimeout(total=600)
        headers = {"Authorization": f"Bearer {key}"} if key else {}
        async with aiohttp.ClientSession(connector=connector, timeout=timeout, headers=headers) as client:
            site = Site(url, process.pid, folder, client)
            await _answers(site)
            yield site
    finally:
        await _end(process)


async def _said_url(process: asyncio.subprocess.Process) -> str:
    assert process.stdout is not None
    said = b""
    while line := await process.stdout.readline():
        said += line
        if found := _URL.search(line):
            return found[0].decode()
    raise RuntimeError(f"shunter serve ended: {said.decode(errors='replace')}")


async def _answers(site: Site) -> None:
    """Waits until it has decided for the first time, for which code is compiled where none is kept."""
    async with asyncio.timeout(_START_S):
        await site.state()


async def _end(process: asyncio.subprocess.Process) -> None:
    if process.returncode is not None:
        return
    family = psutil.Process(process.pid).children(recursive=True)
    process.terminate()
    try:
        await asyncio.wait_for(process.communicate(), _END_S)
    except TimeoutError:
        process.kill()
        await process.wait()
    for child in family:
        if child.is_running():
            child.kill()


@asynccontextmanager
async def twin_server(
    folder: Path, scenario: Mapping[str, Any], name: str, llama_server: str | None = None
) -> AsyncIterator[str]:
    """A server as the gateway starts it for a model of the scenario, without a gateway; yields its URL."""
    model = next(model for model in scenario["models"] if model["name"] == name)
    launch = Launch(
        model=name,
        checkpoint=str(model["checkpoint"]),
        device=str(scenario["devices"][0]["device"]),
        gpu_layers=None,
        context_tokens=int(scenario["limits"]["context_tokens"]),
        max_batch=int(model.get("max_batch", scenario["limits"]["max_batch"])),
        args=tuple(model.get("args", ())),
    )
    settings = ServerSettings(state_dir=folder / "twin", llama_server=llama_server)
    server = make_server(str(scenario["engine"]), launch, settings)
    await server.start()
    try:
        yield server.url
    finally:
        await server.stop()


def events_of(raw: bytes) -> Sequence[dict[str, Any]]:
    """The JSON of a stream's events."""
    lines = [line.removeprefix(b"data: ") for line in raw.split(b"\n") if line.startswith(b"data: {")]
    return [json.loads(line) for line in lines]
