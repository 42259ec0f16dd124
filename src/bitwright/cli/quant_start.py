# SPDX-License-Identifier: MIT
"""What a run of `quant_train.py` starts from: a network by name, or what a file of `--resume` holds; and its scheme."""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bitwright.cli.preprocessing import HOW, network_preprocessing
from bitwright.errors import FileFormatError, SchemeError, UnknownNameError

if TYPE_CHECKING:
    from torch import Tensor

    from bitwright.data import ImageData, Preprocessing
    from bitwright.graph import Graph
    from bitwright.integer import IntegerModel
    from bitwright.scheme import Scheme
    from bitwright.training import QuantizedModel, Trained
    from bitwright.zoo import Checkpoint, PublishedTraining

Say = Callable[[str], None]
"""Prints a line, and keeps it in the log."""

CALIBRATION_IMAGES, CALIBRATION_BATCH = 512, 128


@dataclass(frozen=True)
class Begun:
    """What a training goes on from.

    Attributes:
        graph: The network with its float weights.
        former: The quantized model in our own checkpoint, if it came from one.
        published: The published checkpoint, if it came from one.
        epoch: Finished epochs.
        best_top1: The best accuracy so far, in percent.
        momentum: The momentum of SGD, as the file has it; None where it has none.
        weight_decay: The weight decay of SGD, likewise.
        momenta: What the optimizer remembers.
    """

    graph: Graph
    former: QuantizedModel | None = None
    published: Checkpoint | None = None
    epoch: int = 0
    best_top1: float = 0.0
    momentum: float | None = None
    weight_decay: float | None = None
    momenta: Mapping[str, Tensor] = field(default_factory=dict, repr=False)


def source_of(flags: Namespace) -> str:
    """The images by name: a folder is one in ImageNet's layout."""
    return flags.data if ":" in flags.data or not Path(flags.data).is_dir() else f"imagefolder:{flags.data}"


def asked_of(flags: Namespace) -> Preprocessing:
    """How images shall be made."""
    from bitwright.data import Preprocessing

    return Preprocessing(**{name: getattr(flags, name) for name in HOW})


def head_classes(flags: Namespace) -> int | None:
    """How many classes a new head is for, if one was asked for."""
    from bitwright.data import load_data

    return len(load_data(source_of(flags)).classes) if flags.replace_head else flags.classes


def model_of(arch: str) -> str:
    """A network as SOURCE:MODEL."""
    return arch if ":" in arch else f"pytorchcv:{arch}"


def begin(flags: Namespace, say: Say) -> Begun | IntegerModel:
    """What to train or evaluate: a network by name, or what `--resume` names."""
    from bitwright.graph import capture
    from bitwright.zoo import import_checkpoint, import_notes

    if flags.resume is not None and flags.resume.suffix == ".safetensors":
        return _own(flags, say)
    if flags.resume is not None and flags.resume_quantize and flags.evaluate:
        imported = import_checkpoint(flags.resume, flags.arch, flags.quant_scheme)
        for line in import_notes(imported):
            say(line)
        return imported
    if flags.resume is not None:
        return _published(flags, say)
    from bitwright.cli.models import make_model

    name = model_of(flags.arch)
    made, shape = make_model(
        name,
        pretrained=flags.pretrained,
        data=source_of(flags),
        channels=3,
        classes=flags.classes,
        replace_head=flags.replace_head,
        seed=flags.seed,
    )
    known = network_preprocessing(name, flags.pretrained, shape[1], asked_of(flags).of_channels(shape[0]))
    return Begun(replace(capture(made, shape, name=name), preprocessing=known))


def _own(flags: Namespace, say: Say) -> Begun | IntegerModel:
    """One of our own files."""
    from bitwright.integer import IntegerModel, load
    from bitwright.training import QuantizedModel, load_trained

    found = load(flags.resume)
    if isinstance(found, IntegerModel):
        if not flags.evaluate:
            raise FileFormatError(
                f"'{flags.resume}' holds integers, which cannot be trained: resume checkpoint.safetensors of the same "
                "training, or add -e."
            )
        _take_arch(flags, found.model)
        if "quant_scheme" in flags.given:
            _check_scheme(flags, found.scheme, scheme_of(flags, found.scheme.layers))
        return found
    if not isinstance(found, QuantizedModel):
        if flags.resume_quantize:
            raise _not_quantized(flags)
        return Begun(found)
    _take_arch(flags, found.plan.source.model)
    trained = load_trained(flags.resume)[1]
    return _told(Begun(found.float_graph(), former=found), trained, flags, say)


