"""Another time step: constants that keep every neuron's step as it was, and delays in it."""

from __future__ import annotations

from dataclasses import replace

import nir

from sca_deploy.exporters.profiles.draft import Draft, changed, double
from sca_deploy.hardware.float_nodes import delay_steps

TIMES = ("tau", "tau_mem", "tau_syn", "delay")


def retimed(draft: Draft, dt: float) -> Draft:
    """The same steps at another dt: dt / tau, and dt R of neurons without leak, stay what they were."""
    ratio = dt / draft.dynamics.dt
    if ratio == 1.0:
        return draft
    nodes = {}
    for name, node in draft.nodes.items():
        values = {key: double(getattr(node, key)) * ratio for key in TIMES if hasattr(node, key)}
        if isinstance(node, nir.IF | nir.I):
            values["r"] = double(node.r) / ratio
        nodes[name] = changed(node, **values) if values else node
    return replace(draft, nodes=nodes, dynamics=replace(draft.dynamics, dt=dt))


def undelayed(draft: Draft) -> Draft:
    """Without Delay nodes; those that wait for a step or more are a loss."""
    for name, node in draft.nodes.items():
        if isinstance(node, nir.Delay):
            late = int(delay_steps(name, node, draft.dynamics.dt).max(initial=0))
            draft = draft.without(name)
            if late:
                draft = draft.losing(f"the delay '{name}' of up to {late} steps is left out")
    return draft
