"""Accuracy over the epochs of training, and over the time steps of a sample."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import plotly.graph_objects as go

from sca_deploy.report.figures import in_percent
from sca_deploy.report.page.chart import (
    ARM_COLOURS,
    ARM_DASHES,
    ARM_SYMBOLS,
    ARMS,
    POINTS,
    Chart,
    Missing,
    Numbers,
    counted_axis,
    listed,
    plain,
    why_missing,
)

HEIGHT = 380
_DASHES = {
    ("dense", "chip"): "solid",
    ("dense", "float"): "dot",
    ("pruned", "chip"): "dash",
    ("pruned", "float"): "dashdot",
}


def over_epochs(document: Mapping[str, Any]) -> Chart | Missing:
    """Test accuracy at the end of each epoch."""
    title = "Accuracy, epoch by epoch"
    tested = {
        arm: {
            entry["epoch"]: entry["test_accuracy"] for entry in document["arms"][arm]["log"] if "test_accuracy" in entry
        }
        for arm in ARMS
    }
    tested = {arm: curve for arm, curve in tested.items() if curve}
    remarks = why_missing(document, "log")
    if not tested:
        return Missing(title, remarks)
    figure = go.Figure()
    for arm, curve in tested.items():
        figure.add_scatter(
            x=list(curve),
            y=[100 * value for value in curve.values()],
            name=arm,
            mode="lines+markers",
            line=dict(color=ARM_COLOURS[arm], dash=ARM_DASHES[arm], width=3),
            marker=dict(symbol=ARM_SYMBOLS[arm], size=9, maxdisplayed=POINTS),
            hovertemplate="epoch %{x}: %{y:.2f} %",
        )
    figure.update_layout(height=HEIGHT)
    epochs = sorted({epoch for curve in tested.values() for epoch in curve})
    figure.update_xaxes(counted_axis("epoch", epochs[0], epochs[-1]))
    figure.update_yaxes(title="test accuracy, %")
    rows = [(str(epoch), *(_percent(tested.get(arm, {}).get(epoch)) for arm in ARMS)) for epoch in epochs]
    ends = [f"{arm} {_percent(curve[max(curve)])} {_after(document, arm, max(curve))}" for arm, curve in tested.items()]
    return Chart(
        key="accuracy-epochs",
        title=title,
        labels=("measured",),
        note="The float networks on the test set, run in torch at the end of each epoch."
        + (" Epoch 0 is before any training." if epochs[0] == 0 else ""),
        says=f"Test accuracy: {listed(ends)}.",
        figure=plain(figure),
        numbers=Numbers(("epoch", *ARMS), rows),
        remarks=remarks,
    )


def over_steps(document: Mapping[str, Any]) -> Chart | Missing:
    """Test accuracy if the answer were taken after each time step, float and chip."""
    title = "Accuracy, time step by time step"
    evaluations = {arm: document["arms"][arm]["evaluation"] or {} for arm in ARMS}
    curves = {
        (arm, kind): found["over_steps"][f"accuracy_{kind}"]
        for arm, found in evaluations.items()
        if found.get("over_steps")
        for kind in ("chip", "float")
    }
    remarks = why_missing(document, "evaluation") + why_missing(document, "over_steps")
    if not curves:
        return Missing(title, remarks)
    figure = go.Figure()
    for (arm, kind), curve in curves.items():
        chip = kind == "chip"
        figure.add_scatter(
            x=list(range(1, len(curve) + 1)),
            y=[100 * value for value in curve],
            name=f"{arm}, {kind}",
            mode="lines+markers",
            line=dict(color=ARM_COLOURS[arm], dash=_DASHES[arm, kind], width=3 if chip else 2),
            marker=dict(
                symbol=f"{ARM_SYMBOLS[arm]}{'' if chip else '-open'}", size=9 if chip else 13, maxdisplayed=POINTS
            ),
            hovertemplate="after step %{x}: %{y:.2f} %",
        )
    figure.update_layout(height=HEIGHT)
    steps = max(map(len, curves.values()))
    figure.update_xaxes(counted_axis("steps taken", 1, steps))
    figure.update_yaxes(title="test accuracy, %")
    rows = [
        (str(step + 1), *(_percent(curve[step] if step < len(curve) else None) for curve in curves.values()))
        for step in range(steps)
    ]
    ends = [
        f"{arm} {kind} {_percent(curve[0])} after one step"
        + (f" and {_percent(curve[-1])} after {len(curve)}" if len(curve) > 1 else "")
        for (arm, kind), curve in curves.items()
    ]
    return Chart(
        key="accuracy-steps",
        title=title,
        labels=("measured", "simulated"),
        note="What the answer would be worth if it were taken after fewer steps: in floats (measured) and in the "
        "chip's integers (simulated). Fewer steps cost less time and energy.",
        says=f"Test accuracy: {listed(ends)}.",
        figure=plain(figure),
        numbers=Numbers(("steps", *(f"{arm}, {kind}" for arm, kind in curves)), rows),
        remarks=remarks,
    )


def _percent(value: float | None) -> str:
    return "-" if value is None else in_percent(value)[0]


def _after(document: Mapping[str, Any], arm: str, epoch: int) -> str:
    """When a network was tested; epoch 0 is one that was not trained here."""
    if epoch:
        return f"after epoch {epoch}"
    pruned = any(entry.get("pruning") for entry in document["arms"][arm]["log"])
    return "pruned once, without training" if pruned else "as it was brought"
