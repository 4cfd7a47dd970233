"""Where the llama-server binary is, and whether it can what a gateway asks of it."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
from functools import lru_cache
from pathlib import Path

from shunter.errors import InputError
from shunter.files import cache_folder

__all__ = ["find_binary"]

NAME = "llama-server"
VARIABLE = "SHUNTER_LLAMA_SERVER"

_NEEDED = (
    "--alias",
    "--cache-ram",
    "--cache-type-k",
    "--device",
    "--flash-attn",
    "--jinja",
    "--metrics",
    "--no-webui",
    "--parallel",
    "--slots",
)
_OPTIONAL = ("--fit", "--load-mode", "--no-mmap", "--no-repack", "--rpc")
"""What some versions or builds lack; ``options`` says which there are."""

_HELP_S = 60.0
_HOW = "make llama-server builds one in a clone of shunter (scripts/install_llama_server.sh)"


def find_binary(given: str | None = None) -> str:
    """Path of the binary: what was given, ``$SHUNTER_LLAMA_SERVER``, on PATH, or in shunter's own cache.

    Raises:
        InputError: It is not there; the message says how to get one.
    """
    for field, path in (("--llama-server", given), (f"${VARIABLE}", os.environ.get(VARIABLE))):
        if path:
            found = shutil.which(os.path.expanduser(path))
            if found is None:
                raise InputError(field, f"be a {NAME} binary that can be run; {_HOW}", path)
            return found
    on_path = shutil.which(NAME)
    if on_path is not None:
        return on_path
    built = sorted(cache_folder(NAME).glob(f"*-{_processor()}/bin/{NAME}"), key=lambda p: p.stat().st_mtime)
    if built:
        return str(built[-1])
    places = f"--llama-server, ${VARIABLE}, PATH or {cache_folder(NAME)}"
    raise InputError(NAME, f"be named or be in one of {places}; {_HOW}", "nothing there")


def _processor() -> str:
    # As scripts/install_llama_server.sh names builds: one of another kind of processor would not run.
    with open("/proc/cpuinfo", encoding="ascii") as lines:
        flags = next((line for line in lines if line.startswith("flags")), os.uname().machine + "\n")
    return hashlib.sha256(flags.encode()).hexdigest()[:12]


def options(binary: str) -> frozenset[str]:
    """Which of the options that a build may lack this one has; looked up once per file.

    Raises:
        InputError: It lacks one that every launch needs, or does not run at all.
    """
    return _options(binary, Path(binary).stat().st_mtime_ns)


@lru_cache(maxsize=16)
def _options(binary: str, _changed_ns: int) -> frozenset[str]:
    try:
        done = subprocess.run(
            [binary, "--help"], capture_output=True, text=True, errors="replace", timeout=_HELP_S, check=False
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        why = getattr(error, "strerror", None) or "it does not answer --help"
        raise InputError(NAME, f"be a binary that runs ({why})", binary) from error
    known = set(done.stdout.replace(",", " ").split())
    missing = [option for option in _NEEDED if option not in known]
    if missing:
        rule = f"know {', '.join(missing)} (its --help does not: too old, or another program); {_HOW}"
        raise InputError(NAME, rule, binary)
    return frozenset(option for option in _OPTIONAL if option in known)
