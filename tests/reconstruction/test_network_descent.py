# SPDX-License-Identifier: MIT
"""All layers at once: each parameter moves in units of its own, images are mixed in pairs, what does harm is taken back."""

from __future__ import annotations

import importlib
import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from bitwright.errors import FileFormatError, TrainingError
from bitwright.graph import Graph, capture
from bitwright.graph.state_file import StateFile
from bitwright.graph.tensors_file import read_tensors, serialize
from bitwright.integer import run
from bitwright.reconstruction import ReconstructionSettings, compensate_rounding, reconstruct
from bitwright.reconstruction.kept import FORMAT
from bitwright.reconstruction.network_descent import NetworkDescent, imitation_loss
from bitwright.reconstruction.unseen import Change, errors
from bitwright.scheme import Precision, Scheme
from bitwright.training import Checkpointing, QuantizedModel, Ranges, calibrated
from integer.certified import certified
from training.small import SHAPE, SmallResidual, digits, few, small_quantized

ALONE = ReconstructionSettings(compensate=False, steps=0, batch_size=8, network_steps=3)
RATE = ALONE.network_rate


def begun(model: QuantizedModel, settings: ReconstructionSettings = ALONE) -> NetworkDescent:
    """The descent of a model that was calibrated alone."""
    return NetworkDescent(model, model.plan.graph.parameters, settings, torch.Generator().manual_seed(0))


def trained() -> Graph:
    """The small network, after some steps on digits."""
    torch.manual_seed(0)
    network = SmallResidual()
    optimizer = torch.optim.Adam(network.parameters(), 0.01)
    for _ in range(6):
        for images, labels in few(augment=False):
            optimizer.zero_grad()
            F.cross_entropy(network(images), labels).backward()
            optimizer.step()
    return capture(network.eval(), SHAPE, name="small")


@pytest.mark.parametrize("ranges", list(Ranges))
def test_a_step_is_a_part_of_each_parameters_own_size(ranges: Ranges) -> None:
    """The first step of Adam is the rate, in quantization steps of each channel, or in parts of the size of the others."""
    model = small_quantized("W4A4", ranges=ranges).eval()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    begun(model).step(0, digits().calibration(32)[0])
    after = model.state_dict()
    moved = {name for name, value in after.items() if not torch.equal(value, before[name])}
    assert not any("running" in name for name in moved), "batch norm keeps its statistics"
    assert any(name.endswith("scale") for name in moved) == (ranges is Ranges.LEARNED)
    for layer, node in model.plan.graph.layers.items():
        weight = f"network.{node.weight}"
        assert weight in moved
        unit = model.weight_quantizer(layer).current_scale()
        columns = before[f"weights.{layer.replace('.', '/')}.scale"].reshape(-1, *[1] * (before[weight].dim() - 1))
        assert unit.shape == (len(columns),)
        steps = ((after[weight] - before[weight]) / columns).abs()
        assert torch.allclose(steps[steps > 0], torch.tensor(RATE), rtol=1e-2)
        if node.norm is not None:
            gain, offset = f"network.{node.norm.weight}", f"network.{node.norm.bias}"
            parts = ((after[gain] - before[gain]) / before[gain]).abs()
            assert torch.allclose(parts[parts > 0], torch.tensor(RATE / 40), rtol=1e-2)
            size = before[offset].square().mean().sqrt().clamp_min(1e-6)  # no offset is set yet
            parts = (after[offset] - before[offset]).abs() / size
            assert torch.allclose(parts[parts > 0], torch.tensor(RATE / 20), rtol=1e-2)


def test_half_of_a_batch_is_mixed() -> None:
    """Of two images, in parts that are all alike likely; the rest are images as they are; half of all are mirrored."""
    settings = replace(ALONE, batch_size=800)
    images = torch.zeros(3, 1, 28, 28)
    for index in range(3):
        images[index, 0, index, 0] = 1
    mixed = begun(small_quantized().eval(), settings)._mixed(images)
    parts = torch.stack([mixed[:, 0, index, 0] + mixed[:, 0, index, 27] for index in range(3)], 1)
    assert torch.allclose(parts.sum(1), torch.ones(800))
    assert 0.4 < float((mixed[..., 27].flatten(1).sum(1) > 0.5).float().mean()) < 0.6
    # Two in three of the pairs that are mixed are of different images.
    of_two = (parts > 1e-6).sum(1) == 2
    assert 0.25 < float(of_two.float().mean()) < 0.42
    assert bool((parts[~of_two].amax(1) > 0.999).all())
    assert torch.histc(parts[of_two].sort(1).values[:, 1], 4, 0, 0.5).min() > 40


