# SPDX-License-Identifier: MIT
"""`docs/accuracy.md`, from the rows and the trials that `benchmarks/accuracy.py` wrote."""

from __future__ import annotations

import statistics
from collections.abc import Iterator, Mapping
from typing import Any

from accuracy_glance import FASTER, LEAST, cell, glance

HEAD = """# Accuracy

Every figure is the top-1 accuracy, in percent, of lowered integers on all 10,000 test images of Fashion-MNIST, padded to 32 x 32:
what any engine computes. A seed decides on the 1,024 calibration images and on all that is drawn; where there are several, the
mean stands with its standard error over seeds. The standard error of one accuracy over test images is {sampling:.2f} points, but
rows share these images and the float weights, so that differences are surer than that. First and last layers have 8 bits, as have
additions.
"""
GLANCE = """## At a glance

Bitwright's settings are the usual ones, and for training a second rate, which held-out images find better at 2 and 3 bits, and
worse at 4 (*What was tried*). Of other quantizers, here stands what did best on the test images.
"""
PICTURE = """![Accuracy over bits](figures/accuracy.png)

Rows below {least:g} % have no room in the picture.
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
- **Mixed widths** of one size are told apart by their divergence, and not by 10,000 images (below).
"""
BOUNDED = {
    "w8a4": ("W8A4", "reconstructed:network_steps=0"),
    "w4a4": ("W4A4", "reconstructed:network_steps=0"),
    "w8a3": ("W8A3", "reconstructed"),
    "w3a3": ("W3A3", "reconstructed"),
    "faster3": ("W3A3", f"peer-brevitas:qat2:{FASTER}"),
    "usual2": ("W2A2", "peer-brevitas:qat2"),
    "ours3": ("W3A3", f"qat2:{FASTER}"),
    "ours2": ("W2A2", f"qat2:{FASTER}"),
    "alone2": ("W2A2", "peer-brevitas:qat2:distill=0"),
}
"""The rows of ResNet20 that this names."""

