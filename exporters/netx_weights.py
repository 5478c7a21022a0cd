"""What netx and Lava's Dense do to fully connected weights before they sum them.

netx shifts a matrix up by as many bits as the chip's 8 allow. Lava clips it, drops the low bits that netx
says are empty, and shifts the sums down again. For most matrices that computes with the numbers in the file;
this module says for which it does not. The weights of convolutions are left as they are.

Everywhere `parts` is one (out, in) matrix, or the two of a recurrent layer, which netx shifts together.
"""

from __future__ import annotations

import numpy as np

from sca_deploy.hardware.program import WEIGHT_MAX, WEIGHT_MIN, IntArray

MAGNITUDE_MAX = 255
"""A matrix of one sign has 8 bits of magnitude in Lava."""


def survives_netx(*parts: IntArray) -> bool:
    """Whether Lava's sums are those of exactly these even integers of -256 to 254.

    With no positive weight the magnitudes are clipped to 255 after they were shifted up, which a power of two
    reaches as 256: -256, -128, ... are lost. An all-zero matrix has no largest weight and raises OverflowError.
    """
    if not any(part.any() for part in parts):
        return False
    shift, dropped = shift_up(*parts), _dropped_bits(parts)
    return all(np.array_equal(_kept(part << shift, dropped), part << shift) for part in parts)


def clipped_by_netx(*parts: IntArray) -> tuple[IntArray, ...]:
    """The weights after netx brought those of both signs into -256 to 254, which it does with a warning."""
    low, high = _range(parts)
    if (high > WEIGHT_MAX and low < 0) or (low < WEIGHT_MIN and high > 0):
        return tuple(np.clip(part, WEIGHT_MIN, WEIGHT_MAX) for part in parts)
    return parts


def shift_up(*parts: IntArray) -> int:
    """Bits that netx shifts weights of -256 to 254, not all zero, up by before Lava shifts the sums down again.

    The largest s for which all 2^s w are within -256 to 254, or 0 to 255 where no weight is negative.
    """
    low, high = _range(parts)
    room = [(WEIGHT_MAX if low < 0 else MAGNITUDE_MAX) // high] if high > 0 else []
    room += [WEIGHT_MIN // low] if low < 0 else []
    return min(room).bit_length() - 1


def _dropped_bits(parts: tuple[IntArray, ...]) -> int:
    """The low bits that Lava drops of a shifted matrix of one sign; one more of a matrix of both signs."""
    low, high = _range(parts)
    used = int(np.bitwise_or.reduce(np.concatenate([np.abs(part).ravel() for part in parts])))
    empty = min(8, (used & -used).bit_length() - 1)
    # To netx weights have a sign unless all are negative or none is; Lava asks whether both signs occur.
    return shift_up(*parts) + empty - int(low < 0 <= high)


def _kept(weight: IntArray, dropped: int) -> IntArray:
    """What Lava's Dense keeps of a shifted matrix."""
    low, high = _range((weight,))
    if low < 0 < high:
        return weight.clip(WEIGHT_MIN, MAGNITUDE_MAX) >> (dropped + 1) << (dropped + 1)
    magnitude = np.abs(weight).clip(max=MAGNITUDE_MAX) >> dropped << dropped
    return magnitude if low >= 0 else -magnitude


def _range(parts: tuple[IntArray, ...]) -> tuple[int, int]:
    return min(int(part.min()) for part in parts), max(int(part.max()) for part in parts)
