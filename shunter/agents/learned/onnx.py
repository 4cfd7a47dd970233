"""A trained policy as an ONNX graph, for schedulers that are not written in Python."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from shunter.agents.learned.base_policy import MOST_CANDIDATES, OTHERS_BUSY, PENDING, PRIOR_INPUT, BasePolicy
from shunter.agents.learned.inputs import (
    CANDIDATE_FEATURE,
    CANDIDATE_SCALE,
    CONTEXT_FEATURE,
    CONTEXT_SCALE,
    KINDS,
)
from shunter.agents.learned.policy import LearnedPolicy
from shunter.agents.learned.weights import Arrays
from shunter.envs.observation.features import CONTEXT_FEATURES, FEATURES, FEATURES_VERSION, feature
from shunter.errors import ShunterError
from shunter.files import write_bytes

__all__ = ["export_onnx"]

OPSET, IR_VERSION = 18, 9


def export_onnx(policy: LearnedPolicy, path: str | Path) -> None:
    """Writes an ONNX graph; any number of decisions at once, of any number of candidates.

    Inputs: ``candidates`` (batch, A, F) float, ``context`` (batch, G) float, ``action_mask`` (batch, A)
    bool. Outputs: ``scores`` (batch, A) float and ``choice`` (batch,) int64, the legal candidate of the
    highest score. What F and G hold is in the file's metadata.

    Raises:
        ShunterError: The onnx package is missing.
    """
    try:
        import onnx
    except ImportError as error:
        raise ShunterError(f"ONNX needs the extra: pip install 'shunter[onnx]' ({error})") from None
    graph = _Graph(onnx)
    _scores(graph, policy)
    model = graph.model(policy)
    onnx.checker.check_model(model, full_check=True)
    write_bytes(path, model.SerializeToString())


def _scores(g: _Graph, policy: LearnedPolicy) -> None:
    """``LearnedPolicy.scores``, operator by operator."""
    weights = policy.weights
    exact = _prior(g, policy.prior)
    prior = g.op("Cast", exact, to=g.onnx.TensorProto.FLOAT)
    seen = _shortlist(g, exact)
    own = g.squashed("candidates", CANDIDATE_FEATURE, CANDIDATE_SCALE)
    shared = g.squashed("context", CONTEXT_FEATURE, CONTEXT_SCALE)
    shared = g.op("Unsqueeze", shared, g.constant(np.array([1])))
    scores = g.op("Add", prior, _linear(g, own, shared, weights["linear"]))
    if policy.width:
        scores = g.op("Add", scores, _network(g, own, prior, shared, seen, weights))
    scores = g.op("Where", seen, scores, g.constant(np.float32(-np.inf)), out="scores")
    g.op("ArgMax", scores, axis=1, keepdims=0, out="choice")


def _linear(g: _Graph, own: str, shared: str, linear: NDArray[np.float32]) -> str:
    """What the weights of each candidate's kind say, (batch, A)."""
    flags = g.constant(np.array([feature(f"is_{kind}") for kind in KINDS]))
    flags = g.op("Greater", g.op("Gather", "candidates", flags, axis=2), g.constant(np.float32(0)))
    kind = g.op("ArgMax", g.op("Cast", flags, to=g.onnx.TensorProto.FLOAT), axis=2)
    of_own, of_shared, constant = np.split(linear, [len(CANDIDATE_FEATURE), linear.shape[1] - 1], axis=1)
    common = g.op("Add", g.matmul(shared, of_shared), g.constant(constant[:, 0]))
    by_kind = g.op("Add", g.matmul(own, of_own), common)
    return g.op("Squeeze", g.op("GatherElements", by_kind, kind, axis=2), g.constant(np.array([2])))


