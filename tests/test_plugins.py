from __future__ import annotations

import os
import re
import subprocess
import sys
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from shunter.agents.base import Policy
from shunter.agents.registry import HEURISTICS, make_policy
from shunter.cli.main import main
from shunter.engines.base import CheckpointError, Engine, EngineError, EngineUnavailableError
from shunter.engines.caller.entries import engine_entry, start_engine
from shunter.engines.fake.engine import LinearDurations
from shunter.envs.world.world import World
from shunter.errors import InputError, PluginError, UnknownNameError
from shunter.eval.execution.runs import simulate
from shunter.profiling.checkpoints.synthetic import write_checkpoint
from shunter.profiling.dataset.table import read_dataset
from tests.engines.contract import SPEC, EngineContract
from tests.packages import install_example, install_module

Install = Callable[[str, str, dict[str, dict[str, str]]], None]


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of installed packages that this process and its children see."""
    folder = tmp_path / "site"
    folder.mkdir()
    monkeypatch.syspath_prepend(str(folder))
    repository = str(Path(__file__).parents[1])
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(folder), repository]))
    return folder


@pytest.fixture
def install(site: Path) -> Install:
    return lambda package, source, points: install_module(site, package, source, points)


def test_the_example_policy_is_made_by_name_and_takes_parameters(site: Path, fake_world: World) -> None:
    with pytest.raises(UnknownNameError, match="longest-queue"):
        make_policy("longest-queue")
    install_example("shunter-policy-example", site)
    policy = make_policy("longest-queue:patience=4")
    assert isinstance(policy, Policy)
    assert policy.name == "longest-queue:patience=4.0"
    with pytest.raises(InputError, match="patience"):
        make_policy("longest-queue:patience=many")
    assert simulate(fake_world, policy, 3).requests.finish_s.notna().all()


def test_the_example_policy_runs_from_the_command_line(site: Path, tmp_path: Path) -> None:
    install_example("shunter-policy-example", site)
    command = [sys.executable, "-m", "shunter.cli.main", "eval", "--scenario", "trivial-two-models"]
    command += ["--policy", "cost-greedy", "--policy", "longest-queue", "--seeds", "2"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False, env=os.environ)
    assert done.returncode == 0, done.stderr
    assert "longest-queue" in done.stdout


def test_an_unknown_name_lists_what_plugins_offer(site: Path) -> None:
    install_example("shunter-policy-example", site)
    with pytest.raises(UnknownNameError, match="did you mean longest-queue"):
        make_policy("longest-queu")


@pytest.mark.parametrize(
    ("source", "why"),
    [
        (
            "import not_to_be_found_anywhere",
            "ModuleNotFoundError: No module named 'not_to_be_found_anywhere'",
        ),
        ("raise RuntimeError('no\\nlicence')", "RuntimeError: no licence"),
        ("import sys\nsys.exit(0)", "SystemExit: 0"),
        ("def Made(): raise SystemExit", "making it failed: SystemExit"),
        ("class Made:\n name, act, act_batch = '', int, int", "lacks name"),
        ("class Made:\n name, act, act_batch = 'a\\nb', int, int", "lacks name"),
        ("Other = int", "has no attribute 'Made'"),
        ("Made = int", "makes no Policy"),
        ("def Made(): raise KeyError('gone')", "making it failed: KeyError: 'gone'"),
        ("Made = 3", "making it failed: TypeError"),
        (
            "from shunter.agents.parameters import Heuristic\nclass Made(Heuristic):\n name = 'half'",
            "making it failed: TypeError: Can't instantiate abstract class Made",
        ),
    ],
)
def test_a_broken_policy_is_named_with_its_package(install: Install, source: str, why: str) -> None:
    package = f"broken-policy-{zlib.crc32(source.encode())}"
    module = package.replace("-", "_")
    install(package, source, {"shunter.policies": {"fragile": f"{module}:Made"}})
    with pytest.raises(PluginError) as caught:
        make_policy("fragile")
    message = str(caught.value)
    assert f"'fragile' of the package {package} 1.0 cannot be used: " in message
    assert why in message
    assert "\n" not in message


def test_a_broken_policy_is_one_line_on_the_command_line(
    install: Install, capsys: pytest.CaptureFixture[str]
) -> None:
    install("broken-command", "import nowhere_at_all", {"shunter.policies": {"lost": "broken_command:X"}})
    with pytest.raises(SystemExit) as ended:
        main(["eval", "--scenario", "trivial-two-models", "--policy", "lost"])
    assert ended.value.code == 2
    error = capsys.readouterr().err
    assert "broken-command 1.0" in error
    assert "Traceback" not in error


@pytest.mark.parametrize(
    ("body", "said"),
    [
        (
            "raise KeyError('no\\nqueue')",
            r"'undecided' failed at decision \d+: KeyError: 'no\\nqueue' \(.*r_\d+\.py:5\)",
        ),
        ("raise SystemExit(0)", r"'undecided' failed at decision \d+: SystemExit: 0"),
        ("return 'run'", r"what 'undecided' chooses must be one integer from 0 to \d+\. Got 'run' instead"),
    ],
)
def test_a_policy_that_cannot_decide_is_one_line_on_the_command_line(
    install: Install, capsys: pytest.CaptureFixture[str], body: str, said: str
) -> None:
    package = f"broken-decider-{zlib.crc32(body.encode())}"
    source = f"class Made:\n name = 'undecided'\n oracle = False\n def act(self, seen):\n  {body}\n"
    source += " def act_batch(self, seen): raise NotImplementedError\n"
    install(package, source, {"shunter.policies": {"undecided": f"{package.replace('-', '_')}:Made"}})
    with pytest.raises(SystemExit) as ended:
        main(["eval", "--scenario", "trivial-two-models", "--policy", "undecided", "--seeds", "1"])
    assert ended.value.code == 2
    error = capsys.readouterr().err
    assert re.search("--policy: " + said, error)
    assert "Traceback" not in error


def test_our_names_stay_ours(install: Install) -> None:
    install(
        "usurper",
        "raise RuntimeError",
        {"shunter.policies": {"cost-greedy": "usurper:X", "own": "usurper:X"}},
    )
    assert type(make_policy("cost-greedy")) is HEURISTICS["cost-greedy"]  # entry points are not even read
    with pytest.warns(UserWarning, match=r"usurper 1\.0 offers 'cost-greedy'"), pytest.raises(PluginError):
        make_policy("own")


def test_two_packages_with_one_name_are_refused(install: Install) -> None:
    for package in ("twin-a", "twin-b"):
        install(package, "", {"shunter.policies": {"twin": f"{package.replace('-', '_')}:X"}})
    with pytest.raises(PluginError, match=r"twin-a 1\.0, twin-b 1\.0|twin-b 1\.0, twin-a 1\.0"):
        make_policy("twin")


@pytest.fixture(scope="class")
def bare_python(tmp_path_factory: pytest.TempPathFactory) -> str:
    """An interpreter that has the example engine and nothing else; this one sees the engine too."""
    folder = tmp_path_factory.mktemp("bare")
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(folder)], check=True)
    install_example("shunter-engine-example", next(folder.glob("lib/python*/site-packages")))
    return str(folder / "bin" / "python")


@pytest.mark.engine
class TestExampleEngine(EngineContract):
    """The contract, in workers whose interpreter has neither shunter nor numpy."""

    reads_checkpoints = False
    weight_bytes = LinearDurations().device_bytes("any", SPEC.total_layers)

    @pytest.fixture(scope="class", autouse=True)
    @classmethod
    def _installed(cls, tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
        site = tmp_path_factory.mktemp("site")
        install_example("shunter-engine-example", site)
        with pytest.MonkeyPatch.context() as patch:
            patch.syspath_prepend(str(site))
            patch.delenv("PYTHONPATH", raising=False)
            yield

    @pytest.fixture(scope="class")
    @classmethod
    def engine(cls, _installed: None, bare_python: str) -> Iterator[Engine]:
        with start_engine("metronome", "cpu:1-threads", python=bare_python) as engine:
            assert engine.engine_version == "0.1.0"
            yield engine

    @pytest.fixture
    def cramped(self, bare_python: str) -> Iterator[Engine]:
        with start_engine("metronome", "cpu:1-threads-60MB", python=bare_python) as engine:
            yield engine

    @pytest.fixture(scope="class")
    @classmethod
    def checkpoint(cls, tmp_path_factory: pytest.TempPathFactory) -> str:
        folder = tmp_path_factory.mktemp("checkpoint") / "f32"
        return str(write_checkpoint(SPEC, folder, format="safetensors", quantization="F32").path)

    def test_errors_of_its_own_come_through(self, engine: Engine, tmp_path: Path) -> None:
        with pytest.raises(CheckpointError, match="no Hugging Face folder"):
            engine.load("nothing", str(tmp_path), None, context_tokens=8, max_batch=1)


@pytest.mark.engine
def test_the_example_engine_is_profiled_from_the_command_line(
    site: Path, tmp_path: Path, fake_checkpoints: dict[str, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    install_example("shunter-engine-example", site)
    out = tmp_path / "metronome.parquet"
    with pytest.raises(SystemExit) as ended:
        main(
            f"profile --engine metronome --device cpu:1-threads --repeats 1 --out {out} "
            f"--model {fake_checkpoints['small']}".split()
        )
    assert ended.value.code == 0, capsys.readouterr().err
    assert set(read_dataset(out).engine) == {"metronome"}


@pytest.mark.parametrize(
    ("source", "why", "kind"),
    [
        ("from no_such_library import x", "No module named 'no_such_library'", EngineUnavailableError),
        ("raise ValueError('too old')", "ValueError: too old", EngineUnavailableError),
        ("", "has no create", EngineUnavailableError),
        ("def create(device): return 3", "create made no Engine: 3", EngineError),
    ],
)
def test_a_broken_engine_is_named_with_its_package(
    install: Install, source: str, why: str, kind: type[EngineError]
) -> None:
    entry = (
        "from shunter.engines.registry import EngineEntry\n"
        "E = EngineEntry('broken_engine_worker', None, ('broken-engine',), 'cpu', ('gguf',), 'broken')\n"
    )
    install("broken-engine", entry, {"shunter.engines": {"wreck": "broken_engine:E"}})
    install("broken-engine-worker", source, {})
    with pytest.raises(kind) as caught:
        start_engine("wreck", "cpu")
    assert why in str(caught.value)
    assert "broken-engine" in str(caught.value)


def test_an_engine_entry_must_be_one(install: Install) -> None:
    install("odd-engine", "E = 3", {"shunter.engines": {"odd": "odd_engine:E"}})
    with pytest.raises(PluginError, match=r"odd-engine 1\.0 cannot be used: odd_engine:E is no EngineE"):
        engine_entry("odd")
    with pytest.raises(UnknownNameError, match="did you mean odd"):
        engine_entry("od")
