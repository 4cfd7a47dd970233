from __future__ import annotations

import subprocess
import sys
import zipfile
from pathlib import Path

import shunter
from shunter.tracking.wheel import pinned_requirements, write_wheel


def test_a_wheel_of_this_code_is_installed_and_imported_without_an_index(tmp_path: Path) -> None:
    wheel = write_wheel(tmp_path)
    install = [sys.executable, "-m", "pip", "install", "--quiet", "--no-index", "--no-deps"]
    subprocess.run([*install, "--target", str(tmp_path / "site"), str(wheel)], check=True)
    code = "import shunter.agents.base, shunter; print(shunter.__file__)"
    where = subprocess.run(
        [sys.executable, "-c", code],
        env={"PYTHONPATH": str(tmp_path / "site")},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=True,
    )
    assert Path(where.stdout.strip()) == tmp_path / "site" / "shunter" / "__init__.py"


def test_the_same_code_is_the_same_wheel_and_holds_no_leftovers(tmp_path: Path) -> None:
    (tmp_path / "again").mkdir()
    first, second = write_wheel(tmp_path), write_wheel(tmp_path / "again")
    assert (first.name, first.read_bytes()) == (second.name, second.read_bytes())
    names = zipfile.ZipFile(first).namelist()
    assert "shunter/py.typed" in names
    assert not [name for name in names if "__pycache__" in name]
    sources = {path.relative_to(Path(shunter.__file__).parents[1]).as_posix() for path in _sources()}
    assert sources <= set(names)


def _sources() -> list[Path]:
    return list(Path(shunter.__file__).parent.rglob("*.py"))


def test_what_it_needs_is_pinned_and_shunter_itself_is_no_name_to_look_up() -> None:
    needed = pinned_requirements()
    assert {"numpy", "numba", "safetensors", "mlflow"} <= {text.partition("==")[0] for text in needed}
    assert all("==" in text for text in needed)
    assert not [text for text in needed if text.startswith("shunter")]
