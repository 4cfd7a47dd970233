"""This code as one wheel: what is served elsewhere then looks up no name of ours on a public index."""

from __future__ import annotations

import base64
import hashlib
import re
import zipfile
from importlib import metadata
from pathlib import Path

import shunter
from shunter import __version__
from shunter.errors import ShunterError

PACKAGE = "shunter"
NOT_SHIPPED = {"__pycache__"}

WHEEL = "Wheel-Version: 1.0\nGenerator: shunter\nRoot-Is-Purelib: true\nTag: py3-none-any\n"

EPOCH = (1980, 1, 1, 0, 0, 0)
"""The oldest time that a zip archive knows: the same code gives the same bytes."""


def write_wheel(folder: Path) -> Path:
    """Writes a wheel of the code that runs.

    Its version ends in a digest of the code, so that environments made for two states of the code are not
    taken for each other.

    Args:
        folder: Where the wheel goes.

    Raises:
        ShunterError: shunter runs from a folder and is not installed, so that nobody knows what it needs.
    """
    files = _package_files()
    version = f"{__version__}+{_digest(files)}"
    about = f"{PACKAGE}-{version}.dist-info"
    files[f"{about}/METADATA"] = _metadata(version)
    files[f"{about}/WHEEL"] = WHEEL.encode()
    path = folder / f"{PACKAGE}-{version}-py3-none-any.whl"
    record = "".join(f"{name},{_record_hash(data)},{len(data)}\n" for name, data in files.items())
    files[f"{about}/RECORD"] = f"{record}{about}/RECORD,,\n".encode()
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in files.items():
            archive.writestr(zipfile.ZipInfo(name, EPOCH), data, zipfile.ZIP_DEFLATED)
    return path


def pinned_requirements() -> list[str]:
    """What shunter needs, without its extras, in the versions that are installed.

    Raises:
        ShunterError: shunter is not installed.
    """
    needed = [text for text in _distribution().requires or [] if ";" not in text]
    return [f"{name}=={metadata.version(name)}" for name in map(_name, needed)]


def _name(requirement: str) -> str:
    """The name that a requirement such as ``numpy>=2.0`` begins with."""
    return re.split(r"[^\w.-]", requirement, maxsplit=1)[0]


def _package_files() -> dict[str, bytes]:
    """All files of the package by their names in the wheel, sorted."""
    root = Path(shunter.__file__).parent
    found = sorted(p for p in root.rglob("*") if p.is_file() and not NOT_SHIPPED & set(p.parts))
    return {f"{PACKAGE}/{path.relative_to(root).as_posix()}": path.read_bytes() for path in found}


def _digest(files: dict[str, bytes]) -> str:
    digest = hashlib.sha256()
    for name, data in files.items():
        digest.update(f"{name} {len(data)}\n".encode() + data)
    return digest.hexdigest()[:12]


def _record_hash(data: bytes) -> str:
    """As RECORD has it: URL-safe base 64 without padding."""
    return "sha256=" + base64.urlsafe_b64encode(hashlib.sha256(data).digest()).rstrip(b"=").decode()


def _metadata(version: str) -> bytes:
    """What an installer reads: name, this version, and the requirements of the installation."""
    of = _distribution().metadata
    lines = ["Metadata-Version: 2.1", f"Name: {PACKAGE}", f"Version: {version}"]
    for key in ("Summary", "Requires-Python", "Provides-Extra", "Requires-Dist"):
        lines += [f"{key}: {text}" for text in of.get_all(key) or []]
    return "\n".join([*lines, ""]).encode()


def _distribution() -> metadata.Distribution:
    try:
        return metadata.distribution(PACKAGE)
    except metadata.PackageNotFoundError:
        raise ShunterError("shunter is not installed: what it needs to be served is not known") from None
