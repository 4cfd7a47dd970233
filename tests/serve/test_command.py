"""The command as a process: signals, a changed scenario, what is left of a killed one; and its bad input."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import aiohttp
import pytest
import yaml

from shunter.cli.main import main
from tests.serve.servers.helpers import runs, wait_for

_MAIN = "from shunter.cli.main import main; main()"
_START_S = 90.0


def write_box(folder: Path, checkpoint: Path, **models: Any) -> Path:
    """Writes a scenario of fake servers that all fit; further keys of each model by its name."""
    box = {
        "name": "box",
        "engine": "fake",
        "devices": [{"name": "d0", "device": "cpu:1-threads-2000MB"}],
        "models": [{"name": name, "checkpoint": str(checkpoint)} | keys for name, keys in models.items()],
        "workload": {"rate_per_s": 0.5},
        "limits": {"max_batch": 4, "context_tokens": 256},
    }
    path = folder / "box.yaml"
    path.write_text(yaml.safe_dump(box), encoding="utf-8")
    return path


class Process:
    """``shunter serve`` in a process of its own."""

    def __init__(self, folder: Path, *options: str) -> None:
        command = [sys.executable, "-c", _MAIN, "serve", "--scenario", str(folder / "box.yaml")]
        command += ["--port", "0", "--state", str(folder / "state"), *options]
        environment = dict(os.environ, PYTHONUNBUFFERED="1")
        self._log = folder / "serve.log"
        with self._log.open("wb") as log:
            self.process = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT, env=environment)
        wait_for(lambda: self.says(" serves ") or self.process.poll() is not None, "it starts", _START_S)
        assert self.says(" serves "), self.lines
        self.url = next(line.split()[0] for line in self.lines if " serves " in line)

    @property
    def lines(self) -> list[str]:
        """What it has said."""
        return self._log.read_text(encoding="utf-8").splitlines()

    def says(self, what: str, times: int = 1) -> bool:
        """Whether it has said something, so often."""
        return sum(what in line for line in self.lines) >= times

    def signal(self, number: int) -> None:
        """Sends it a signal."""
        self.process.send_signal(number)

    def end(self) -> int:
        """Waits for its end; returns its status."""
        return self.process.wait(30)


@contextmanager
def serving(folder: Path, *options: str) -> Iterator[Process]:
    """Runs the command, and leaves nothing of it."""
    process = Process(folder, *options)
    try:
        yield process
    finally:
        process.process.kill()
        process.end()


class Client:
    """Asks a gateway."""

    def __init__(self, url: str, session: aiohttp.ClientSession) -> None:
        self.url, self.session = url, session

    async def ask(self, model: str, tokens: int = 3) -> int:
        """Asks for an answer; returns its status."""
        body = {"model": model, "messages": [{"role": "user", "content": "Hi"}], "max_tokens": tokens}
        async with self.session.post(f"{self.url}/v1/chat/completions", json=body) as got:
            await got.read()
            return got.status

    async def pids(self) -> dict[str, int]:
        """Process ids of the servers that are there."""
        async with self.session.get(f"{self.url}/running") as got:
            (device,) = (await got.json())["devices"]
        return {one["model"]: one["pid"] for one in device["residents"]}

    async def until(self, condition: Callable[[], bool], what: str) -> None:
        """Waits until something holds."""
        await asyncio.to_thread(wait_for, condition, what)


def test_a_changed_scenario_restarts_only_what_changed_and_loses_nobody(
    tmp_path: Path, fake_checkpoints: dict[str, Path]
) -> None:
    checkpoint = next(iter(fake_checkpoints.values()))
    slow = {"args": ["--step-s", "0.02", "--tokens", "50"]}
    write_box(tmp_path, checkpoint, kept=slow, changed=slow, gone={})

    async def scene(process: Process) -> None:
        async with aiohttp.ClientSession() as session:
            client = Client(process.url, session)
            assert [await client.ask(model, 1) for model in ("kept", "changed", "gone")] == [200] * 3
            before = await client.pids()
            asked = [asyncio.create_task(client.ask(m, 40)) for m in ("kept", "changed") for _ in range(6)]
            write_box(tmp_path, checkpoint, new={}, kept=slow, changed={"args": ["--step-s", "0.01"]})
            process.signal(signal.SIGHUP)
            await client.until(lambda: process.says("was read again"), "it was read")
            assert process.says("gone on d0 is unloaded")
            assert process.says("new is new")
            assert {await task for task in asked} == {200}
            assert await client.ask("new") == await client.ask("changed") == 200
            assert await client.ask("gone") == 404
            after = await client.pids()
            assert after["kept"] == before["kept"]
            assert after["changed"] != before["changed"]
            assert not runs(before["gone"])

            (tmp_path / "box.yaml").write_text("models: [", encoding="utf-8")
            process.signal(signal.SIGHUP)
            await client.until(lambda: process.says("stays as it was"), "the broken one is refused")
            assert await client.ask("new") == 200

            asked = [asyncio.create_task(client.ask("kept", 30)) for _ in range(8)]
            for k in range(20):
                write_box(tmp_path, checkpoint, kept=slow, **{f"new-{k}": {}})
                process.signal(signal.SIGHUP)
            assert {await task for task in asked} == {200}
            await client.until(lambda: process.says("new-19 is new"), "the last one is served")
            assert await client.ask("new-19") == 200

            last = asyncio.create_task(client.ask("kept", 40))
            await asyncio.sleep(0.1)
            process.signal(signal.SIGTERM)
            await client.until(lambda: process.says("ending"), "it is told to end")
            assert await client.ask("kept") == 503
            assert await last == 200, "what ran was let run"

    with serving(tmp_path, "--record", str(tmp_path / "record")) as process:
        asyncio.run(scene(process))
        assert process.end() == 0
    lines = [json.loads(line) for line in (tmp_path / "record" / "requests.jsonl").read_text().splitlines()]
    assert {line["status"] for line in lines} == {"done"}
    assert not list((tmp_path / "state" / "servers").glob("*.json"))
    assert not any("Traceback" in line for line in process.lines)


def test_a_server_that_says_nothing_is_replaced(tmp_path: Path, fake_checkpoints: dict[str, Path]) -> None:
    """Its process calls itself well, and takes its time to end."""
    checkpoint = next(iter(fake_checkpoints.values()))
    path = write_box(tmp_path, checkpoint, mute={"args": ["--fail", "stall-after:2"]}, fine={})
    box = yaml.safe_load(path.read_text(encoding="utf-8"))
    del box["workload"]
    path.write_text(yaml.safe_dump(box), encoding="utf-8")

    async def scene(process: Process) -> None:
        async with aiohttp.ClientSession() as session:
            client = Client(process.url, session)
            assert await client.ask("mute", 1) == 200
            assert process.says("no workload: 70% of what its devices can serve is expected")
            before = (await client.pids())["mute"]
            assert await client.ask("mute", 5) == 504
            assert await client.ask("mute", 2) == await client.ask("fine") == 200
            assert (await client.pids())["mute"] != before
            await client.until(lambda: not runs(before), "it has ended")

    with serving(tmp_path, "--hang-after", "1s") as process:
        asyncio.run(scene(process))


def test_a_killed_gateway_leaves_no_server_and_a_second_signal_ends_one_at_once(
    tmp_path: Path, fake_checkpoints: dict[str, Path]
) -> None:
    checkpoint = next(iter(fake_checkpoints.values()))
    write_box(tmp_path, checkpoint, slow={"args": ["--step-s", "1", "--tokens", "250"]})

    async def scene(process: Process, end: Callable[[Process, asyncio.Task[int]], None]) -> None:
        async with aiohttp.ClientSession() as session:
            client = Client(process.url, session)
            assert await client.ask("slow", 1) == 200
            asked = asyncio.create_task(client.ask("slow", 200))
            await asyncio.sleep(0.1)
            pid = (await client.pids())["slow"]
            await asyncio.to_thread(end, process, asked)
            await asyncio.wait({asked})
            assert asked.exception() is None or isinstance(asked.exception(), aiohttp.ClientError)
            await client.until(lambda: not runs(pid), "its server has ended too")

    def kill(process: Process, asked: asyncio.Task[int]) -> None:
        process.signal(signal.SIGKILL)

    def tell_twice(process: Process, asked: asyncio.Task[int]) -> None:
        process.signal(signal.SIGTERM)
        wait_for(lambda: process.says("ending"), "it waits for what runs")
        assert not asked.done()
        process.signal(signal.SIGTERM)
        process.process.wait(60)  # the answer would take 200 s

    for end in (kill, tell_twice):
        with serving(tmp_path) as process:
            asyncio.run(scene(process, end))
    assert process.end() == 0


@pytest.mark.parametrize("wanted", [False, True])
def test_texts_are_written_only_where_that_is_asked_for(
    tmp_path: Path, fake_checkpoints: dict[str, Path], wanted: bool
) -> None:
    write_box(tmp_path, next(iter(fake_checkpoints.values())), a={}, b={"args": ["--fail", "load"]})
    secret = "a-secret-of-the-client"
    record = tmp_path / "record"

    async def scene(process: Process) -> None:
        async with aiohttp.ClientSession() as session:
            for model in ("a", "b", "none"):
                body = {"model": model, "prompt": secret, "max_tokens": 2}
                async with session.post(f"{process.url}/v1/completions", json=body) as got:
                    await got.read()

    options = ("--record", str(record), "--shadow", "lru-keepalive", *(["--log-text"] if wanted else []))
    with serving(tmp_path, *options) as process:
        asyncio.run(scene(process))
        process.signal(signal.SIGTERM)
        assert process.end() == 0
        assert process.says("warning: what clients ask and are answered is written to") == wanted
        assert process.says("served 1 requests, 1 failed, 0 were cancelled; 1 loads")
        assert process.says("b was not loaded on ")
        assert process.says("lru-keepalive would have decided ")
    holders = [
        path for path in tmp_path.rglob("*") if path.is_file() and secret.encode() in path.read_bytes()
    ]
    if not wanted:
        assert holders == []
        return
    (texts,) = holders
    assert texts.parent == record
    assert texts.stat().st_mode & 0o777 == 0o600
    lines = [json.loads(line) for line in texts.read_text(encoding="utf-8").splitlines()]
    assert [line["status"] for line in lines] == [200, 503, 404]
    assert all(secret in line["request"] for line in lines)


def refused(capsys: pytest.CaptureFixture[str], *options: str) -> str:
    """What the command says to bad input: one line, and status 2."""
    with pytest.raises(SystemExit) as ended:
        main(["serve", *options])
    said = capsys.readouterr()
    assert ended.value.code == 2, said
    assert said.err.count("\n") == 1, said.err
    return said.err


@pytest.fixture
def box(tmp_path: Path, fake_checkpoints: dict[str, Path]) -> Callable[..., list[str]]:
    """Writes a scenario with some keys changed, and gives the options that serve it."""
    checkpoint = next(iter(fake_checkpoints.values()))

    def write(changes: dict[str, Any] | None = None, **models: Any) -> list[str]:
        path = write_box(tmp_path, checkpoint, **models or {"a": {}})
        whole = yaml.safe_load(path.read_text(encoding="utf-8")) | (changes or {})
        path.write_text(yaml.safe_dump(whole), encoding="utf-8")
        return ["--scenario", str(path), "--port", "0", "--state", str(tmp_path / "state")]

    return write


def test_a_port_in_use(box: Callable[..., list[str]], capsys: pytest.CaptureFixture[str]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        said = refused(capsys, *box(), "--port", str(port))
    assert f"--port must be free. Got '127.0.0.1:{port}' instead" in said


def test_a_binary_that_is_missing(
    box: Callable[..., list[str]], capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    options = box({"engine": "llama-cpp"})
    assert "llama-server" in refused(capsys, *options, "--llama-server", str(tmp_path / "none"))


def test_a_key_file_that_others_can_read(
    box: Callable[..., list[str]], capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    keys = tmp_path / "keys.txt"
    keys.write_text("secret\n", encoding="utf-8")
    keys.chmod(0o644)
    assert "chmod 600" in refused(capsys, *box(), "--api-key", str(keys))
    assert "--api-key" in refused(capsys, *box(), "--host", "0.0.0.0")


def test_a_record_that_is_no_folder_and_texts_without_one(
    box: Callable[..., list[str]], capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("")
    for place in ("trace.parquet", "file"):
        said = refused(capsys, *box(), "--record", str(tmp_path / place))
        assert "--record must be a folder (shunter workload convert FOLDER trace.parquet" in said
    assert not (tmp_path / "trace.parquet").exists()
    assert "--record must be given with --log-text" in refused(capsys, *box(), "--log-text")


def test_a_time_that_is_none(box: Callable[..., list[str]], capsys: pytest.CaptureFixture[str]) -> None:
    assert "--hang-after must be a time" in refused(capsys, *box(), "--hang-after", "0s")


def test_a_performance_file_that_is_missing(
    box: Callable[..., list[str]], capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    assert str(tmp_path / "perf") in refused(capsys, *box(), "--performance", str(tmp_path / "perf"))


@pytest.mark.parametrize(
    ("changes", "models", "said"),
    [
        ({}, {"a": {"name": "b"}, "b": {}}, "b"),
        ({}, {"a": {}, "b": {"aliases": ["a"]}}, "a"),
        ({}, {"a": {"checkpoint": None}}, "models.a"),
        ({}, {"a": {"checkpoint": "/none/such.gguf"}}, "models.a.checkpoint must be there"),
        ({}, {"a": {"checkpoint": None, "catalog": "Qwen2.5-3B", "quantization": "Q8_0"}}, "checkpoint"),
        ({"devices": [{"name": "d0", "gpu": "RTX 4090"}]}, {"a": {}}, "devices.d0.device"),
        (
            {"devices": [{"name": "d0", "device": "cpu:1-threads-100MB"}]},
            {"a": {"pinned": True}, "b": {"pinned": True}},
            "pinned",
        ),
        ({"engine": "transformers"}, {"a": {}}, "has no server"),
        ({"models": []}, {"a": {}}, "models"),
        ({"nonsense": 1}, {"a": {}}, "nonsense"),
    ],
)
def test_a_scenario_that_cannot_be_served(
    box: Callable[..., list[str]],
    capsys: pytest.CaptureFixture[str],
    changes: dict[str, Any],
    models: dict[str, Any],
    said: str,
) -> None:
    assert said in refused(capsys, *box(changes, **models))
