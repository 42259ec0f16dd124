# SPDX-License-Identifier: MIT
"""`docs/accuracy_trials.md`: what was tried for accuracy, kept or not, from the trials that `benchmarks/accuracy.py` wrote."""

from __future__ import annotations

import statistics
from collections.abc import Iterator, Mapping
from typing import Any

from accuracy_page import is_mixed

HEAD = """# What was tried for accuracy

How the settings behind [accuracy.md](accuracy.md) were found, failures included. All is judged on {images:,} training images
that no calibration chose, never on the test set; one seed where none are counted. The **divergence** is KL(float ||
integers), in thousandths of a nat an image: it tells settings apart between which accuracies do not decide. Trainings on all
images have seen those that are judged on here, as the float network has. Where figures are "by changing the code", no option
does that, and the code is not kept.

## Trials

Written by `python benchmarks/accuracy.py --json benchmarks/results/accuracy.json --docs docs/accuracy.md`, which writes this
page beside; `--trials` or `--both` measures. Ways are those of [accuracy.md](accuracy.md), settings behind a colon differ
from the usual ones. Reconstruction by default has
{defaults}.
The trials of 150 and 300 steps are of `compensate=0:network_steps=0`, before rounding errors were made to compensate each
other; those of `compensate=0` have no steps of all layers, either. Most trials are older than the rounding of biases to whole
accumulators in training, and than a calibration that looks at drawn values and not at every n-th; the rows of ResNet20 were
measured anew after these: calibrated W2A2 gained 1.3 points, reconstructed W3A3 0.2, the others moved within their errors.
Sorted by divergence.
"""
TRIED = """## Training

`qat2`, two epochs, where nothing else is said.

- **A teacher** (`distill`): gains 0.9 points at W2A2 on a tenth of the images, three seeds. So in `bitwright train` the float
  network teaches, with half of the weight.
- **Rate and decay**: with 0.02 and 0.0001 (`learning_rate=0.02:weight_decay=0.0001`), three seeds, 93.72 at 3 bits and 93.04
  at 2 on the test set, where the usual settings have 93.47 and 92.88; here the divergence is 12.9 for 13.1 and 30.9 for 33.7.
  At 4 bits that rate is worse (6.6, where the decay alone gives 6.0). 0.04 is worse at 2 bits.
- **No clear gain**, at 4 bits and at 2, most of one seed: more of the teacher, softened outputs (`temperature`), averaged
  weights (`average`, the part of the average that a step leaves), a start from the reconstructed network, batches of 64. On
  the test set, on which nothing is chosen, some were better by up to 0.2 points; three seeds of one setting are 0.04 to 0.28
  points apart there.
- **Brevitas's training** has the same settings, the usual ones and 0.02; its rate was looked at besides on a tenth of the
  images, W2A2, one seed: top-1 92.67 with 0.01, 92.42 with 0.03, where Bitwright's `qat2:data_fraction=0.1` has 92.63.
- **Scales that move eight times as fast** (LSQ's damping of their gradients eight times weaker, by changing the code), W2A2,
  a tenth of the images, one seed: 67.8 for 63.7.
- **Oscillating weights** (arXiv:2203.11086), MobileNetV2-small, W4A4, by changing the code. On a tenth of the images, three
  seeds, there were 43.3 ± 0.8 and top-1 90.99: weights frozen whose rounding turns around, by a moving average, in more than
  4 % of the last hundred steps (falling to 1 %) 42.0 ± 1.2 and 91.08, more than 2 % 43.7 ± 2.6 and 91.01; pulled towards
  their integers, ever more, 43.3 ± 1.8 and 91.22. On all images, one seed, frozen from 4 % on (a quarter of all weights in
  the end): 28.4 and 91.31 on the test set, where there were 26.2 and 91.21.
- **Warm-up** over the first tenth of the steps, and **AdamW** at 0.001, likewise on a tenth: 43.3 ± 0.6 and 90.90, 42.8 ± 1.3
  and 90.91.
- **Windows whose first integer is learned** (LSQ+, arXiv:2004.09576), likewise, those of fewer than 8 bits: with LSQ's
  damping none moves by half a step, and the network is the same to the bit. At 10,000 and 40,000 times that rate they move by
  a step: 42.4 ± 1.9 and 90.99, 41.6 ± 1.3 and 91.06, three seeds: next to nothing for a setting that is so far off.

## Calibration, and steps of blocks

By changing the code, on ResNet20, 150 steps where blocks are reconstructed, and left out, all before rounding errors were
made to compensate each other:

- 4,096 images instead of 1,024, W4A4: 7.2, top-1 94.67, where 1,024 give 6.5 and 94.40.
- Each calibration image in four forms, cropped and flipped, W2A2: 58.9 where the images alone give 55.6.
- The gains of batch norm learned with the offsets, W4A4: 7.0 where there were 6.5.
- Rounding to any integer and not only to the two neighbours, at a learning rate of 0.05 steps, W4A4: 6.8 where there were
  6.5.
- A last stage that learns gains, offsets and scales of all layers at once, towards the logits of the calibration images (100
  steps, W2A2): 55.4 from 55.6, for half of the time again.
- Channels equalised before calibration, without reconstruction, W4A4: by weights (`--equalise`) 12.84 where there were 12.82;
  by the 99.9th percentiles of activations, square roots of their ratios 14.1, whole ratios 26.0.
- Batch norm in calibration: means of the float network moved by the difference, variances by the ratio, of the quantized and
  the float network on the calibration images (as it is now): 12.1, 37.5 and 193 at W4A4, W3A3 and W2A2 (three seeds). Its
  statistics replaced by those of the images, as it was: 12.8, 37.6, 187; and on images unlike the training set that ruins the
  float network, too ([photographs.md](photographs.md)). A regression of each quantized channel on the float one: 12.0, 37.3,
  and 191 at W2A2, one seed, where the ratio gives 185, the differences of both 212, and the statistics of the training 2,414.
  With few images, one seed: 64 at W4A4 and W2A2 12.8 and 190 (replaced: 21.7 and 193), 8 at W4A4 13.4 (187), 8 at W2A2 577
  (266).

## Compensated rounding

`compensate_rounding`, by changing the code, on ResNet20, without any step:

- **Damping**, what is added to the diagonal of a layer's second moments, decides: 0.01, 0.1, 0.5, 1 and 2 times its mean give
  93, 84, 72, 77 and 81 at W2A2; 0.1 and 1 give 21.7 and 19.9 at W3A3, 0.57 and 0.79 at W4A8, one seed. So each layer's is
  found by cross-validation between the halves of the images: 0.60, 6.9, 20.5 and 71 at W4A8, 4, 3 and 2 bits, two seeds,
  where 0.3 for all gave 0.68, 7.0, 23.1 and 74, one seed. One for the least-squares weights and another for their rounding:
  7.7, 21.8 and 72 at 4, 3 and 2 bits, the first seed.
- Scales of weights chosen anew, of five, by what is lost behind compensation, two seeds: 0.57, 7.7, 21.2 and 68 at W4A8, 4, 3
  and 2 bits. Without the least-squares weights, only what was rounded taken up: 28.8 at W3A3, 0.94 at W4A8. Four times as
  many results looked at: 21.4 and 0.58; a quarter as many: 22.3 and 0.67, all with a damping of 0.1.
- **Each rounded weight looked at again** (coordinate descent), two seeds, as it is now: 0.52, 7.1, 21.2 and 70 at W4A8, 4, 3
  and 2 bits; the same where the damping is found through it (0.51, 7.0, 21.1, 72.6); and 0.455 at W4A8 with scales of
  channels by what is lost, of up to 201 (five of them: 0.51).

## Steps of blocks behind it

- Errors of blocks weighted by the squared gradient of the float network's loss (BRECQ) while the steps descend: 16.1 and 61
  at 3 and 2 bits, where there were 15.7 and 61.
- Where only blocks that end closer than they began are kept: 20.5 at W3A3; closer on an eighth of the images, from which
  nothing is learned: 7.5, 20.8 and 66 at 4, 3 and 2 bits, one seed.
- Where activations have 8 bits the steps lose: 0.68 at W4A8, one seed, 0.81 and 0.84 at a third and a tenth of their rate,
  0.66 and 0.58 with fewer and no activations left in float, 0.76 with scales as they are, 0.59 with three times as many of
  them and no activations in float. So an eighth of the images judges them.
- Sums over these images say little: by the mean of 128 divergences, or by the squared errors of logits, steps at W2A2 were
  taken back with one of two seeds that were better by a fifth on 4,000 others (the standard error of the difference was
  fourteen times the difference). The geometric mean of the ratios, image by image, says more.
- Weights that begin nearer to their integers, 0.25 or 0.1 instead of 0.49 of a step away: 0.98 and 1.03 at W4A8, 52.6 and
  56.5 at 2 bits, where there were 0.68 and 61, one seed.

## Activations are the bound

At W4A4 most of what is lost is lost in activations: before batch norm was corrected so, 4-bit activations alone (W8A4)
diverged by 10.2, 4-bit weights alone (W4A8) by 3.0, and both by 12.8. Whatever was learned besides roundings, scales and
offsets, 6.5 to 7 were left. Reconstructed by blocks alone, W8A4 is left with 6.2 (three seeds; W4A4 with 6.8), and has 93.65
± 0.09 on the test set, where W4A4 has 93.54: with activations of 4 bits, weights of 8 gain a tenth of a point. At 3 bits they
gain nothing: W8A3, with the steps of all layers, is left with 14.8, and has 93.28 on the test set (two seeds), where W3A3 has
14.1 and 93.40 of the same seeds.

## All layers at once

`network_steps`, behind the steps of blocks, by changing the code, one seed each: gradient descent on all weights, gains,
offsets and scales towards the float network's softened outputs (batch norm folded, Adam with steps in parts of a quantization
step).

- **On the calibration images**, cropped and flipped, 300 steps of 128: 14.8 at 3 bits where there were 15.6, and 10.2 on the
  very images, which it learns by heart (17.1 at temperature 1, in steps of 64).
- **On mixtures of two** (mixup) alone, at temperature 2: 14.5 after 150 steps of 64 at 3 bits, but 15.0 after 450; 48 for 61
  at 2 bits; 6.6 for 6.3 at 4. At 2 bits, after 150 steps, the mean of 2,000 divergences was 0.78 times what it had been, but
  the geometric mean of their ratios 1.63: images that were nearly right lose what the others gain.
- **With half of the images left as they are**, 450 steps of 64, at temperature 4, the means of 4,000 divergences are 0.96,
  0.89 and 0.70 times what they were at 4, 3 and 2 bits, the geometric means 0.93, 0.85 and 0.78; much the same at temperature
  8 (0.89 and 0.85 at 3 bits), in 900 steps of 32 at three quarters of the rate, as it is now (0.88 and 0.91), and at half the
  rate (0.90 and 0.94 at 4 bits).
- **Who judges**: 128 images said 0.95, 1.10 and 0.74 in the geometric mean, and 0.95, 0.94 and 0.76 in eight forms each,
  shifted and mirrored, which judge since; of the steps of blocks at 3 bits, three seeds, 0.82, 1.15 and 0.82 (one standard
  error is 0.08), where 4,000 images say 0.87, 0.88 and 0.80, and at W4A8 1.88, where they say 1.72: so steps are taken back
  where these images say that they do harm by more than two standard errors.
- Normalised by batches, SGD, cropped and flipped, 300 steps of 128: 13.9 at 3 bits; 25 on mixtures, whose statistics are
  others. With activations left in float at random: 17.4.
- On MobileNetV2-small steps, of blocks and of all layers, gain at W4A4 (35.7 for 46.7, three seeds, and 90.71 ± 0.15 for
  90.22 ± 0.05 on the test set); at W4A8 all are taken back.
- On EfficientNet-Lite0, W4A8, on mixtures alone, from 74.0 % (500 crops) to 69.0 % after 40 steps of 16 that move offsets and
  scales alone, and next to nothing left after 60 that move weights, too.
"""


