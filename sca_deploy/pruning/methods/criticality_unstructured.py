"""Unstructured pruning and regeneration by criticality (Chen, Liu, Liu and You, arXiv 2311.16141).

At every update the network is pruned by global magnitude on a cubic schedule; then exactly G of the masked
weights, those whose output channel was most critical in the current batch, come back with value 0.
"""

from __future__ import annotations

from sca_deploy.pruning.weights import WeightMethod


class CriticalityUnstructured(WeightMethod):
    """Magnitude pruning on a cubic schedule; a share of the kept regrows by criticality."""

    name = "criticality-unstructured"
    summary = "weights by magnitude, on a cubic schedule, regrown by criticality"
    own_signal = "criticality"
