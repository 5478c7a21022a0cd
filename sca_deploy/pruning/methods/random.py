"""Random channels: the control of every ranking."""

from __future__ import annotations

from sca_deploy.pruning.channels import ChannelMethod


class Random(ChannelMethod):
    """Masks channels of a ranking drawn once by the seed, on the schedule of SCA, without regrowth."""

    name = "random"
    summary = "random channels, on the schedule of SCA"
    options = frozenset()
    own_score = "random"
    own_signal = "none"
