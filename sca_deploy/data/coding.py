"""How the values of a sample become input over time.

With a pixel x of 0 to M and T time steps:

    direct      the network is shown x at every step (Rueckauer et al. 2017)
    rate        s[t] = 1 with probability x / M, drawn independently for every step
    latency     s[t] = 1 at t = floor((1 - x / M) (T - 1) + 1/2) alone; never where x = 0
    events      the sample is a recording already: events[t], counted in T bins

So in latency coding the brightest pixel spikes at step 0 and the darkest that is not 0 at the last step or
near it; with T = 1 every pixel above 0 spikes at step 0.
"""

from __future__ import annotations

import torch

from sca_deploy.errors import ScaDeployError, UsageError, unknown_name

CODINGS = ("direct", "rate", "latency", "events")


def binary(coding: str) -> bool:
    """Whether input messages are plain spikes (`input_bits` 0) and not graded ones that carry a payload."""
    return coding in ("rate", "latency")


def check(coding: str, timed: bool) -> None:
    """Refuse a coding that the samples cannot be given.

    Args:
        coding: one of `CODINGS`.
        timed: whether the samples are recordings, one frame a time step.

    Raises:
        UsageError: if there is no such coding, or it is for images and the set holds recordings, or vice versa.
    """
    if coding not in CODINGS:
        raise unknown_name("coding", coding, CODINGS)
    if timed and coding != "events":
        raise UsageError(
            f"coding '{coding}' is for images, the data set holds recordings", 'set data.coding = "events"'
        )
    if not timed and coding == "events":
        raise UsageError(
            "coding 'events' is for recordings, the data set holds images",
            'set data.coding to "direct", "rate" or "latency"',
        )


def encode(
    x: torch.Tensor, coding: str, steps: int, pixel_max: int, generator: torch.Generator | None = None
) -> torch.Tensor:
    """The input of a batch.

    Args:
        x: uint8, (N, *shape), 0 to `pixel_max`; for "events" (N, T, *shape).
        coding: one of `CODINGS`.
        steps: T.
        pixel_max: M.
        generator: where "rate" draws from, on the device of x; torch's own if None.

    Returns:
        uint8: x itself for "direct" and "events", else spikes 0 and 1 of shape (N, T, *shape).

    Raises:
        UsageError: if there is no such coding, or fewer than one step.
        ScaDeployError: if x is not uint8, holds more than `pixel_max`, or is a recording of another number of steps.
    """
    if coding not in CODINGS:
        raise unknown_name("coding", coding, CODINGS)
    if steps < 1:
        raise UsageError(f"input is to last {steps} time steps, at least 1 is needed")
    if x.dtype != torch.uint8:
        raise ScaDeployError(f"input to be coded is {x.dtype}, it must be torch.uint8")
    if binary(coding) and x.numel() and int(x.max()) > pixel_max:
        raise ScaDeployError(f"input to be coded holds {int(x.max())}, its largest value is to be {pixel_max}")
    if coding == "rate":
        return _rate(x, steps, pixel_max, generator)
    if coding == "latency":
        return _latency(x, steps, pixel_max)
    if coding == "events" and (x.dim() < 2 or x.shape[1] != steps):
        raise ScaDeployError(f"recordings of shape {tuple(x.shape)} do not have {steps} time steps")
    return x


def _rate(x: torch.Tensor, steps: int, pixel_max: int, generator: torch.Generator | None) -> torch.Tensor:
    shape = (x.shape[0], steps, *x.shape[1:])
    # Uniform in [0, 1): a pixel of 0 never spikes, one of pixel_max always.
    drawn = torch.rand(shape, generator=generator, device=x.device)
    return (drawn < (x / pixel_max).unsqueeze(1)).to(torch.uint8)


def _latency(x: torch.Tensor, steps: int, pixel_max: int) -> torch.Tensor:
    # In integers, so that halves are rounded alike everywhere.
    when = (2 * (pixel_max - x.long()) * (steps - 1) + pixel_max) // (2 * pixel_max)
    spikes = x.new_zeros((x.shape[0], steps, *x.shape[1:]))
    return spikes.scatter_(1, when.unsqueeze(1), (x > 0).to(torch.uint8).unsqueeze(1))
