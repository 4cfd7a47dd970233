"""Prefill: multiplications for all tokens of a prompt, in passes over the weights.

Where published rows disagree with these terms, and which data would tell why. A 70B split over GPUs gains
less from more of them than a pipeline's share says (four RTX 4090 or 3090 are no faster than two), as if
fewer passes were in flight than the prompt has, while an 8B gains more than that would allow: rows that
state batch and micro-batch sizes would tell. The 8B in F16 took ten times as long on an A100 SXM4 as on the
PCIe card, against all of its like: that row wants measuring again. Few shapes were measured on more than one
GPU, so nothing says how the matrix units' share of their peak depends on width. With ROCm one card is five
times as fast in one build as in another: rows that state the library would tell.
"""

from __future__ import annotations

import numpy as np

from shunter.catalog import work
from shunter.models.physics.decode import HOST_FLOP_PER_S, step_s
from shunter.models.physics.rated import Array, RatedConfigurations
from shunter.models.physics.terms import Stage, Term


def passes(c: RatedConfigurations) -> Array:
    """Passes over the weights that a prompt takes."""
    return np.ceil(np.maximum(c.at.tokens, 1.0) / c.ubatch_tokens)


def pipeline(c: RatedConfigurations) -> Array:
    """Share of the work that one of several GPUs in a pipeline spends: m passes through n stages.

    Source: Huang et al., GPipe, 2019, section 2.2: (m + n - 1) / m steps of 1/n of the work.
    """
    share = (passes(c) + c.gpu_count - 1) / (passes(c) * c.gpu_count)
    return np.asarray(share, dtype=np.float64)


def prompt_matrix_s(c: RatedConfigurations) -> Array:
    """Prefill's multiplications: 2 a parameter and token; GPUs that share them work as a pipeline."""
    return 2 * work.token_params(c.at).device / c.matrix * pipeline(c)


def prompt_weight_read_s(c: RatedConfigurations) -> Array:
    """Each pass of prefill reads all weights. Bytes / (bytes/s)."""
    read_s = work.weights_read_bytes(c.at, c.at.tokens).device / c.bandwidth
    return passes(c) * read_s * pipeline(c)


def _own_matrix_s(c: RatedConfigurations) -> Array:
    """Multiplications by llama.cpp's kernels or the maker's best known library."""
    return (1 - c.library) * prompt_matrix_s(c)


def wide_matrix_s(c: RatedConfigurations) -> Array:
    """Multiplications in 16 bits: of dense weights, and of quantised ones that are unpacked before."""
    return c.units * (1 - c.quantised * c.int8) * _own_matrix_s(c)


def int8_matrix_s(c: RatedConfigurations) -> Array:
    """Multiplications of quantised weights as they are."""
    return c.units * c.quantised * c.int8 * _own_matrix_s(c)


def lanes_s(c: RatedConfigurations) -> Array:
    """Multiplications by lanes, 128 multiply-adds a clock and multiprocessor, without matrix units.

    They reach more of their peak than matrix units do, which wait for memory between tiles.
    """
    return (1 - c.units) * (1 - c.quantised * (c.dot8 > 0)) * _own_matrix_s(c)


def lanes_int8_s(c: RatedConfigurations) -> Array:
    """The same of quantised weights as they are, by lanes that multiply four bytes at a time."""
    rate = np.where(c.dot8 > 0, c.dot8 * c.clocks, np.inf)
    return (1 - c.units) * c.quantised * 2 * work.token_params(c.at).device / rate * pipeline(c)


def library_matrix_s(c: RatedConfigurations) -> Array:
    """Multiplications by rocBLAS or hipBLASLt: as good as whoever built them made them for the card."""
    return c.library * prompt_matrix_s(c)


def _powered_s(c: RatedConfigurations) -> Array:
    flop = 2 * work.token_params(c.at).device * pipeline(c)
    return np.where(c.power > 0, flop / (1e12 * np.maximum(c.power, 1.0)), 0.0)


def power_s(c: RatedConfigurations) -> Array:
    """Multiplications in 16 bits as the board's power allows: 1 TFLOP a joule.

    Matrix units at their peak draw more than most boards may, so clocks fall. Source: Horowitz, Computing's
    Energy Problem, 2014; the published rates themselves.
    """
    return _powered_s(c) * (1 - c.quantised * c.int8)


def int8_power_s(c: RatedConfigurations) -> Array:
    """The same of quantised weights as they are."""
    return _powered_s(c) * c.quantised * c.int8


