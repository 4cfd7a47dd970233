"""Options of ``reset``: what is known is honoured, all else refused by name."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from shunter.envs.gym.checks import integer
from shunter.errors import InputError, UnknownNameError

WORKLOAD_SEED, RESET_MASK = "workload_seed", "reset_mask"


def checked_options(
    options: Mapping[str, Any] | None, known: tuple[str, ...] = (WORKLOAD_SEED,)
) -> Mapping[str, Any]:
    """The options given.

    Args:
        options: As ``reset`` got them.
        known: Names that there may be.

    Raises:
        InputError: They are no mapping, or ``workload_seed`` is no integer from 0 on.
        UnknownNameError: There is one of another name.
    """
    if options is None:
        return {}
    if not isinstance(options, Mapping):
        raise InputError("options", "be a mapping of names to values", options)
    for name in options:
        if name not in known:
            raise UnknownNameError("options", str(name), known)
    if options.get(WORKLOAD_SEED) is None:
        return options
    seed = integer(options[WORKLOAD_SEED])
    if seed is None or not 0 <= seed < 2**63:
        rule = "be an integer from 0 to 2**63 - 1"
        raise InputError("options['workload_seed']", rule, options[WORKLOAD_SEED])
    return {**options, WORKLOAD_SEED: seed}


def reset_mask(options: Mapping[str, Any], environments: int) -> NDArray[np.bool_] | None:
    """Which environments are to be reset, shape (environments,); None: all.

    Raises:
        InputError: It is no such array, or nothing is to be reset.
    """
    mask = options.get(RESET_MASK)
    if mask is None:
        return None
    is_array = isinstance(mask, np.ndarray) and mask.shape == (environments,) and mask.dtype == np.bool_
    if not is_array or np.ma.is_masked(mask) or not mask.any():
        rule = f"be a numpy array of bool of shape ({environments},) with at least one True"
        raise InputError("options['reset_mask']", rule, mask)
    chosen: NDArray[np.bool_] = mask
    return chosen
