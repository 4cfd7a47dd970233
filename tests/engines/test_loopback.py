"""The loopback device's process: its sockets, its memory and its end."""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path

import pytest

from shunter.catalog.devices import parse_device
from shunter.catalog.models import get_model, scaled_model
from shunter.engines.base import (
    DeviceMemoryError,
    EngineError,
    EngineUnavailableError,
    WorkerDiedError,
)
from shunter.engines.caller.client import start_engine
from shunter.profiling.checkpoints.synthetic import write_checkpoint

pytest.importorskip("llama_cpp")

from shunter.engines.llama_cpp.engine import LlamaCppEngine
from shunter.engines.llama_cpp.ggml import loopback_command, loopback_environment
from shunter.engines.llama_cpp.loopback import LoopbackDevice
from shunter.engines.llama_cpp.native import device_memory, library_path, rpc_device

pytestmark = pytest.mark.engine

SPEC = scaled_model(get_model("Qwen3-8B"), 12e6)
PIDFD_GETFD = 438
OWNER = """
import sys
from dataclasses import asdict
from shunter.catalog.devices import parse_device
from shunter.engines.llama_cpp.engine import LlamaCppEngine
device = asdict(parse_device("loopback:1-threads"))
engine = LlamaCppEngine(device)
engine.load("m", sys.argv[1], None, context_tokens=4096, max_batch=1)
engine.prefill("m", "r", [1, 2, 3])
print(engine._device.pid, flush=True)
engine.decode("m", {"r": 4000}, max_steps=4000)
"""


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("loopback") / "tiny.gguf"
    return str(write_checkpoint(SPEC, path, format="gguf", quantization="Q8_0").path)


@pytest.fixture
def device() -> Iterator[LoopbackDevice]:
    device = LoopbackDevice(1)
    yield device
    device.close()


def runs(pid: int) -> bool:
    """Whether a process is there and no zombie."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] not in "ZX"
    except (FileNotFoundError, ProcessLookupError):
        return False


def wait_for(condition: Callable[[], bool], what: str) -> None:
    deadline_s = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < deadline_s, what
        time.sleep(0.01)


def connections(pid: int) -> list[socket.socket]:
    """Copies of the TCP sockets of a process."""
    libc, pidfd, found = ctypes.CDLL(None, use_errno=True), os.pidfd_open(pid), []
    for name in os.listdir(f"/proc/{pid}/fd"):
        try:
            if not os.readlink(f"/proc/{pid}/fd/{name}").startswith("socket:"):
                continue
        except FileNotFoundError:  # closed meanwhile
            continue
        copy = libc.syscall(PIDFD_GETFD, pidfd, int(name), 0)
        if copy < 0:
            pytest.skip(f"this system lets no process look into its child: {os.strerror(ctypes.get_errno())}")
        end = socket.socket(fileno=copy)
        if end.family == socket.AF_INET:
            found.append(end)
        else:
            end.close()
    os.close(pidfd)
    return found


def test_both_ends_send_small_messages_at_once(device: LoopbackDevice) -> None:
    with contextlib.ExitStack() as copies:
        ours = [copies.enter_context(end) for end in connections(os.getpid())]
        theirs = [copies.enter_context(end) for end in connections(device.pid)]
        ports = {end.getsockname()[1] for end in theirs}
        ours = [end for end in ours if _peer_port(end) in ports]
        assert ours
        assert len(theirs) >= 2
        for end in [*ours, *theirs]:
            assert end.getsockname()[0] == "127.0.0.1"
            assert end.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)


def _peer_port(end: socket.socket) -> int | None:
    try:
        port: int = end.getpeername()[1]
    except OSError:  # connected to nobody
        return None
    return port


STRANGER = """
import socket, sys
with socket.create_connection(("127.0.0.1", int(sys.argv[1]))) as connection:
    connection.settimeout(60)
    print(connection.recv(1) or "closed", flush=True)
"""


ORPHAN = """
import os, time
starter = os.getpid()
if os.fork():
    os._exit(0)
while os.getppid() == starter:
    time.sleep(0.01)
