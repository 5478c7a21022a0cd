"""Networks trained with lava-dl's slayer: what of them can be brought, and how.

`export_hdf5` of a slayer network writes a `.net` file with everything: shapes, strides, thresholds, decays, delays and
the integers that its quantised weights are (see `netx_reading`). A saved `state_dict` is not a network: it holds
weights, decays and delays, and neither thresholds nor strides nor the order of the layers, which are attributes of
the Python objects.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from sca_deploy.errors import UsageError

DECAYS = ("neuron.current_decay", "neuron.voltage_decay")
"""What the keys of a block with CUBA neurons end in."""


def refuse_state(state: Mapping[str, object], path: str | Path) -> None:
    """Refuse the `state_dict` of a slayer network; any other passes.

    Args:
        state: what a file of torch holds.
        path: of the file, for the message.

    Raises:
        UsageError: saying what is missing and which file to bring instead.
    """
    blocks = {str(key).rpartition("neuron.")[0] for key in state if str(key).endswith(DECAYS)}
    if blocks:
        raise UsageError(
            f"{path} is the state of a slayer network: weights and decays of {len(blocks)} layers without their "
            "thresholds, strides and order",
            "call the network's export_hdf5('network.net') in Python and bring that file",
        )
