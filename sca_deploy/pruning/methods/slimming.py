"""Network slimming: channels by |gamma| after training under an L1 penalty on gamma (Liu et al., ICCV 2017)."""

from __future__ import annotations

from sca_deploy.pruning.channels import OneShot


class Slimming(OneShot):
    """Ranks by |gamma|, prunes once, fine-tunes. Give the penalty as prune.l1_gamma."""

    name = "slimming"
    summary = "channels by |gamma| after training under L1, pruned once, fine-tuned"
    options = frozenset({"score"})
    own_signal = "none"
