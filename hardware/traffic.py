"""Spikes -> messages between cores, and the hops they make on the mesh.

A spike leaves its core once for every core that holds synapses it reaches; a core is told once a layer and
not once a synapse. `placement.routes` knows which cores and how far; here its routes are multiplied with the spikes
that were counted. A message to a core of the same tile makes no hop; one to another chip is counted as such, and
makes its hops on the way.

Spikes that the host sends in, and those it reads out, are not routed: where they enter is not known.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from sca_deploy.errors import ScaDeployError
from sca_deploy.hardware.counts import Counts, Int64
from sca_deploy.hardware.placement import Route


@dataclass(frozen=True)
class Messages:
    """Messages between cores, the hops they made and how many left their chip."""

    messages: int = 0
    hops_east_west: int = 0
    hops_north_south: int = 0
    off_chip: int = 0

    def __add__(self, other: Messages) -> Messages:
        return Messages(**{key: value + getattr(other, key) for key, value in asdict(self).items()})

    @property
    def hops(self) -> int:
        """Hops in any direction."""
        return self.hops_east_west + self.hops_north_south


@dataclass(frozen=True, eq=False)
class Traffic:
    """The messages of a run.

    Args:
        samples: of the run.
        edges: (source, reader) -> its messages, summed over the run.
        fanout: layer -> messages that a spike of each of its places becomes, int64 (places,).
    """

    samples: int
    edges: Mapping[tuple[str, str], Messages]
    fanout: Mapping[str, Int64]

    @property
    def total(self) -> Messages:
        """The sum over the edges."""
        return sum(self.edges.values(), Messages())

    @property
    def per_sample(self) -> dict[str, float]:
        """The total divided by the samples, hops in any direction too."""
        whole = {**asdict(self.total), "hops": self.total.hops}
        return {key: value / self.samples for key, value in whole.items()}

    def as_dict(self) -> dict[str, Any]:
        """Plain data; edges and "total" are sums over the run, "per_sample" is the total over the samples."""
        edges = [{"source": s, "reader": r, **asdict(messages)} for (s, r), messages in self.edges.items()]
        return {"edges": edges, "total": asdict(self.total), "per_sample": self.per_sample}


def route(counts: Counts, routes: Mapping[tuple[str, str], Route]) -> Traffic:
    """Send the counted spikes along the routes of their layers.

    Raises:
        ScaDeployError: if a route leaves from a layer that was not counted, or has other places than it.
    """
    spikes = {layer.name: layer.spikes_by_place for layer in counts.layers}
    edges: dict[tuple[str, str], Messages] = {}
    fanout = {name: np.zeros_like(by_place) for name, by_place in spikes.items()}
    for (source, reader), path in routes.items():
        if source not in spikes or spikes[source].shape != path.fanout.shape:
            places = spikes[source].shape if source in spikes else "no counts"
            raise ScaDeployError(f"the route from '{source}' has places {path.fanout.shape}, its spikes {places}")
        fanout[source] += path.fanout
        edges[source, reader] = Messages(
            messages=int(spikes[source] @ path.fanout),
            hops_east_west=int(spikes[source] @ path.hops_x),
            hops_north_south=int(spikes[source] @ path.hops_y),
            off_chip=int(spikes[source] @ path.off_chip),
        )
    return Traffic(counts.samples, edges, fanout)
