# SPDX-License-Identifier: MIT
"""`docs/photographs.md`, from the rows that `benchmarks/photographs.py` wrote."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from accuracy_peers import PEERS

WIDTHS = ("W8A8", "W6A6", "W4A8", "W4A4")
WAYS = ("calibrated", "kept", "settled", "reconstructed", *(f"peer-{name}" for name in PEERS))

HEAD = """# Photographs: EfficientNet-Lite

Networks trained for ImageNet, none of whose images may be had here: so no accuracy is measured. Instead: on {crops:,} crops
of {judged} photographs, how often the lowered integers name the class that the float network names, and the signal-to-noise
ratio of the logits. Behind **sure**: of how many crops the float network is sure, with a probability of a half or more, and
how often integers agree there; older rows have no such figure.

The {calibration} crops that are calibrated on are of {others} other photographs, without labels. First and last layers have 8
bits, as have additions. Ways with settings behind a colon differ in these; cells without figures were not measured.
"""
FLOAT = """
In float its largest probability is {sure:.2f} in the mean, and it names {classes} classes.
"""
WHAT = """## What the ways are

Written by `python benchmarks/photographs.py`, whose `--help` says where weights and photographs come from. Measured on
{processors}.

- **calibrated**: ranges by least squares, and the statistics of batch norm corrected by what quantization changes
  (`correct_norm`).
- **kept**: they are not corrected (`--keep-norm`). **settled**: replaced by those of the crops, which are no images of
  ImageNet.
- **reconstructed**: calibrated, then `bitwright reconstruct`, on the same crops; with `steps=0`, rounding errors compensate
  each other and that is all; `steps=60:batch_size=16` alone is without that (`compensate=0:network_steps=0`), and from before
  steps were judged by images kept from them.
- **further=240**: images of more kinds, 64 of the crops, and one crop each of 240 further pictures (wallpapers, and animals,
  plants and things cut out). **crops=256:further=385**: all crops, and all of these pictures.
- **peer-...**: other quantizers on the same images as the row of ours with the same settings, each at the version in the
  results and in an environment of its own (`benchmarks/peers/`); they are judged by their own simulation, and batch norm
  keeps the statistics of the training: those of the crops would ruin the network. Sums of branches are float numbers in
  Brevitas and AIMET. onnxruntime: the static quantizer, a scale for each channel. nncf: its defaults, with fast bias
  correction. torchao: PT2E for x86 processors. brevitas:example: the recipe of its own example, channels equalised, with bias
  correction; told to leave ReLU6 as it is, which it else replaces. aimet:folded-seqmse: least-squares ranges; sequential MSE
  for weights of at most 4 bits only. mct:ptq: without gradients.
- **Not measured**: Brevitas's GPTQ (`brevitas:example-gptq`) was stopped after 25 minutes of a processor, MCT's
  gradient-based method after ten on a shared one, in which it had no Hessians of eight images yet; AIMET's sequential MSE and
  AdaRound at 4 bits were not begun, nor MCT's calibration at W6A6 and W4A4; EfficientNet-Lite2.

## What bounds agreement

How unsure the float network is: its crops are not of single objects, and agreement is harder to keep than on ImageNet.
EfficientNet-Lite0, W4A8, 641 images as of `crops=256:further=385` in another order (by a script that is not committed, one
run): of 2,000 crops 75.2 % keep their class, of 371 of which it is sure 97.8 %; 48 % of the 399 in which it gives its class
less than 0.1, 69 % up to 0.2, 80 % up to 0.3, 89 % up to 0.5, 96 % up to 0.7, and 99.5 % of the 203 above.

At W8A8, the noise of 8 bits: in bfloat16, as many GPUs run it, EfficientNet-Lite0 keeps 94.0 % of 200 of the crops (the last
table here).

At W4A8, less the number of images than that 4 bits are few: of 857 images (more crops of each wallpaper; by changing the
code, one run, 1,000 of the others to judge by) it keeps 76 % of the answers (14.7 dB) on those that it was calibrated on, and
has 10.8 dB on others. From the 256 crops alone, of eight photographs, with one damping for all layers, it kept 98 % (27 dB)
on the images it had seen, and 64 % of the others.

## What was tried

EfficientNet-Lite0, by changing the code, one run each.