def _network(g: _Graph, own: str, prior: str, shared: str, seen: str, weights: Arrays) -> str:
    """What the network adds, (batch, A)."""
    axis_1, axis_2 = g.constant(np.array([1])), g.constant(np.array([2]))
    scaled = g.op("Unsqueeze", g.op("Mul", prior, g.constant(np.float32(PRIOR_INPUT))), axis_2)
    hidden = g.op("Softsign", g.layer("encode_1", g.op("Concat", own, scaled, axis=2), weights))
    hidden = g.op("Softsign", g.layer("encode_2", hidden, weights))
    legal = g.op("Unsqueeze", seen, axis_2)
    share = g.op("Cast", legal, to=g.onnx.TensorProto.FLOAT)
    total = g.op("ReduceSum", g.op("Mul", hidden, share), axis_1)
    count = g.op("Max", g.constant(np.float32(1)), g.op("ReduceSum", share, axis_1))
    top = g.op("ReduceMax", g.op("Where", legal, hidden, g.constant(np.float32(-1))), axis_1)
    pooled = g.op("Concat", g.op("Div", total, count), top, shared, axis=2)
    mine, common = np.split(weights["score_1.weight"], [len(weights["score_1.bias"])], axis=1)
    both = g.op("Add", g.matmul(pooled, common), g.constant(weights["score_1.bias"]))
    hidden = g.op("Softsign", g.op("Add", g.matmul(hidden, mine), both))
    return g.op("Squeeze", g.layer("score_2", hidden, weights), axis_2)


def _kind(g: _Graph, name: str) -> str:
    return g.op("Greater", g.feature(name), g.constant(np.float64(0)))


def _second_copy(g: _Graph) -> str:
    """``shunter.agents.heuristics.rules.second_copy``."""
    free = g.op("Not", _kind(g, "held"))
    return g.op("And", g.op("And", _kind(g, "is_load"), _kind(g, "elsewhere")), free)


def _prior(g: _Graph, rest: BasePolicy) -> str:
    """``shunter.agents.learned.base_policy.base_scores``, in double precision as there."""

    def number(value: float) -> str:
        return g.constant(np.float64(value))

    def log1p(x: str) -> str:
        return g.op("Log", g.op("Add", x, number(1)))

    requests, swap = g.feature("requests"), g.feature("swap_time")
    time = g.op("Add", g.op("Mul", number(rest.load_weight), swap), g.feature("join_time"))
    time = g.op("Add", g.op("Add", time, g.feature("first_time")), number(1e-3))
    serves = g.op("Or", _kind(g, "is_run"), _kind(g, "is_load"))
    rate = g.op("Where", serves, g.op("Div", requests, time), number(0))
    if rest.elsewhere:
        own = g.op("Add", g.op("Add", swap, g.feature("join_time")), g.feature("batch_time"))
        there = g.feature("serve_elsewhere")
        ratio = g.op("Div", there, g.op("Add", own, number(1e-3)))
        share = g.op("Pow", g.op("Min", number(1), ratio), number(rest.elsewhere))
        free = g.op("And", _kind(g, "is_load"), g.op("Not", _kind(g, "held")))
        free = g.op("And", free, g.op("Greater", there, number(0)))
        rate = g.op("Where", free, g.op("Mul", share, rate), rate)
    rate = g.op("Where", _second_copy(g), g.op("Mul", number(rest.copy_share), rate), rate)
    effort = g.op("Div", swap, g.op("Add", g.feature("arrivals"), number(1e-3)))
    prefetch = g.op("Sub", number(-4), g.op("Mul", number(0.1), log1p(effort)))
    idle = g.op("Where", _kind(g, "is_wait"), number(-3), prefetch)
    served = g.op("Log", g.op("Max", rate, number(1e-4)))
    prior = g.op("Where", g.op("Greater", rate, number(0)), served, idle)
    back = g.op("Div", g.feature("preempt_time"), g.op("Add", g.feature("unused_time"), number(1)))
    loss = g.op("Add", requests, g.op("Mul", number(rest.reload_weight), back))
    evicted = g.op("Sub", number(-4.5), log1p(loss))
    return g.op("Where", _kind(g, "is_evict"), evicted, prior)


