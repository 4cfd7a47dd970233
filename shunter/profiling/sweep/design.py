"""Which measurements tell most: information of a set of units about the terms of a performance model.

Every operation's time is taken as a sum of physical terms (``catalog.work``) with unknown coefficients,
measured with a relative error. One row of a cell then holds
the information x xᵀ about the coefficients' logarithms, where x_j is the share of term j in the time: the
terms are scaled so that each has an equal share in the middle of the grid, which needs no assumption of
speeds.

Repeats of one cell tell less and less, since no model fits a cell exactly: n rows weigh n / (n + 1), as if
the misfit of a cell were as large as the noise of a row.

Source: Fedorov, Theory of Optimal Experiments, 1972 (D-optimality: the largest determinant of the
information matrix; one more row multiplies it by 1 + w xᵀ M⁻¹ x).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields

import numpy as np
import numpy.typing as npt

from shunter.catalog import work
from shunter.catalog.work import PlacedConfigurations
from shunter.profiling.sweep.plan import Group, SweepPlan, Unit

Array = npt.NDArray[np.float64]

_RIDGE = 0.01


def observations(plan: SweepPlan, group: Group, unit: Unit) -> dict[str, tuple[float, ...]]:
    """The terms of each operation that a unit measures, by operation.

    Loads from cold and warm files are operations of their own, as models fit them apart.
    """
    if unit.kind == "run":
        context = unit.prompt_tokens + (unit.decode_tokens + 1) / 2
        cell = _placed(group, tokens=unit.prompt_tokens, batch=unit.batch, context_tokens=context)
        return {"prefill": _prefill(cell), "decode": _decode(cell)}
    cell = _placed(group, tokens=unit.cut_tokens, reserved_tokens=unit.max_batch * plan.max_context_tokens)
    moved = _terms(*work.weights_held_bytes(cell), cell.layers, sum(work.kv_reserved_bytes(cell)))
    told = {f"load {unit.page_cache}": moved, "unload": moved}
    if unit.cut_tokens:
        kv = _terms(*work.kv_copied_bytes(cell), cell.layers)
        told |= {"kv_save": kv, "kv_restore": kv, "prefill": _prefill(cell)}
    return told


def _placed(group: Group, **asked: float) -> PlacedConfigurations:
    """One cell whose layers are all alike: each side has its share of everything, the output layer too."""
    checkpoint, spec = group.checkpoint, group.checkpoint.spec
    device = group.gpu_layers / spec.total_layers
    cell: dict[str, float] = {
        "layers": spec.layers,
        "hidden_size": spec.hidden_size,
        "attn_heads": spec.attn_heads,
        "weight_bytes": checkpoint.weight_bytes,
        "weight_bytes_host": checkpoint.weight_bytes * (1 - device),
        **asked,
    }
    for side, share in (("device", device), ("host", 1 - device)):
        cell[f"layers_{side}"] = spec.layers * share
        cell[f"read_bytes_{side}"] = checkpoint.weight_bytes * share
        cell[f"params_{side}"] = spec.params * share
        cell[f"kv_bytes_{side}"] = spec.kv_bytes_per_token() * share
    return PlacedConfigurations(
        **{f.name: np.array(cell.get(f.name, 0.0), np.float64) for f in fields(PlacedConfigurations)}
    )


def _decode(c: PlacedConfigurations) -> tuple[float, ...]:
    more = c.batch - 1
    return _terms(
        *work.weights_read_bytes(c),
        c.layers,
        *work.sequence_params(c, more),
        more * c.layers,
        sum(work.kv_read_bytes(c)),
        sum(work.attended_width(c)),
    )


def _prefill(c: PlacedConfigurations) -> tuple[float, ...]:
    weights = c.params_device + c.params_host
    return _terms(weights, *work.token_params(c), sum(work.pair_width(c)), sum(work.token_width(c)))


def _terms(*values: Array | int) -> tuple[float, ...]:
    """The terms of one operation, what it costs whatever it does first."""
    return 1.0, *map(float, values)


class Design:
    """What has been measured of some candidates, and what one more row of each would tell.

    Args:
        told: The terms that each candidate measures, by operation.
    """

    def __init__(self, told: Sequence[dict[str, tuple[float, ...]]]) -> None:
        names = sorted({name for terms in told for name in terms})
        cells = {name: sorted({terms[name] for terms in told if name in terms}) for name in names}
        self._shares = {name: _shares(np.array(cells[name])) for name in names}
        self._rows = {name: np.zeros(len(cells[name])) for name in names}
        self._inverse = {name: np.eye(x.shape[1]) / _RIDGE for name, x in self._shares.items()}
        indices = {name: {cell: i for i, cell in enumerate(cells[name])} for name in names}
        # A candidate that does not measure an operation points behind its last cell, where nothing is gained.
        self._cell_of = {
            name: np.array([indices[name].get(terms.get(name, ()), len(cells[name])) for terms in told])
            for name in names
        }

    def gains(self) -> Array:
        """By how much one more row of each candidate raises the logarithm of the determinant; (n,)."""
        total: Array = np.zeros(0)
        for name, x in self._shares.items():
            known = np.einsum("ij,jk,ik->i", x, self._inverse[name], x)
            gain = np.append(np.log1p(_more_weight(self._rows[name]) * known), 0.0)[self._cell_of[name]]
            total = gain if not total.size else total + gain
        return total

    def add(self, candidate: int) -> None:
        """Counts one more row of a candidate (Sherman-Morrison)."""
        for name, cell_of in self._cell_of.items():
            cell = int(cell_of[candidate])
            if cell == len(self._shares[name]):
                continue
            weight = float(_more_weight(self._rows[name])[cell])
            along = self._inverse[name] @ self._shares[name][cell]
            known = float(self._shares[name][cell] @ along)
            self._inverse[name] -= np.outer(along, along) * weight / (1 + weight * known)
            self._rows[name][cell] += 1


def _shares(terms: Array) -> Array:
    """Each term's share in a cell's time, if all have an equal share on the mean of the cells."""
    means = terms.mean(axis=0)
    scaled = terms[:, means > 0] / means[means > 0]
    shares: Array = scaled / scaled.sum(axis=1, keepdims=True)
    return shares


def _more_weight(rows: Array) -> Array:
    """What one more row adds to the weight n / (n + 1)."""
    more: Array = (rows + 1) / (rows + 2) - rows / (rows + 1)
    return more
