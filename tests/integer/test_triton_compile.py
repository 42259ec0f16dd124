# SPDX-License-Identifier: MIT
"""Triton's compiler takes the kernels for GPUs that are not here, and multiplies on their int8 tensor cores."""

from __future__ import annotations

from typing import Any

import pytest

pytest.importorskip("triton", reason="Triton is not installed")

GEOMETRY = {
    "HEIGHT": 14, "WIDTH": 14, "CHANNELS": 256, "OUT_HEIGHT": 14, "OUT_WIDTH": 14, "OUT_CHANNELS": 256, "KERNEL_HEIGHT": 3,
    "KERNEL_WIDTH": 3, "STRIDE_Y": 1, "STRIDE_X": 1, "PADDING_Y": 1, "PADDING_X": 1, "DILATION_Y": 1, "DILATION_X": 1, "LOW": 0,
    "HIGH": 255,
}  # fmt: skip
BLOCKS = {"BLOCK_M": 128, "BLOCK_N": 128, "BLOCK_K": 64, "STORED_DEPTH": 2304}


def compiled(kernel: Any, types: dict[str, str], constants: dict[str, Any], capability: int, warps: int) -> Any:
    """The kernel for a GPU of this compute capability."""
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    names = kernel.arg_names
    source = ASTSource(
        fn=kernel,
        signature={name: types.get(name, "constexpr") for name in names},
        constexprs={(names.index(name),): value for name, value in constants.items()},
    )
    options = {"num_warps": warps, "enable_fp_fusion": False}
    return triton.compile(source, target=GPUTarget("cuda", capability, 32), options=options)


@pytest.mark.parametrize("capability", [80, 90])
@pytest.mark.parametrize(("products", "rescale"), [("int8", "none"), ("shifted", "float32"), ("shifted", "int64")])
def test_convolutions_multiply_on_int8_tensor_cores(capability: int, products: str, rescale: str) -> None:
    """On Ampere and Hopper, bytes are multiplied into 32 bits; and no product is fused with the addition that rounds."""
    from bitwright.integer.execution import triton_kernels

    types = {
        "values": "*u8" if products == "shifted" else "*i8", "weight": "*i8", "bias": "*i32",
        "multiplier": "*fp32" if rescale == "float32" else "*i64", "shift": "*i64",
        "out": "*i32" if rescale == "none" else "*u8", "rows": "i32",
    }  # fmt: skip
    constants = {**GEOMETRY, **BLOCKS, "RESCALE": rescale, "PRODUCTS": products}
    assembly = compiled(triton_kernels.convolution, types, constants, capability, warps=8).asm
    assert assembly["cubin"]
    instruction = "mma.sync.aligned" if capability == 80 else "wgmma.mma_async.sync.aligned"
    products_of_bytes = [line for line in assembly["ptx"].splitlines() if instruction in line]
    assert products_of_bytes
    assert all("s32.s8.s8" in line for line in products_of_bytes)
    assert "fma.rn.f32" not in assembly["ptx"]
