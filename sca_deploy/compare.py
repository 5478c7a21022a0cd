"""Dense against pruned, figure by figure."""

from __future__ import annotations

from typing import Any

from sca_deploy.errors import UsageError
from sca_deploy.evaluate import BANDS, LABELS

PRICED = {"energy_nj_per_sample": "energy", "static_energy_nj_per_sample": "static_energy", "step_time_ns": "step_time"}
"""Figures made with the chip file's prices, and the part of an evaluation that says how these are known."""


def compare(dense: dict[str, Any], pruned: dict[str, Any]) -> dict[str, Any]:
    """The contract document: both networks' figures and what is left of each, pruned / dense.

    Args:
        dense, pruned: what `evaluate` returned for each.

    Returns:
        {"dense", "pruned": figures, "ratio": of each figure or end of its band, None where dense has 0, "labels",
        "evidence": of the prices behind a figure, "warnings": lines about each network, "lower_bound": whether the
        cores of each are one}.

    Raises:
        UsageError: if they were not tested on the same number of samples and costed on the same chip, or one was
            evaluated before a figure was known.
    """
    a, b = dense["figures"], pruned["figures"]
    _check_comparable(dense, pruned)
    ratio: dict[str, Any] = {}
    for key in LABELS:
        if key == "test_samples":
            continue
        if isinstance(a[key], dict):
            ratio[key] = {band: _ratio(a[key][band], b[key][band]) for band in BANDS}
        else:
            ratio[key] = _ratio(a[key], b[key])
    return {
        "dense": a,
        "pruned": b,
        "ratio": ratio,
        "labels": LABELS,
        "evidence": {figure: pruned[part]["evidence"] for figure, part in PRICED.items()},
        "warnings": {"dense": dense["warnings"], "pruned": pruned["warnings"]},
        "lower_bound": {"dense": dense["map"]["lower_bound"], "pruned": pruned["map"]["lower_bound"]},
    }


def compare_floats(dense: dict[str, Any], pruned: dict[str, Any]) -> dict[str, Any]:
    """The document of `compare` for networks that are not lowered: what `float_figures` gives, and no prices."""
    keys = [key for key in LABELS if key in dense]
    ratio = {key: _ratio(dense[key], pruned[key]) for key in keys if key != "test_samples"}
    labels = {key: LABELS[key] for key in keys}
    return {
        "dense": dense,
        "pruned": pruned,
        "ratio": ratio,
        "labels": labels,
        "evidence": {},
        "warnings": {"dense": [], "pruned": []},
        "lower_bound": {"dense": False, "pruned": False},
    }


def _check_comparable(dense: dict[str, Any], pruned: dict[str, Any]) -> None:
    for name, document in (("dense", dense), ("pruned", pruned)):
        missing = [key for key in LABELS if key not in document["figures"]]
        if missing:
            raise UsageError(
                f"the evaluation of the {name} network has no '{missing[0]}', another version made it",
                "delete its evaluation.json and repeat the command",
            )
    samples = [document["figures"]["test_samples"] for document in (dense, pruned)]
    if samples[0] != samples[1]:
        raise UsageError(
            f"one network was tested on {samples[0]} samples, the other on {samples[1]}",
            "compare networks of the same test set",
        )
    chips = [document["energy"]["chip"] for document in (dense, pruned)]
    if chips[0] != chips[1]:
        raise UsageError(
            f"one network was costed on {chips[0]}, the other on {chips[1]}", "evaluate both on the same chip"
        )


def _ratio(dense: float, pruned: float) -> float | None:
    return pruned / dense if dense else None