ROWS = """## What the rows are

Written by `python benchmarks/accuracy.py --json benchmarks/results/accuracy.json --docs docs/accuracy.md`, which also measures:
give it rows (`--rows 'resnet20/W2A2/*'`). The float weights of ResNet20 are in `benchmarks/weights/`.

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

Weights of 2 to 8 bits, activations of 8, all schemes in the size of uniform weights of 3 bits (first and last layers have 8): the
one that the search finds by measured sensitivities, the uniform one, and random ones, all of nearly that size alike likely. A
random scheme has one seed. The divergence is that of *What was tried*, below: it tells schemes apart whose accuracies the test
images do not (one standard error over them is a quarter of a point). Reconstruction leaves nothing to tell apart by them.
"""
SEARCHED, UNIFORM = "search3", "W3A8"
TRIALS = """## What was tried

On {images:,} training images that no calibration chose, never on the test set; one seed where none are counted. The divergence
is KL(float || integers), in thousandths of a nat an image: it tells settings apart between which accuracies do not decide.
Reconstruction by default has
{defaults}.
"""
BESIDES = """Distillation gains 0.9 points at W2A2, on a tenth of the images (three seeds): so in `bitwright train` the float
network teaches, with half of the weight. On all images, two epochs, no other setting of training was clearly
better at 4 bits and at 2: more of the teacher, twice and four times the rate, less weight decay, averaged weights
(`average`, the part of the average that a step leaves), a start from the reconstructed network (most of one seed;
trainings on all images have seen those that are judged on here, as the float network has). On the test set, on
which nothing is chosen, some were better by up to 0.2 points; three seeds of one setting are 0.04 to 0.28 points
apart there. With twice the rate and the decay that `bitwright train` has by default (`learning_rate=0.02:weight_decay=0.0001`),
three seeds: 93.72 at 3 bits and 93.04 at 2 on the test set, where the usual settings have 93.47 and 92.88; on the images here
the divergence is 12.9 for 13.1 and 30.9 for 33.7. At 4 bits that rate is worse (6.6, where the decay alone gives 6.0).

Brevitas's training has the same settings, the usual ones and these; its rate was looked at besides on a tenth of the images,
W2A2, one seed: top-1 92.67 with 0.01, 92.42 with 0.03 (`peer-brevitas:qat2:data_fraction=0.1:learning_rate=0.03`), where
Bitwright's `qat2:data_fraction=0.1` has 92.63.

Tried besides, by changing the code, on ResNet20, 150 steps where blocks are reconstructed, and left out, all before rounding
errors were made to compensate each other:

- 4,096 images instead of 1,024, W4A4: a divergence of 7.2, top-1 94.67, where 1,024 give 6.5 and 94.40.
- Each calibration image in four forms, cropped and flipped, W2A2: 58.9 where the images alone give 55.6.
- The gains of batch norm learned with the offsets, W4A4: 7.0 where there were 6.5.
- Rounding to any integer and not only to the two neighbours, at a learning rate of 0.05 steps, W4A4: 6.8 where there were 6.5.
- A last stage that learns gains, offsets and scales of all layers at once, towards the logits of the calibration images (100
  steps, W2A2): 55.4 from 55.6, for half of the time again.
- Channels equalised before calibration, without reconstruction, W4A4: by weights (`--equalise`) 12.84 where there were 12.82; by
  the 99.9th percentiles of activations, square roots of their ratios 14.1, whole ratios 26.0.
- Batch norm in calibration: means of the float network moved by the difference, variances by the ratio, of the quantized and
  the float network on the calibration images (as it is now); divergences at W4A4, W3A3, W2A2 of 12.1, 37.5, 193 (three
  seeds). Its statistics replaced by those of the images, as it was: 12.8, 37.6, 187; and on images unlike the training set
  that ruins the float network, too ([photographs.md](photographs.md)). A regression of each quantized channel on the float
  one: 12.0, 37.3, and 191 at W2A2, one seed, where the ratio gives 185, the differences of both 212, and the statistics of
  the training 2,414. With few images, one seed: 64 at W4A4 and W2A2 12.8 and 190 (replaced: 21.7 and 193), 8 at W4A4 13.4
  (187), 8 at W2A2 577 (266).

Compensated rounding (`compensate_rounding`), by changing the code, divergences on ResNet20, without any step. What is added to
the diagonal of a layer's second moments (the damping) decides: 0.01, 0.1, 0.5, 1 and 2 times its mean give 93, 84, 72, 77 and
81 at W2A2; 0.1 and 1 give 21.7 and 19.9 at W3A3, 0.57 and 0.79 at W4A8, one seed. So each layer's is found by cross-validation
between the halves of the images: 0.60, 6.9, 20.5 and 71 at W4A8, 4, 3 and 2 bits, two seeds, where 0.3 for all gave 0.68, 7.0,
23.1 and 74, one seed. One damping for the least-squares weights and another for their rounding: 7.7, 21.8 and 72 at 4, 3 and 2
bits, the first seed. Scales of weights chosen anew, of five, by what is lost behind compensation, two seeds: 0.57, 7.7, 21.2
and 68 at W4A8, 4, 3 and 2 bits. Without the least-squares weights, only what was rounded taken up: 28.8 at W3A3, 0.94 at W4A8.
Four times as many results looked at: 21.4 and 0.58; a quarter as many: 22.3 and 0.67, all with a damping of 0.1. Errors of
blocks weighted by the squared gradient of the float network's loss (BRECQ) while the steps descend: 16.1 and 61 at 3 and 2
bits, where there were 15.7 and 61. Where only blocks that end closer than they began are kept: 20.5 at W3A3; closer on an
eighth of the images, from which nothing is learned: 7.5, 20.8 and 66 at 4, 3 and 2 bits, one seed. Before the default steps,
compensation gains at 4 and 3 bits, and does no harm at 2 (the table has both, of three seeds). On the test set, on which
nothing is chosen, the steps alone had 93.58, 93.31 and 91.89 at 4, 3 and 2 bits, by the code before it.

All this was before each rounded weight was looked at again (coordinate descent), without any step, two seeds: 0.52, 7.1, 21.2
and 70 at W4A8, 4, 3 and 2 bits with it, the same where the damping is found through it (0.51, 7.0, 21.1, 72.6), and 0.455 at
W4A8 with scales of channels by what is lost, of up to 201 (five of them: 0.51). Behind that the steps lose where activations
have 8 bits: 0.68 at W4A8, one seed, 0.81 and 0.84 at a third and a tenth of their rate, 0.66 and 0.58 with fewer and no
activations left in float, 0.76 with scales as they are, 0.59 with three times as many of them and no activations in float. So
an eighth of the images judges them. Sums over these images say little: by the mean of 128 divergences, or by the squared errors
of logits, steps at W2A2 were taken back with one of two seeds that were better by a fifth on 4,000 others (the standard error
of the difference was fourteen times the difference). The geometric mean of the ratios, image by image, says more of 128 images;
the last paragraph here has how much. Weights that begin nearer to their integers, 0.25 or 0.1 instead of 0.49 of a step away:
0.98 and 1.03 at W4A8, 52.6 and 56.5 at 2 bits, where there were 0.68 and 61, one seed.

At W4A4 most of what is lost is lost in activations: before batch norm was corrected so, 4-bit activations alone (W8A4) diverged
by 10.2, 4-bit weights alone (W4A8) by 3.0, and both by 12.8. Whatever was learned besides roundings, scales and offsets, 6.5 to
7 were left. Reconstructed by blocks alone, W8A4 is left with 6.2 (three seeds; W4A4 with 6.8), and has 93.65 ± 0.09 on the test
set, where W4A4 has 93.54: with activations of 4 bits, weights of 8 gain a tenth of a point. At 3 bits they gain nothing: W8A3,
with the steps of all layers, is left with 14.8, and has 93.28 on the test set (two seeds), where W3A3 has 14.1 and 93.40 of the
same seeds. What 3 and 4 bits lose, reconstructed, activations lose.

All layers at once behind the steps of blocks (`network_steps`), by changing the code, one seed each: gradient descent on all
weights, gains, offsets and scales towards the float network's softened outputs (batch norm folded, Adam with steps in parts of
a quantization step). On the calibration images, cropped and flipped, 300 steps of 128: 14.8 at 3 bits where there were 15.6,
and 10.2 on the very images, which it learns by heart (17.1 at temperature 1, in steps of 64). On mixtures of two of them
(mixup) alone, at temperature 2: 14.5 after 150 steps of 64 at 3 bits, but 15.0 after 450; 48 for 61 at 2 bits; 6.6 for 6.3 at
4. At 2 bits, after 150 steps, the mean of 2,000 divergences was 0.78 times what it had been, but the geometric mean of their
ratios 1.63: images that were nearly right lose what the others gain. With half of the images left as they are, 450 steps of 64,
at temperature 4, the means of 4,000 divergences are 0.96, 0.89 and 0.70 times what they were at 4, 3 and 2 bits, the geometric
means 0.93, 0.85 and 0.78; much the same at temperature 8 (0.89 and 0.85 at 3 bits), in 900 steps of 32 at three quarters of the
rate, as it is now (0.88 and 0.91), and at half the rate (0.90 and 0.94 at 4 bits). The 128 images that judge said 0.95, 1.10
and 0.74 in the geometric mean, and 0.95, 0.94 and 0.76 in eight forms each, shifted and mirrored, which judge since; of the
steps of blocks at 3 bits, three seeds, 0.82, 1.15 and 0.82 (one standard error is 0.08), where 4,000 images say 0.87, 0.88 and
0.80, and at W4A8 1.88, where they say 1.72: so steps are taken back where these images say that they do harm by more than two
standard errors. Normalised by batches, SGD, cropped and flipped, 300 steps of 128: 13.9 at 3 bits; 25 on mixtures, whose
statistics are others. With activations left in float at random: 17.4. On EfficientNet-Lite0, W4A8, on mixtures alone, from 74.0
% (500 crops) to 69.0 % after 40 steps of 16 that move offsets and scales alone, and next to nothing left after 60 that move
weights, too. On MobileNetV2-small, W4A4, where the steps of blocks are taken back, those of all layers gain (31.0 for 34.4,
three seeds, and 90.80 ± 0.06 for 90.54 ± 0.05 on the test set); at W4A8 both are taken back, which leaves what `steps=0` has.
"""
MISSING = """## What was not measured

- ImageNet: none of its images may be had here. The published figures of the methods (MRECG, QDrop, LSQ) are of ImageNet, and are
  not compared with.
- Of peers: trainings of others than Brevitas, and of 10 epochs; learned rounding in Brevitas, which in batches of 32 takes more
  than 15 minutes of a processor; AdaRound at its default steps, and MCT's attention to samples; and most rows of several seeds.
- The other trials anew, since training rounds biases to whole accumulators, as the integers do, which also settles batch norm
  nearer to them; and but for the calibrated ones of three seeds, since calibration looks at drawn values and not at every
  n-th. The rows of ResNet20 were: calibrated W2A2 gained 1.3 points, reconstructed W3A3 0.2, the others moved within their
  errors.
- MobileNetV3-small, EfficientNet-small, and what was trained, since calibration corrects batch norm and does not replace it.
- MobileNetV2-small at W4A8 with steps, since where all are taken back rounding is compensated on all images: what is left then is
  `reconstructed:steps=0`.
- What else is reconstructed (data-free and mixed networks, and the trials of 150 and 300 steps), since a
  reconstruction begins with compensated rounding: these rows are of what `compensate=0:network_steps=0` does, on all images.
  Those of `compensate=0` are without the steps of all layers, too.
- Of the benchmark's own rows, those that no table above has:{missing}.
"""
PACKAGES = {"aimet": "aimet-torch", "mct": "model-compression-toolkit"}
"""Of the peers that have another name in the registry."""