"""
CLIENT = """
import sys
from shunter.engines.llama_cpp.native import device_memory, rpc_device
print(device_memory(rpc_device(f"127.0.0.1:{sys.argv[1]}"))[1] > 0, flush=True)
"""


@contextlib.contextmanager
def served(*, descendants: bool) -> Iterator[int]:
    """The port of a device process of this one's."""
    libraries = [library_path(name) for name in ("libggml", "libggml-rpc")]
    assert libraries[0] is not None
    assert libraries[1] is not None
    command = loopback_command((libraries[0], libraries[1]), 1, (), 100, serves_descendants=descendants)
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=loopback_environment(1)
    ) as server:
        try:
            assert server.stdout is not None
            yield int(server.stdout.readline())
        finally:
            server.kill()


def said(program: str, port: int) -> bytes:
    """What a child says that runs a program, or what the child left."""
    command = [sys.executable, "-c", program, str(port)]
    return subprocess.run(command, capture_output=True, check=True, timeout=90).stdout


def test_nobody_but_its_owner_is_served() -> None:
    with served(descendants=False) as port:
        for _ in range(2):
            assert said(STRANGER, port) == b"closed\n"
        free, total = device_memory(rpc_device(f"127.0.0.1:{port}"))
        assert 0 < free <= total


def test_programs_that_its_owner_starts_are_served_where_they_are_to_be_and_no_others() -> None:
    with served(descendants=True) as port:
        for _ in range(2):
            assert said(ORPHAN + STRANGER, port) == b"closed\n"
            assert said(CLIENT, port) == b"True\n"


def test_closing_ends_the_device_process() -> None:
    device = LoopbackDevice(1)
    assert runs(device.pid)
    device.close()
    assert not runs(device.pid)
    device.close()


def test_the_device_outlives_the_thread_that_started_it() -> None:
    started: list[LoopbackDevice] = []
    thread = threading.Thread(target=lambda: started.append(LoopbackDevice(1)))
    thread.start()
    thread.join()
    started[0].trim()
    assert runs(started[0].pid)
    started[0].close()


def test_the_device_dies_with_a_killed_owner(checkpoint: str) -> None:
    with subprocess.Popen([sys.executable, "-c", OWNER, checkpoint], stdout=subprocess.PIPE) as owner:
        assert owner.stdout is not None
        device_pid = int(owner.stdout.readline())
        assert runs(device_pid)
        owner.send_signal(signal.SIGKILL)
    wait_for(lambda: not runs(device_pid), "the device process outlived its owner")


def test_a_dead_device_ends_the_worker_in_mid_call(checkpoint: str) -> None:
    with start_engine("llama-cpp", "loopback:1-threads") as engine:
        engine.load("m", checkpoint, None, context_tokens=4096, max_batch=1)
        engine.prefill("m", "r", [1, 2, 3])
        worker_pid, device_pid = engine.pids()
        threading.Timer(0.5, os.kill, (device_pid, signal.SIGKILL)).start()
        with pytest.raises(WorkerDiedError, match="RPC"):
            engine.decode("m", {"r": 4000}, max_steps=4000)
        assert not runs(worker_pid)