def test_the_loss_is_the_softened_divergence_of_classes() -> None:
    """By its literal formula; of anything else the squared error over the mean square, output by output."""
    torch.manual_seed(0)
    made, wanted = torch.randn(4, 10), torch.randn(4, 10)
    p, q = (values.div(3).softmax(1) for values in (wanted, made))
    assert float(imitation_loss(made, wanted, 3.0)) == pytest.approx(
        9 * float((p * (p / q).log()).sum(1).mean()), rel=1e-5
    )
    maps, large = torch.randn(4, 2, 5, 5), 1000 * torch.randn(4, 3)
    loss = imitation_loss({"map": maps + 0.1, "sums": large + 10}, {"map": maps, "sums": large}, 3.0)
    expected = 0.01 / maps.square().mean() + 100 / large.square().mean()
    assert float(loss) == pytest.approx(float(expected), rel=1e-4)


def test_two_bits_come_closer_on_images_unseen() -> None:
    """All layers at once, behind calibration alone, on test images; what is evaluated is still what is lowered."""
    graph, images = trained(), digits().calibration(256)[0]
    floats, unseen = graph.parameters, digits().test.read(range(500))[0]
    calibration, _ = calibrated(graph, Scheme.uniform(graph.layers, Precision(2, 2)), images)
    before = errors(calibration.eval(), unseen, floats)
    formats = {name: value.format for name, value in calibration.activations.items()}  # type: ignore[union-attr]
    settings = ReconstructionSettings(compensate=False, steps=0, network_steps=150)
    model = reconstruct(calibration, images, settings, reference=graph)
    assert errors(model, unseen, floats).mean() < 0.6 * before.mean()
    assert formats == {name: value.format for name, value in model.activations.items()}  # type: ignore[union-attr]
    integers = certified(model)
    with torch.no_grad():
        assert torch.equal(model.integers(unseen)["logits"].values.to(torch.int32), run(integers, unseen))


def test_by_default_it_follows_the_steps_of_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Four for each of theirs, also where they are taken back; none where there are none."""
    images = digits().calibration(64)[0]

    def figures(model: QuantizedModel, settings: ReconstructionSettings) -> dict[str, float]:
        found: dict[str, float] = {}

        def told(done: int, total: int, /, **got: float) -> None:
            found.update(got, done=done, total=total)

        reconstruct(model, images, settings, progress=told)
        assert found["done"] == found["total"]
        return found

    few = ReconstructionSettings(compensate=False, steps=6, batch_size=16)
    assert few.all_network_steps == 24
    found = figures(small_quantized("W2A4"), few)
    assert not found["taken_back"]
    assert found["network_unseen_error"] > 0
    monkeypatch.setattr(importlib.import_module("bitwright.reconstruction.reconstruct"), "FURTHER", math.inf)
    wild = replace(few, learning_rate=30.0, scale_rate=5.0)
    found = figures(small_quantized("W4A8"), wild)
    assert found["taken_back"]
    assert "network_unseen_error" in found
    assert "unseen_error" not in figures(small_quantized("W4A8"), ReconstructionSettings(steps=0))


def test_steps_that_images_unseen_do_not_like_are_taken_back() -> None:
    """To the bit, to what compensation alone makes of all images, those that judged among them; they are told of."""
    images, told = digits().calibration(64)[0], list[dict[str, float]]()
    settings = ReconstructionSettings(steps=0, batch_size=8, network_steps=3, network_rate=3.0)
    model = small_quantized("W4A4")
    reconstruct(model, images, settings, progress=lambda *_, **figures: told.append(figures))
    (look,) = (figures for figures in told if "network_unseen_error" in figures)
    assert look["network_unseen_error"] > 1
    assert look["network_taken_back"]
    alone = compensate_rounding(small_quantized("W4A4"), images).state_dict()
    assert all(torch.equal(value, alone[name]) for name, value in model.state_dict().items())


def test_steps_of_blocks_stay_where_those_of_the_network_do_not() -> None:
    """What is taken back is what these did: the network is then that of the blocks alone, from the images that they read."""
    images = digits().calibration(64)[0]
    settings = ReconstructionSettings(steps=40, batch_size=16, network_steps=3, network_rate=3.0)
    looks: dict[str, float] = {}
    model = small_quantized("W2A4")
    reconstruct(model, images, settings, progress=lambda *_, **figures: looks.update(figures))
    assert looks["network_taken_back"]
    assert not looks["taken_back"]
    alone = reconstruct(small_quantized("W2A4"), images, replace(settings, network_steps=0)).state_dict()
    assert all(torch.equal(value, alone[name]) for name, value in model.state_dict().items())


class Stop(Exception):
    """What ends a reconstruction in the middle."""


def kept(model: QuantizedModel) -> Tensor:
    """All of a model's tensors, in a row."""
    return torch.cat([value.flatten().double() for value in model.state_dict().values()])


