# SPDX-License-Identifier: MIT
"""Around the steps of `quant_train.py`: batch norm is switched, integers are validated, the best is kept, files are written."""

from __future__ import annotations

from argparse import Namespace
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from bitwright.cli.console import bar
from bitwright.cli.quant_log import Log, TestLines, TrainingLines
from bitwright.cli.quant_start import CALIBRATION_BATCH, CALIBRATION_IMAGES

if TYPE_CHECKING:
    from bitwright.data import ImageData
    from bitwright.integer import IntegerModel
    from bitwright.task import Scores
    from bitwright.training import Epoch, Hooks, QuantizedModel, Step, Trained, TrainSettings

CHECKPOINT, BEST = "checkpoint.safetensors", "model_best.safetensors"
QUANTIZED, QUANTIZED_BEST = "quantized_checkpoint.safetensors", "quantized_best.safetensors"
METRICS = "metrics.jsonl"
EVALUATION_BATCH = 50
FEW_BITS = 3


@dataclass
class Best:
    """The best accuracy so far, in percent."""

    top1: float

    def beaten_by(self, top1: float) -> bool:
        """Whether this one is better; it counts from now on."""
        better = top1 > self.top1
        self.top1 = max(self.top1, top1)
        return better


def validate(model: IntegerModel | QuantizedModel, data: ImageData, flags: Namespace, log: Log) -> Scores:
    """Top-1 and top-5 on the validation images, printed: of the integer model, or of a quantized one as it is."""
    from bitwright.training import evaluate

    batch = flags.batch_size if flags.batch_size > 1 else EVALUATION_BATCH
    images = data.batches("test", batch, workers=flags.workers)
    with bar("validating", shown=log.shown) as progress:
        lines = TestLines(log, flags.print_freq, len(images))
        accuracy = evaluate(_predictor(model), images, observe=lines, progress=progress)
    log(f" * Acc@1 {accuracy['top1_percent']:.3f} Acc@5 {accuracy['top5_percent']:.3f}")
    return accuracy


def _predictor(model: IntegerModel | QuantizedModel) -> Any:
    """Images to logits: on a GPU those of the lowered quantized model, which are the integer model's."""
    from bitwright.integer import IntegerModel, prepare

    return prepare(model).logits if isinstance(model, IntegerModel) else model


