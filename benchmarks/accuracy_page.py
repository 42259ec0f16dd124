# SPDX-License-Identifier: MIT
"""`docs/accuracy.md`, from the rows and the trials that `benchmarks/accuracy.py` wrote."""

from __future__ import annotations

import statistics
from collections.abc import Iterator, Mapping
from typing import Any

from accuracy_glance import FASTER, LEAST, cell, glance

HEAD = """# Accuracy

Every figure is the top-1 accuracy, in percent, of lowered integers on all 10,000 test images of Fashion-MNIST, padded to 32 x
32: what any engine computes. A seed decides on the 1,024 calibration images and on all that is drawn; where there are
several, the mean stands with its standard error over seeds. The standard error of one accuracy over test images is
{sampling:.2f} points at {likely:g} %, but rows share these images and the float weights, so that differences are surer than
that. First and last layers have 8 bits, as have additions.
"""
GLANCE = """## At a glance

Bitwright's settings are the usual ones, and for training a second rate, which held-out images find better at 2 and 3 bits,
and worse at 4 ([accuracy_trials.md](accuracy_trials.md), which has what was tried, and failed). Of other quantizers, here
stands what did best on the test images.
"""
PICTURE = """![Accuracy over bits](figures/accuracy.png)

ResNet20. Rows below {least:g} % have no room in the picture.
"""
BOUNDS = """What bounds these figures:

- **Without labels, 4 and 3 bits**: activations. With weights of 8 bits and activations of 4, reconstructed by blocks alone, it is
  {w8a4}, where both of 4 bits have
  {w4a4}; with weights of 8 bits and activations of 3
  {w8a3}, where both of 3 bits have
  {w3a3}. No better rounding of weights gains what these lose. Training does, since it reads labels: at 4 bits it agrees with
  the float network on 98.6 % of held-out images, the reconstructed one on 98.8 %, and yet it is right more often.
- **With labels**: Brevitas's quantizers learn scales by gradient as these do. Given this loop, this teacher and the rate and
  decay of the second row, at 3 bits they end at
  {faster3}, where that row has
  {ours3}. At 2 bits they are better at the usual ones,
  {usual2}, where the second row has
  {ours2}: there seeds differ as much. Without a teacher
  {alone2} are left.
- **Mixed widths**: layers of ResNet20 are so alike that schemes of one size are told apart by their divergence, and not by 10,000
  images (below). Where layers differ, the search decides: in the size of 3 bits MobileNetV2-small has
  {searched}, the uniform network
  {uniform}.
"""
LIKELY, TEST_IMAGES = 0.93, 10_000
SEARCHED, UNIFORM = "search3", "W3A8"
NARROW = ("W8A8", "W4A8", "W4A4", "W3A3")
"""Widths that a network of depthwise layers bears."""

BOUNDED = {
    "w8a4": ("resnet20", "W8A4", "reconstructed:network_steps=0"),
    "w4a4": ("resnet20", "W4A4", "reconstructed:network_steps=0"),
    "w8a3": ("resnet20", "W8A3", "reconstructed"),
    "w3a3": ("resnet20", "W3A3", "reconstructed"),
    "faster3": ("resnet20", "W3A3", f"peer-brevitas:qat2:{FASTER}"),
    "usual2": ("resnet20", "W2A2", "peer-brevitas:qat2"),
    "ours3": ("resnet20", "W3A3", f"qat2:{FASTER}"),
    "ours2": ("resnet20", "W2A2", f"qat2:{FASTER}"),
    "alone2": ("resnet20", "W2A2", "peer-brevitas:qat2:distill=0"),
    "searched": ("mobilenetv2-small", SEARCHED, "calibrated"),
    "uniform": ("mobilenetv2-small", UNIFORM, "calibrated"),
}
"""The rows that this names."""

