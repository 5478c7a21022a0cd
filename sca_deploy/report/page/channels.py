"""What pruning kept: channels of every layer, and how they, or its weights, went over the epochs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
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
    present,
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
    kept = {arm: found["after"] for arm, found in present(document, "compaction").items() if found.get("after")}
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


@dataclass(frozen=True)
class _Kept:
    """What a log says was on, epoch by epoch.

    Args:
        unit: "channels" or "weights".
        epochs: as they are shown; 0 is the network before its training.
        counts: of every layer, one for each epoch.
        whole: what 100 % of a layer is: its channels; of weights, whose number no log tells, the most after any epoch.
    """

    unit: str
    epochs: list[int]
    counts: dict[str, list[int]]
    whole: dict[str, int]

    @classmethod
    def of(cls, log: Sequence[Mapping[str, Any]]) -> _Kept:
        epochs = [entry["epoch"] for entry in log]
        pruning = [entry["pruning"] for entry in log]
        counts = {layer: [entry["kept"][layer] for entry in pruning] for layer in pruning[0]["kept"]}
        sizes = pruning[0].get("of")
        if sizes is None:
            return cls("weights", epochs, counts, {layer: max(1, *of_layer) for layer, of_layer in counts.items()})
        if epochs[0] > 0:
            epochs, counts = [0, *epochs], {layer: [sizes[layer], *of_layer] for layer, of_layer in counts.items()}
        return cls("channels", epochs, counts, {layer: sizes[layer] for layer in counts})

    @property
    def totals(self) -> list[int]:
        return [sum(counts) for counts in zip(*self.counts.values(), strict=True)]

    @property
    def shares(self) -> dict[str, list[float]]:
        return {layer: [100 * count / self.whole[layer] for count in counts] for layer, counts in self.counts.items()}

    @property
    def shown(self) -> dict[str, list[str]]:
        """What hovering says."""
        known = self.unit == "channels"
        return {
            layer: [f"{count:,} of {self.whole[layer]:,}" if known else f"{count:,} weights" for count in counts]
            for layer, counts in self.counts.items()
        }


def kept_over_epochs(document: Mapping[str, Any]) -> Chart | Missing:
    """Channels, or weights, that were on at the end of every epoch, as a share of what each layer has."""
    log = [entry for entry in document["arms"]["pruned"]["log"] if entry.get("pruning", {}).get("kept")]
    if not log:
        reasons = why_missing(document, "log", ["pruned"]) or ["the method of this run keeps no masks"]
        return Missing("Channels kept, epoch by epoch", reasons)
    kept = _Kept.of(log)
    channels = kept.unit == "channels"
    draw = _lines if len(kept.counts) <= LINES else _map
    return Chart(
        key="kept-epochs",
        title=f"{kept.unit.capitalize()} kept, epoch by epoch",
        labels=("measured",),
        note="Read in the log of the pruned network's training: what its masks left on at the end of each epoch. "
        + ("100 % are all channels of a layer." if channels else "100 % is the most that a layer had on."),
        says=_course(kept),
        figure=draw(kept),
        numbers=Numbers(
            ("epoch", *kept.counts, "all"),
            [
                (str(epoch), *(f"{counts[place]:,}" for counts in kept.counts.values()), f"{kept.totals[place]:,}")
                for place, epoch in enumerate(kept.epochs)
            ],
        ),
    )


def _course(kept: _Kept) -> str:
    """From how many to how many."""
    epochs, totals, whole = kept.epochs, kept.totals, sum(kept.whole.values())
    last = f"{totals[-1]:,} after epoch {epochs[-1]}"
    if kept.unit == "weights":
        first = f"{totals[0]:,} weights on after epoch {epochs[0]}"
        return f"{first}, {last}." if len(epochs) > 1 else f"{first}."
    if epochs == [0]:
        return f"From {whole:,} channels to {totals[0]:,}, pruned once without training."
    first = f" ({totals[1]:,} after epoch {epochs[1]})" if len(epochs) > 2 else ""
    return f"From {whole:,} channels to {last}{first}."


def _lines(kept: _Kept) -> dict[str, Any]:
    figure = go.Figure()
    for layer, name, (colour, dash, symbol) in zip(kept.counts, told_apart(list(kept.counts)), _STYLES, strict=False):
        figure.add_scatter(
            x=kept.epochs,
            y=kept.shares[layer],
            name=escaped(name),
            mode="lines+markers",
            line=dict(color=colour, dash=dash, width=3),
            marker=dict(symbol=symbol, size=9, maxdisplayed=POINTS),
            customdata=[[text] for text in kept.shown[layer]],
            hovertemplate="epoch %{x}: %{customdata[0]}",
        )
    figure.update_layout(height=380)
    figure.update_xaxes(counted_axis("epoch", kept.epochs[0], kept.epochs[-1]))
    title = "% of channels on" if kept.unit == "channels" else "weights on, % of the most"
    figure.update_yaxes(title=title, rangemode="tozero")
    return plain(figure)


def _map(kept: _Kept) -> dict[str, Any]:
    layers = list(kept.counts)
    bar = "% on" if kept.unit == "channels" else "weights on,<br>% of the most"
    figure = go.Figure(
        go.Heatmap(
            x=kept.epochs,
            y=list(range(len(layers))),
            z=list(kept.shares.values()),
            zmin=0,
            zmax=100,
            customdata=[[f"{escaped(layer)}: {text}" for text in kept.shown[layer]] for layer in layers],
            hovertemplate="epoch %{x}, %{customdata}<extra></extra>",
            colorscale=[[0, "var(--low)"], [1, "var(--high)"]],
            colorbar=dict(title=dict(text=bar, font=dict(size=16)), thickness=14),
            xgap=1,
            ygap=1,
        )
    )
    figure.update_layout(height=min(height_of(len(layers)), 130 + 26 * len(layers)))
    figure.update_xaxes(counted_axis("epoch", kept.epochs[0], kept.epochs[-1]), showgrid=False)
    figure.update_yaxes(**row_ticks(layers), showgrid=False)
    return plain(figure)
