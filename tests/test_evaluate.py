"""An evaluation holds together: its figures are those of its parts, and each part says how it is known."""

from __future__ import annotations

import json
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from sca_deploy.evaluate import LABELS
from sca_deploy.hardware.chip import load_chip


@pytest.fixture(scope="module", params=["dense", "pruned"])
def evaluation(request: pytest.FixtureRequest, digits_run: Path) -> dict[str, Any]:
    document: dict[str, Any] = json.loads((digits_run / request.param / "evaluation.json").read_text())
    return document


def test_every_figure_has_a_label(evaluation: dict[str, Any]) -> None:
    assert evaluation["labels"] == LABELS
    assert set(evaluation["figures"]) == set(LABELS)


def test_messages_leave_every_layer_that_another_reads(evaluation: dict[str, Any]) -> None:
    """A chain of layers: every spike goes to one core of the next layer at least, and to all of them at most."""
    layers = evaluation["map"]["layers"]
    spikes = {layer["name"]: layer["spikes"] for layer in evaluation["counts"]["layers"]}
    edges = evaluation["traffic"]["edges"]
    assert [(edge["source"], edge["reader"]) for edge in edges] == [(a["name"], b["name"]) for a, b in pairwise(layers)]
    for edge, reader in zip(edges, layers[1:], strict=True):
        assert spikes[edge["source"]] <= edge["messages"] <= spikes[edge["source"]] * reader["cores"]
    total = sum(edge["messages"] for edge in edges)
    assert evaluation["figures"]["messages_per_sample"] == pytest.approx(total / evaluation["counts"]["samples"])


def test_the_busiest_core_does_its_share_of_its_layer_at_least(evaluation: dict[str, Any]) -> None:
    found = evaluation["busiest_core"]["synops"]
    assert evaluation["figures"]["synops_busiest_core_per_sample"] == found["per_sample"]
    samples = evaluation["counts"]["samples"]
    synops = {layer["name"]: layer["synops"] / samples for layer in evaluation["counts"]["layers"]}
    cores = {layer["name"]: layer["cores"] for layer in evaluation["map"]["layers"]}
    assert max(synops[name] / cores[name] for name in synops) <= found["per_sample"] <= synops[found["layer"]]


def test_the_time_of_a_step_is_at_least_that_of_the_busiest_core_for_synaptic_operations(
    evaluation: dict[str, Any],
) -> None:
    time = load_chip("loihi2").time
    steps = evaluation["counts"]["steps"]
    for end, nanoseconds in evaluation["figures"]["step_time_ns"].items():
        work = evaluation["busiest_core"]["synops"]["per_sample"] / steps * getattr(time["synaptic_operation"], end)
        assert nanoseconds >= work + getattr(time["barrier"], end)


def test_costs_on_loihi_2_are_called_estimated_and_inferred(evaluation: dict[str, Any]) -> None:
    for part in ("energy", "step_time"):
        assert (evaluation[part]["label"], evaluation[part]["evidence"]) == ("estimated", ["inferred"])
    assert evaluation["static_energy"]["evidence"] == ["inferred"]


def test_a_compacted_network_has_no_masked_channels(evaluation: dict[str, Any]) -> None:
    assert not [line for line in evaluation["warnings"] if "only zero weights" in line]
