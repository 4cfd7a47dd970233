"""A decode step: weights and KV read where they are, multiplications, and what each layer and step costs."""

from __future__ import annotations

import numpy as np

from shunter.catalog import work
from shunter.models.physics.rated import Array, RatedConfigurations
from shunter.models.physics.terms import Stage, Term

_BYTES_PER_LANE_CLOCK = 8.0
HOST_FLOP_PER_S = 5e11


def weight_read_s(c: RatedConfigurations) -> Array:
    """A step reads each weight on the device once. Bytes / (bytes/s).

    Source: Pope et al., Efficiently Scaling Transformer Inference, 2022, section 2.
    """
    return work.weights_read_bytes(c.at, c.at.batch).device / c.bandwidth


def weight_issue_s(c: RatedConfigurations) -> Array:
    """The same reads as multiprocessors can have them in flight, 8 bytes a clock each. Bytes / (bytes/s).

    It binds where memory is fast for the number of multiprocessors (HBM). Source: Little's law; Volkov,
    Understanding Latency Hiding on GPUs, 2016.
    """
    return work.weights_read_bytes(c.at, c.at.batch).device / (_BYTES_PER_LANE_CLOCK * c.clocks)


def matrix_s(c: RatedConfigurations) -> Array:
    """A decode step's multiplications: 2 a parameter and sequence. FLOP / (FLOP/s).

    Source: Williams et al., Roofline, 2009; Kaplan et al., Scaling Laws, 2020, section 2.1.
    """
    return 2 * work.sequence_params(c.at, c.at.batch).device / c.matrix


def host_read_s(c: RatedConfigurations) -> Array:
    """A step reads each weight of the host's layers once. Bytes / (bytes/s)."""
    return work.weights_read_bytes(c.at, c.at.batch).host / c.host_bandwidth


def host_matrix_s(c: RatedConfigurations) -> Array:
    """Multiplications of the host's layers, at half a TFLOP/s. FLOP / (FLOP/s)."""
    return 2 * work.sequence_params(c.at, c.at.batch).host / HOST_FLOP_PER_S


def kv_read_s(c: RatedConfigurations) -> Array:
    """A step reads the keys and values of all tokens before it. Bytes / (bytes/s)."""
    return (1 - c.kv_on_host) * work.kv_read_bytes(c.at).device / c.bandwidth


def attention_issue_s(c: RatedConfigurations) -> Array:
    """Attention works with the width of the queries, which grouped queries make wider than the keys."""
    return (1 - c.kv_on_host) * work.attended_width(c.at).device / c.clocks


def host_kv_read_s(c: RatedConfigurations) -> Array:
    """The same for KV in host memory. Bytes / (bytes/s)."""
    read = work.kv_read_bytes(c.at)
    return (read.host + c.kv_on_host * read.device) / c.host_bandwidth


def launch_s(c: RatedConfigurations) -> Array:
    """Kernels of one layer: 10 us a layer on the device."""
    return 1e-5 * work.layers(c.at).device


def host_launch_s(c: RatedConfigurations) -> Array:
    """Threads that meet after each operation: 10 us a layer on the host."""
    return 1e-5 * work.layers(c.at).host


def step_s(c: RatedConfigurations) -> Array:
    """What each step costs whatever the model: 100 us."""
    return np.full_like(c.bandwidth, 1e-4)


def hop_s(c: RatedConfigurations) -> Array:
    """Activations cross from host to device once a step: 100 us, where layers are on both."""
    return 1e-4 * c.at.is_split


def kv_hop_s(c: RatedConfigurations) -> Array:
    """Each device layer's attention goes to the host and back where KV stays there: 100 us a layer."""
    return 1e-4 * c.kv_on_host * c.at.layers_device


def kv_hop_width_s(c: RatedConfigurations) -> Array:
    """The same, by width: 0.1 us an element of the residual stream and layer."""
    return 1e-7 * c.kv_on_host * c.at.layers_device * c.at.hidden_size


def gpu_hop_s(c: RatedConfigurations) -> Array:
    """Activations go from GPU to GPU: 100 us for each further one."""
    return 1e-4 * (c.gpu_count - 1)


def plain_launch_s(c: RatedConfigurations) -> Array:
    """The same, each kernel by a call of its own."""
    return launch_s(c) * (1 - c.graphs)


def graph_launch_s(c: RatedConfigurations) -> Array:
    """The same, all kernels of a step as one graph: each still takes time to fill the device."""
    return launch_s(c) * c.graphs


DECODE: tuple[Stage, ...] = (
    (
        Term("weight_read_dense", weight_read_s, 1.08, 0.1, "dense", by_device=True),
        Term("weight_read_quantised", weight_read_s, 1.15, 0.1, "quantised", by_device=True),
        Term("weight_issue_dense", weight_issue_s, 1.3, 0.5, "dense", by_device=True),
        Term("weight_issue_quantised", weight_issue_s, 1.3, 0.5, "quantised", by_device=True),
        Term("matrix", matrix_s, 2.0, 0.5, by_device=True),
    ),
    (
        Term("host_read", host_read_s, 1.4, 0.3, by_host=True),
        Term("host_matrix", host_matrix_s, 1.0, 0.7),
    ),
    (Term("kv_read", kv_read_s, 1.3, 0.7, by_device=True),),
    (Term("attention_issue", attention_issue_s, 0.3, 0.7, by_device=True),),
    (Term("host_kv_read", host_kv_read_s, 2.0, 0.7, by_host=True),),
    (Term("launch_plain", plain_launch_s, 4.0, 0.5, by_version=True, by_year=True, of_generation=True),),
    (Term("launch_graph", graph_launch_s, 2.0, 0.5, by_version=True, by_year=True, of_generation=True),),
    (Term("host_launch", host_launch_s, 2.0, 1.0, by_version=True),),
    (Term("step", step_s, 1.0, 1.0, by_version=True, by_year=True, of_generation=True),),
    (Term("hop", hop_s, 1.0, 1.0, by_version=True),),
    (Term("kv_hop", kv_hop_s, 1.0, 1.0, by_version=True),),
    (Term("kv_hop_width", kv_hop_width_s, 1.0, 1.0, by_version=True),),
    (Term("gpu_hop", gpu_hop_s, 1.0, 1.0, by_version=True),),
)
