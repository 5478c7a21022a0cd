"""What happens at the threshold: ties, resets, several spikes a step, a lower clamp."""

from __future__ import annotations

from dataclasses import replace

import nir
import numpy as np

from sca_deploy.exporters.profiles.draft import Draft, changed, double
from sca_deploy.hardware.euler import SPIKING

MEMORYLESS = 1e-5
"""A LIF whose tau is longer than a step by less than this part keeps nothing from step to step."""


def remembering(draft: Draft) -> list[str]:
    """The populations to which their reset matters: those that keep something from one step to the next."""
    found = []
    for name, node in draft.nodes.items():
        if isinstance(node, SPIKING):
            tau = getattr(node, "tau", getattr(node, "tau_mem", np.inf))
            if np.max(tau) > draft.dynamics.dt * (1 + MEMORYLESS):
                found.append(name)
    return found


def tied(draft: Draft, tie: str) -> Draft:
    """For readers that decide ties so: thresholds move by one float32 step where they decide them otherwise.

    No float32 potential fires where it did not.
    """
    if draft.dynamics.tie == tie:
        return draft
    towards = np.float32(-np.inf if tie == "gt" else np.inf)
    nodes = dict(draft.nodes)
    for name, node in draft.nodes.items():
        if isinstance(node, SPIKING):
            theta = double(np.nextafter(np.float32(node.v_threshold), towards))
            nodes[name] = changed(node, v_threshold=theta)
    return replace(draft, nodes=nodes, dynamics=replace(draft.dynamics, tie=tie))


def reset_hard(draft: Draft) -> Draft:
    """One spike a step, a hard reset and no clamp, which is all that NIR's equations know."""
    dynamics, names = draft.dynamics, remembering(draft)
    losses = []
    if dynamics.reset == "subtract" and names:
        losses.append(f"{_all(names)} reset to 0 instead of subtracting the threshold")
    spiking = [name for name, node in draft.nodes.items() if isinstance(node, SPIKING)]
    if dynamics.multi_spike and spiking:
        losses.append(f"{_all(spiking)} fire at most once a step")
    clamped = [name for name in names if dynamics.clamp != "threshold" or isinstance(draft.nodes[name], nir.IF)]
    if dynamics.clamp is not None and clamped:
        losses.append(f"the potentials of {_all(clamped)} are not clamped from below")
    nodes = dict(draft.nodes)
    if dynamics.reset == "subtract":
        for name in spiking:
            nodes[name] = changed(draft.nodes[name], v_reset=np.zeros(np.shape(draft.nodes[name].v_threshold)))
    plain = replace(dynamics, reset="hard", multi_spike=False, clamp=None)
    return replace(draft, nodes=nodes, dynamics=plain).losing(*losses)


def reset_by_subtraction(draft: Draft, multi_spike: bool, clamp: str | None) -> Draft:
    """What readers that subtract the threshold make of it.

    Args:
        multi_spike: whether they fire as many times as the threshold fits.
        clamp: "threshold" where they keep IF neurons above the negative threshold.
    """
    dynamics, names = draft.dynamics, remembering(draft)
    spiking = [name for name, node in draft.nodes.items() if isinstance(node, SPIKING)]
    losses = []
    if dynamics.reset == "hard" and names:
        losses.append(f"{_all(names)} subtract the threshold instead of resetting")
    if dynamics.multi_spike != multi_spike and spiking:
        often = "as often as the threshold fits" if multi_spike else "at most once"
        losses.append(f"{_all(spiking)} fire {often} in a step")
    if dynamics.clamp != clamp:
        ifs = [name for name in names if isinstance(draft.nodes[name], nir.IF)]
        if clamp is not None and ifs:
            losses.append(f"the potentials of {_all(ifs)} are clamped at the negative threshold")
        others = [name for name in names if dynamics.clamp != "threshold" and name not in (ifs if clamp else [])]
        if dynamics.clamp is not None and (others or (clamp is None and ifs)):
            losses.append(f"the potentials of {_all(others or ifs)} are not clamped from below")
    nodes = dict(draft.nodes)
    for name in spiking:
        nodes[name] = changed(draft.nodes[name], v_reset=np.zeros(np.shape(draft.nodes[name].v_threshold)))
    new = replace(dynamics, reset="subtract", multi_spike=multi_spike, clamp=clamp)
    return replace(draft, nodes=nodes, dynamics=new).losing(*losses)


def _all(names: list[str]) -> str:
    """'a', 'b' and 3 more"""
    shown = ", ".join(f"'{name}'" for name in names[:2])
    return f"{shown} and {len(names) - 2} more" if len(names) > 2 else shown
