"""How this package compiles functions: numba, cached on disk, typed for checkers."""

from __future__ import annotations

import functools
import hashlib
import os
import shutil
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, TypeVar

import numba

from shunter.errors import InputError
from shunter.files import cache_folder

__all__ = ["entry", "inlined", "internal", "jit", "merged"]

Function = TypeVar("Function", bound=Callable[..., Any])

KEPT = 8
"""Versions of the sources whose compiled code is kept."""


def cache_stamp(files: Iterable[Path]) -> str:
    """Names a version of source files, by where they are, when they were written and how long they are."""
    facts = [(str(file), file.stat().st_mtime_ns, file.stat().st_size) for file in sorted(files)]
    return hashlib.sha256(repr(facts).encode()).hexdigest()[:16]


def _keep_apart() -> None:
    """Gives every version of the sources a cache of its own.

    Numba looks at the file of a function alone, not at those of what is inlined into it: after a change of
    the layout of states, code that was compiled before would write where nothing is.
    """
    package = Path(__file__).parents[2]
    given = os.environ.get("NUMBA_CACHE_DIR")
    try:
        versions = Path(given) / "shunter" / "compiled" if given else cache_folder("compiled")
    except InputError:
        return  # a user without a home: numba's own choice
    sources = [file for area in ("envs", "agents") for file in (package / area).rglob("*.py")]
    own = versions / cache_stamp(sources)
    try:
        own.mkdir(parents=True, exist_ok=True)
        own.touch()
        old = sorted(versions.iterdir(), key=lambda folder: folder.stat().st_mtime_ns)[:-KEPT]
    except OSError:
        return  # no place of its own: numba's own choice
    for folder in old:
        shutil.rmtree(folder, ignore_errors=True)
    numba.config.CACHE_DIR = str(own)


_keep_apart()

# Nothing here allocates. Told so (_nrt), numba does not count references to the arrays of states and tables,
# which took ten times as long as everything else together.
_OPTIONS = {"cache": True, "error_model": "numpy", "nogil": True, "_nrt": False}

# What unpacks Python's arguments takes longer to compile than most functions.
_NOT_FROM_PYTHON = {"no_cpython_wrapper": True, "no_cfunc_wrapper": True}


def _compiled(function: Function, **more: Any) -> Function:
    compiled: Any = numba.njit(**_OPTIONS, **more)(function)
    if hasattr(compiled, "compile"):  # not with NUMBA_DISABLE_JIT
        compiled.compile = interruptible(compiled.compile)
    found: Function = compiled
    return found


def interruptible(function: Function) -> Function:
    """A function that Ctrl-C interrupts even where it comes while C calls back.

    Python drops what is raised in a callback from C, and LLVM calls back while it compiles, which takes the
    longest of a first run: the interruption would be lost, and what is missing then an error of its own.
    """

    @functools.wraps(function)
    def called(*arguments: Any, **named: Any) -> Any:
        dropped: list[KeyboardInterrupt] = []
        before = sys.unraisablehook

        def keep(found: Any) -> None:
            if isinstance(found.exc_value, KeyboardInterrupt):
                dropped.append(found.exc_value)
            else:
                before(found)

        sys.unraisablehook = keep
        try:
            result = function(*arguments, **named)
        except Exception:
            if not dropped:
                raise
        finally:
            sys.unraisablehook = before
        if dropped:
            raise dropped[0]
        return result

    return called  # type: ignore[return-value]


def jit(function: Function) -> Function:
    """Compiles a function, keeping its types for checkers.

    The compiled code is cached on disk, and lets other threads of Python run meanwhile. It cannot allocate.
    """
    return _compiled(function)


def bound(function: Function, *arguments: Any) -> Function:
    """The code compiled for arguments of these types, without looking their types up at every call.

    The look-up takes ten times as long as a decision. Whoever calls the result must pass the same types and
    memory layouts: nothing checks them.
    """
    dispatcher: Any = function
    types = tuple(numba.typeof(argument) for argument in arguments)
    dispatcher.compile(types)
    compiled: Function = dispatcher.get_overload(types)
    return compiled


def entry(function: Function) -> Function:
    """As ``jit``, and inlined where compiled code calls it.

    For what runs at every decision and is called in few places: passing states and tables on, as many
    numbers each, costs more than most functions do.
    """
    return _compiled(function, forceinline=True)


def inlined(function: Function) -> Function:
    """As ``entry``, but only compiled code can call it."""
    return _compiled(function, **_NOT_FROM_PYTHON, forceinline=True)


def merged(function: Function) -> Function:
    """As ``inlined``, but never compiled by itself: for what holds nearly all of who calls it."""
    return _compiled(function, **_NOT_FROM_PYTHON, inline="always")


def internal(function: Function) -> Function:
    """As ``jit``, but only compiled code can call it."""
    return _compiled(function, **_NOT_FROM_PYTHON)
