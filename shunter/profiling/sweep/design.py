"""Which measurements tell most: information of a set of units about the terms of a performance model.

Every operation's time is taken as a sum of physical terms (``catalog.work``) with unknown coefficients,
measured with a relative error. One row of a configuration then holds
the information x xᵀ about the coefficients' logarithms, where x_j is the share of term j in the time: the
terms are scaled so that each has an equal share in the middle of the grid, which needs no assumption of
speeds.

Repeats of one configuration tell less and less, since no model fits a configuration exactly: n rows weigh n /
(n + 1), as if the misfit of a configuration were as large as the noise of a row.

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
        placed = _placed(group, tokens=unit.prompt_tokens, batch=unit.batch, context_tokens=context)
        return {"prefill": _prefill(placed), "decode": _decode(placed)}
    spec = group.checkpoint.spec
    kept = work.reserved_tokens(
        np.array(plan.max_context_tokens),
        np.array(spec.windowed_layers / spec.layers),
        np.array(spec.window_tokens),
    )
    placed = _placed(group, tokens=unit.cut_tokens, reserved_kv_tokens=unit.max_batch * float(kept))
    moved = _terms(*work.weights_held_bytes(placed), placed.layers, sum(work.kv_reserved_bytes(placed)))
    told = {f"load {unit.page_cache}": moved, "unload": moved}
    if unit.cut_tokens:
        kv = _terms(*work.kv_copied_bytes(placed), placed.layers)
        told |= {"kv_save": kv, "kv_restore": kv, "prefill": _prefill(placed)}
    return told


def _placed(group: Group, **asked: float) -> PlacedConfigurations:
    """One configuration whose layers are all alike: each side has its share of everything."""
    checkpoint, spec = group.checkpoint, group.checkpoint.spec
    device = group.gpu_layers / spec.total_layers
    placed: dict[str, float] = {
        "layers": spec.layers,
        "hidden_size": spec.hidden_size,
        "attn_heads": spec.attn_heads,
        "weight_bytes": checkpoint.weight_bytes,
        "weight_bytes_host": checkpoint.weight_bytes * (1 - device),
        "windowed_share": spec.windowed_layers / spec.layers,
        "window_tokens": spec.window_tokens,
        "expert_idle_share": 1 - spec.experts_used / max(1, spec.experts),
        **asked,
    }
    for side, share in (("device", device), ("host", 1 - device)):
        placed[f"layers_{side}"] = spec.layers * share
        placed[f"read_bytes_{side}"] = checkpoint.weight_bytes * share
        placed[f"params_{side}"] = checkpoint.active_params * share
        placed[f"expert_bytes_{side}"] = (
            spec.layers * checkpoint.layer_weight_bytes * checkpoint.expert_share * share
        )
        placed[f"kv_bytes_{side}"] = spec.kv_bytes_per_token() * share
    return PlacedConfigurations(
        **{f.name: np.array(placed.get(f.name, 0.0), np.float64) for f in fields(PlacedConfigurations)}
    )


def _decode(c: PlacedConfigurations) -> tuple[float, ...]:
    more = c.batch - 1
    return _terms(
        *work.weights_read_bytes(c, c.batch),
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
        distinct = {name: sorted({terms[name] for terms in told if name in terms}) for name in names}
        self._shares = {name: _shares(np.array(distinct[name])) for name in names}
        self._rows = {name: np.zeros(len(distinct[name])) for name in names}
        self._inverse = {name: np.eye(x.shape[1]) / _RIDGE for name, x in self._shares.items()}
        indices = {name: {terms: i for i, terms in enumerate(distinct[name])} for name in names}
        # A candidate that does not measure an operation points behind the last of its terms, where nothing
        # is gained.
        self._index_of = {
            name: np.array([indices[name].get(terms.get(name, ()), len(distinct[name])) for terms in told])
            for name in names
        }

    def gains(self) -> Array:
        """By how much one more row of each candidate raises the logarithm of the determinant; (n,)."""
        total: Array = np.zeros(0)
        for name, x in self._shares.items():
            known = np.einsum("ij,jk,ik->i", x, self._inverse[name], x)
            gain = np.append(np.log1p(_more_weight(self._rows[name]) * known), 0.0)[self._index_of[name]]
            total = gain if not total.size else total + gain
        return total

    def add(self, candidate: int) -> None:
        """Counts one more row of a candidate (Sherman-Morrison)."""
        for name, index_of in self._index_of.items():
            index = int(index_of[candidate])
            if index == len(self._shares[name]):
                continue
            weight = float(_more_weight(self._rows[name])[index])
            along = self._inverse[name] @ self._shares[name][index]
            known = float(self._shares[name][index] @ along)
            self._inverse[name] -= np.outer(along, along) * weight / (1 + weight * known)
            self._rows[name][index] += 1


def _shares(terms: Array) -> Array:
    """Each term's share in a configuration's time, if all have an equal share on the mean of all."""
    means = terms.mean(axis=0)
    scaled = terms[:, means > 0] / means[means > 0]
    shares: Array = scaled / scaled.sum(axis=1, keepdims=True)
    return shares


def _more_weight(rows: Array) -> Array:
    """What one more row adds to the weight n / (n + 1)."""
    more: Array = (rows + 1) / (rows + 2) - rows / (rows + 1)
    return more
