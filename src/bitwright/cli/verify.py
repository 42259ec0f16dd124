# SPDX-License-Identifier: MIT
"""`bitwright verify`: every engine against the reference executor, and an exported file against what it says of itself."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from bitwright.cli.app import app
from bitwright.cli.console import bar, note, show
from bitwright.cli.ignored import refuse_ignored
from bitwright.cli.numbers import MAX_THREADS, whole
from bitwright.cli.options import BatchSize, Json, Seed
from bitwright.cli.preprocessing import HOW, reads_images

if TYPE_CHECKING:
    from rich.console import RenderableType
    from torch import Tensor

    from bitwright.benchmark import Equality
    from bitwright.data import ImageData, Preprocessing
    from bitwright.export import Pixels
    from bitwright.integer import IntegerModel

SMALLER_BATCHES = (1, 2)
DIGESTS = ("contents_as_exported", "digest_of_model")
"""Whether the constants of a file are those that it states, and its model the given one."""


@app.command(epilog="Example: bitwright verify resnet18.w4a4.integer --data imagefolder:/data/imagenet --images 1000")
@reads_images
def verify(
    context: typer.Context,
    file: Annotated[
        Path, typer.Argument(metavar="FILE", help="What `bitwright lower` wrote, or what `bitwright export` did.")
    ],
    data: Annotated[
        str | None,
        typer.Option("--data", "-d", metavar="NAME", help="mnist-5k, fashion-mnist[:DIR] or imagefolder:DIR."),
    ] = None,
    stress: Annotated[
        int,
        typer.Option(
            "--stress", parser=whole(0), help="Add images that look for differences: flat, checkered, at limits, noise."
        ),
    ] = 0,
    model: Annotated[
        Path | None,
        typer.Option("--model", "-m", help="The integer model that an exported file was made from.", dir_okay=False),
    ] = None,
    engine: Annotated[
        list[str] | None,
        typer.Option("--engine", "-e", help="By default, every installed one that can be exact; repeatable."),
    ] = None,
    target: Annotated[
        str, typer.Option("--target", help="The CPUs that the files are made for: any, avx2 or vnni.")
    ] = "any",
    images: Annotated[
        int | None, typer.Option("--images", parser=whole(1), help="Of the test split; by default, all.")
    ] = None,
    batch_size: BatchSize = 100,
    threads: Annotated[
        int | None,
        typer.Option(
            "--threads", parser=whole(1, MAX_THREADS), help="That engines may use besides one; by default, all."
        ),
    ] = None,
    seed: Seed = 0,
    as_json: Json = False,
    *,
    asked: Preprocessing,
) -> None:
    """Run engines as users do and count equal int32 logits; one that differs, or a crash, fails.

    With one thread and several, at every optimisation level, at batch 1 and 2 (the images of the first batch) and the full batch.
    An exported file is checked against the digests that it states, and run where its model is given.
    """
    from bitwright.benchmark import compare, environment
    from bitwright.benchmark import verify as compare_all
    from bitwright.benchmark.engines import engine_of, known_engine
    from bitwright.errors import DataError, ExportError, unknown_name
    from bitwright.export import Target, is_exported
    from bitwright.integer.reader import load_integer

    if target not in list(Target):
        raise unknown_name("target", target, list(Target))
    for name in engine or ():
        known_engine(name)  # refused before images are read
    exported = is_exported(file)
    if model is not None and not exported:
        raise ExportError(f"--model is for an exported file, got '{file}'. Leave it out.")
    source = model if exported else file
    runs = data is not None or stress > 0
    if runs and source is None:
        raise DataError(
            "running a file needs what it is compared with: add --model MODEL, or leave out --data and --stress."
        )
    if not runs and not exported:
        raise DataError("comparing engines needs images: add --data NAME, --stress N, or both.")

    if data is None:
        refuse_ignored(context, "no images of a data set are read. Name one with --data.", *HOW)
    loaded = None if source is None else load_integer(source)
    facts: dict[str, Any] = {"file": str(file), "data": data, "stress": stress}
    rows: list[Equality] = []
    pixels = None
    if exported:
        sealed, pixels = _sealed(file, loaded)
        facts |= sealed
    else:
        facts["target"] = target
    if runs and loaded is not None:
        found = Images(loaded, data, stress, images, batch_size, seed, pixels, asked)
        counts = sorted({1, threads or environment().cores})
        with bar(f"verifying {loaded.model}, {loaded.scheme.name}") as progress:
            if exported:
                rows = compare(
                    loaded, {engine_of(file): file}, found.batches(), pixels=pixels, threads=counts,
                    smaller=SMALLER_BATCHES, total=len(found), progress=progress, stage=progress.stage,
                )  # fmt: skip
            else:
                rows = compare_all(
                    loaded, found.batches(), engine, target=Target(target), threads=counts, smaller=SMALLER_BATCHES,
                    total=len(found), progress=progress, stage=progress.stage,
                    refused=lambda name, error: note(f"left out {name}: {error}"),
                )  # fmt: skip
    facts["exact"] = all(row.exact for row in rows) and all(facts.get(key, True) is True for key in DIGESTS)
    result = {**facts, "environment": environment().to_dict(), "rows": [row.to_dict() for row in rows]}
    show(result, as_json, lambda: _drawn(facts, rows))
    if not facts["exact"]:
        raise typer.Exit(1)


def _sealed(file: Path, model: IntegerModel | None) -> tuple[dict[str, Any], Pixels | None]:
    """What an exported file says of itself, whether it is true, and how it normalises pixels.

    Raises:
        FileFormatError: If it says nothing.
    """
    from bitwright.errors import FileFormatError
    from bitwright.export.pixels import images_from_words
    from bitwright.export.seal import contents, model_digest, stated

    said = stated(file)
    missing = [key for key in ("digest", "contents", "checked", "images") if key not in said]
    if missing:
        raise FileFormatError(
            f"expected a file that `bitwright export` wrote, but '{file}' states no {missing[0]}. Export it anew."
        )
    facts: dict[str, Any] = {key: said[key] for key in ("digest", "contents", "checked")}
    facts[DIGESTS[0]] = contents(file) == said["contents"]
    if model is not None:
        facts[DIGESTS[1]] = model_digest(model) == said["digest"]
    return facts, images_from_words(said["images"])


@dataclass(frozen=True)
class Images:
    """The images that are compared: of the test split, then those that look for differences.

    Attributes:
        model: What they are for.
        data: The name of a data set, or None.
        stress: How many images that look for differences.
        most: How many images of the test split; None takes all.
        batch_size: Images in a batch.
        seed: The seed of what is drawn.
        pixels: How to make pixels of them, for files that take those.
        asked: How they are to be made.
    """

    model: IntegerModel
    data: str | None
    stress: int
    most: int | None
    batch_size: int
    seed: int
    pixels: Pixels | None
    asked: Preprocessing

    @cached_property
    def found(self) -> ImageData | None:
        """The data set."""
        from bitwright.cli.models import data_for_model

        return (
            None
            if self.data is None
            else data_for_model(self.data, self.model.input_shape, known=self.model.preprocessing, asked=self.asked)
        )

    @property
    def count(self) -> int:
        """Images of the test split."""
        if self.found is None:
            return 0
        return min(self.most or len(self.found.test), len(self.found.test))

    def __len__(self) -> int:
        """Batches."""
        return -(-(self.stress + self.count) // self.batch_size)

    def batches(self) -> Iterator[Tensor]:
        """As the files take them; those that look for differences first, since the first batch is run in every way."""
        import torch

        from bitwright.benchmark import stress_images

        drawn = stress_images(self.model, self.stress, self.pixels, self.seed)
        for start in range(0, self.stress + self.count, self.batch_size):
            parts = [drawn[start : start + self.batch_size]]
            first, last = max(start - self.stress, 0), min(start + self.batch_size - self.stress, self.count)
            if self.found is not None and first < last:
                read, _ = self.found.test.read(range(first, last))
                parts.append(read if self.pixels is None else self.pixels.nearest(read))
            yield torch.cat(parts)


def _drawn(facts: dict[str, Any], rows: list[Equality]) -> RenderableType:
    """The digests in words, and one line for each way to run an engine."""
    from rich.console import Group
    from rich.table import Table
    from rich.text import Text

    lines = [Text(f"{key}: {facts[key]}") for key in ("digest", "checked") if key in facts]
    words = {DIGESTS[0]: "constants as exported", DIGESTS[1]: "digest of the model"}
    lines += [Text(f"{text}: {'yes' if facts[key] else 'NO'}") for key, text in words.items() if key in facts]
    if not rows:
        return Group(*lines)
    columns = ["engine", "level", "threads", "batch", "equal images", "equal logits", "largest difference", "failure"]
    drawn = Table(title=facts["file"])
    for column in columns[: None if any(row.failure for row in rows) else -1]:
        drawn.add_column(column, no_wrap=column in ("engine", "level"))
    for row in rows:
        equal = row.logits - row.differing_logits
        cells = (
            row.engine, row.level, str(row.threads), str(row.batch), f"{row.equal_images:,} of {row.images:,}",
            f"{equal:,} of {row.logits:,}", str(row.largest_difference), row.failure,
        )  # fmt: skip
        drawn.add_row(*cells[: len(drawn.columns)])
    return Group(*lines, drawn)
