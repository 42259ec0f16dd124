# SPDX-License-Identifier: MIT
"""`bitwright reconstruct`: better integers from some hundred images without labels, in minutes and without training."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from bitwright.cli.app import app
from bitwright.cli.console import bar, note, show
from bitwright.cli.ignored import refuse_ignored
from bitwright.cli.interruption import require_resumed, resumable
from bitwright.cli.numbers import real, whole
from bitwright.cli.options import Activations, DataOrNone, Deploy, Json, Output, ResidualBits, Seed
from bitwright.cli.outputs import reserve
from bitwright.cli.preprocessing import reads_images

if TYPE_CHECKING:
    from bitwright.data import ImageData, Preprocessing
    from bitwright.graph import Graph
    from bitwright.scheme import Scheme
    from bitwright.task import Scores
    from bitwright.training import QuantizedModel

EXAMPLES = """
Examples: bitwright reconstruct resnet18.graph -d imagefolder:/data/imagenet --scheme W4A4 -o resnet18.w4a4.checkpoint

bitwright reconstruct resnet18.graph -d imagefolder:/data/imagenet --scheme W4A8 --steps 0 -o resnet18.w4a8.checkpoint

bitwright reconstruct resnet18.graph -d none --scheme W4A8 -o resnet18.w4a8.checkpoint    # who has no images at all

