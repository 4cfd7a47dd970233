from __future__ import annotations

import _thread
import ast
import gc
import json
import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import psutil
import pytest

import shunter.engines as engines_package
from shunter.catalog.devices import parse_device
from shunter.catalog.models import ModelSpec
from shunter.engines.base import (
    EngineUnavailableError,
    RequestError,
    WorkerDiedError,
    WorkerTimeoutError,
)
from shunter.engines.caller.client import WorkerEngine, start_engine
from shunter.engines.registry import ENGINES
from shunter.errors import InputError, UnknownNameError
from shunter.profiling.checkpoints.synthetic import write_checkpoint

FOLDER = Path(engines_package.__file__).parent
LONG = 1_000_000
"""Steps that would take hours."""


@pytest.fixture
def fake() -> Iterator[WorkerEngine]:
    with start_engine("fake", "cpu:3-threads", timeout_s=60) as engine:
        yield engine


@pytest.fixture(scope="module")
def bare_python(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("bare")
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(folder)], check=True)
    return str(folder / "bin" / "python")


def start_long_decode(engine: WorkerEngine) -> None:
    engine.load("m", "", None, context_tokens=2 * LONG, max_batch=1)
    engine.prefill("m", "r", [1, 2, 3])


def alive(pid: int) -> bool:
    return psutil.pid_exists(pid) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE


def wait_until_gone(pids: list[int]) -> list[int]:
    deadline_s = time.monotonic() + 20
    while any(map(alive, pids)) and time.monotonic() < deadline_s:
        time.sleep(0.05)
    return [pid for pid in pids if alive(pid)]


def kill_soon(pid: int) -> None:
    timer = threading.Timer(0.5, os.kill, (pid, signal.SIGKILL))
    timer.daemon = True
    timer.start()


def test_a_kill_in_mid_call_is_a_typed_error_and_leaves_nothing(fake: WorkerEngine) -> None:
    start_long_decode(fake)
    pids = fake.pids()
    kill_soon(pids[0])
    with pytest.raises(WorkerDiedError, match=r"fake worker was killed by SIGKILL in the call decode"):
        fake.decode("m", {"r": LONG}, max_steps=LONG)
    assert fake.pids() == []
    assert not any(map(alive, pids))
    with pytest.raises(WorkerDiedError, match=r"no more calls.*SIGKILL"):
        fake.memory()
    fake.close()


SMALL = ModelSpec("small", 2, 128, 2, 1, 64, 256, 512, qkv_bias=True)


@pytest.mark.engine
@pytest.mark.parametrize(
    ("name", "device", "quantization", "processes"),
    [
        ("transformers", "cpu:1-threads", "F32", 1),
        pytest.param(
            "llama-cpp",
            "loopback:1-threads",
            "F16",
            2,
            marks=pytest.mark.skipif(
                find_spec("llama_cpp") is None, reason="llama-cpp-python is not installed"
            ),
        ),
    ],
)
def test_a_real_engine_killed_in_mid_call_leaves_nothing(
    name: str, device: str, quantization: str, processes: int, tmp_path: Path
) -> None:
    kind = ENGINES[name].checkpoint_formats[0]
    checkpoint = write_checkpoint(SMALL, tmp_path / f"m.{kind}", format=kind, quantization=quantization)
    with start_engine(name, device, timeout_s=120) as engine:
        engine.load("m", str(checkpoint.path), None, context_tokens=20_000, max_batch=1)
        engine.prefill("m", "r", [1, 2, 3])
        pids = engine.pids()
        assert len(pids) == processes
        kill_soon(pids[0])
        with pytest.raises(WorkerDiedError, match="SIGKILL"):
            engine.decode("m", {"r": 19_000}, max_steps=19_000)
    assert not any(map(alive, pids))


def test_a_call_that_takes_too_long_ends_the_worker() -> None:
    with start_engine("fake", "cpu", timeout_s=1) as engine:
        start_long_decode(engine)
        pids = engine.pids()
        with pytest.raises(WorkerTimeoutError, match="did not answer decode within 1 s"):
            engine.decode("m", {"r": LONG}, max_steps=LONG)
        assert not any(map(alive, pids))
        with pytest.raises(WorkerDiedError):
            engine.memory()


