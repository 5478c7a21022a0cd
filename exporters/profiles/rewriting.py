"""A graph from anywhere, brought into a profile."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import nir

from sca_deploy.errors import ScaDeployError, unknown_name
from sca_deploy.exporters.profiles.draft import Draft
from sca_deploy.exporters.profiles.lava import LAVA
from sca_deploy.exporters.profiles.portable import PORTABLE
from sca_deploy.exporters.profiles.profile import Profile
from sca_deploy.exporters.profiles.sinabs import SINABS
from sca_deploy.exporters.profiles.spikingjelly import SPIKINGJELLY
from sca_deploy.exporters.profiles.spyx import SPYX
from sca_deploy.hardware.dynamics import Dynamics
from sca_deploy.hardware.euler import SPIKING
from sca_deploy.hardware.flattening import flattened

PROFILES: Mapping[str, Profile] = {profile.name: profile for profile in (PORTABLE, SINABS, SPIKINGJELLY, SPYX, LAVA)}


@dataclass(frozen=True, eq=False)
class Rewritten:
    """A graph within a profile.

    Args:
        graph: what is to be written.
        dynamics: under which the readers run `executed`.
        losses: a sentence for each thing that is only the nearest; empty where the spikes are the same.
        renamed: where each spiking node of the given graph is in `executed`, by its name there, nested
            ones as `<graph>.<node>`.
        executed: what the readers make of `graph`, by NIR's own equations; the same graph but for profiles
            whose readers have equations of their own.
    """

    graph: nir.NIRGraph
    dynamics: Dynamics
    losses: tuple[str, ...]
    renamed: Mapping[str, str]
    executed: nir.NIRGraph


def rewritten(graph: nir.NIRGraph, dynamics: Dynamics, profile: str, allow_lossy: bool = False) -> Rewritten:
    """The graph in a profile's way of writing, exactly or, where that is allowed, as the nearest.

    Args:
        dynamics: what the graph's neurons do between the equations; dt in seconds.
        profile: one of `PROFILES`.

    Raises:
        UsageError: if there is no such profile.
        ScaDeployError: naming the first thing that cannot be carried, how many more there are, and whether
            the nearest could be written; or a graph that does not fit together.
    """
    if profile not in PROFILES:
        raise unknown_name("profile", profile, PROFILES)
    chosen = PROFILES[profile]
    draft = chosen.through(_begun(graph, dynamics))
    if draft.refusals:
        raise _outside(chosen, draft.refusals, "no nearest can be written either")
    if draft.losses and not allow_lossy:
        raise _outside(chosen, draft.losses, "--allow-lossy writes the nearest and measures how many spikes differ")
    if chosen.check is not None:
        chosen.check(draft.graph, draft.dynamics.dt)
    written = chosen.spelled(draft)
    return Rewritten(written.graph, draft.dynamics, draft.losses, draft.renamed, draft.graph)


def _begun(graph: nir.NIRGraph, dynamics: Dynamics) -> Draft:
    recorded = graph.metadata.get("dt", dynamics.dt)
    if recorded != dynamics.dt:
        raise ScaDeployError(
            f"the graph was built for dt = {recorded} s, the export asks for {dynamics.dt:g} s",
            f"give --dt {recorded}",
        )
    nodes, edges = flattened(graph)
    kept = {name: name for name, node in nodes.items() if isinstance(node, (*SPIKING, nir.Threshold))}
    told = {key: value for key, value in graph.metadata.items() if key not in dynamics.metadata()}
    return Draft(nodes, tuple(dict.fromkeys(edges)), dynamics, told, renamed=kept)


def _outside(profile: Profile, sentences: tuple[str, ...], fix: str) -> ScaDeployError:
    more = f" (and {len(sentences) - 1} more)" if len(sentences) > 1 else ""
    return ScaDeployError(f"outside the {profile.name} NIR profile: {sentences[0]}{more}", fix)