bitwright reconstruct resnet18.w2a4.checkpoint --reference resnet18.graph -d imagefolder:/data/imagenet -o better.checkpoint
"""
_IMAGES, _BATCH = 1024, 100
_LOOKS = (
    ("", "blocks", "--steps 0"),
    ("network_", "all layers at once", "--network-steps 0"),
)
"""Steps that may be taken back: how names of their figures begin, what they are of, and how to do without."""


@app.command(epilog=EXAMPLES)
@reads_images
def reconstruct(
    context: typer.Context,
    model: Annotated[
        Path,
        typer.Argument(metavar="MODEL", help="A graph, which is calibrated first, under --scheme; or a checkpoint."),
    ],
    data: DataOrNone,
    output: Output,
    scheme: Annotated[
        str | None,
        typer.Option("--scheme", "-s", help="Of a graph: a scheme's file, or W8A8, W4A4, … for all inner layers."),
    ] = None,
    reference: Annotated[
        Path | None,
        typer.Option(
            "--reference", help="Of a checkpoint: the float network to come close to, a graph.", dir_okay=False
        ),
    ] = None,
    images: Annotated[
        int | None,
        typer.Option(
            "--images",
            "-n",
            parser=whole(1),
            help="Training images to look at, no labels: 1024; or to make, with --data none: 128.",
        ),
    ] = None,
    steps: Annotated[
        int | None,
        typer.Option(
            "--steps", parser=whole(0), help="For each block: 200; 0 only compensates rounding errors, much sooner."
        ),
    ] = None,
    network_steps: Annotated[
        int | None,
        typer.Option(
            "--network-steps",
            parser=whole(0),
            help="Then, for all layers at once: four for each of a block's.",
        ),
    ] = None,
    batch_size: Annotated[
        int | None, typer.Option("--batch-size", "-b", parser=whole(1), help="Images in a step.")
    ] = None,
    learning_rate: Annotated[
        float | None, typer.Option("--lr", parser=real(0.0), help="Of what decides about rounding up or down.")
    ] = None,
    drop: Annotated[
        float | None,
        typer.Option("--drop", parser=real(0.0, 1.0), help="Share of activations left in float in a step."),
    ] = None,
    biases: Annotated[
        bool,
        typer.Option("--correct-biases", help="At last, bring the mean of every channel to that of the float network."),
    ] = False,
    equalise: Annotated[
        bool,
        typer.Option("--equalise", help="Of a graph: at first, balance the ranges of channels between two layers."),
    ] = False,
    residual_bits: ResidualBits = 8,
    activations: Activations = None,
    deploy: Deploy = None,
    checkpoint_minutes: Annotated[
        float,
        typer.Option(
            "--checkpoint-minutes",
            parser=real(0.0),
            help="From one write of OUTPUT.state to the next, after a block or a step of all layers.",
        ),
    ] = 1.0,
    resume: Annotated[bool, typer.Option("--resume", help="Go on after an interruption, from OUTPUT.state.")] = False,
    seed: Seed = 0,
    as_json: Json = False,
    *,
    asked: Preprocessing,
) -> None:
    """Learn the rounding, scales and offsets of integers towards what the float network does, by blocks and then all at once.

    No label is read. An eighth of the images is kept to judge by: steps that make the network worse there are taken back.
    What it writes is a checkpoint, to lower or to train; its formats are those that it began with.
    """
    from rich.text import Text

    from bitwright.cli.data_free import NONE, data_for_graph, kept_in
    from bitwright.reconstruction import ReconstructionSettings, correct_biases, equalised
    from bitwright.reconstruction import reconstruct as reconstruct_model
    from bitwright.reconstruction.calibration import float_tensors
    from bitwright.training import Checkpointing, calibrated, save_quantized

    given: dict[str, Any] = {
        "steps": steps, "network_steps": network_steps, "batch_size": batch_size, "learning_rate": learning_rate, "drop": drop,
    }  # fmt: skip
    settings = ReconstructionSettings(**{name: value for name, value in given.items() if value is not None}, seed=seed)
    state = output.with_name(f"{output.name}.state")
    kept = kept_in(output)
    reserve(output, state, kept, reads=[model, scheme, reference])
    require_resumed(state, resume)
    quantized, floats = _read(context, model, scheme, reference)
    floats = equalised(floats) if equalise else floats
    source = data_for_graph(data, floats, kept, label_free=True, asked=asked, count=images, seed=seed)
    floats = floats.reading(source.preprocessing, data)
    if quantized is None:
        assert scheme is not None
        chosen = _deployable(floats, scheme, residual_bits, activations, deploy or [])
    else:
        float_tensors(quantized, floats)  # which refuses those of another network, before images are made for it
    with resumable(state, kept):
        found = source.images()
        count = min(images or _IMAGES, len(found.train))
        if quantized is None:
            with bar(f"calibrating {floats.model}, {chosen.name}"):
                quantized = calibrated(floats, chosen, found.calibration(count, seed)[0])[0]
        seen = found.spread_calibration(count, seed)
        name = f"{floats.model}, {quantized.plan.scheme.name}"
        checkpoint = Checkpointing(state, checkpoint_minutes, resume=resume)
        judged: dict[str, float] = {}
        with bar(f"reconstructing {name}") as progress:

            def told(done: int, total: int, /, **figures: float) -> None:
                judged.update(
                    {name: value for name, value in figures.items() if name.endswith(("unseen_error", "taken_back"))}
                )
                progress(done, total, **figures)

            reconstruct_model(quantized, seen, settings, reference=floats, checkpoint=checkpoint, progress=told)
        if biases:
            correct_biases(quantized, seen, reference=floats)
        save_quantized(output, quantized)
        result = {"model": floats.model, "scheme": quantized.plan.scheme.name, "images": len(seen), **judged}
        line = f"{name}: reconstructed on {len(seen):,} {'made images' if data == NONE else f'images of {found.name}'}"
        if len(floats.outputs) == 1:
            scores = _agreement(quantized, floats, found)
            result |= scores.to_dict() | {"images": len(seen), "test_images": scores.images}
            line += f"; beside the float network, on {scores.images:,} others: {scores}"
    state.unlink(missing_ok=True)
    kept.unlink(missing_ok=True)
    show({**result, "file": str(output)}, as_json, lambda: Text(line))
    for part, whose, without in _LOOKS:
        if judged.get(f"{part}taken_back"):
            note(
                f"the steps of {whose} were taken back: on images that they were not shown, they made the error "
                f"{judged[f'{part}unseen_error']:.2f} times what it was before them. {without} leaves them out, and more images "
                "may make them worth while."
            )
    note(f"wrote {output}")


def _read(
    context: typer.Context, path: Path, scheme: str | None, reference: Path | None
) -> tuple[QuantizedModel | None, Graph]:
    """What is reconstructed, if it is quantized already, and the float network."""
    from bitwright.cli.models import integers_refused
    from bitwright.graph import Graph
    from bitwright.integer import IntegerModel, load

    start = load(path)
    if isinstance(start, IntegerModel):
        raise integers_refused(path, "is what it is")
    if isinstance(start, Graph):
        refuse_ignored(context, "a graph is the float network itself. Leave it out.", "reference")
        if scheme is None:
            raise typer.BadParameter("name the scheme of a captured network, for instance --scheme W4A4.")
        if Path(scheme).is_file():
            refuse_ignored(context, "the file of a scheme has its own.", "residual_bits", "activations")
        return None, start
    reason = "a checkpoint has its scheme. Leave it out, or give the graph that the checkpoint was made from."
    refuse_ignored(context, reason, "scheme", "residual_bits", "activations", "deploy")
    reason = "it balances a float network before that is quantized. Give the graph that this checkpoint was made from."
    refuse_ignored(context, reason, "equalise")
    if reference is None:
        raise typer.BadParameter(
            "a checkpoint no longer holds the float network that it is to come close to: name that with --reference GRAPH."
        )
    return start, Graph.load(reference)


def _deployable(graph: Graph, scheme: str, residual_bits: int, activations: str | None, deploy: list[str]) -> Scheme:
    """The scheme under which a graph is calibrated, as `bitwright train --epochs 0` does."""
    from bitwright.cli.schemes import scheme_for
    from bitwright.export import require_deployable

    chosen = scheme_for(scheme, graph.layers, residual_bits, "tensorrt" if "tensorrt" in deploy else None, activations)
    require_deployable(graph, chosen, deploy)
    return chosen


def _agreement(model: QuantizedModel, floats: Graph, images: ImageData) -> Scores:
    """How close it comes to the float network on images that neither of them was shown."""
    from bitwright.graph import FloatModel
    from bitwright.task import load_task
    from bitwright.training import evaluate

    task = load_task("agreement").towards(FloatModel(floats).eval())
    with bar("evaluating") as progress:
        return evaluate(model, images.batches("test", _BATCH), task=task, model=floats.model, progress=progress)