ROWS = """## What the rows are

Written by `python benchmarks/accuracy.py --json benchmarks/results/accuracy.json --docs docs/accuracy.md`, which also measures:
give it rows (`--rows 'resnet20/W2A2/*'`). The float weights of ResNet20 and MobileNetV2-small are in `benchmarks/weights/`.

**calibrated**: ranges by least squares, batch norm corrected (`correct_norm`), both on the calibration images, without
labels. **reconstructed**: then `bitwright reconstruct`, on the same images. **data-free**: both on 128 images made from the
float network's batch norm, as `--data none` does. **qat2**, **qat10**: calibrated, then 2 or 10 epochs of training, at
learning rate {learning_rate:g} on a cosine, weight decay {weight_decay:g}, batches of {batch_size}, random crops and flips;
the float network teaches, with half of the weight in the loss. Settings behind a colon differ from those.

**peer-...**: other quantizers, calibrated on the same images from the same float weights, without labels, and evaluated by their
own engine or simulation; each in an environment of its own, at the version that stands below each table. Only `:qat2` trains.
aimet: AdaRound, 1,500 steps a layer (its default of 15,000 would take most of an hour), batch norm re-estimated on the
calibration images; `:seqmse` sequential MSE in its place, which AIMET does for weights of at most 4 bits; sums of branches stay
in float. mct: its gradient-based method (EPTQ), batch norm merged, 10 epochs of the calibration images, without attention to
samples.
brevitas: scales by least squares, batch norm from the calibration images; `:gptq` with GPTQ between; `:qat2` with **qat2**'s
training between, with labels: the same batches, optimizer, rates, decay and loss, teacher included, in which Brevitas's fake
quantization learns scales and zero points; `:example` the recipe of its own example, batch norm merged, channels equalised, bias
correction; sums of branches stay in float. torchao: PT2E, quantized for x86 processors. nncf: its defaults, fast bias correction
among them. onnxruntime: the static quantizer, a scale a channel; what it computes depends on the processor (93.53 where an AMD
EPYC did, probably for want of instructions that do not saturate). `benchmarks/peers/` has the scripts.
"""
MIXED = """## Mixed widths in the size of 3 bits

Weights of 2 to 8 bits, activations of 8, all schemes in the size of uniform weights of 3 bits (first and last layers have 8):
the one that the search finds by measured sensitivities, the uniform one, and random ones, all of nearly that size alike
likely. A random scheme has one seed. The divergence is that of [accuracy_trials.md](accuracy_trials.md): it tells schemes of
ResNet20 apart whose accuracies the test images do not (one standard error over them is a quarter of a point); reconstruction
leaves nothing there to tell apart by them.
"""
MISSING = """## What was not measured

- ImageNet: none of its images may be had here. The published figures of the methods (MRECG, QDrop, LSQ) are of ImageNet, and
  are not compared with.
- Of peers: trainings of others than Brevitas, and of 10 epochs; learned rounding in Brevitas, which in batches of 32 takes
  more than 15 minutes of a processor; AdaRound at its default steps, and MCT's attention to samples; and most rows of several
  seeds.
- MobileNetV3-small, EfficientNet-small, and what an H100 trained, since calibration corrects batch norm and does not replace
  it.
- Data-free and mixed networks of ResNet20, reconstructed, since a reconstruction begins with compensated rounding: these rows
  are of what `compensate=0:network_steps=0` does, on all images.
- Of the benchmark's own rows, those that no table above has:{missing}.
"""
PACKAGES = {"aimet": "aimet-torch", "mct": "model-compression-toolkit"}
"""Of the peers that have another name in the registry."""

WAYS = ("calibrated", "reconstructed", "data-free", "data-free-reconstructed", "qat2", "qat10")


def page(found: Mapping[str, Any], training: Mapping[str, Any]) -> str:
    """The page.

    Args:
        found: What the benchmark's file holds.
        training: The usual settings of training.
    """
    rows = grouped(found.get("rows", {}))
    parts = [HEAD.format(sampling=100 * (LIKELY * (1 - LIKELY) / TEST_IMAGES) ** 0.5, likely=100 * LIKELY)]
    usual = {group: values for group, values in rows.items() if not is_mixed(group[1])}
    if ("resnet20", "float", "float") in rows:
        parts += [GLANCE, "\n".join(glance(usual, "resnet20"))]
        if ("mobilenetv2-small", "float", "float") in rows:
            parts.append("\n".join(glance(usual, "mobilenetv2-small", NARROW)))
        parts.append(PICTURE.format(least=LEAST))
        named = {name: cell(rows.get(where, [])) for name, where in BOUNDED.items()}
        if all(named.values()):
            parts.append(BOUNDS.format(**named))
    parts += [ROWS.format(**training), places(found)]
    for network in dict.fromkeys(name for name, _, _ in rows):
        parts.append("\n".join(network_table(network, usual, found.get("float_epochs", {}).get(network))))
        parts.extend(versions(found["rows"], network))
    if any(is_mixed(width) for _, width, _ in rows):
        parts.append(MIXED)
        parts.append("\n".join(mixed_table(found.get("rows", {}), found.get("trials", {}))))
    known = {(network, way) for network, _, way in rows}
    networks = ("resnet20", "mobilenetv2-small")
    missing = [f"{network} {way}" for network in networks for way in WAYS if (network, way) not in known]
    parts.append(MISSING.format(missing=f"\n  {', '.join(missing) or 'none'}").rstrip())
    return "\n".join(parts) + "\n"