class Epochs:
    """The hooks of a training.

    Args:
        model: What is trained.
        data: Its images.
        flags: The flags of the command line.
        settings: The settings of the training.
        best: The best accuracy before it.
        log: Prints and keeps lines.
    """

    def __init__(
        self, model: QuantizedModel, data: ImageData, flags: Namespace, settings: TrainSettings, best: float, log: Log
    ) -> None:
        self._model = model
        self._data = data
        self._flags = flags
        self._settings = settings
        self._best = Best(best)
        self._log = log
        self._lines = TrainingLines(log, flags.print_freq)
        self._seen = False
        self._accuracy: Scores | None = None
        self._settling = self._settling_images()
        self._recorder = self._recording()
        model.free_norm = self._free(0)

    def hooks(self, begun: int) -> Hooks:
        """For a training that starts with epoch `begun`."""
        from bitwright.training import Hooks

        def before_epoch(epoch: int) -> None:
            if not self._seen and epoch > begun:
                self._recall()
            self._seen = True
            self._lines.before_epoch()
            self._recorder.before_epoch(epoch)

        return Hooks(
            before_epoch=before_epoch,
            before_step=self._before_step,
            after_step=self._after_step,
            after_epoch=self._after_epoch,
        )

    def _recording(self) -> Hooks:
        """A line for every epoch, with what was validated after it."""
        from bitwright.processes import rank_and_size
        from bitwright.training import EpochLines, Judged, Recorder

        def validated(_: object) -> Judged:
            assert self._accuracy is not None  # it was found just before
            return Judged(self._accuracy, lambda: None)

        lines, processes = EpochLines(self._flags.save_path / METRICS), rank_and_size()[1]
        return Recorder(lines, self._settings, processes, validated, keeps_best=False).hooks()

    def _recall(self) -> None:
        """The best accuracy of the interrupted run: its checkpoint is older than the state it goes on from, never newer."""
        from bitwright.training import load_trained

        trained = load_trained(self._flags.save_path / CHECKPOINT)[1]
        if trained is not None:
            self._best = Best(max(self._best.top1, trained.best_top1))

    def _free(self, step: int) -> bool:
        """Whether batch norm normalises by the batch in the step after so many: it does T - 2 times, as published."""
        threshold = self._flags.fix_bn_threshold
        return not self._flags.fix_bn and (threshold is None or step < threshold - 2)

    def _before_step(self, done: int) -> None:
        free = self._free(done)
        if self._model.free_norm and not free:
            self._log(f"batch norm is folded and keeps its statistics from iteration {done + 1} on")
        self._model.free_norm = free

    def _after_step(self, step: Step) -> None:
        if step.index == 0:
            self._log(f"lr = {self._settings.rate(step.number - 1, step.per_epoch):g}")
        self._lines.after_step(step)
        self._recorder.after_step(step)
        times = self._flags.evaluate_times
        if times > 0 and step.index and step.index % (self._images() // (self._settings.batch_size * times) + 2) == 0:
            self._within_epoch(step.epoch)

    def _after_epoch(self, epoch: Epoch) -> None:
        found = self._validated()
        if found is None:
            return
        accuracy, integer = found
        better = self._best.beaten_by(accuracy["top1_percent"])
        self._log(f"Best acc at epoch {epoch.number}: {self._best.top1:.3f}")
        self._accuracy = accuracy
        self._recorder.after_epoch(epoch)
        trained = self._trained(epoch.number + 1, epoch.momenta)
        if better:  # before the checkpoint, which says that it is written
            self._write(QUANTIZED_BEST, BEST, integer, trained)
        self._write(QUANTIZED, CHECKPOINT, integer, trained)

    def _within_epoch(self, epoch: int) -> None:
        """Validate between two steps; the state of the training is in its own file."""
        found = self._validated()
        if found is not None:
            accuracy, integer = found
            if self._best.beaten_by(accuracy["top1_percent"]):
                self._write(QUANTIZED_BEST, BEST, integer, self._trained(epoch, {}))
            self._log(f"Best acc at epoch {epoch}: {self._best.top1:.3f}")
        self._model.train()

    def _validated(self) -> tuple[Scores, IntegerModel] | None:
        """The accuracy after the last step, and the integer model; None in all processes but the first."""
        from bitwright.integer import lower, lowered

        model = self._model.eval()
        model.certify({})
        model.calibrate_following_weights()
        if self._settling and model.free_norm:
            device = next(model.parameters()).device
            model.settle_norm([images.to(device) for images in self._settling])
        if not self._log.shown:
            return None
        if self._flags.fixed_point_quantization:
            accuracy = validate(model, self._data, self._flags, self._log)
            return accuracy, lower(model)
        found = lowered(model)
        model.certify(found.certificates)
        on_processor = next(model.parameters()).device.type == "cpu"
        return validate(found.model if on_processor else model, self._data, self._flags, self._log), found.model

    def _trained(self, epoch: int, momenta: Any) -> Trained:
        from bitwright.training import Trained

        settings = self._settings
        return Trained(epoch, self._best.top1, settings.momentum, settings.weight_decay, momenta)

    def _write(self, quantized: str, checkpoint: str, integer: IntegerModel, trained: Trained) -> None:
        from bitwright.training import save_quantized

        integer.save(self._flags.save_path / quantized)
        save_quantized(self._flags.save_path / checkpoint, self._model, trained)

    def _images(self) -> int:
        """How many images an epoch has."""
        from bitwright.data import part_of

        return part_of(len(self._data.train), self._settings.data_fraction)

    def _settling_images(self) -> list[Any]:
        """Images whose statistics batch norm has in validation, unless it is fixed; says what happens."""
        import torch

        from bitwright.training.norm import SETTLING_IMAGES

        plan = self._model.plan
        if self._flags.fix_bn or not any(layer.norm is not None for layer in plan.graph.layers.values()):
            return []
        few = min(precision.weight_bits for precision in plan.scheme.layers.values()) <= FEW_BITS
        count = min(CALIBRATION_IMAGES, len(self._data.train))
        if count < SETTLING_IMAGES:
            worse = ": at 2 and 3 bits these lag behind, and cost much accuracy; give --fix-BN" if few else ""
            self._log(
                f"batch norm is validated with its moving averages, since {count} images are too few to settle it on{worse}"
            )
            return []
        self._log(
            f"batch norm is validated with the statistics of {count} training images, seen through the quantizers; "
            "--fix-BN keeps the given ones"
        )
        images = self._data.calibration(count, self._flags.seed)[0]
        return list(torch.split(images, CALIBRATION_BATCH))
