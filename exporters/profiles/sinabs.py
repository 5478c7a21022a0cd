"""sinabs 3.1: one step a frame, subtraction of the threshold, several spikes a step.

sinabs reads LIF as v = exp(-1 / tau) v + x and IF as v = v + x, ignoring R and dt; both fire as often as the
threshold fits and subtract it as often, and IF stays above -v_threshold. It needs nir <= 1.0.4, which refuses a
v_reset and infers no shapes in nested graphs; its leaky neurons are read in flat layers only. So dt is 1, tau
is given in steps as -1 / ln(beta), R is 1. Refused are a loop, which sinabs would run over all of time at once, and
branches of which neither is a way around the other, which it adds up wrongly.

sinabs 3.1.3 on nir 1.0.4 ran chains of IF and of LIF, and IF with a way around, with exactly these spikes.
"""

from __future__ import annotations

from dataclasses import replace
from functools import partial

import nir
import numpy as np

from sca_deploy.exporters.profiles.draft import Draft, changed, double
from sca_deploy.exporters.profiles.firing import reset_by_subtraction, tied
from sca_deploy.exporters.profiles.neurons import normalised, readouts_left_out, sharing
from sca_deploy.exporters.profiles.portable import ARRANGED, MAPPED, WRITTEN
from sca_deploy.exporters.profiles.profile import Profile
from sca_deploy.exporters.profiles.recurrence import unlooped
from sca_deploy.exporters.profiles.retime import retimed
from sca_deploy.exporters.profiles.rules import projections
from sca_deploy.exporters.profiles.scales import averages_as_sums, scales_folded

DT = 1.0
"""Seconds, by the equations of NIR; to sinabs a step."""
FORGETFUL = 0.01
"""Steps; exp(-1 / 0.01) is zero in single precision."""


def leaky_only_flat(draft: Draft) -> Draft:
    """Refuses leaky neurons in maps, which sinabs cannot read."""
    for name, node in draft.nodes.items():
        if isinstance(node, nir.LIF) and len(draft.shapes[name]) > 1:
            draft = draft.refusing(
                f"neurons '{name}' leak and have the shape {draft.shapes[name]}; sinabs reads leaky ones in flat layers"
            )
    return draft


def without_branches(draft: Draft) -> Draft:
    """Refuses sums of branches of which none is a way around the other; sinabs runs one before the other is there."""
    names = projections(draft.graph)
    return draft.refusing(*(f"'{name}' adds up branches, which sinabs does not wait for" for name in names))


def exponential(draft: Draft) -> Draft:
    """tau as sinabs takes it, in steps of exp(-1 / tau), and R = 1, which it ignores."""
    nodes = dict(draft.nodes)
    for name, node in draft.nodes.items():
        if isinstance(node, nir.LIF):
            beta = 1.0 - draft.dynamics.dt / double(node.tau)
            remembers = beta > np.exp(-1.0 / FORGETFUL)
            tau = np.where(remembers, -1.0 / np.log(np.where(remembers, beta, 0.5)), FORGETFUL)
            nodes[name] = changed(node, tau=tau.astype(np.float32), r=np.ones_like(node.r))
    return replace(draft, nodes=nodes)


def of_sinabs(draft: Draft) -> Draft:
    """A note of whose equations the file follows."""
    return replace(draft, metadata={**draft.metadata, "profile": "sinabs"})


SINABS = Profile(
    name="sinabs",
    summary="sinabs, whose neurons subtract the threshold and fire several spikes a step",
    passes=(
        *ARRANGED,
        partial(reset_by_subtraction, multi_spike=True, clamp="threshold"),
        partial(retimed, dt=DT),
        readouts_left_out,
        averages_as_sums,
        scales_folded,
        sharing,
        partial(normalised, resistance="steps"),
        unlooped,
        leaky_only_flat,
        *MAPPED,
        partial(tied, tie="ge"),
        *WRITTEN,
        without_branches,
    ),
    kinds=("Input", "Conv2d", "SumPool2d", "Flatten", "Affine", "LIF", "IF", "Output"),
    spelling=(exponential, of_sinabs),
)