@pytest.mark.parametrize("steps", [0, 4])
def test_it_goes_on_to_the_bit(tmp_path: Path, steps: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Interrupted among the steps of the network, with and without blocks before it; a damaged state is refused."""
    settings = ReconstructionSettings(steps=steps, batch_size=8, network_steps=12)
    images, looks = digits().calibration(64)[0], list[Change]()
    module = importlib.import_module("bitwright.reconstruction.reconstruct")
    judge = module._judge

    def judged_again(*given: object) -> Change:
        looks.append(judge(*given))
        return looks[-1]

    monkeypatch.setattr(module, "_judge", judged_again)
    monkeypatch.setattr(StateFile, "due", lambda _: True)  # however long it takes to write
    whole = kept(reconstruct(small_quantized("W2A4"), images, settings))
    judged = looks.copy()
    state = Checkpointing(tmp_path / "state", minutes=0.0)

    def stop(done: int, total: int, /, **figures: float) -> None:
        if done == total - 3:
            raise Stop

    with pytest.raises(Stop):
        reconstruct(small_quantized("W2A4"), images, settings, checkpoint=state, progress=stop)
    state, told = replace(state, resume=True), list[tuple[int, dict[str, float]]]()
    with pytest.raises(FileFormatError, match=r"belongs to another reconstruction: network_steps was 12, is 13\."):
        reconstruct(small_quantized("W2A4"), images, replace(settings, network_steps=13), checkpoint=state)
    looks.clear()
    model = small_quantized("W2A4")
    reconstruct(model, images, settings, checkpoint=state, progress=lambda done, _, **got: told.append((done, got)))
    assert torch.equal(kept(model), whole)
    assert looks == judged[-1:], "blocks are not judged twice"
    figures = [name for _, got in told for name in got if name.endswith("unseen_error")]
    assert figures == ["unseen_error"] * bool(steps) + ["network_unseen_error"]
    tensors, fields = read_tensors(state.path, FORMAT)
    (tmp_path / "state").write_bytes(
        serialize({name: value for name, value in tensors.items() if not name.endswith("way")}, FORMAT, fields)
    )
    with pytest.raises(FileFormatError, match="is damaged: its descent is of another network"):
        reconstruct(small_quantized("W2A4"), images, settings, checkpoint=state)


def test_what_diverges_ends_in_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    """With the rate that was too large."""
    monkeypatch.setattr(
        importlib.import_module("bitwright.reconstruction.network_descent"),
        "imitation_loss",
        lambda *_: torch.tensor(math.nan, requires_grad=True),
    )
    with pytest.raises(TrainingError, match=r"as a whole diverged \(loss nan\): use a smaller rate than 0\.015"):
        begun(small_quantized().eval()).step(0, digits().calibration(8)[0])
    with pytest.raises(TrainingError, match="expected a temperature above 0"):
        ReconstructionSettings(temperature=0.0)