def _published(flags: Namespace, say: Say) -> Begun:
    """A published checkpoint, to train: its float weights, and what it says of its training."""
    from bitwright.zoo import import_floats, load_checkpoint, published_training

    graph = import_floats(flags.resume, flags.arch, classes=head_classes(flags))
    checkpoint = load_checkpoint(flags.resume, floats=True)
    if flags.resume_quantize and not any(name.endswith(".x_min") for name in checkpoint.tensors):
        raise _not_quantized(flags)
    trained = published_training(checkpoint, graph, flags.arch)
    return _told(Begun(graph, published=checkpoint), trained, flags, say)


def _told(begun: Begun, trained: Trained | PublishedTraining | None, flags: Namespace, say: Say) -> Begun:
    """With what the file says of its training, which is printed."""
    if trained is None or (trained.epoch == 0 and trained.momentum is None):
        say(f"=> loaded checkpoint '{flags.resume}' (weights; it says no epoch, accuracy and optimizer)")
        return begun
    say(
        f"=> loaded checkpoint '{flags.resume}' (epoch {trained.epoch}), best Acc@1 {trained.best_top1:.3f}, "
        f"momenta of {len(trained.momenta)} parameters"
    )
    return replace(
        begun,
        epoch=trained.epoch,
        best_top1=trained.best_top1,
        momentum=trained.momentum,
        weight_decay=trained.weight_decay,
        momenta=trained.momenta,
    )


def _not_quantized(flags: Namespace) -> FileFormatError:
    return FileFormatError(f"'{flags.resume}' holds a float network, without ranges: leave out --resume-quantize.")


def _take_arch(flags: Namespace, model: str) -> None:
    """The network is that of the file; another one on the command line is refused."""
    if "arch" in flags.given and model != model_of(flags.arch):
        raise UnknownNameError(f"'{flags.resume}' holds {model}, but -a says {flags.arch}: leave one of the two out.")
    flags.arch = model.removeprefix("pytorchcv:")


def _check_scheme(flags: Namespace, stored: Scheme, wanted: Scheme) -> None:
    """Integers have the bits that they have."""
    differing = [layer for layer, bits in wanted.layers.items() if stored.layers.get(layer) != bits]
    if differing:
        layer = differing[0]
        raise SchemeError(
            f"'{flags.resume}' holds integers of scheme {stored.name}, but --quant-scheme {flags.quant_scheme} wants "
            f"{wanted.layers[layer]} in '{layer}' where they are {stored.layers[layer]}: leave --quant-scheme out, or resume the "
            "checkpoint of that training."
        )


def chosen_scheme(begun: Begun, flags: Namespace, say: Say) -> Scheme:
    """The scheme to train or evaluate under: that of the command line, or of our own checkpoint where it names none."""
    from bitwright.graph.nodes import Add

    former = None if begun.former is None else begun.former.plan.scheme
    if former is not None and "quant_scheme" not in flags.given:
        say(f"the scheme is that of the file, {former.name}: no --quant-scheme was given")
        scheme = former if flags.residual_bits is None else replace(former, residual_bits=flags.residual_bits)
    else:
        scheme = scheme_of(flags, begun.graph.layers)
        if not Path(flags.quant_scheme).exists():  # a file says itself what its activations are
            scheme = replace(scheme, activations=flags.quant_mode)
        if former is not None and (former.layers, former.residual_bits) != (scheme.layers, scheme.residual_bits):
            say(
                f"--quant-scheme {flags.quant_scheme} wins over the file's {former.name}: ranges stay, scales follow the bits"
            )
    if "quant_mode" in flags.given:
        scheme = replace(scheme, activations=flags.quant_mode)
    if any(isinstance(node, Add) for node in begun.graph):
        how = "as published" if scheme.residual_bits == 16 else "not the published 16 (--residual-bits 16)"
        say(f"residual additions have {scheme.residual_bits} bits, {how}")
    return scheme


