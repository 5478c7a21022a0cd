"""spyx 1.0: a chain of layers, channels last, whose spikes come one step late.

spyx reads LIF as v = beta v + x - s threshold with beta = 1 - dt / tau, IF as the same with beta = 1, and s is 1
where the potential of the step before was above the threshold: every population fires one step after NIR's
equations say, and subtracts its threshold after the leak. R is ignored. It follows one edge out of every node,
so nothing can be summed, and it moves channels to the end before it flattens, so the matrix behind a Flatten is
written for (height, width, channels); that file is for spyx alone. `from_nir` must be given dt = 1, its default.

The difference reported includes the late spikes, not the order of leak and reset. spyx 1.0.0 ran chains of IF,
convolutions among them, with exactly the spikes of `Rewritten.executed`; nothing leaky was held against it.
"""

from __future__ import annotations

from dataclasses import replace
from functools import partial

import nir
import numpy as np

from sca_deploy.exporters.profiles.draft import Draft, changed
from sca_deploy.exporters.profiles.firing import remembering, reset_by_subtraction, tied
from sca_deploy.exporters.profiles.neurons import normalised, readouts_left_out, sharing
from sca_deploy.exporters.profiles.portable import ARRANGED, MAPPED, WRITTEN
from sca_deploy.exporters.profiles.profile import Profile
from sca_deploy.exporters.profiles.recurrence import unlooped
from sca_deploy.exporters.profiles.retime import retimed
from sca_deploy.exporters.profiles.scales import averages_as_sums, scales_folded
from sca_deploy.hardware.euler import SPIKING

DT = 1.0
"""Seconds; what spyx takes a step to be unless it is told."""


def a_chain(draft: Draft) -> Draft:
    """Refuses sums and branches, which spyx does not follow."""
    for name in draft.nodes:
        for end, others in (("reads", draft.sources(name)), ("feeds", draft.targets(name))):
            if len(others) > 1:
                draft = draft.refusing(f"'{name}' {end} {len(others)} nodes; spyx runs chains alone")
    return draft


def late(draft: Draft) -> Draft:
    """What spyx makes of a graph: a step of delay behind every population."""
    names = [name for name, node in draft.nodes.items() if isinstance(node, SPIKING)]
    leaky = [name for name in remembering(draft) if isinstance(draft.nodes[name], nir.LIF)]
    if names:
        draft = draft.losing(f"every population fires one step late ({len(names)} of them)")
    if leaky:
        draft = draft.losing(f"{len(leaky)} leaky populations subtract their threshold after the leak, not before it")
    for name in names:
        waiting = f"{name}.late"
        edges = [(waiting if source == name else source, target) for source, target in draft.edges]
        delay = nir.Delay(np.full(draft.shapes[name], draft.dynamics.dt))
        renamed = {old: waiting if new == name else new for old, new in draft.renamed.items()}
        draft = replace(draft.put(name, draft.nodes[name]).put(waiting, delay), renamed=renamed)
        draft = draft.wired([*edges, (name, waiting)])
    return draft


def on_time(draft: Draft) -> Draft:
    """Without the delays, which spyx adds of itself."""
    for name in [name for name, node in draft.nodes.items() if isinstance(node, nir.Delay)]:
        draft = draft.without(name)
    return draft


def channels_last(draft: Draft) -> Draft:
    """Matrices behind a Flatten with their columns in the order of (height, width, channels)."""
    nodes = dict(draft.nodes)
    for name, node in draft.nodes.items():
        before = draft.sources(name)
        if isinstance(node, nir.Affine) and isinstance(draft.nodes[before[0]], nir.Flatten):
            shape = draft.entering(before[0])
            if len(shape) == 3:
                columns = np.arange(int(np.prod(shape))).reshape(shape).transpose(1, 2, 0).ravel()
                nodes[name] = changed(node, weight=np.ascontiguousarray(node.weight[:, columns]))
    return replace(draft, nodes=nodes, metadata={**draft.metadata, "profile": "spyx"})


SPYX = Profile(
    name="spyx",
    summary="spyx, whose populations fire a step late and subtract the threshold",
    passes=(
        *ARRANGED,
        partial(reset_by_subtraction, multi_spike=False, clamp=None),
        partial(retimed, dt=DT),
        readouts_left_out,
        averages_as_sums,
        scales_folded,
        sharing,
        partial(normalised, resistance="steps"),
        unlooped,
        *MAPPED,
        a_chain,
        partial(tied, tie="gt"),
        *WRITTEN,
        late,
    ),
    kinds=("Input", "Conv2d", "SumPool2d", "Flatten", "Affine", "LIF", "IF", "Delay", "Output"),
    spelling=(on_time, channels_last),
)
