"""What pruning kept: channels of every layer, and how they went over the epochs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import plotly.graph_objects as go

from sca_deploy.report.page.chart import (
    ARMS,
    POINTS,
    Chart,
    Missing,
    Numbers,
    bars_by_layer,
    counted_axis,
    escaped,
    height_of,
    listed,
    ordered,
    plain,
    row_ticks,
    told_apart,
    why_missing,
)

LINES = 6
"""Layers, at most, that are drawn as lines; more are rows of a map, where none hides another."""
_STYLES = (
    ("var(--c1)", "solid", "circle"),
    ("var(--c2)", "dash", "square"),
    ("var(--c3)", "dot", "diamond"),
    ("var(--c4)", "dashdot", "triangle-up"),
    ("var(--c5)", "longdash", "x"),
    ("var(--c6)", "longdashdot", "star"),
)


def kept_by_layer(document: Mapping[str, Any]) -> Chart | Missing:
    """Channels of every layer that can be pruned, dense beside pruned."""
    title = "Channels kept, layer by layer"
    kept = {
        arm: found["after"] for arm in ARMS if (found := document["arms"][arm]["compaction"]) and found.get("after")
    }
    remarks = why_missing(document, "compaction")
    if not kept:
        return Missing(title, remarks or ["no layer of this network can lose channels"])
    layers = ordered(*kept.values())
    shown = {arm: {layer: f"{count:,} channels" for layer, count in of_arm.items()} for arm, of_arm in kept.items()}
    rows = [(layer, *(_cell(kept.get(arm, {}).get(layer)) for arm in ARMS), _left(kept, layer)) for layer in layers]
    totals = [f"{sum(of_arm.values()):,} channels in the {arm} network" for arm, of_arm in kept.items()]
    named = [f"{row[0]} {row[2]} of {row[1]}" for row in rows] if len(rows) <= LINES else []
    return Chart(
        key="kept",
        title=title,
        labels=("measured",),
        note="Counted in the compacted networks, from which masked channels were cut out.",
        says=". ".join(filter(None, (f"Bars: {listed(totals)}", listed(named)))) + ".",
        figure=bars_by_layer(kept, shown, "channels"),
        numbers=Numbers(("layer", "dense", "pruned", "pruned / dense"), rows),
        remarks=remarks,
    )


def _cell(count: int | None) -> str:
    return "-" if count is None else f"{count:,}"


def _left(kept: Mapping[str, Mapping[str, int]], layer: str) -> str:
    dense, pruned = (kept.get(arm, {}).get(layer) for arm in ARMS)
    return f"{pruned / dense:.3f}" if dense and pruned is not None else "-"


def kept_over_epochs(document: Mapping[str, Any]) -> Chart | Missing:
    """Channels that were on at the end of every epoch, as a share of the most a layer had."""
    title = "Channels kept, epoch by epoch"
    log = [entry for entry in document["arms"]["pruned"]["log"] if entry.get("pruning", {}).get("kept")]
    if not log:
        return Missing(title, why_missing(document, "log", ["pruned"]) or ["the method of this run keeps no masks"])
    epochs = [entry["epoch"] for entry in log]
    layers = list(log[0]["pruning"]["kept"])
    kept = {layer: [entry["pruning"]["kept"][layer] for entry in log] for layer in layers}
    total = [sum(entry["pruning"]["kept"].values()) for entry in log]
    draw = _lines if len(layers) <= LINES else _map
    return Chart(
        key="kept-epochs",
        title=title,
        labels=("measured",),
        note="Read in the log of the pruned network's training: what its masks left on at the end of each epoch.",
        says=f"From {total[0]:,} channels on after epoch {epochs[0]} to {total[-1]:,} after epoch {epochs[-1]}, "
        f"of at most {max(total):,}.",
        figure=draw(epochs, kept),
        numbers=Numbers(
            ("epoch", *layers, "all"),
            [
                (str(epoch), *(f"{kept[layer][place]:,}" for layer in layers), f"{total[place]:,}")
                for place, epoch in enumerate(epochs)
            ],
        ),
    )


def _lines(epochs: Sequence[int], kept: Mapping[str, Sequence[int]]) -> dict[str, Any]:
    figure = go.Figure()
    for counts, name, (colour, dash, symbol) in zip(kept.values(), told_apart(list(kept)), _STYLES, strict=False):
        figure.add_scatter(
            x=epochs,
            y=[100 * count / max(counts) for count in counts],
            name=escaped(name),
            mode="lines+markers",
            line=dict(color=colour, dash=dash, width=3),
            marker=dict(symbol=symbol, size=9, maxdisplayed=POINTS),
            customdata=[[f"{count:,} of {max(counts):,}"] for count in counts],
            hovertemplate="epoch %{x}: %{customdata[0]}",
        )
    figure.update_layout(height=380)
    figure.update_xaxes(counted_axis("epoch", epochs[0], epochs[-1]))
    figure.update_yaxes(title="% of channels on", rangemode="tozero")
    return plain(figure)


def _map(epochs: Sequence[int], kept: Mapping[str, Sequence[int]]) -> dict[str, Any]:
    figure = go.Figure(
        go.Heatmap(
            x=epochs,
            y=list(range(len(kept))),
            z=[[100 * count / max(counts) for count in counts] for counts in kept.values()],
            zmin=0,
            zmax=100,
            customdata=[
                [f"{escaped(layer)}: {count:,} of {max(counts):,}" for count in counts]
                for layer, counts in kept.items()
            ],
            hovertemplate="epoch %{x}, %{customdata}<extra></extra>",
            colorscale=[[0, "var(--low)"], [1, "var(--high)"]],
            colorbar=dict(title=dict(text="% on", font=dict(size=16)), thickness=14),
            xgap=1,
            ygap=1,
        )
    )
    figure.update_layout(height=min(height_of(len(kept)), 130 + 26 * len(kept)))
    figure.update_xaxes(counted_axis("epoch", epochs[0], epochs[-1]), showgrid=False)
    figure.update_yaxes(**row_ticks(list(kept)), showgrid=False)
    return plain(figure)
