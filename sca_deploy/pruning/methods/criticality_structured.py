"""Structured pruning and regeneration by criticality (Chen, Liu, Liu and You, arXiv 2311.16141).

Slimming, but the channels that the ranking by |gamma| only just left out get a second chance: of all
channels it pruned, those whose neurons are most critical over the whole training set come back.
"""

from __future__ import annotations

from sca_deploy.pruning.channels import OneShot


class CriticalityStructured(OneShot):
    """Ranks by |gamma|, regenerates a share of the kept by criticality, fine-tunes."""

    name = "criticality-structured"
    summary = "slimming whose pruned channels come back by criticality"
    own_signal = "criticality"
    signal_batches = None
