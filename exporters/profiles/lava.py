"""lava-dl, as the converter of the NIR paper's experiments builds its blocks: CubaLIF and IF, no biases.

That converter takes CubaLIF with R = tau_mem / dt, dt = 1e-4, and IF with R = 1, whose threshold it multiplies by R; a
LIF it does not take, so one is written as a CubaLIF whose current lasts a step. lava-dl rounds decays to
1 / 4096 and its synapses have no bias; both are losses here. Nothing of it was run with this profile: the converter
is a script, not a package. For the chip's own integers, export to the targets `lava` or `loihi2`.
"""

from __future__ import annotations

from dataclasses import replace
from functools import partial

import nir
import numpy as np

from sca_deploy.exporters.profiles.draft import Draft, FloatArray, changed
from sca_deploy.exporters.profiles.firing import reset_hard, tied
from sca_deploy.exporters.profiles.neurons import (
    constant_currents,
    normalised,
    readouts_left_out,
    sharing,
    shifted,
    thresholds_as_neurons,
)
from sca_deploy.exporters.profiles.portable import ARRANGED, MAPPED, WRITTEN
from sca_deploy.exporters.profiles.profile import Profile
from sca_deploy.exporters.profiles.recurrence import unlooped
from sca_deploy.exporters.profiles.retime import retimed
from sca_deploy.exporters.profiles.scales import averages_as_sums, scales_folded

DT = 1e-4
DECAYS = 4096
"""lava-dl keeps decays in 12 bits."""


def with_currents(draft: Draft) -> Draft:
    """Every LIF a CubaLIF whose current lasts one step, which is the same step."""
    nodes = dict(draft.nodes)
    for name, node in draft.nodes.items():
        if isinstance(node, nir.LIF):
            step, one = np.full(node.tau.shape, draft.dynamics.dt), np.ones(node.tau.shape)
            nodes[name] = nir.CubaLIF(
                step, node.tau, node.r, node.v_leak, node.v_threshold, node.v_reset, w_in=one * node.tau / node.tau
            )
    return replace(draft, nodes=nodes)


def rounded(draft: Draft) -> Draft:
    """Decays as lava-dl keeps them."""
    for name, node in draft.nodes.items():
        if not isinstance(node, nir.CubaLIF):
            continue
        dt, values = draft.dynamics.dt, dict[str, FloatArray]()
        for tau, gain in (("tau_syn", "w_in"), ("tau_mem", "r")):
            decay = dt / getattr(node, tau)
            kept = np.maximum(np.rint(decay * DECAYS), 1.0) / DECAYS
            if np.abs(kept - decay).max() > 1e-6:
                draft = draft.losing(f"the decay of '{name}' ({tau}) is {kept.flat[0]:g}, not {decay.flat[0]:g}")
                values |= {tau: dt / kept, gain: 1.0 / kept}
        draft = draft.put(name, changed(node, **values))
    return draft


def without_biases(draft: Draft) -> Draft:
    """Synapses of lava-dl have no bias."""
    for name, node in draft.nodes.items():
        if isinstance(node, nir.Affine | nir.Conv2d) and np.any(node.bias):
            draft = draft.put(name, changed(node, bias=np.zeros(len(node.bias))))
            draft = draft.losing(f"the bias of '{name}' is left out")
    return draft


def thresholds_as_they_are(draft: Draft) -> Draft:
    """R = 1 in IF, because their threshold is multiplied by it."""
    nodes = {
        name: changed(node, r=np.ones_like(node.r)) if isinstance(node, nir.IF) else node
        for name, node in draft.nodes.items()
    }
    return replace(draft, nodes=nodes, metadata={**draft.metadata, "profile": "lava"})


LAVA = Profile(
    name="lava",
    summary="lava-dl through the converter of the NIR paper's experiments",
    passes=(
        *ARRANGED,
        reset_hard,
        thresholds_as_neurons,
        partial(retimed, dt=DT),
        readouts_left_out,
        averages_as_sums,
        scales_folded,
        shifted,
        sharing,
        constant_currents,
        partial(normalised, resistance="steps"),
        with_currents,
        unlooped,
        *MAPPED,
        without_biases,
        rounded,
        partial(tied, tie="gt"),
        *WRITTEN,
    ),
    kinds=("Input", "Conv2d", "SumPool2d", "Flatten", "Affine", "CubaLIF", "IF", "Output"),
    spelling=(thresholds_as_they_are,),
)