def trials_page(found: Mapping[str, Any], reconstruction: Mapping[str, Any]) -> str:
    """The page.

    Args:
        found: What the benchmark's file holds.
        reconstruction: The usual settings of reconstruction.
    """
    trials = {name: row for name, row in found.get("trials", {}).items() if not is_mixed(name.split("/")[1])}
    images = max((row.get("images", 0) for row in trials.values()), default=0)
    words = ", ".join(f"{name.replace('_', ' ')} {value:g}" for name, value in reconstruction.items() if name != "seed")
    parts = [HEAD.format(images=images, defaults=words), "\n".join(trial_tables(trials)), TRIED]
    return "\n".join(parts)


def trial_tables(trials: Mapping[str, Mapping[str, Any]]) -> Iterator[str]:
    """One for each network and width: the mean over seeds of each way, the least divergence first, failures last."""
    groups: dict[str, dict[str, list[Mapping[str, Any]]]] = {}
    for name, row in trials.items():
        network, width, way, _ = name.split("/")
        groups.setdefault(f"{network} {width}", {}).setdefault(way, []).append(row)
    for place, ways in groups.items():
        yield f"| {place} | top-1 % | agrees with float % | divergence |"
        yield "| --- | --- | --- | --- |"
        lines = [_line(way, rows) for way, rows in ways.items()]
        yield from (line for _, line in sorted(lines, key=lambda each: each[0]))
        yield ""


def _line(way: str, rows: list[Mapping[str, Any]]) -> tuple[float, str]:
    """A way's divergence, and its line of the table."""
    measured = [row for row in rows if "failed" not in row]
    if not measured:
        return float("inf"), f"| {way} | {rows[0]['failed']} | | |"
    figures = [[row["top1_percent"], row["agreement_percent"], 1000 * row["divergence"]] for row in measured]
    means = [statistics.mean(values) for values in zip(*figures, strict=True)]
    cells = [f"{value:.2f}" for value in means]
    if len(measured) > 1:
        deviation = statistics.stdev(values[0] for values in figures)
        cells[0] += f" ± {deviation / len(measured) ** 0.5:.2f} ({len(measured)} seeds)"
    return means[-1], f"| {way} | {' | '.join(cells)} |"