def test_an_interrupted_call_ends_the_worker(fake: WorkerEngine) -> None:
    # Where tests run in the background of a script, Python starts with the signal ignored.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    start_long_decode(fake)
    pids = fake.pids()
    threading.Timer(0.5, _thread.interrupt_main).start()
    try:
        with pytest.raises(KeyboardInterrupt):
            fake.decode("m", {"r": LONG}, max_steps=LONG)
    finally:
        signal.signal(signal.SIGINT, before)
    assert not any(map(alive, pids))
    with pytest.raises(WorkerDiedError, match="decode was interrupted"):
        fake.memory()


def test_close_ends_everything_and_may_be_repeated(fake: WorkerEngine) -> None:
    pids = fake.pids()
    assert len(pids) == 1
    fake.close()
    fake.close()
    assert not any(map(alive, pids))
    with pytest.raises(WorkerDiedError, match="it was closed"):
        fake.memory()


def test_a_forgotten_engine_is_ended_when_it_is_collected() -> None:
    engine = start_engine("fake", "cpu")
    pids = engine.pids()
    del engine
    gc.collect()
    assert not any(map(alive, pids))


def test_errors_of_a_call_leave_the_worker_usable(fake: WorkerEngine) -> None:
    with pytest.raises(RequestError, match="'ghost' is not resident"):
        fake.unload("ghost")
    assert fake.memory().device_bytes == 0


