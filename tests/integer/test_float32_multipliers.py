# SPDX-License-Identifier: MIT
"""Float32 multipliers in place of 31-bit ones give the same integers: every accumulator is tried."""

from __future__ import annotations

import numpy as np
import pytest

from bitwright.errors import LoweringError
from bitwright.integer import IntegerModel, Multipliers, QuantParams, requantize
from bitwright.integer.multipliers import dyadic, float32_exact, hawq_dyadic, requantize_float32
from bitwright.integer.ops import IntegerRequantize, ReciprocalQuantize, Rescale
from bitwright.integer.outputs import single_output
from bitwright.integer.proof.certificate import float32_agrees
from bitwright.integer.proof.float32_multipliers import float32_multipliers, with_float32_multipliers
from bitwright.scheme import Scheme


@pytest.mark.parametrize(("low", "high", "ratio"), [(0, 15, 3e-3), (0, 127, 2e-2), (-128, 127, 1.5e-2), (-8, 7, 0.4)])
def test_every_accumulator_gives_the_same(low: int, high: int, ratio: float) -> None:
    """What is found is a float32 number, and agrees with the 31-bit formula on all accumulators, not at the steps only."""
    generator = np.random.default_rng(0)
    wide = hawq_dyadic(ratio * generator.uniform(0.5, 2.0, 200))
    reach = int(1.5 * max(-low, high) / ratio)
    accumulators = np.arange(-reach, reach + 1)
    found = 0
    for channel in range(len(wide)):
        one = Multipliers(wide.multiplier[channel : channel + 1], wide.shift[channel : channel + 1])
        narrowed = float32_multipliers(Rescale(one, low, high), np.array([-reach]), np.array([reach]))
        if narrowed is None:
            continue
        found += 1
        assert float32_exact(narrowed.multiplier, narrowed.shift).all()
        expected = requantize(accumulators, one, low, high)
        assert np.array_equal(requantize_float32(accumulators, narrowed, low, high), expected)
        assert np.array_equal(requantize(accumulators, narrowed, low, high), expected)
    assert found >= 190


def test_one_channel_without_keeps_all() -> None:
    """With many large steps, float32 misses some; bounds that end before them help."""
    wide = hawq_dyadic([1e-2, 127 / 2**23])
    everything = np.array([-(2**31)]), np.array([2**31 - 1])
    assert float32_multipliers(Rescale(wide, 0, 127), *everything) is None
    few = np.array([-100, -100]), np.array([10_000, 100])
    narrowed = float32_multipliers(Rescale(wide, 0, 127), *few)
    assert narrowed is not None
    accumulators = np.stack([np.arange(-100, 101)] * 2)
    expected = requantize(accumulators, wide, 0, 127, channel_axis=0)
    assert np.array_equal(requantize_float32(accumulators, narrowed, 0, 127, channel_axis=0), expected)


def test_nearest_is_not_enough() -> None:
    """Some channels need another float32 number than the nearest: rounding alone would change their integers."""
    wide = hawq_dyadic(np.random.default_rng(1).uniform(2e-3, 4e-3, 400))
    reach = np.array([-(2**31)]), np.array([2**31 - 1])
    changed = 0
    for ratio, b, c in zip(wide.real(), wide.multiplier, wide.shift, strict=True):
        found = float32_multipliers(Rescale(Multipliers(b.reshape(1), c.reshape(1)), 0, 127), *reach)
        changed += found is not None and found != dyadic(ratio)
    assert changed > 0


def test_a_float32_number_is_no_proof() -> None:
    """A 31-bit multiplier that happens to be a float32 number is replaced where float32 gives other integers with it."""
    generator = np.random.default_rng(2)
    reach, replaced, refused = 2**24, 0, 0
    for b in (generator.integers(2**23, 2**24, 40) << 7).tolist():
        rescale = Rescale(Multipliers(np.array([b]), np.array([40])), 0, 127)
        shape, wide = (1, 1, 1), QuantParams.symmetric(32, 1.0)
        ops = (
            ReciprocalQuantize(name="x", inputs=(), shape=shape, scale=1.0, low=-128, high=127),
            IntegerRequantize(
                name="wide",
                inputs=("x",),
                shape=shape,
                rescale=Rescale(Multipliers(np.array([reach]), np.zeros(1, int)), -reach, reach),
            ),
            IntegerRequantize(name="y", inputs=("wide",), shape=shape, rescale=rescale),
        )
        formats = {"x": QuantParams.symmetric(8, 1.0), "wide": wide, "y": QuantParams.unsigned(7, 1.0)}
        model = IntegerModel("published", Scheme("none", {}), ops, formats, single_output("y"))
        try:
            found = with_float32_multipliers(model).ops[-1].rescale.multipliers  # type: ignore[attr-defined]
        except LoweringError:  # no float32 number near by has the same staircase
            refused += 1
            continue
        assert float32_agrees(found, -reach, reach, 0, 127).all()
        replaced += found != rescale.multipliers
    assert replaced >= 5
    assert refused <= 3