def test_two_devices_at_once_keep_apart(checkpoint: str) -> None:
    engines = [LlamaCppEngine(asdict(parse_device("loopback:1-threads"))) for _ in range(2)]
    first, second = engines
    before_bytes = [engine.memory().device_bytes for engine in engines]
    first.load("m", checkpoint, None, context_tokens=256, max_batch=1)
    grown_bytes = [e.memory().device_bytes - b for e, b in zip(engines, before_bytes, strict=True)]
    assert grown_bytes[0] > 1e7
    assert grown_bytes[1] < 1e6
    second.load("m", checkpoint, SPEC.layers // 2, context_tokens=256, max_batch=1)
    tokens = []
    for engine in engines:
        engine.prefill("m", "r", [7, 8, 9])
    for _ in range(3):
        tokens.append([engine.decode("m", {"r": 8}, max_steps=8).tokens["r"] for engine in engines])
    first.close()
    second.decode("m", {"r": 8}, max_steps=8)
    second.close()
    assert all(mine == theirs for mine, theirs in tokens)


def allowed_cores(pid: int) -> set[str]:
    """The cores of each thread of a process, as the kernel writes them."""
    lists = [path.read_text() for path in Path(f"/proc/{pid}/task").glob("*/status")]
    return {line.split()[1] for text in lists for line in text.splitlines() if "Cpus_allowed_list" in line}


def core_seconds(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


@pytest.mark.skipif(len(os.sched_getaffinity(0)) < 2, reason="there is only one core")
def test_two_devices_of_other_size_and_cores_both_work(checkpoint: str) -> None:
    low, high = sorted(os.sched_getaffinity(0))[:2]
    names = [f"loopback:1-threads-cores-{low}-200MB", f"loopback:2-threads-cores-{low}+{high}-20MB"]
    engines = [LlamaCppEngine(asdict(parse_device(name))) for name in names]
    pids = [engine._device.pid for engine in engines]
    assert allowed_cores(os.getpid()) != {str(low)}
    engines[0].load("m", checkpoint, None, context_tokens=256, max_batch=1)
    with pytest.raises(DeviceMemoryError, match="20 MB are taken"):
        engines[1].load("m", checkpoint, None, context_tokens=1024, max_batch=4)
    engines[1].load("m", checkpoint, 2, context_tokens=256, max_batch=1)
    before_s = [core_seconds(pid) for pid in pids]
    tokens = []
    for engine in engines:
        first = engine.prefill("m", "r", [7, 8, 9]).token
        tokens.append([first, *engine.decode("m", {"r": 200}, max_steps=200).tokens["r"]])
    assert tokens[0] == tokens[1]
    assert all(core_seconds(pid) > before for pid, before in zip(pids, before_s, strict=True))
    assert allowed_cores(pids[0]) == {str(low)}
    assert len(allowed_cores(pids[1])) == 1
    assert os.sched_getaffinity(pids[1]) == {low, high}
    for engine in engines:
        engine.close()
    assert not any(runs(pid) for pid in pids)


@pytest.mark.parametrize("device", ["loopback:1-threads-cores-4000", "cpu:cores-0+4000"])
def test_cores_that_are_not_there_are_refused(device: str) -> None:
    with pytest.raises(EngineUnavailableError, match="no core 4000"):
        start_engine("llama-cpp", device)


def test_a_cpu_worker_keeps_to_its_cores() -> None:
    core = max(os.sched_getaffinity(0))
    with start_engine("fake", f"cpu:cores-{core}") as engine:
        assert os.sched_getaffinity(engine.pids()[0]) == {core}
    assert os.sched_getaffinity(0) != {core} or len(os.sched_getaffinity(0)) == 1


def test_an_engine_that_leaves_no_choice_of_mmap_refuses_it() -> None:
    with pytest.raises(EngineUnavailableError, match=r"no choice of mmap.*cpu:1-threads-mmap"):
        start_engine("fake", "cpu:1-threads-mmap")


def test_a_device_that_is_lost_between_calls_is_named_by_its_worker(checkpoint: str) -> None:
    with start_engine("llama-cpp", "loopback:1-threads") as engine:
        engine.load("m", checkpoint, None, context_tokens=256, max_batch=1)
        worker_pid, device_pid = engine.pids()
        os.kill(device_pid, signal.SIGKILL)
        wait_for(lambda: not runs(device_pid), "the device process was not killed")
        with pytest.raises(EngineError, match="loopback device is gone"):
            engine.prefill("m", "r", [1, 2, 3])
    assert not runs(worker_pid)


def test_a_device_with_a_share_is_stopped_for_the_rest_of_the_time(checkpoint: str) -> None:
    device = LoopbackDevice(1, share_percent=20)
    states = [Path(f"/proc/{device.pid}/stat").read_text().rpartition(")")[2].split()[0] for _ in range(2000)]
    assert "T" in states
    assert set(states) - {"T"}
    children = Path(f"/proc/{device.pid}/task/{device.pid}/children").read_text().split()
    assert len(children) == 1
    device.close()
    wait_for(lambda: not runs(int(children[0])), "what slows a device down outlived it")


def test_a_slowed_device_gives_the_same_tokens(checkpoint: str) -> None:
    tokens = []
    for name in ("loopback:1-threads", "loopback:1-threads-share-25"):
        engine = LlamaCppEngine(asdict(parse_device(name)))
        engine.load("m", checkpoint, None, context_tokens=256, max_batch=1)
        first = engine.prefill("m", "r", [7, 8, 9]).token
        tokens.append([first, *engine.decode("m", {"r": 20}, max_steps=20).tokens["r"]])
        engine.unload("m")
        engine.close()
    assert tokens[0] == tokens[1]
