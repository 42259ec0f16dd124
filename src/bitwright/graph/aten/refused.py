# SPDX-License-Identifier: MIT
"""Operations that stay out of the integers, and why: what a message says beyond their names."""

from __future__ import annotations

_NORM = (
    "it divides by a spread that is computed from each image, which no fixed scale can stand for: use batch norm, or keep that "
    "part of the network in float."
)
_ATTENTION = (
    "attention multiplies and normalises what it computes from each image: keep that part of the network in float."
)
_RECURRENT = "a recurrence feeds results back: unroll it into layers, or keep that part of the network in float."
_SORTING = "its result is places or an order, not values: leave it to what reads the network's output."
_BETWEEN = (
    "it computes values between pixels: use nearest or bilinear interpolation or a transposed convolution, or resize what leaves "
    "the network."
)
_CHOICE = (
    "it compares values of each image, and a truth value has no scale: use a clamp or a maximum, or leave it to what reads the "
    "network's output."
)
_UNPOOLING = (
    "it puts values where the maxima of each image were, which no fixed move can: use nearest or bilinear interpolation, or a "
    "transposed convolution."
)

REASONS: dict[str, str] = {
    **dict.fromkeys(
        ("layer_norm", "group_norm", "instance_norm", "rms_norm", "native_layer_norm", "local_response_norm"), _NORM
    ),
    **dict.fromkeys(("linalg_vector_norm", "norm", "var", "var_mean", "std", "std_mean"), _NORM),
    **dict.fromkeys(
        ("scaled_dot_product_attention", "bmm", "baddbmm", "einsum", "multi_head_attention_forward"), _ATTENTION
    ),
    **dict.fromkeys(("lstm", "gru", "rnn_tanh", "rnn_relu", "lstm_cell", "gru_cell"), _RECURRENT),
    **dict.fromkeys(("argmax", "argmin", "topk", "sort", "argsort", "nms", "nonzero"), _SORTING),
    **dict.fromkeys(
        ("upsample_linear1d", "upsample_bicubic2d", "_upsample_bicubic2d_aa", "grid_sampler", "grid_sampler_2d"),
        _BETWEEN,
    ),
    **dict.fromkeys(
        ("eq", "ne", "lt", "le", "gt", "ge", "where", "masked_fill", "logical_and", "logical_not"), _CHOICE
    ),
    **dict.fromkeys(("max_unpool2d",), _UNPOOLING),
    **dict.fromkeys(("embedding", "embedding_bag"), "it looks values up by integers; images are real numbers."),
    **dict.fromkeys(
        ("conv3d", "conv_transpose3d", "max_pool3d", "avg_pool3d"), "it needs volumes; images have two axes."
    ),
}


def why_refused(operation: str) -> str:
    """What is said of an operation that has no handler."""
    return REASONS.get(operation, "it has no integer form here.")
