"""How this package compiles functions: numba, cached on disk, typed for checkers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import numba

__all__ = ["jit"]

Function = TypeVar("Function", bound=Callable[..., Any])


def jit(function: Function) -> Function:
    """Compiles a function, keeping its types for checkers; the compiled code is cached on disk."""
    compiled: Function = numba.njit(cache=True, error_model="numpy")(function)
    return compiled
