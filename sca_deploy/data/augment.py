"""Random changes of training images: rotation, padded crop, mirroring, cutout.

They are applied in this order. The first three only move pixels, so they are folded into one map that says
for every pixel where it comes from, and every image is read through its map once; cutout (DeVries and Taylor
2017, "Improved Regularization of Convolutional Neural Networks with Cutout") only blanks.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from sca_deploy.config import AugmentConfig
from sca_deploy.errors import UsageError


@dataclass(frozen=True)
class Change:
    """What happens to each of N images of H x W pixels; None where nothing of the kind does.

    Args:
        rotation: (N,) float64, degrees counter-clockwise about the centre of the image.
        crop: (2, N) int64, rows and columns by which the window lies off the image's own place.
        flip: (N,) bool, whether left and right are swapped.
        cutout: (2, N) int64, row and column of the square's centre.
        side: of that square, in pixels; it reaches from `centre - side // 2` on.
    """

    rotation: torch.Tensor | None = None
    crop: torch.Tensor | None = None
    flip: torch.Tensor | None = None
    cutout: torch.Tensor | None = None
    side: int = 0


def augment(x: torch.Tensor, config: AugmentConfig, generator: torch.Generator) -> torch.Tensor:
    """Change every sample at random, all its time steps alike.

    Args:
        x: uint8, (N, C, H, W) or (N, T, C, H, W), on any device.
        config: which changes, and how large.
        generator: of the CPU; every random number is drawn from it.

    Returns:
        Of the shape, type and device of `x`, which stays as it is.

    Raises:
        UsageError: if a change is asked for and `x` has no height and width.
    """
    if config == AugmentConfig():
        return x
    if x.ndim not in (4, 5):
        raise UsageError(
            f"data.augment needs images, but the samples are of shape {tuple(x.shape[1:])}",
            "leave data.augment out, or choose a data set of images",
        )
    n, (height, width) = len(x), x.shape[-2:]
    return apply(x, draw(config, n, height, width, generator))


def draw(config: AugmentConfig, n: int, height: int, width: int, generator: torch.Generator) -> Change:
    """The changes of `n` images: each uniform in its range, a mirroring for one image in two."""

    def integers(low: int, high: tuple[int, int]) -> torch.Tensor:
        return torch.stack([torch.randint(low, end, (n,), generator=generator) for end in high])

    rotation = crop = flip = cutout = None
    if config.rotation:
        rotation = (2 * torch.rand(n, generator=generator, dtype=torch.float64) - 1) * config.rotation
    if config.crop:
        crop = integers(-config.crop, (config.crop + 1, config.crop + 1))
    if config.flip:
        flip = torch.rand(n, generator=generator) < 0.5
    if config.cutout:
        cutout = integers(0, (height, width))
    return Change(rotation, crop, flip, cutout, config.cutout)


def apply(x: torch.Tensor, change: Change) -> torch.Tensor:
    """Images (N, ..., H, W) after a change; what comes from outside an image is 0."""
    n, (height, width) = len(x), x.shape[-2:]
    rows = torch.arange(height).view(1, -1, 1)
    columns = torch.arange(width).view(1, 1, -1)
    kept = torch.ones(1, 1, 1, dtype=torch.bool)
    if change.cutout is not None:
        kept = _outside_square(rows, columns, change.cutout, change.side)
    # From the result back to the image, so in the opposite order.
    if change.flip is not None:
        columns = torch.where(change.flip.view(-1, 1, 1), width - 1 - columns, columns)
    if change.crop is not None:
        down, right = change.crop.view(2, -1, 1, 1)
        rows, columns = rows + down, columns + right
        kept = kept & _inside(rows, height) & _inside(columns, width)
    if change.rotation is not None:
        rows, columns = _turned_back(rows, columns, change.rotation, height, width)
        kept = kept & _inside(rows, height) & _inside(columns, width)
    source = rows.clamp(0, height - 1) * width + columns.clamp(0, width - 1)
    flat = x.reshape(n, -1, height * width)
    index = source.expand(n, -1, -1).reshape(n, 1, -1).to(x.device)
    moved = flat.gather(2, index.expand_as(flat))
    mask = kept.expand(n, height, width).reshape(n, 1, -1).to(x.device)
    return (moved * mask).view(x.shape)


def _inside(places: torch.Tensor, size: int) -> torch.Tensor:
    return (places >= 0) & (places < size)


def _outside_square(rows: torch.Tensor, columns: torch.Tensor, centres: torch.Tensor, side: int) -> torch.Tensor:
    top, left = (centres - side // 2).view(2, -1, 1, 1)
    return ~(_inside(rows - top, side) & _inside(columns - left, side))


def _turned_back(
    rows: torch.Tensor, columns: torch.Tensor, degrees: torch.Tensor, height: int, width: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """Which pixel, rounded to the nearest, a rotation brings to each place; rows grow downwards."""
    angle = degrees.view(-1, 1, 1).deg2rad()
    centre_row, centre_column = (height - 1) / 2, (width - 1) / 2
    down, right = rows - centre_row, columns - centre_column
    source_rows = angle.cos() * down + angle.sin() * right + centre_row
    source_columns = angle.cos() * right - angle.sin() * down + centre_column
    return source_rows.round().long(), source_columns.round().long()
