"""What Lava's convolution cannot hold, and the equal convolution that it can.

`lava.proc.conv` keeps kernel size, stride, padding, dilation and groups in signed 8 bits.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from sca_deploy.errors import UsageError
from sca_deploy.hardware.program import Conv

GEOMETRY_MAX = 127


def fitted(conv: Conv, owner: str) -> Conv:
    """The convolution as Lava holds it: more groups than fit become fewer, with zeros between neighbours.

    Args:
        conv: any convolution of a Program.
        owner: the name of its layer, for the error.

    Raises:
        UsageError: if the kernel, stride, padding or dilation is wider than 8 bits.
    """
    sizes = {"kernel": conv.weight.shape[2:]} | {
        what: getattr(conv, what) for what in ("stride", "padding", "dilation")
    }
    for what, size in sizes.items():
        if max(size) > GEOMETRY_MAX:
            raise UsageError(
                f"layer '{owner}': {what} {max(size)} exceeds {GEOMETRY_MAX}, the 8 bits Lava keeps it in",
                "export to a format without that limit, such as nir",
            )
    if conv.groups <= GEOMETRY_MAX:
        return conv
    return merged(conv, next(g for g in range(GEOMETRY_MAX, 0, -1) if conv.groups % g == 0))


def merged(conv: Conv, groups: int) -> Conv:
    """The same sums with fewer groups; `groups` divides those of `conv`."""
    out, inside, height, width = conv.weight.shape
    merge = conv.groups // groups
    wide = np.zeros((out, merge, inside, height, width), conv.weight.dtype)
    group_of = np.arange(out) // (out // conv.groups)
    wide[np.arange(out), group_of % merge] = conv.weight
    return replace(conv, weight=wide.reshape(out, merge * inside, height, width), groups=groups)
