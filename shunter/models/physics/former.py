"""Stages of the targets that changed, as they were: performance models that were saved with them are read."""

from __future__ import annotations

import numpy as np

from shunter.models.physics import decode, prefill
from shunter.models.physics.rated import Array, RatedConfigurations
from shunter.models.physics.terms import Stage, Term


def prompt_lane_s(c: RatedConfigurations) -> Array:
    """Weights unpacked for, and work outside of, matrix units: an operation a parameter and pass."""
    seconds = prefill.passes(c) * c.at.params_device / (256 * c.clocks) * prefill.pipeline(c)
    return np.asarray(seconds, dtype=np.float64)


DECODE: tuple[Stage, ...] = (
    (
        Term("weight_read_dense", decode.weight_read_s, 1.08, 0.1, "dense", by_device=True),
        Term("weight_read_quantised", decode.weight_read_s, 1.15, 0.1, "quantised", by_device=True),
        Term("weight_issue_dense", decode.weight_issue_s, 1.3, 0.5, "dense", by_device=True),
        Term("weight_issue_quantised", decode.weight_issue_s, 1.3, 0.5, "quantised", by_device=True),
        Term("matrix", decode.matrix_s, 2.0, 0.5, by_device=True),
    ),
    (
        Term("host_read", decode.host_read_s, 1.4, 0.3, by_host=True),
        Term("host_matrix", decode.host_matrix_s, 1.0, 0.7),
    ),
    (Term("kv_read", decode.kv_read_s, 1.3, 0.7, by_device=True),),
    (Term("attention_issue", decode.attention_issue_s, 0.3, 0.7, by_device=True),),
    (Term("host_kv_read", decode.host_kv_read_s, 2.0, 0.7, by_host=True),),
    (Term("launch", decode.launch_s, 4.0, 0.7, by_version=True),),
    (Term("host_launch", decode.host_launch_s, 2.0, 1.0, by_version=True),),
    (Term("step", decode.step_s, 1.0, 1.0, by_version=True),),
    (Term("hop", decode.hop_s, 1.0, 1.0, by_version=True),),
    (Term("kv_hop", decode.kv_hop_s, 1.0, 1.0, by_version=True),),
    (Term("kv_hop_width", decode.kv_hop_width_s, 1.0, 1.0, by_version=True),),
    (Term("gpu_hop", decode.gpu_hop_s, 1.0, 1.0, by_version=True),),
)

PREFILL: tuple[Stage, ...] = (
    (
        Term("matrix_dense", prefill.prompt_matrix_s, 2.0, 0.5, "dense", by_device=True),
        Term("matrix_quantised", prefill.prompt_matrix_s, 2.5, 0.5, "quantised", by_device=True),
        Term("weight_read", prefill.prompt_weight_read_s, 1.15, 0.2, by_device=True),
    ),
    (Term("lane_work", prompt_lane_s, 4.0, 1.0, "quantised", by_device=True),),
    (Term("attention", prefill.prompt_attention_s, 6.0, 1.0, by_device=True),),
    (Term("activation", prefill.prompt_activation_s, 20.0, 1.0, by_device=True),),
    (Term("launch", prefill.prompt_launch_s, 5.0, 0.7, by_version=True),),
    (Term("step", decode.step_s, 5.0, 1.0, by_version=True),),
    (Term("host_attention", prefill.prompt_host_attention_s, 6.0, 1.0),),
    (Term("host_matrix", prefill.prompt_host_s, 1.0, 0.7),),
    (Term("host_weights_over_link", prefill.prompt_link_s, 1.5, 0.5),),
)
