"""Dense against pruned, figure by figure."""

from __future__ import annotations

from typing import Any

from sca_deploy.errors import UsageError
from sca_deploy.evaluate import BANDS, LABELS


def compare(dense: dict[str, Any], pruned: dict[str, Any]) -> dict[str, Any]:
    """The contract document: both networks' figures and what is left of each, pruned / dense.

    Args:
        dense, pruned: what `evaluate` returned for each.

    Raises:
        UsageError: if they were not tested on the same number of samples.
    """
    a, b = dense["figures"], pruned["figures"]
    if a["test_samples"] != b["test_samples"]:
        raise UsageError(
            f"one network was tested on {a['test_samples']} samples, the other on {b['test_samples']}",
            "compare networks of the same test set",
        )
    ratio: dict[str, Any] = {}
    for key in LABELS:
        if key == "test_samples":
            continue
        if key == "energy_nj_per_sample":
            ratio[key] = {band: _ratio(a[key][band], b[key][band]) for band in BANDS}
        else:
            ratio[key] = _ratio(a[key], b[key])
    return {"dense": a, "pruned": b, "ratio": ratio, "labels": LABELS}


def _ratio(dense: float, pruned: float) -> float | None:
    return pruned / dense if dense else None