def unpack_s(c: RatedConfigurations) -> Array:
    """Quantised weights are written in 16 bits for each pass where they are unpacked. Bytes / (bytes/s)."""
    unpacked = c.quantised * (1 - c.int8) * np.where(c.dot8 > 0, 0.0, 1.0)
    return unpacked * 2 * passes(c) * c.at.params_device / c.bandwidth * pipeline(c)


def plain_attention_s(c: RatedConfigurations) -> Array:
    """Attention whose scores, 4 bytes a pair of tokens and head, are written and read. Bytes / (bytes/s)."""
    scores_bytes = 4 * work.pair_heads(c.at).device
    return (1 - c.flash) * (1 - c.kv_on_host) * scores_bytes / c.bandwidth * pipeline(c)


def flash_attention_s(c: RatedConfigurations) -> Array:
    """Attention tile by tile. Source: Dao et al., FlashAttention, 2022."""
    return prompt_attention_s(c) * c.flash


def prompt_attention_s(c: RatedConfigurations) -> Array:
    """Scores and values of all pairs of tokens, half of them masked: 2 x tokens^2 x width a layer."""
    return 2 * (1 - c.kv_on_host) * work.pair_width(c.at).device / c.matrix * pipeline(c)


def prompt_host_attention_s(c: RatedConfigurations) -> Array:
    """The same on the processor, for layers whose KV is in host memory, at half a TFLOP/s."""
    pairs = work.pair_width(c.at)
    return 2 * (pairs.host + c.kv_on_host * pairs.device) / HOST_FLOP_PER_S


def prompt_activation_s(c: RatedConfigurations) -> Array:
    """Activations written and read, 2 bytes a token, width and layer. Bytes / (bytes/s)."""
    return 2 * work.token_width(c.at).device / c.bandwidth * pipeline(c)


def prompt_launch_s(c: RatedConfigurations) -> Array:
    """Kernels of one layer and pass: 10 us."""
    return 1e-5 * passes(c) * work.layers(c.at).device


def prompt_host_s(c: RatedConfigurations) -> Array:
    """Multiplications of the host's layers where there is no device, at half a TFLOP/s."""
    seconds = 2 * work.token_params(c.at).host / HOST_FLOP_PER_S
    return np.where(c.at.layers_device == 0, seconds, 0.0)


def prompt_link_s(c: RatedConfigurations) -> Array:
    """The host's weights go to the device for each pass, which llama.cpp does for 32 tokens and more.

    They lie in memory that is not pinned, from where a fifth of the link's rate is reached. Source: Boyer et
    al., Improving GPU Performance Prediction with Data Transfer Modeling, 2013.
    """
    return (c.at.layers_device > 0) * passes(c) * work.weights_read_bytes(c.at, c.at.tokens).host / c.link


PREFILL: tuple[Stage, ...] = (
    (
        Term("matrix_16_bit", wide_matrix_s, 2.0, 0.4, by_device=True, of_generation=True),
        Term("matrix_int8", int8_matrix_s, 1.7, 0.4, by_device=True, of_generation=True),
        Term("lanes", lanes_s, 1.3, 0.3, by_device=True),
        Term("lanes_int8", lanes_int8_s, 4.0, 0.3, by_device=True),
        Term("matrix_library", library_matrix_s, 3.0, 0.3, by_device=True),
        Term("weight_read", prompt_weight_read_s, 1.15, 0.2, by_device=True),
        Term("power_16_bit", power_s, 3.0, 0.2, by_device=True),
        Term("power_int8", int8_power_s, 2.5, 0.2, by_device=True),
    ),
    (Term("unpack", unpack_s, 1.2, 0.4, by_device=True),),
    (Term("attention_plain", plain_attention_s, 4.0, 0.7, by_device=True),),
    (Term("attention_flash", flash_attention_s, 2.5, 0.7, by_device=True),),
    (Term("activation", prompt_activation_s, 10.0, 0.7, by_device=True),),
    (Term("launch", prompt_launch_s, 5.0, 0.2, by_version=True),),
    (Term("step", step_s, 5.0, 0.5, by_version=True),),
    (Term("host_attention", prompt_host_attention_s, 6.0, 1.0),),
    (Term("host_matrix", prompt_host_s, 1.0, 0.7),),
    (Term("host_weights_over_link", prompt_link_s, 5.0, 0.8),),
)
