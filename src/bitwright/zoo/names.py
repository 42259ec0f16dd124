# SPDX-License-Identifier: MIT
"""Names of the zoo as people type them, and the published module names as the captured model's layer names."""

from __future__ import annotations

import re

from bitwright.errors import UnknownNameError

FLOAT = "baseline"

_RATIO = re.compile(r"(modelsize|size|bops|latency)(0?\.\d+)")
_UNIFORM = re.compile(r"uniform(\d)|w(\d)a(\d)")
_WORDS = re.compile(r"(?:mixedprecision)?(high|medium|low)(size|bops|latency)")
_RATIO_OF_WORD = {"high": "0.75", "medium": "0.5", "low": "0.25"}
_FLOATS = {"baseline", "float", "float32", "fp32", "floatingpoint", "floatingpoints"}


def scheme_name(text: str) -> str:
    """The one spelling of a scheme: `baseline`, `uniform8`, `size0.5`, `bops0.25`, `latency0.75`.

    Case, spaces, hyphens and underscores do not matter; `modelsize` is `size`, `w8a8` is `uniform8`, and `High`, `Medium` and
    `Low` are the ratios 0.75, 0.5 and 0.25 of the published table.

    Raises:
        UnknownNameError: If the text is no such name.

    >>> [scheme_name(text) for text in ("modelsize_0.5", "size_0.5", "W8A8", "Mixed Precision Low BOPS")]
    ['size0.5', 'size0.5', 'uniform8', 'bops0.25']
    """
    plain = re.sub(r"[\s_-]+", "", text.lower())
    if plain in _FLOATS:
        return FLOAT
    if (match := _UNIFORM.fullmatch(plain)) and match[2] == match[3]:
        return f"uniform{match[1] or match[2]}"
    if match := _RATIO.fullmatch(plain):
        return f"{match[1].removeprefix('model')}{float(match[2]):g}"
    if match := _WORDS.fullmatch(plain):
        return f"{match[2]}{_RATIO_OF_WORD[match[1]]}"
    raise UnknownNameError(
        f"expected a scheme such as uniform8, uniform4, w8a8, size0.5, bops0.25, latency0.75 or baseline, got '{text}'."
    )


def model_name(text: str) -> str:
    """`resnet18` for `ResNet18` and `pytorchcv:resnet18`: the zoo's models are those of pytorchcv.

    >>> model_name("pytorchcv:ResNet18")
    'resnet18'
    """
    return text.strip().lower().removeprefix("pytorchcv:")


def row_name(text: str) -> str:
    """The one spelling of a row, `MODEL-SCHEME`; an archive's name or a key of the published configurations will do.

    Raises:
        UnknownNameError: If the text has not both parts, or the scheme is unknown.

    >>> [row_name(text) for text in ("resnet18_bops0.5.tar.gz", "bit_config_resnet50_modelsize_0.25", "ResNet101b")]
    ['resnet18-bops0.5', 'resnet50-size0.25', 'resnet101b-baseline']
    """
    plain = model_name(text).removesuffix(".tar.gz").removeprefix("bit_config_")
    match = re.fullmatch(r"((?:resnet\d+b?|inceptionv3|mobilenetv2_w1))(?:[\s_:/-]+(.+))?", plain)
    if match is None:
        raise UnknownNameError(f"expected a row of the zoo as MODEL-SCHEME, such as resnet18-bops0.5, got '{text}'.")
    return f"{match[1]}-{scheme_name(match[2] or FLOAT)}"


def layer_name(module: str) -> str:
    """The captured pytorchcv model's name of a layer that the published configurations and checkpoints call `module`.

    Args:
        module: A module of the ResNets (`stage1.unit1.quant_convbn1`), InceptionV3 (`features.q_init_block.q_conv1.q_convbn`) or
            MobileNetV2 (`features.stage1.unit1.conv1`), without a `module.` prefix.

    Raises:
        UnknownNameError: If the name is none of a layer with weights.

    >>> [layer_name(module) for module in ("quant_init_convbn", "stage2.unit1.quant_identity_convbn", "quant_output")]
    ['features.init_block.conv.conv', 'features.stage2.unit1.identity_conv.conv', 'output']
    """
    if match := re.fullmatch(r"(stage\d+\.unit\d+)\.quant_convbn(\d)", module):
        return f"features.{match[1]}.body.conv{match[2]}.conv"
    if match := re.fullmatch(r"(stage\d+\.unit\d+)\.quant_identity_convbn", module):
        return f"features.{match[1]}.identity_conv.conv"
    if module in ("quant_init_block_convbn", "quant_init_convbn"):
        return "features.init_block.conv.conv"
    if module in ("quant_output", "output"):
        return "output"
    if module.endswith((".q_convbn", ".q_fc")):
        return re.sub(r"\bq_", "", module).replace(".convbn", ".conv")
    if re.fullmatch(r"features\.stage\d+\.unit\d+\.conv\d|features\.final_block", module):
        return f"{module}.conv"
    if module == "init_block":
        return "features.init_block.conv"
    raise UnknownNameError(f"expected the published name of a layer with weights, got '{module}'.")
