"""How the samples of a data set become a network's input over time."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch

from sca_deploy.config import AugmentConfig, Config
from sca_deploy.data import Dataset
from sca_deploy.data.augment import augment
from sca_deploy.data.coding import binary, check, encode

BLOCK = 500
"""Test samples encoded with one seed; a sample's spikes do not depend on how many others are asked for."""

Array = npt.NDArray[np.uint8]


@dataclass(frozen=True)
class Inputs:
    """The coding of a config for its data set.

    Args:
        coding: one of `data.coding.CODINGS`.
        steps: time steps T.
        pixel_max: the largest value of the data set.
        timed: whether the data set holds recordings, (samples, T, ...).
        augmentation: what is done to training samples.

    Raises:
        UsageError: if the coding does not suit the data set.
    """

    coding: str
    steps: int
    pixel_max: int
    timed: bool
    augmentation: AugmentConfig

    def __post_init__(self) -> None:
        check(self.coding, self.timed)

    @property
    def bits(self) -> int:
        """Payload bits of an input message; 0 for binary spikes."""
        return 0 if binary(self.coding) else self.pixel_max.bit_length()

    @property
    def scale(self) -> float:
        """What an input value is multiplied by before the first layer."""
        return 1.0 if binary(self.coding) or self.timed else 1.0 / self.pixel_max

    def training(self, x: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
        """A training batch, augmented and encoded: (N, *shape), or (N, T, *shape) where it changes over time."""
        if self.augmentation != AugmentConfig():
            x = augment(x, self.augmentation, generator)
        return encode(x, self.coding, self.steps, self.pixel_max, generator)

    def fixed(self, x: Array) -> Array:
        """Samples encoded the same way every time, as `training` but not augmented."""
        if self.coding != "rate":
            return encode(torch.from_numpy(x), self.coding, self.steps, self.pixel_max, None).numpy()
        blocks = [torch.from_numpy(x[start : start + BLOCK]) for start in range(0, len(x), BLOCK)]
        generators = [torch.Generator().manual_seed(number) for number in range(len(blocks))]
        pairs = zip(blocks, generators, strict=True)
        return np.concatenate([encode(b, self.coding, self.steps, self.pixel_max, g).numpy() for b, g in pairs])

    def over_time(self, x: Array) -> Array:
        """`fixed` samples as (N, T, *shape), which the simulated chip takes; frames are repeated without a copy."""
        encoded = self.fixed(x)
        if self.coding != "direct":
            return encoded
        return np.broadcast_to(encoded[:, None], (len(encoded), self.steps, *encoded.shape[1:]))


def inputs_of(config: Config, dataset: Dataset) -> Inputs:
    """The config's coding of its data set.

    Raises:
        UsageError: if it does not suit the set.
    """
    data = config.data
    return Inputs(data.coding, config.network.steps, dataset.pixel_max, dataset.timed, data.augment)
