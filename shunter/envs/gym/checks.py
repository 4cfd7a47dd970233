"""What comes from outside is looked at before compiled code sees it: actions and seeds."""

from __future__ import annotations

import math
import operator
from collections.abc import Sequence
from typing import Any

import gymnasium
import numpy as np
from numpy.typing import NDArray

from shunter.envs.sim.batch import Noise
from shunter.envs.sim.compiled import bound, jit
from shunter.envs.world.world import World, make_world
from shunter.errors import InputError

__all__ = [
    "check_action",
    "check_actions",
    "check_begun",
    "check_count",
    "check_cut_off",
    "check_flag",
    "check_noise",
    "check_seed",
    "check_world",
]

Ints = NDArray[np.int64]

_INT64 = np.dtype(np.int64)


@jit
def all_below(values: Ints, end: int) -> bool:
    """Whether all of (E,) integers lie from 0 up to, but without, ``end``."""
    for i in range(values.shape[0]):  # noqa: SIM110 - compiled
        if values[i] < 0 or values[i] >= end:
            return False
    return True


_all_below = bound(all_below, np.zeros(1, np.int64), 1)


def integer(value: Any) -> int | None:
    """The Python integer that a value is; None where it is none.

    Numpy's integers are, and arrays and tensors without axes; booleans and what is masked are not, whoever's.
    """
    if type(value) is not int and not isinstance(value, np.integer):
        if isinstance(value, bool) or getattr(value, "shape", ()) != () or np.ma.is_masked(value):
            return None
        if str(getattr(value, "dtype", "")).endswith("bool"):  # torch's are integers to Python
            return None
    try:
        return operator.index(value)
    except Exception:  # of whatever kind: it is the value's own code that says it is none
        return None


def check_action(action: Any, actions: int, field: str = "action") -> int:
    """One action as a Python integer.

    Args:
        action: Any integer, numpy's and arrays without axes included.
        actions: Number of candidates.
        field: What errors call it.

    Raises:
        InputError: It is no integer, or no candidate's index.
    """
    index = int(action) if type(action) is np.int64 else integer(action)
    if index is None or not 0 <= index < actions:
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
    # What compiled code reads as it is comes every step, and is looked at first.
    array = given if type(given) is np.ndarray else _array(given)
    readable = array is given and array.dtype is _INT64 and array.flags.c_contiguous
    if readable and array.shape == shape and _all_below(array, actions):
        return array
    rule = f"be integers of shape ({shape[0]},), one for each environment"
    if array.shape != shape or array.dtype.kind not in "iu":
        raise InputError(field, rule, f"shape {array.shape}, dtype {array.dtype}")
    # Among integers numpy takes booleans for such, and whatever lies behind a mask.
    if type(given) is not np.ndarray and (np.ma.is_masked(given) or not _all_integers(given)):
        raise InputError(field, rule, given)
    # Unsigned numbers beyond int64 become negative, and are refused as such.
    array = np.ascontiguousarray(array, np.int64)
    if not _all_below(array, actions):
        wrong = int(np.flatnonzero((array < 0) | (array >= actions))[0])
        rule = f"be integers from 0 to {actions - 1}"
        raise InputError(f"{field}[{wrong}]", rule, np.asarray(given).reshape(shape)[wrong])
    return array


def _all_integers(given: Any) -> bool:
    return not isinstance(given, list | tuple) or None not in map(integer, given)


def _array(given: Any) -> NDArray[Any]:
    try:
        return np.asarray(given)
    except Exception:  # ragged, on a device, part of a gradient: of no shape that is asked for
        return np.empty(0, np.object_)


def check_seed(seed: Any, field: str = "seed") -> int:
    """A seed as a Python integer.

    Raises:
        InputError: It is no integer of at least 0.
    """
    number = integer(seed)
    if number is None or number < 0:
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
    number = integer(value)
    if number is None or not 1 <= number < 2**63:
        raise InputError(field, "be at least 1", value)
    return number


def check_flag(field: str, value: Any) -> bool:
    """Whether something is so, as a Python boolean.

    Raises:
        InputError: It is neither True nor False.
    """
    if not isinstance(value, bool | np.bool_):
        raise InputError(field, "be True or False", value)
    return bool(value)


def check_noise(value: Any) -> Noise:
    """Whether durations differ from the predicted ones, and drift besides.

    Raises:
        InputError: It is none of True, False and ``drift``.
    """
    if isinstance(value, str) and value == "drift":
        return "drift"
    if not isinstance(value, bool | np.bool_):
        raise InputError("noise", "be True, False or drift", value)
    return bool(value)


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
    try:
        return float(cut_off_s)
    except OverflowError:
        return math.inf


def check_world(world: Any, scenario: Any, performance: Any) -> World:
    """The world that an environment is of: compiled, or made of a scenario and a performance model.

    Raises:
        InputError: ``world`` is none, or there is a scenario or a performance model besides.
    """
    if world is None:
        return make_world(scenario, performance, field="scenario")
    if not isinstance(world, World):
        raise InputError("world", "be a compiled scenario, as make_world gives it", world)
    if scenario is not None or performance is not None:
        raise InputError("world", "be given alone, without scenario and performance", world.scenario.name)
    return world


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