def _shortlist(g: _Graph, prior: str) -> str:
    """``shunter.agents.learned.base_policy.pruned``."""

    def context(index: int) -> str:
        return g.op("Gather", "context", g.constant(np.array([index])), axis=1)

    zero, axis_1 = g.constant(np.float32(0)), g.constant(np.array([1]))
    serves, waits, evicts = _kind(g, "requests"), _kind(g, "is_wait"), _kind(g, "is_evict")
    wanted = g.op("And", "action_mask", g.op("And", serves, g.op("Not", evicts)))
    wanted = g.op("And", wanted, g.op("Not", _second_copy(g)))
    any_ = g.op("ReduceMax", g.op("Cast", wanted, to=g.onnx.TensorProto.FLOAT), axis_1)
    urgent, alone = g.op("Greater", any_, zero), g.op("Equal", context(OTHERS_BUSY), zero)
    idle = g.op("Not", g.op("Or", serves, g.op("Or", waits, evicts)))
    dropped = g.op("And", urgent, g.op("Or", idle, g.op("And", waits, alone)))
    dropped = g.op("Or", dropped, g.op("And", evicts, g.op("Equal", context(PENDING), zero)))
    mask = g.op("And", "action_mask", g.op("Not", dropped))
    nothing = g.constant(np.float64(-np.inf))
    legal = g.op("Where", mask, prior, nothing)
    # Fewer candidates than the pruned holds are filled up, so that there is a last one.
    padding = g.constant(np.array([0, 0, 0, MOST_CANDIDATES]))
    padded = g.op("Pad", legal, padding, nothing)
    best = g.op("TopK", padded, g.constant(np.array([MOST_CANDIDATES])), axis=1, more="unused")
    least = g.op("Gather", best, g.constant(np.array([MOST_CANDIDATES - 1])), axis=1)
    return g.op("And", mask, g.op("GreaterOrEqual", legal, least))


class _Graph:
    """Collects nodes and constants; values go by name."""

    def __init__(self, onnx: Any) -> None:
        self.onnx = onnx
        self.nodes: list[Any] = []
        self.constants: list[Any] = []

    def constant(self, value: Any) -> str:
        name = f"c{len(self.constants)}"
        self.constants.append(self.onnx.numpy_helper.from_array(np.ascontiguousarray(value), name))
        if np.ndim(value) == 0:  # ascontiguousarray makes vectors of scalars
            del self.constants[-1].dims[:]
        return name

    def op(
        self, kind: str, *inputs: str, out: str | None = None, more: str | None = None, **attributes: Any
    ) -> str:
        name = out or f"n{len(self.nodes)}"
        outputs = [name] if more is None else [name, more]
        self.nodes.append(self.onnx.helper.make_node(kind, list(inputs), outputs, **attributes))
        return name

    def matmul(self, x: str, weight: Any) -> str:
        return self.op("MatMul", x, self.constant(weight.T))

    def layer(self, name: str, x: str, weights: Arrays) -> str:
        return self.op(
            "Add", self.matmul(x, weights[f"{name}.weight"]), self.constant(weights[f"{name}.bias"])
        )

    def squashed(self, x: str, index: NDArray[np.int64], scale: NDArray[np.float64]) -> str:
        """Inputs as ``shunter.agents.learned.inputs`` makes them; along the last axis of x."""
        raw = self.op("Gather", x, self.constant(index), axis=-1)
        scaled = self.op("Mul", raw, self.constant(scale.astype(np.float32)))
        squashed = self.op("Div", scaled, self.op("Add", scaled, self.constant(np.float32(1))))
        return self.op("Where", self.constant(scale == 0), raw, squashed)

    def feature(self, name: str) -> str:
        index = self.constant(np.int64(feature(name)))
        column = self.op("Gather", "candidates", index, axis=2)
        return self.op("Cast", column, to=self.onnx.TensorProto.DOUBLE)

    def model(self, policy: LearnedPolicy) -> Any:
        tensor, proto = self.onnx.helper.make_tensor_value_info, self.onnx.TensorProto
        inputs = [
            tensor("candidates", proto.FLOAT, ["batch", "candidate", len(FEATURES)]),
            tensor("context", proto.FLOAT, ["batch", len(CONTEXT_FEATURES)]),
            tensor("action_mask", proto.BOOL, ["batch", "candidate"]),
        ]
        outputs = [
            tensor("scores", proto.FLOAT, ["batch", "candidate"]),
            tensor("choice", proto.INT64, ["batch"]),
        ]
        graph = self.onnx.helper.make_graph(self.nodes, "policy", inputs, outputs, self.constants)
        opset = [self.onnx.helper.make_opsetid("", OPSET)]
        model = self.onnx.helper.make_model(graph, opset_imports=opset, ir_version=IR_VERSION)
        properties = {
            "name": policy.name,
            "features_version": str(FEATURES_VERSION),
            "features": json.dumps(FEATURES),
            "context_features": json.dumps(CONTEXT_FEATURES),
        }
        self.onnx.helper.set_model_props(model, properties)
        return model