WAYS = ("calibrated", "reconstructed", "data-free", "data-free-reconstructed", "qat2", "qat10")


def page(found: Mapping[str, Any], training: Mapping[str, Any], reconstruction: Mapping[str, Any]) -> str:
    """The page.

    Args:
        found: What the benchmark's file holds.
        training: The usual settings of training.
        reconstruction: And of reconstruction.
    """
    rows = grouped(found.get("rows", {}))
    accuracies = [value for group in rows.values() for value in group if isinstance(value, float)]
    share = statistics.mean(accuracies) / 100 if accuracies else 0.9
    parts = [HEAD.format(sampling=(share * (1 - share) / 1e4) ** 0.5 * 100)]
    usual = {group: values for group, values in rows.items() if not is_mixed(group[1])}
    if ("resnet20", "float", "float") in rows:
        parts += [GLANCE, "\n".join(glance(usual, "resnet20")), PICTURE.format(least=LEAST)]
        named = {name: cell(rows.get(("resnet20", *where), [])) for name, where in BOUNDED.items()}
        if all(named.values()):
            parts.append(BOUNDS.format(**named))
    parts += [ROWS.format(**training), places(found)]
    for network in dict.fromkeys(name for name, _, _ in rows):
        parts.append("\n".join(network_table(network, usual, found.get("float_epochs", {}).get(network))))
        parts.extend(versions(found["rows"], network))
    every = found.get("trials", {})
    if any(is_mixed(width) for _, width, _ in rows):
        parts.append(MIXED)
        parts.append("\n".join(mixed_table(found.get("rows", {}), every)))
    trials = {name: row for name, row in every.items() if not is_mixed(name.split("/")[1])}
    if trials:
        words = ", ".join(
            f"{name.replace('_', ' ')} {value:g}" for name, value in reconstruction.items() if name != "seed"
        )
        parts.append(TRIALS.format(images=max(row.get("images", 0) for row in trials.values()), defaults=words))
        parts.append("\n".join(trial_table(trials)))
        parts.append(BESIDES)
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


def trial_table(trials: Mapping[str, Mapping[str, Any]]) -> Iterator[str]:
    """All trials, failures among them; the mean over seeds where there are several."""
    yield "| network | width | way | top-1 % | agrees with float % | divergence |"
    yield "| --- | --- | --- | --- | --- | --- |"
    groups: dict[str, list[Mapping[str, Any]]] = {}
    for name, row in trials.items():
        groups.setdefault(name.rpartition("/")[0], []).append(row)
    for name, rows in groups.items():
        network, width, way = name.split("/")
        found = [row for row in rows if "failed" not in row]
        if not found:
            yield f"| {network} | {width} | {way} | {rows[0]['failed']} | | |"
            continue
        figures = [[row["top1_percent"], row["agreement_percent"], 1000 * row["divergence"]] for row in found]
        cells = [f"{statistics.mean(values):.2f}" for values in zip(*figures, strict=True)]
        if len(found) > 1:
            deviation = statistics.stdev(values[0] for values in figures)
            cells[0] += f" ± {deviation / len(found) ** 0.5:.2f} ({len(found)} seeds)"
        yield f"| {network} | {width} | {way} | {' | '.join(cells)} |"
    yield ""
