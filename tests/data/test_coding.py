"""Input codings: what each makes of a pixel, and which sets it is for."""

from __future__ import annotations

from fractions import Fraction
from math import floor

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from sca_deploy.data.coding import CODINGS, binary, check, encode
from sca_deploy.errors import ScaDeployError, UsageError

ALL_PIXELS = torch.arange(256, dtype=torch.uint8).reshape(2, 1, 16, 8)


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_direct_and_events_pass_as_they_are() -> None:
    assert encode(ALL_PIXELS, "direct", 4, 255) is ALL_PIXELS
    recordings = torch.zeros(3, 5, 2, 4, 4, dtype=torch.uint8)
    assert encode(recordings, "events", 5, 255) is recordings


@given(pixel_max=st.integers(1, 255), steps=st.integers(1, 40), data=st.data())
def test_latency_is_one_spike_at_the_step_of_the_equation(pixel_max: int, steps: int, data: st.DataObject) -> None:
    pixels = data.draw(st.lists(st.integers(0, pixel_max), min_size=1, max_size=12))
    spikes = encode(torch.tensor([pixels], dtype=torch.uint8), "latency", steps, pixel_max)
    expected = torch.zeros(1, steps, len(pixels), dtype=torch.uint8)
    for i, x in enumerate(pixels):
        if x > 0:
            expected[0, floor((1 - Fraction(x, pixel_max)) * (steps - 1) + Fraction(1, 2)), i] = 1
    assert spikes.dtype == torch.uint8
    assert torch.equal(spikes, expected)


def test_in_latency_coding_brighter_pixels_never_come_later() -> None:
    spikes = encode(ALL_PIXELS[None].flatten(1), "latency", 8, 255)
    when = spikes[0, :, 1:].to(torch.uint8).argmax(0)
    assert when[-1] == 0
    assert when[0] == 7
    assert (when.diff() <= 0).all()


def test_one_step_of_latency_is_whether_a_pixel_is_lit() -> None:
    assert torch.equal(encode(ALL_PIXELS, "latency", 1, 255)[:, 0], (ALL_PIXELS > 0).to(torch.uint8))


def test_rates_are_the_pixels_fractions_of_the_maximum() -> None:
    pixels = torch.arange(17, dtype=torch.uint8)[None]
    steps = 20_000
    spikes = encode(pixels, "rate", steps, 16, seeded(0))
    assert set(spikes.unique().tolist()) == {0, 1}
    p = torch.arange(17) / 16
    error = (spikes[0].float().mean(0) - p).abs()
    assert (error <= 4.5 * (p * (1 - p) / steps).sqrt()).all()  # 0 and 16 exactly, the rest within 4.5 sigma


def test_rate_draws_every_step_and_sample_on_its_own() -> None:
    spikes = encode(torch.full((2, 1000), 128, dtype=torch.uint8), "rate", 2, 255, seeded(1)).bool().flatten(0, 1)
    for i in range(4):
        for j in range(i):
            agree = (spikes[i] == spikes[j]).float().mean().item()
            assert agree == pytest.approx(0.5, abs=0.08), (i, j)


def test_rate_follows_its_generator_and_leaves_torchs_alone() -> None:
    before = torch.get_rng_state()
    first, again, other = (encode(ALL_PIXELS, "rate", 3, 255, seeded(s)) for s in (7, 7, 8))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert torch.equal(torch.get_rng_state(), before)
    assert first.shape == (2, 3, 1, 16, 8)


def test_only_rate_and_latency_are_plain_spikes() -> None:
    assert {coding for coding in CODINGS if binary(coding)} == {"rate", "latency"}


@pytest.mark.parametrize("coding", ["rate", "latency"])
def test_what_is_called_binary_holds_nothing_but_0_and_1(coding: str) -> None:
    assert int(encode(ALL_PIXELS, coding, 5, 255, seeded(0)).max()) == 1


@pytest.mark.parametrize("timed", [True, False])
@pytest.mark.parametrize("coding", CODINGS)
def test_recordings_take_events_and_images_the_rest(coding: str, timed: bool) -> None:
    if timed == (coding == "events"):
        check(coding, timed)
    else:
        with pytest.raises(UsageError, match=f"coding '{coding}' is for") as error:
            check(coding, timed)
        assert error.value.fix.startswith("set data.coding")


def test_an_unknown_coding_is_answered_with_the_nearest() -> None:
    with pytest.raises(UsageError, match="unknown coding 'latenci'") as error:
        check("latenci", timed=False)
    assert "did you mean 'latency'?" in error.value.fix
    with pytest.raises(UsageError, match="unknown coding 'latenci'"):
        encode(ALL_PIXELS, "latenci", 4, 255)


@pytest.mark.parametrize(
    ("x", "coding", "steps", "message"),
    [
        (ALL_PIXELS, "rate", 0, "0 time steps, at least 1"),
        (ALL_PIXELS.float(), "rate", 4, "is torch.float32, it must be torch.uint8"),
        (ALL_PIXELS, "latency", 4, "holds 255, its largest value is to be 16"),
        (ALL_PIXELS, "rate", 4, "holds 255, its largest value is to be 16"),
        (torch.zeros(3, 5, 2, dtype=torch.uint8), "events", 4, r"shape \(3, 5, 2\) do not have 4 time steps"),
    ],
)
def test_input_that_cannot_be_coded_is_refused(x: torch.Tensor, coding: str, steps: int, message: str) -> None:
    with pytest.raises(ScaDeployError, match=message):
        encode(x, coding, steps, 16)
