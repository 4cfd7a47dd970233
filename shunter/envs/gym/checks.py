"""What comes from outside is looked at before compiled code sees it: actions and seeds."""

from __future__ import annotations

import operator
from collections.abc import Sequence
from typing import Any

import gymnasium
import numpy as np
from numpy.typing import NDArray

from shunter.envs.sim.compiled import bound, jit
from shunter.errors import InputError

__all__ = ["check_action", "check_actions", "check_begun", "check_count", "check_cut_off", "check_seed"]

Ints = NDArray[np.int64]


@jit
def all_below(values: Ints, end: int) -> bool:
    """Whether all of (E,) integers lie from 0 up to, but without, ``end``."""
    for i in range(values.shape[0]):  # noqa: SIM110 - compiled
        if values[i] < 0 or values[i] >= end:
            return False
    return True


_all_below = bound(all_below, np.zeros(1, np.int64), 1)


def check_action(action: Any, actions: int, field: str = "action") -> int:
    """One action as a Python integer.

    Args:
        action: Any integer, numpy's and arrays without axes included.
        actions: Number of candidates.
        field: What errors call it.

    Raises:
        InputError: It is no integer, or no candidate's index.
    """
    try:
        index = operator.index(action)
    except TypeError:
        index = -1
    if not 0 <= index < actions or isinstance(action, bool):
        raise InputError(field, f"be one integer from 0 to {actions - 1}", action)
    return index


def check_actions(given: Any, shape: tuple[int], actions: int, field: str = "actions") -> Ints:
    """Actions of a batch as compiled code reads them.

    Args:
        given: Integers, one for each environment.
        shape: ``(E,)`` for E environments.
        actions: Number of candidates.
        field: What errors call them.

    Returns:
        (E,) int64, contiguous; ``given`` itself if it is that.

    Raises:
        InputError: They are of another shape, no integers, or no candidates' indices.
    """
    array = _array(given)
    if array.shape != shape or array.dtype.kind not in "iu":
        rule = f"be integers of shape ({shape[0]},), one for each environment"
        raise InputError(field, rule, f"shape {array.shape}, dtype {array.dtype}")
    # Unsigned numbers beyond int64 become negative, and are refused as such.
    array = np.ascontiguousarray(array, np.int64)
    if not _all_below(array, actions):
        wrong = int(np.flatnonzero((array < 0) | (array >= actions))[0])
        rule = f"be integers from 0 to {actions - 1}"
        raise InputError(f"{field}[{wrong}]", rule, np.asarray(given).reshape(shape)[wrong])
    return array


def _array(given: Any) -> NDArray[Any]:
    try:
        return np.asarray(given)
    except (TypeError, ValueError):
        return np.empty(0, np.object_)  # ragged, or no array at all: of no shape that is asked for


def check_seed(seed: Any, field: str = "seed") -> int:
    """A seed as a Python integer.

    Raises:
        InputError: It is no integer of at least 0.
    """
    try:
        number = operator.index(seed)
    except TypeError:
        number = -1
    if number < 0 or isinstance(seed, bool):
        raise InputError(field, "be an integer of at least 0", seed)
    return number


def check_seeds(seeds: Sequence[Any] | NDArray[Any], environments: int) -> list[int | None]:
    """Seeds of single environments, None for those that have none.

    Args:
        seeds: A list, a tuple or an array.
        environments: How many there must be.

    Raises:
        InputError: There are more or fewer, or one is no integer of at least 0.
    """
    is_list = isinstance(seeds, list | tuple) or (isinstance(seeds, np.ndarray) and seeds.ndim == 1)
    if not is_list or len(seeds) != environments:
        raise InputError(
            "seed", f"be one integer, or a list of {environments}, one for each environment", seeds
        )
    return [None if one is None else check_seed(one, f"seed[{e}]") for e, one in enumerate(seeds)]


def check_count(field: str, value: Any) -> int:
    """How many of something as a Python integer.

    Raises:
        InputError: It is no integer of at least 1.
    """
    try:
        number = operator.index(value)
    except TypeError:
        number = 0
    if number < 1 or isinstance(value, bool):
        raise InputError(field, "be at least 1", value)
    return number


def check_cut_off(cut_off_s: Any, default_s: float) -> float:
    """When episodes are cut off, in seconds.

    Args:
        cut_off_s: Seconds, ``math.inf`` for never, or None.
        default_s: What None stands for.

    Raises:
        InputError: It is no number above 0.
    """
    if cut_off_s is None:
        return default_s
    is_number = isinstance(cut_off_s, int | float | np.integer | np.floating)
    if not is_number or isinstance(cut_off_s, bool) or not cut_off_s > 0:
        raise InputError("cut_off_s", "be a number of seconds above 0, or math.inf", cut_off_s)
    return float(cut_off_s)


def check_begun(begun: bool, closed: bool = False) -> None:
    """Raises unless an environment may be stepped.

    Raises:
        gymnasium.error.ClosedEnvironmentError: It was closed.
        gymnasium.error.ResetNeeded: It was never reset, or its episode has ended.
    """
    if closed:
        raise gymnasium.error.ClosedEnvironmentError("the environment was closed: make another one")
    if not begun:
        raise gymnasium.error.ResetNeeded("no episode is under way: call reset first")