def is_mixed(width: str) -> bool:
    """Whether this is one of the schemes of the size of 3 bits."""
    return width in (SEARCHED, UNIFORM) or width.startswith("random")


def mixed_table(rows: Mapping[str, Mapping[str, Any]], trials: Mapping[str, Mapping[str, Any]]) -> Iterator[str]:
    """Searched, uniform and random schemes of one size: top-1 of the rows, divergence of the trials."""
    yield "| network | way | figure | searched | uniform | random: mean, best | searched is better than |"
    yield "| --- | --- | --- | --- | --- | --- | --- |"
    kinds = (("top-1 %", rows, "top1_percent", 1.0, max), ("divergence", trials, "divergence", 1000.0, min))
    places = dict.fromkeys((name.split("/")[0], name.split("/")[2]) for name in rows if is_mixed(name.split("/")[1]))
    for network, way in places:
        for heading, found, key, factor, best in kinds:
            groups: dict[str, list[float]] = {}
            for name, row in found.items():
                where, width, how, _ = name.split("/")
                if (where, how) == (network, way) and is_mixed(width) and key in row:
                    groups.setdefault(width, []).append(factor * row[key])
            values = {width: statistics.mean(group) for width, group in groups.items()}
            random = [value for width, value in values.items() if width.startswith("random")]
            if SEARCHED not in values:
                continue
            beaten = sum(best(values[SEARCHED], other) != other for other in random)
            others = (
                f"{statistics.mean(random):.2f}, {best(random):.2f} | {beaten} of {len(random)} random"
                if random
                else "| "
            )
            mine, uniform = (cell(list(groups.get(width, []))) for width in (SEARCHED, UNIFORM))
            yield f"| {network} | {way} | {heading} | {mine} | {uniform} | {others} |"
    yield ""


def places(found: Mapping[str, Any]) -> str:
    """Where rows were made; whatever computes them, integers are the same."""
    ways: dict[str, list[str]] = {}
    for name, row in found.get("rows", {}).items():
        if "failed" in row:
            continue
        network, _, way, _ = name.split("/")
        known = ways.setdefault(row.get("device", "cpu"), [])
        if (entry := f"{network} {way.partition(':')[0]}") not in known:
            known.append(entry)
    lines = ["Where rows were made (`device` in the JSON file); whatever computes them, integers are the same:", ""]
    return "\n".join([*lines, *(f"- {device}: {', '.join(names)}" for device, names in ways.items()), ""])


def grouped(rows: Mapping[str, Mapping[str, Any]]) -> dict[tuple[str, str, str], list[float | str]]:
    """The accuracies of all seeds, or why there are none, by network, width and way."""
    groups: dict[tuple[str, str, str], list[float | str]] = {}
    for name, row in rows.items():
        network, width, way, _ = name.split("/")
        groups.setdefault((network, width, way), []).append(row.get("top1_percent", row.get("failed")))
    return groups


def network_table(
    network: str, rows: Mapping[tuple[str, str, str], list[float | str]], epochs: int | None = None
) -> Iterator[str]:
    """One network, whose float weights were trained for so many epochs: a line for each way, a column for each width."""
    own = {(width, way): group for (name, width, way), group in rows.items() if name == network}
    widths = [width for width in dict.fromkeys(width for width, _ in own) if width != "float"]
    yield f"## {network}"
    yield ""
    if ("float", "float") in own:
        after = "" if epochs is None else f", after {epochs} epochs"
        yield f"In float: {cell(own['float', 'float'])}{after}."
        yield ""
    if not widths:
        return
    yield f"| way | {' | '.join(widths)} |"
    yield f"| --- |{' --- |' * len(widths)}"
    for way in dict.fromkeys(way for _, way in own if way != "float"):
        yield f"| {way} | {' | '.join(cell(own.get((width, way), [])) for width in widths)} |"
    yield ""


def versions(rows: Mapping[str, Mapping[str, Any]], network: str) -> Iterator[str]:
    """Which versions of the peers a network's rows are of."""
    found: dict[str, None] = {}
    for name, row in rows.items():
        of, _, way, _ = name.split("/")
        peer = way.partition(":")[0].removeprefix("peer-")
        peer = PACKAGES.get(peer, peer)
        if of == network and peer in row.get("settings", {}):
            found[f"{peer} {row['settings'][peer]}"] = None
    if found:
        yield f"Peers: {', '.join(found)}."
        yield ""
