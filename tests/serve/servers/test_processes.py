"""Servers' processes: whatever happens to the gateway, nothing of them is left, and no stranger is ended."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import subprocess
import sys
import threading
from dataclasses import asdict
from pathlib import Path

import pytest

from shunter.serve.boundary import ServerFailed
from shunter.serve.servers import starting
from shunter.serve.servers.failures import server_failed
from shunter.serve.servers.fake.server import FakeProcess
from shunter.serve.servers.processes.identity import boot_id, session_pids, start_ticks
from shunter.serve.servers.processes.leftovers import Record, reap_leftovers
from shunter.serve.servers.processes.log import ServerLog
from shunter.serve.servers.processes.memory import GpuShare
from shunter.serve.servers.processes.processes import ServerProcess, free_port
from tests.serve.servers.helpers import fake_launch, runs, settings, wait_for

ROOT = Path(__file__).parents[3]
OWNER = """
import asyncio, sys
from pathlib import Path
from shunter.serve.servers.fake.server import FakeProcess
from tests.serve.servers.helpers import fake_launch, settings
async def main():
    server = FakeProcess(fake_launch("--fail", "slow-stop"), settings(Path(sys.argv[1])))
    await server.start()
    print(server.pid, flush=True)
    await asyncio.sleep(60)
asyncio.run(main())
"""
SLEEPER = [sys.executable, "-c", "import time; time.sleep(60)"]


def test_a_gateway_that_is_killed_leaves_no_server(tmp_path: Path) -> None:
    environment = dict(os.environ, PYTHONPATH=str(ROOT))
    owner = subprocess.Popen(
        [sys.executable, "-c", OWNER, str(tmp_path)], stdout=subprocess.PIPE, env=environment
    )
    try:
        assert owner.stdout is not None
        pid = int(owner.stdout.readline())
        assert runs(pid)
    finally:
        owner.kill()
        owner.wait()
    owner.stdout.close()
    wait_for(lambda: not runs(pid), "the server has outlived its gateway")
    assert len(list((tmp_path / "servers").glob("*.json"))) == 1
    assert reap_leftovers(tmp_path) == []
    assert not list((tmp_path / "servers").glob("*.json"))


@pytest.fixture
def sleeper() -> subprocess.Popen[bytes]:
    process = subprocess.Popen(SLEEPER, start_new_session=True)
    yield process
    process.kill()
    process.wait()


def record(folder: Path, pid: int, **changed: object) -> Path:
    made = Record(pid, start_ticks(pid) or 0, 2**22 + 1, 1, boot_id(), 1, "x")
    path = folder / "servers" / f"{pid}.json"
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(asdict(made) | changed))
    return path


def test_what_a_dead_gateway_left_is_ended(tmp_path: Path, sleeper: subprocess.Popen[bytes]) -> None:
    path = record(tmp_path, sleeper.pid)
    (path.parent / "7.json").write_text("{")
    assert [each.pid for each in reap_leftovers(tmp_path)] == [sleeper.pid]
    assert sleeper.wait() == -signal.SIGKILL
    assert not list(path.parent.iterdir())


def test_what_a_dead_server_left_is_ended_too(tmp_path: Path) -> None:
    leader = subprocess.Popen(["/bin/sh", "-c", "sleep 60 & true"], start_new_session=True)
    leader.wait()
    (left,) = session_pids(leader.pid)
    record(tmp_path, leader.pid)
    assert [each.pid for each in reap_leftovers(tmp_path)] == [leader.pid]
    assert not runs(left)


@pytest.mark.parametrize(
    ("changed", "stays"),
    [
        ({"owner_pid": os.getpid(), "owner_start": start_ticks(os.getpid())}, True),
        ({"start": 1}, False),
        ({"boot": "another"}, False),
    ],
    ids=["its gateway lives", "another process has its id", "the machine was started anew"],
)
def test_others_are_left_alone(
    tmp_path: Path, sleeper: subprocess.Popen[bytes], changed: dict[str, object], stays: bool
) -> None:
    path = record(tmp_path, sleeper.pid, **changed)
    assert reap_leftovers(tmp_path) == []
    assert runs(sleeper.pid)
    assert path.exists() is stays


def test_what_a_server_started_ends_with_it_even_in_a_group_of_its_own(tmp_path: Path) -> None:
    code = "import os, time; os.fork() or os.setpgid(0, 0); print('there', flush=True); time.sleep(60)"

    async def main() -> None:
        process = ServerProcess("server", ServerLog(tmp_path / "log"), tmp_path)
        await process.start([sys.executable, "-c", code], os.environ)
        while process.log.tail().count("there") < 2:
            await asyncio.sleep(0.01)
        pid = process.pid
        assert len(process.pids()) == len(session_pids(pid)) == 2
        await process.end(0)
        assert session_pids(pid) == []

    asyncio.run(asyncio.wait_for(main(), 20))


def test_a_server_inherits_no_socket_and_no_other_file(tmp_path: Path) -> None:
    code = "import os; os.system(f'ls -l /proc/{os.getpid()}/fd')"

    async def main() -> None:
        with socket.create_server(("127.0.0.1", 0)) as listening:
            listening.set_inheritable(True)
            process = ServerProcess("server", ServerLog(tmp_path / "log"), tmp_path)
            await process.start([sys.executable, "-c", code], os.environ)
            assert await process.wait() == "ended with status 0"
            assert "pipe" in process.log.tail()
            assert "socket" not in process.log.tail()
            await process.end(0)

    asyncio.run(asyncio.wait_for(main(), 20))


def test_a_command_that_is_not_there_is_named(tmp_path: Path) -> None:
    async def main() -> None:
        process = ServerProcess("server", ServerLog(tmp_path / "log"), tmp_path)
        await process.start([str(tmp_path / "none")], os.environ)
        assert await process.wait() == "ended with status 1"
        assert f"{tmp_path / 'none'} cannot be started: No such file" in process.log.tail()
        await process.end(0)

    asyncio.run(asyncio.wait_for(main(), 20))


def test_a_port_that_somebody_takes_first_costs_another_try(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def main() -> None:
        with socket.create_server(("127.0.0.1", 0)) as taken:
            ports = [taken.getsockname()[1], free_port()]
            monkeypatch.setattr(starting, "free_port", lambda: ports.pop(0))
            server = FakeProcess(fake_launch(), settings(tmp_path))
            await server.start()
        assert not ports
        await server.stop()

    asyncio.run(asyncio.wait_for(main(), 30))


def test_a_port_that_is_always_taken_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def main() -> None:
        with socket.create_server(("127.0.0.1", 0)) as taken:
            monkeypatch.setattr(starting, "free_port", lambda: taken.getsockname()[1])
            monkeypatch.setattr(starting, "_ATTEMPTS", 1)
            server = FakeProcess(fake_launch(), settings(tmp_path))
            with pytest.raises(ServerFailed, match="address already in use"):
                await server.start()
        assert not list((tmp_path / "servers").iterdir())

    asyncio.run(asyncio.wait_for(main(), 30))


def test_a_start_that_is_cancelled_leaves_nothing(tmp_path: Path) -> None:
    async def main() -> None:
        server = FakeProcess(fake_launch("--fail", "hang-load"), settings(tmp_path))
        start = asyncio.create_task(server.start())
        while not server.pid:
            await asyncio.sleep(0.01)
        pid = server.pid
        start.cancel()
        with pytest.raises(asyncio.CancelledError):
            await start
        assert not runs(pid)

    asyncio.run(asyncio.wait_for(main(), 20))


@pytest.mark.parametrize(
    "line",
    [
        "ggml_backend_cuda_buffer_type_alloc_buffer: cudaMalloc failed: out of memory",
        "alloc_tensor_range: failed to allocate CUDA0 buffer of size 8589934592",
        "error loading model: unable to allocate RPC0[127.0.0.1:1] buffer",
        "torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 2.00 GiB.",
        "ValueError: No available memory for the cache blocks. Try increasing `gpu_memory_utilization`.",
        "ValueError: Free memory on device (3/80 GiB) is less than desired GPU memory utilization (0.9).",
        "terminate called after throwing an instance of 'std::bad_alloc'",
    ],
)
def test_short_memory_is_recognised(line: str) -> None:
    failed = server_failed("it ended with status 1", f"loading\n{line}\nexiting due to model loading error")
    assert failed.out_of_memory
    assert line in str(failed)


def test_the_telling_line_is_the_cause_and_not_what_follows() -> None:
    llama = "E open: failed to open GGUF file 'x'\nE srv: failed to load model\nexiting due to an error"
    assert str(server_failed("ended", llama)).endswith("failed to open GGUF file 'x'")
    python = "Traceback (most recent call last):\n  raise\nKeyError: 'cannot'\nValueError: invalid model"
    assert str(server_failed("ended", python)).endswith("ValueError: invalid model")
    assert not server_failed("ended", python).out_of_memory


def test_a_log_keeps_its_last_lines_and_its_file_within_bounds(tmp_path: Path) -> None:
    log = ServerLog(tmp_path / "logs" / "a.log", most_bytes=1000, kept_lines=3)
    for index in range(300):
        log.write(f"line {index}\nhal".encode())
        log.write(b"f ")
    assert log.tail(2) == "half line 299\nhalf "
    assert log.written_bytes > 3000
    assert sum(path.stat().st_size for path in (tmp_path / "logs").iterdir()) <= 2000
    assert len(list((tmp_path / "logs").iterdir())) == 2


class FakeGpu:
    def __init__(self, used: float, known: float) -> None:
        self.used, self.known = used, known

    def memory_bytes(self) -> tuple[float, float]:
        return self.used, 80e9

    def process_bytes(self, _pids: object) -> float:
        return self.known


def test_memory_of_a_gpu_is_the_process_s_own_or_what_the_gpu_s_grew_by() -> None:
    gpu = FakeGpu(2e9, 3e9)
    share = GpuShare(gpu)  # type: ignore[arg-type]
    assert share.bytes_of([1]) == 3_000_000_000
    assert not share.holds_none_of([1])
    gpu.used, gpu.known = 7e9, float("nan")
    assert share.bytes_of([1]) == 5_000_000_000
    assert share.holds_none_of([1])
    share.begin()
    gpu.used = 8e9
    assert share.bytes_of([1]) == 1_000_000_000, "what others took before is theirs"
    assert GpuShare(None).bytes_of([1]) == 0


def test_a_loop_in_another_thread_starts_servers_too(tmp_path: Path) -> None:
    core = min(os.sched_getaffinity(0))
    code = "import os, time; print(os.sched_getaffinity(0), flush=True); time.sleep(60)"
    process = ServerProcess("server", ServerLog(tmp_path / "log"), tmp_path)

    async def main(ended: threading.Event) -> None:
        await process.start([sys.executable, "-c", code], os.environ, cores=[core])
        while "}" not in process.log.tail():
            await asyncio.sleep(0.01)
        await process.end(0)
        ended.set()

    ended = threading.Event()
    thread = threading.Thread(target=lambda: asyncio.run(asyncio.wait_for(main(ended), 20)))
    thread.start()
    thread.join()
    assert ended.is_set()
    assert process.log.tail().strip() == f"{{{core}}}"
