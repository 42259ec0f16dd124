# SPDX-License-Identifier: MIT
"""Model Compression Toolkit after training: its gradient-based method, EPTQ, near its defaults.

Weights of Hessians and gradual quantization of activations, as `get_pytorch_gptq_config` has them; but no attention to samples,
for which the Hessians of all images alone would take twenty minutes of a processor. The target platform is described here by its
schema: weights are symmetric with a scale a channel, activations have a zero point. MCT quantizes what layers leave, once for
all that read it, so that a sum would read the few bits of the convolution beside it: an operation that changes nothing, LeakyReLU
of slope 1, stands before every inner layer and leaves its few bits, and everything else leaves 8. Batch norm is merged. One epoch
is all calibration images once, in batches of 32. The recipe `ptq` is without gradients: ranges, and its correction of biases.
"""

from __future__ import annotations

from collections.abc import Iterator

import model_compression_toolkit as mct
import model_compression_toolkit.target_platform_capabilities.schema.mct_current_schema as schema
import torch
from exchange import Question, answer, question
from mct_quantizers import QuantizationMethod
from model_compression_toolkit.core.common.quantization.quantization_config import CustomOpsetLayers
from model_compression_toolkit.defaultdict import DefaultDict
from model_compression_toolkit.target_platform_capabilities.constants import BIAS_ATTR, KERNEL_ATTR
from model_compression_toolkit.target_platform_capabilities.targetplatform2framework import LayerFilterParams
from torch import Tensor, nn

EPOCHS = 10
BATCH = 32
FIRST = "First"
Names = schema.OperatorSetNames


class Network(nn.Module):
    """A module around the network: MCT takes a layer of the name `output` for what the graph returns."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, images: Tensor) -> Tensor:
        """The logits."""
        return self.network(images)


def prepared(asked: Question) -> Network:
    """The network with an operation before every inner layer that leaves its input as it is."""
    network = asked.network
    for module in network.modules():
        if isinstance(module, nn.ReLU | nn.ReLU6):
            module.inplace = False
    network.add_submodule("narrow", nn.Module())
    nodes = [node for node in network.graph.nodes if node.op == "call_module"]
    for number, node in enumerate(nodes):
        layer = network.get_submodule(node.target)
        if isinstance(layer, nn.Conv2d) and layer.in_channels != asked.judged.shape[1]:
            network.add_submodule(f"narrow.before{number}", nn.LeakyReLU(1.0))
            with network.graph.inserting_before(node):
                node.replace_input_with(node.args[0], network.graph.call_module(f"narrow.before{number}", node.args))
    network.recompile()
    return Network(network).eval()


def platform(weight_bits: int, act_bits: int) -> schema.TargetPlatformCapabilities:
    """Convolutions of `weight_bits`, but for the first; inputs of them of `act_bits`; all else of 8."""
    unchanged = schema.AttributeQuantizationConfig()
    eight = schema.OpQuantizationConfig(
        default_weight_attr_config=unchanged,
        attr_weights_configs_mapping={},
        activation_quantization_method=QuantizationMethod.UNIFORM,
        activation_n_bits=8,
        supported_input_activation_n_bits=(2, 3, 4, 8),
        enable_activation_quantization=True,
        quantization_preserving=False,
        signedness=schema.Signedness.AUTO,
    )

    def layer(bits: int) -> schema.OpQuantizationConfig:
        kernel = schema.AttributeQuantizationConfig(
            weights_quantization_method=QuantizationMethod.SYMMETRIC,
            weights_n_bits=bits,
            weights_per_channel_threshold=True,
            enable_weights_quantization=True,
        )
        return eight.clone_and_edit(attr_weights_configs_mapping={KERNEL_ATTR: kernel, BIAS_ATTR: unchanged})

    def operators(name: str, config: schema.OpQuantizationConfig | None = None) -> schema.OperatorsSet:
        options = config and schema.QuantizationConfigOptions(quantization_configurations=(config,))
        return schema.OperatorsSet(name=name, qc_options=options)

    first, inner, last = (
        operators(FIRST, layer(8)),
        operators(Names.CONV, layer(weight_bits)),
        operators(Names.FULLY_CONNECTED, layer(8)),
    )
    narrow = operators(Names.LEAKY_RELU, eight.clone_and_edit(activation_n_bits=act_bits))
    clamps, add = (operators(Names.RELU), operators(Names.RELU6)), operators(Names.ADD)
    shapes = eight.clone_and_edit(enable_activation_quantization=False)
    return schema.TargetPlatformCapabilities(
        default_qco=schema.QuantizationConfigOptions(quantization_configurations=(eight,)),
        operator_set=(
            first,
            inner,
            last,
            narrow,
            *clamps,
            add,
            *(operators(name, shapes) for name in (Names.SIZE, Names.RESHAPE, Names.FLATTEN, Names.ZERO_PADDING2D)),
        ),
        fusing_patterns=tuple(
            schema.Fusing(operator_groups=(before, clamp)) for before in (first, inner, add) for clamp in clamps
        ),
        name="asked",
        add_metadata=False,
    )


def images() -> Iterator[list[Tensor]]:
    """The calibration images."""
    return ([part] for part, _ in asked.batches(BATCH))


asked = question()
attributes = {KERNEL_ATTR: DefaultDict(default_value="weight"), BIAS_ATTR: DefaultDict(default_value="bias")}
only_first = CustomOpsetLayers([LayerFilterParams(nn.Conv2d, in_channels=asked.judged.shape[1])], attributes)
core = mct.core.CoreConfig(
    quantization_config=mct.core.QuantizationConfig(custom_tpc_opset_to_layer={FIRST: only_first})
)
target = platform(asked.weight_bits, asked.act_bits)
if asked.recipe == "ptq":
    quantized, _ = mct.ptq.pytorch_post_training_quantization(
        prepared(asked), images, core_config=core, target_platform_capabilities=target
    )
    settings = {"epochs": 0}
else:
    quantized, _ = mct.gptq.pytorch_gradient_post_training_quantization(
        prepared(asked),
        images,
        core_config=core,
        gptq_config=mct.gptq.get_pytorch_gptq_config(n_epochs=EPOCHS, use_hessian_sample_attention=False),
        target_platform_capabilities=target,
    )
    settings = {"epochs": EPOCHS, "batch": BATCH, "hessian_weights": True, "sample_attention": False}
settings |= {"batch_norm": "merged", "sums": "8 bits"}
with torch.no_grad():
    answer(asked, quantized.eval(), ["model-compression-toolkit", "torch"], settings)