def scheme_of(flags: Namespace, layers: Collection[str]) -> Scheme:
    """A scheme's file, a published scheme of the architecture, or a precision for all inner layers."""
    from bitwright.cli.schemes import scheme_for
    from bitwright.zoo import published_scheme

    given = flags.quant_scheme
    if Path(given).exists():
        if flags.residual_bits is not None:
            raise SchemeError(f"the scheme '{given}' has its own residual bits: leave out --residual-bits.")
        return scheme_for(given, layers)
    try:
        return published_scheme(flags.arch, given, layers=layers, residual_bits=flags.residual_bits or 16)
    except UnknownNameError as error:
        if given.lower().startswith(("w", "uniform")):
            return scheme_for(given.lower().removeprefix("uniform"), layers, flags.residual_bits or 8)
        raise UnknownNameError(f"{error} {how_to_search(flags)}") from error


def how_to_search(flags: Namespace) -> str:
    """The commands that make a scheme where none was published."""
    from bitwright.errors import BudgetError
    from bitwright.scheme import Budget

    try:
        budget = str(Budget.parse(flags.quant_scheme))
    except (BudgetError, UnknownNameError):
        return "Or name a scheme's file."
    arch = flags.arch
    graph, sensitivities, scheme = f"{arch}.graph", f"{arch}.sensitivities.json", f"{arch}.{budget}.yaml"
    return (
        f"Search one with: bitwright capture pytorchcv:{arch} --pretrained -o {graph}; bitwright sensitivity {graph} --data "
        f"imagefolder:{flags.data} -o {sensitivities}; bitwright allocate {graph} {sensitivities} {budget} -o {scheme}; "
        f"then train with --quant-scheme {scheme}."
    )


def prepared(begun: Begun, flags: Namespace, data: ImageData, say: Say) -> QuantizedModel:
    """The quantized model before training: with the ranges of the file, and of images where that has none."""
    import torch

    from bitwright.training import (
        Calibration,
        QuantizerSettings,
        Ranges,
        calibrate,
        quantize,
        set_ranges,
        transfer_scales,
    )
    from bitwright.zoo import published_ranges

    scheme = chosen_scheme(begun, flags, say)
    former = begun.former
    defaults = QuantizerSettings(ranges=Ranges.EMA) if former is None else former.quantizing
    settings = replace(defaults, **_quantizing(flags, everything=former is None))
    if former is not None and (former.plan.scheme, former.quantizing) == (scheme, settings):
        former.free_norm = not flags.fix_bn
        return former
    model = quantize(begun.graph, scheme, free_norm=not flags.fix_bn, **settings.to_dict())
    wanted = len(model.activations)
    ranges = {} if begun.published is None else published_ranges(begun.published, model.plan, flags.arch)
    known = ranges if former is None else former.ranges()
    covered = len(known.keys() & model.ranges().keys())
    if covered < wanted:
        count = min(CALIBRATION_IMAGES, len(data.train))
        images = torch.split(data.calibration(count, flags.seed)[0], CALIBRATION_BATCH)
        method = Calibration.MINMAX if settings.act_percentile is None else Calibration.PERCENTILE
        calibrate(model, images, method, settings.act_percentile or 100.0)
        say(f"ranges of {wanted - covered} of {wanted} activation quantizers start from {count} training images")
    if former is not None:
        transfer_scales(model, former)
    set_ranges(model, ranges)
    if covered:
        how = "" if flags.resume_quantize else " (also without --resume-quantize)"
        say(f"ranges of {covered} of {wanted} activation quantizers are those of the file{how}")
    model.calibrated.fill_(True)
    return model.eval()


def _quantizing(flags: Namespace, *, everything: bool) -> dict[str, Any]:
    """What the flags say of quantizers: all of it, or only what was given, which wins over the file."""
    values = {
        "act_range_momentum": ("momentum", flags.act_range_momentum),
        "act_percentile": ("act_percentile", flags.act_percentile or None),
        "weight_percentile": ("weight_percentile", flags.weight_percentile or None),
        "channel_wise": ("per_channel", not flags.channel_wise),
        "bias_bit": ("bias_bits", flags.bias_bit),
    }
    return {key: value for flag, (key, value) in values.items() if everything or flag in flags.given}