- Parts of compensated rounding, W4A8, 857 images: rounding one after another 10.4 dB, with a second look at each weight
  10.65, with scales of channels by what is lost 10.8.
- Steps of gradient descent behind it, W4A8: a few lost some of what it gained, before steps were judged by images kept from
  them. Judged so, 200 steps of all layers (641 images) are taken back.
- Channels scaled to fill ReLU6's range where a depthwise layer reads them, whose weights have a scale for each channel anyway
  (W8A8, calibrated on 128 images, 300 crops): nothing gained, since most fill it already, and what they cut off is lost: 20.9
  dB by powers of two, 19.7 dB by whole factors, where there were 21.5.
- Ranges and scales other than by least squares (W8A8, calibrated on 96 images, 200 crops: 94.5 % and 21.3 dB): extremes for
  activations 92.0 % and 20.8 dB, the largest for weights 93.0 % and 21.4 dB.
"""
SOURCES = """
Where {name} loses them (`python benchmarks/photograph_errors.py`, {crops} of the crops): the float network in which one kind
of tensor is rounded, the means of layers with rounded weights corrected; and the same network in other types of numbers. At 8
bits weights and activations lose about as much, layers of all kinds take part, and images and additions little: the noise
adds up through all layers, and makes of this network what bfloat16 makes of it, which has as many significant bits. Weights
of 4 bits lose nearly all that W4A8 loses, in depthwise layers and in others, where each is rounded to the nearest.
"""


def page(found: dict[str, Any]) -> str:
    """The page of all rows."""
    lines = [HEAD.strip().format(**found["images"]), ""]
    names = list(dict.fromkeys(row.split("/")[0] for row in found["rows"]))
    for name in names:
        lines += [f"## {name}", ""]
        if name in found.get("float", {}):
            lines += [FLOAT.strip().format(**found["float"][name]), ""]
        lines += [f"| way | {' | '.join(WIDTHS)} |", "| --- |" + " --- |" * len(WIDTHS)]
        own = [row.split("/")[2] for row in found["rows"] if row.startswith(f"{name}/")]
        for way in dict.fromkeys(sorted(own, key=lambda way: (WAYS.index(way.partition(":")[0]), way))):
            cells = [cell(found["rows"].get(f"{name}/{width}/{way}")) for width in WIDTHS]
            lines.append(f"| {way} | {' | '.join(cells)} |")
        lines.append("")
    lines += [WHAT.strip().format(processors=processors(found["rows"])), ""]
    for name in names:
        lines += source_table(name, found.get("sources", {}))
    return "\n".join(lines).rstrip() + "\n"


def processors(rows: dict[str, Any]) -> str:
    """What measured them: the processor of most, and which rows others did."""
    groups: dict[str, list[str]] = {}
    for name, row in rows.items():
        groups.setdefault(row["processor"], []).append(name.replace("/", " "))
    most, *others = sorted(groups, key=lambda processor: len(groups[processor]), reverse=True)
    return "; ".join([most, *(f"{', '.join(groups[processor])} on {processor}" for processor in others)])


def source_table(name: str, sources: dict[str, Any]) -> Iterator[str]:
    """What `photograph_errors.py` found of a network: one kind of tensor rounded at a time."""
    own = {tuple(key.split("/")[1:]): row for key, row in sources.items() if key.startswith(f"{name}/")}
    if own:
        widths, words = (list(dict.fromkeys(key[place] for key in own)) for place in (0, 1))
        yield SOURCES.strip().format(name=name, crops=max(row["crops"] for row in own.values()))
        yield ""
        yield f"| rounded | {' | '.join(widths)} |"
        yield "| --- |" + " --- |" * len(widths)
        for kind in words:
            yield f"| {kind} | {' | '.join(cell(own.get((width, kind))) for width in widths)} |"
        yield ""


def cell(row: dict[str, Any] | None) -> str:
    """Agreement and signal-to-noise ratio, or why there are none."""
    if row is None:
        return ""
    if "failed" in row:
        return str(row["failed"])
    sure = ""
    if "sure_crops" in row:
        sure = f"; of {row['sure_crops']} sure {row['sure_agreement_percent']:.1f} %"
    return f"{row['agreement_percent']:.1f} %, {row['sqnr_db']:.1f} dB{sure}"