def test_threads_take_turns(fake: WorkerEngine) -> None:
    fake.load("m", "", None, context_tokens=100, max_batch=8)
    wrong = []

    def use(request: str, length: int) -> None:
        for _ in range(20):
            result = fake.prefill("m", request, [1] * length)
            wrong.extend([request] * (result.tokens_prefilled != length))
            fake.drop_kv("m", request)

    threads = [threading.Thread(target=use, args=(f"r{n}", n)) for n in (1, 2, 3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


def test_the_worker_gets_its_device_s_threads(fake: WorkerEngine) -> None:
    environment = Path(f"/proc/{fake.pids()[0]}/environ").read_text().split("\0")
    assert {"OMP_NUM_THREADS=3", "MKL_NUM_THREADS=3", "OMP_WAIT_POLICY=passive"} <= set(environment)


CALLER = """
import os, signal, sys, threading, time
from shunter.engines.caller.client import start_engine

def start():
    global engine
    engine = start_engine("fake", "cpu")
    engine.load("m", "", None, context_tokens=3_000_000, max_batch=1)
    engine.prefill("m", "r", [1])

def work():
    engine.decode("m", {"r": 1_000_000}, max_steps=1_000_000)

starter = threading.Thread(target=start) if sys.argv[1] == "thread" else None
if starter:
    starter.start()
    starter.join()
    time.sleep(0.3)
else:
    start()
assert engine.memory().device_bytes > 0
print(*engine.pids(), flush=True)
threading.Thread(target=work, daemon=True).start()
time.sleep(0.3)
os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.mark.parametrize("starter", ["main", "thread"])
def test_a_worker_in_mid_call_ends_with_its_caller_not_with_the_thread_that_started_it(starter: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", CALLER, starter], capture_output=True, text=True, check=False
    )
    assert done.returncode == -signal.SIGKILL, done.stderr
    pids = [int(pid) for pid in done.stdout.split()]
    assert pids
    assert wait_until_gone(pids) == []


def test_runs_in_an_interpreter_with_nothing_installed(bare_python: str) -> None:
    lacking = subprocess.run([bare_python, "-c", "import numpy"], capture_output=True, check=False)
    assert lacking.returncode != 0
    with start_engine("fake", "cpu", python=bare_python) as engine:
        assert engine.capabilities().engine == "fake"
        assert engine.load("m", "", 3, context_tokens=9, max_batch=1).total_layers == 9
        assert engine.prefill("m", "r", [1, 2]).tokens_prefilled == 2
        assert Path(psutil.Process(engine.pids()[0]).cmdline()[0]) == Path(bare_python)


@pytest.mark.parametrize(("name", "package"), [("transformers", "torch"), ("llama-cpp", "llama-cpp-python")])
def test_an_interpreter_without_the_engine_is_told_in_one_line(
    name: str, package: str, bare_python: str
) -> None:
    with pytest.raises(EngineUnavailableError) as caught:
        start_engine(name, ENGINES[name].default_device, python=bare_python)
    message = str(caught.value)
    assert "\n" not in message
    assert f"{bare_python} -m pip install {package}" in message
    assert caught.value.exit_code == 2


def test_what_is_no_interpreter_is_unavailable(tmp_path: Path) -> None:
    with pytest.raises(EngineUnavailableError, match="No such file"):
        start_engine("fake", "cpu", python=str(tmp_path / "python"))
    with pytest.raises(EngineUnavailableError, match="cannot run a worker"):
        start_engine("fake", "cpu", python="/bin/true")


def test_unknown_names_are_refused_before_anything_starts() -> None:
    with pytest.raises(UnknownNameError, match="did you mean transformers"):
        start_engine("transformer", "cpu")
    with pytest.raises(InputError):
        start_engine("fake", "toaster")


def interpreter(path: Path, hello: dict[str, object], then: str) -> str:
    """An executable that opens as a worker does and then does something else."""
    path.write_text(
        f"#!{sys.executable}\n"
        + textwrap.dedent(f"""
        import json, os, socket, sys
        connection = socket.socket(fileno=int(sys.argv[sys.argv.index("--fd") + 1]))
        body = json.dumps({{"hello": json.loads({json.dumps(hello)!r})}}).encode()
        connection.sendall(len(body).to_bytes(4, "big") + body)
        connection.recv(1)
        """)
        + then
    )
    path.chmod(0o755)
    return str(path)


def test_a_worker_of_another_protocol_is_refused(tmp_path: Path) -> None:
    python = interpreter(tmp_path / "python", {"protocol": 99}, "")
    with pytest.raises(EngineUnavailableError, match="protocol 99, not 1"):
        start_engine("fake", "cpu", python=python)


def test_the_last_words_of_a_crash_are_kept(tmp_path: Path) -> None:
    hello = {"protocol": 1, "engine": "fake", "engine_version": "1", "python": "3"}
    then = "print('engine exploded', file=sys.stderr, flush=True); os._exit(3)"
    with start_engine("fake", "cpu", python=interpreter(tmp_path / "python", hello, then)) as engine:
        with pytest.raises(WorkerDiedError, match=r"ended with status 3 in the call memory.*engine exploded"):
            engine.memory()
        assert engine.pids() == []


def test_a_worker_that_says_nothing_is_given_up(tmp_path: Path) -> None:
    python = tmp_path / "python"
    python.write_text("#!/bin/sh\nsleep 1000\n")
    python.chmod(0o755)
    with pytest.raises(WorkerTimeoutError, match="start"):
        WorkerEngine("fake", parse_device("cpu"), python=str(python), start_timeout_s=1)


IN_WORKERS = sorted(set(FOLDER.rglob("*.py")) - set(FOLDER.glob("caller/*")))


@pytest.mark.parametrize("path", IN_WORKERS, ids=lambda path: path.relative_to(FOLDER).as_posix())
def test_engines_import_the_standard_library_numpy_and_their_engine_only(path: Path) -> None:
    allowed = set(sys.stdlib_module_names) | {
        "numpy",
        "torch",
        "transformers",
        "accelerate",
        "llama_cpp",
        "vllm",
    }
    forbidden = {"pickle", "_pickle", "marshal", "shelve"}
    for node in ast.walk(ast.parse(path.read_text())):
        names = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            names = [node.module or ""]
        roots = {name.split(".")[0] for name in names}
        assert roots <= allowed - forbidden, f"{path.name}:{node.lineno}"
