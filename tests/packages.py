"""Installs small packages into a folder without network, build backend or installer."""

from __future__ import annotations

import shutil
import tomllib
from collections.abc import Mapping
from pathlib import Path

EXAMPLES = Path(__file__).parents[1] / "examples"


def install_example(name: str, target: Path) -> None:
    """Installs a package of ``examples/`` as its pyproject.toml says."""
    folder = EXAMPLES / name
    project = tomllib.loads((folder / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    module = name.replace("-", "_")
    shutil.copytree(folder / module, target / module, ignore=shutil.ignore_patterns("__pycache__"))
    _write_metadata(target, project["name"], project["version"], project["entry-points"])


def install_module(
    target: Path, package: str, source: str, entry_points: Mapping[str, Mapping[str, str]]
) -> None:
    """Installs a module, which may be broken, as a package of its own."""
    target.mkdir(parents=True, exist_ok=True)
    (target / f"{package.replace('-', '_')}.py").write_text(source, encoding="utf-8")
    _write_metadata(target, package, "1.0", entry_points)


def _write_metadata(
    target: Path, package: str, version: str, entry_points: Mapping[str, Mapping[str, str]]
) -> None:
    info = target / f"{package.replace('-', '_')}-{version}.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(
        f"Metadata-Version: 2.1\nName: {package}\nVersion: {version}\n", encoding="utf-8"
    )
    lines = []
    for group, offered in entry_points.items():
        lines += [f"[{group}]", *(f"{name} = {value}" for name, value in offered.items())]
    (info / "entry_points.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")
