"""A spike is a message to every core of its route, and every message makes its hops."""

from __future__ import annotations

import json

import numpy as np
import pytest

from sca_deploy.errors import ScaDeployError
from sca_deploy.hardware.counts import Counts, LayerCounts, Tally
from sca_deploy.hardware.placement import Route
from sca_deploy.hardware.traffic import Messages, route

Message = tuple[int, int, bool]
"""Hops east-west, hops north-south, and whether it leaves the chip."""


def route_of(places: tuple[tuple[Message, ...], ...]) -> Route:
    """A route from the messages that a spike of each place becomes."""
    sums = ([sum(int(message[what]) for message in place) for place in places] for what in (0, 1, 2))
    return Route(*(np.array(each, np.int64) for each in ([len(place) for place in places], *sums)))


def counted(**spikes: list[int]) -> Counts:
    layers = tuple(
        LayerCounts(name, Tally(spikes=sum(sent)), np.zeros(len(sent), np.int64), np.array(sent, np.int64))
        for name, sent in spikes.items()
    )
    return Counts(samples=4, steps=10, input_messages=0, layers=layers)


NEAR, FAR, AWAY = (0, 0, False), (3, 1, False), (2, 0, True)
PATHS: dict[tuple[str, str], tuple[tuple[Message, ...], ...]] = {
    ("a", "b"): ((NEAR,), (NEAR, FAR), (FAR, AWAY, AWAY)),
    ("a", "c"): ((FAR,), (), (NEAR,)),
    ("b", "b"): ((NEAR,), (FAR,)),
}
ROUTES = {edge: route_of(places) for edge, places in PATHS.items()}
SPIKES = {"a": [5, 0, 7], "b": [2, 9], "c": [1]}


def test_every_spike_is_a_message_to_each_core_of_its_route() -> None:
    """Message by message, against the sums over places."""
    traffic = route(counted(**SPIKES), ROUTES)
    for (source, reader), places in PATHS.items():
        sent = [message for place, n in zip(places, SPIKES[source], strict=True) for message in place * n]
        x, y, off = (sum(int(message[what]) for message in sent) for what in (0, 1, 2))
        assert traffic.edges[source, reader] == Messages(len(sent), x, y, off)


def test_a_spike_becomes_messages_to_the_cores_of_all_readers() -> None:
    fanout = route(counted(**SPIKES), ROUTES).fanout
    assert fanout["a"].tolist() == [1 + 1, 2 + 0, 3 + 1]
    assert fanout["b"].tolist() == [1, 1]
    assert fanout["c"].tolist() == [0]  # the host reads it, over no known route


def test_values_per_sample_are_the_totals_over_the_samples() -> None:
    document = json.loads(json.dumps(route(counted(**SPIKES), ROUTES).as_dict()))
    assert document["total"]["messages"] == sum(edge["messages"] for edge in document["edges"]) == 5 + 21 + 12 + 11
    assert document["total"]["off_chip"] == 14
    assert document["per_sample"]["messages"] == 49 / 4
    hops = document["total"]["hops_east_west"] + document["total"]["hops_north_south"]
    assert document["per_sample"]["hops"] == hops / 4


def test_a_route_of_other_places_than_its_source_is_refused() -> None:
    with pytest.raises(ScaDeployError, match=r"route from 'a' has places \(3,\), its spikes \(2,\)"):
        route(counted(a=[1, 2]), {("a", "b"): ROUTES["a", "b"]})
    with pytest.raises(ScaDeployError, match=r"route from 'a' has places \(3,\), its spikes no counts"):
        route(counted(b=[1, 2]), {("a", "b"): ROUTES["a", "b"]})
