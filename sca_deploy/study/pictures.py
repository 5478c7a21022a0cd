"""Pictures of studies: PNG files that can be read from the back of a room."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator
from scipy.cluster import hierarchy
from scipy.spatial.distance import squareform

from sca_deploy.files import atomic_path
from sca_deploy.study.activity import ClassActivity, Similarity, selectivity
from sca_deploy.study.correlation import rank_correlations

COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#000000")
"""Told apart by every common kind of colour vision (Okabe and Ito), without the yellow that fades on white."""
MARKERS = ("o", "s", "^", "D", "v", "P", "X")
MAP = "cividis"
BANDS_MAX = 4
"""How many bands a picture can hold that still tell apart what lies behind them."""
_STYLE: dict[Any, Any] = {"font.size": 15, "axes.spines.top": False, "axes.spines.right": False, "axes.titlesize": 16}
_KINDS = {
    "input": ("Noise on the pixels", "noise, fraction of the largest pixel"),
    "parameter": ("Noise on the weights", "noise, fraction of each layer's RMS weight"),
}


def plot_arms(
    path: Path,
    accuracies: Mapping[str, Sequence[float]],
    costs: Mapping[str, Mapping[str, Sequence[float]]] | None = None,
) -> None:
    """Accuracy of each arm, every seed a dot and the mean a bar; then accuracy against each cost.

    Args:
        path: the PNG to write.
        accuracies: fractions by arm, one a seed.
        costs: by axis label, e.g. "kept channels, %": the cost by arm, one a seed in the same order; an arm may be
            left out of a cost.
    """
    panels = costs or {}
    with _figure(path, 1, 1 + len(panels), (2.2 + 1.4 * max(3, len(accuracies)), 5.6), width=6.4) as axes:
        _plot_seeds(axes[0], accuracies)
        for panel, (label, cost) in zip(axes[1:], panels.items(), strict=True):
            for i, arm in enumerate(accuracies):
                if arm in cost:
                    _plot_cost(panel, i, arm, cost[arm], accuracies[arm])
            panel.set(xlabel=label, ylabel="test accuracy, %", title="Accuracy against cost")
            panel.margins(0.1)
        if panels:
            _legend_outside(axes[-1])


def _plot_seeds(axes: Axes, accuracies: Mapping[str, Sequence[float]]) -> None:
    for i, values in enumerate(accuracies.values()):
        percent = 100 * np.asarray(values)
        spread = np.linspace(-0.15, 0.15, len(percent)) if len(percent) > 1 else np.zeros(1)
        colour, marker = _look(i)
        axes.plot(i + spread, percent, marker, color=colour, markersize=9, alpha=0.75, linestyle="none")
        axes.hlines(percent.mean(), i - 0.24, i + 0.24, color="black", linewidth=2.5)
        axes.annotate(f"{percent.mean():.2f}", (i + 0.27, percent.mean()), va="center")
    axes.set_xticks(range(len(accuracies)), list(accuracies))
    if len(accuracies) > 3:
        plt.setp(axes.get_xticklabels(), rotation=30, ha="right", rotation_mode="anchor")
    axes.set(xlim=(-0.5, len(accuracies) - 0.2), ylabel="test accuracy, %", title="Every seed, and the mean")
    axes.margins(y=0.15)


def _plot_cost(axes: Axes, arm: int, name: str, cost: Sequence[float], accuracy: Sequence[float]) -> None:
    colour, marker = _look(arm)
    percent = 100 * np.asarray(accuracy)
    axes.plot(cost, percent, marker, color=colour, markersize=7, alpha=0.5, linestyle="none")
    axes.plot([np.mean(cost)], [percent.mean()], marker, color=colour, markersize=13, label=name, linestyle="none")


def plot_noise(path: Path, rows: Mapping[str, Sequence[Mapping[str, Any]]]) -> None:
    """Accuracy over the size of the noise, one line an arm: the mean, and a band from the worst to the best seed.

    More than BANDS_MAX bands would hide one another and are left out; noise.csv has every seed.

    Args:
        path: the PNG to write.
        rows: by arm, what `noise.input_noise` and `noise.parameter_noise` gave, of one or more networks.
    """
    kinds = [kind for kind in _KINDS if any(row["kind"] == kind for arm in rows.values() for row in arm)]
    with _figure(path, 1, len(kinds), (7.2, 5.4)) as axes:
        for panel, kind in zip(axes, kinds, strict=True):
            title, label = _KINDS[kind]
            for i, (arm, all_rows) in enumerate(rows.items()):
                found: dict[float, list[float]] = {}
                for row in all_rows:
                    if row["kind"] == kind:
                        found.setdefault(row["sigma"], []).append(100 * row["accuracy"])
                sigmas, (colour, marker) = sorted(found), _look(i)
                if len(rows) <= BANDS_MAX:
                    worst, best = ([of(found[s]) for s in sigmas] for of in (min, max))
                    panel.fill_between(sigmas, worst, best, color=colour, alpha=0.2, lw=0)
                means, dash = [np.mean(found[s]) for s in sigmas], "-" if i < len(COLOURS) else "--"
                panel.plot(sigmas, means, dash, color=colour, marker=marker, markersize=7, linewidth=2.2, label=arm)
            panel.set(xlabel=label, ylabel="test accuracy, %", title=title, xlim=(0, None), ylim=(0, 102))
        _legend_outside(axes[-1])


def plot_scores(
    path: Path,
    worth: npt.ArrayLike,
    scores: Mapping[str, npt.ArrayLike],
    layers: Sequence[str],
    label: str = "accuracy lost without the channel, points",
) -> None:
    """What a channel is worth against each score, one panel a score, one colour a layer.

    Args:
        path: the PNG to write.
        worth: (channels,), in the unit of `label`.
        scores: (channels,) each, the same channels in the same order.
        layers: each channel's layer.
        label: of the vertical axis.
    """
    names, values = np.asarray(layers), np.asarray(worth, dtype=np.float64)
    columns = min(3, len(scores))
    rho = {row["score"]: row["spearman"] for row in rank_correlations({"": values}, scores, resamples=1)}
    with _figure(path, math.ceil(len(scores) / columns), columns, (5.2, 4.4), sharey=True) as axes:
        for panel, (score, array) in zip(axes, scores.items(), strict=False):
            for i, layer in enumerate(dict.fromkeys(layers)):
                colour, marker = _look(i)
                members = names == layer
                panel.plot(
                    np.asarray(array)[members], values[members], marker, color=colour, alpha=0.6, ls="none", label=layer
                )
            value = "undefined" if rho[score] is None else f"{rho[score]:+.2f}"
            panel.axhline(0, color="0.6", linewidth=1, zorder=0)
            panel.set(xlabel=score, title=f"Spearman {value}")
        _hide(axes[len(scores) :])
        axes[0].figure.supylabel(label)
        _legend_outside(axes[columns - 1])


def plot_correlations(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """Spearman's rho of each score with its 95 % interval: a panel a target, a mark a layer.

    Args:
        path: the PNG to write.
        rows: what `correlation.rank_correlations` gave; undefined correlations are left out.
    """
    targets, scores, layers = (list(dict.fromkeys(row[key] for row in rows)) for key in ("target", "score", "layer"))
    height = 1.8 + len(scores) * (0.45 + 0.2 * len(layers))
    with _figure(path, 1, len(targets), (6.4, height), sharey=True) as axes:
        for panel, target in zip(axes, targets, strict=True):
            for i, layer in enumerate(layers):
                colour, marker = ("#000000", "o") if i == 0 else _look(i - 1)
                of = {r["score"]: r for r in rows if (r["target"], r["layer"]) == (target, layer)}
                known = [s for s in scores if s in of and of[s]["spearman"] is not None]
                rho = np.array([of[s]["spearman"] for s in known])
                ends = np.array([[of[s]["spearman_low"], of[s]["spearman_high"]] for s in known]).reshape(-1, 2).T
                place = [scores.index(s) + 0.7 * ((i + 0.5) / len(layers) - 0.5) for s in known]
                panel.hlines(place, ends[0], ends[1], color=colour, linewidth=2.5 if i == 0 else 1.8)
                panel.plot(rho, place, marker, color=colour, markersize=9 if i == 0 else 7, ls="none", label=layer)
            panel.axvline(0, color="0.6", linewidth=1, zorder=0)
            panel.set(xlim=(-1, 1), xlabel="Spearman's rho, 95 % interval", title=target)
            panel.set_yticks(range(len(scores)), scores)
        axes[0].invert_yaxis()
        _legend_outside(axes[-1])


def plot_activity(path: Path, activity: Mapping[str, ClassActivity]) -> None:
    """Firing rate of every channel in every class, a row of the picture a layer.

    Channels stand by the class they prefer, the most selective first; every layer has its own scale.

    Args:
        path: the PNG to write.
        activity: what `activity.per_class_activity` gave.
    """
    columns = 1 if len(activity) <= 4 else 2
    with _figure(path, math.ceil(len(activity) / columns), columns, (13 if columns == 1 else 9, 3.9)) as axes:
        for panel, (layer, seen) in zip(axes, activity.items(), strict=False):
            order = np.lexsort((-selectivity(seen.rate), seen.rate.argmax(0)))
            image = panel.imshow(seen.rate[:, order], aspect="auto", cmap=MAP, interpolation="nearest", vmin=0)
            panel.set(ylabel="class", title=f"{layer}, {len(order)} channels", xticks=[])
            panel.set_yticks(range(0, len(seen.rate), max(1, len(seen.rate) // 5)))
            panel.figure.colorbar(image, ax=panel, pad=0.01, label="spikes per\nneuron and step")
        _hide(axes[len(activity) :])
        axes[0].figure.supxlabel("channels, by the class they fire most for, the most selective first")


def plot_similarity(path: Path, similarity: Mapping[str, Similarity]) -> None:
    """Cosine similarity of the channels of each layer, alike channels side by side, silent ones last.

    Args:
        path: the PNG to write.
        similarity: what `activity.channel_similarity` gave.
    """
    columns = min(4, len(similarity))
    with _figure(path, math.ceil(len(similarity) / columns), columns, (5, 5.4)) as axes:
        for panel, (layer, found) in zip(axes, similarity.items(), strict=False):
            order = _alike(found)
            image = panel.imshow(found.cosine[np.ix_(order, order)], cmap=MAP, vmin=0, vmax=1, interpolation="nearest")
            silent = int(found.silent.sum())
            panel.set(title=f"{layer}, {len(order)} channels" + (f", {silent} silent" if silent else ""))
            panel.set(xticks=[], yticks=[])
        _hide(axes[len(similarity) :])
        axes[0].figure.colorbar(image, ax=axes, shrink=0.8, pad=0.02, label="cosine of the spike trains")


def _alike(found: Similarity) -> npt.NDArray[np.int64]:
    """An order of the channels in which similar ones are neighbours (average linkage, optimal leaves)."""
    active, silent = np.flatnonzero(~found.silent), np.flatnonzero(found.silent)
    if len(active) > 2:
        distance = np.clip(1 - found.cosine[np.ix_(active, active)], 0, None)
        np.fill_diagonal(distance, 0)
        tree = hierarchy.linkage(squareform(distance, checks=False), "average", optimal_ordering=True)
        active = active[hierarchy.leaves_list(tree)]
    return np.concatenate([active, silent])


def plot_kept(
    path: Path, kept: Mapping[str, Mapping[str, Sequence[int]]], sizes: Mapping[str, int], epochs: Sequence[int] = ()
) -> None:
    """Channels each layer keeps over the epochs, a panel an arm, a row a layer.

    Args:
        path: the PNG to write.
        kept: by arm and layer, the channels that are on after each epoch.
        sizes: how many channels each layer has when dense.
        epochs: their numbers; 1, 2, ... when not given.
    """
    layers = list(sizes)
    with _figure(path, 1, len(kept), (7.4, 2.2 + 0.55 * len(layers)), sharey=True) as axes:
        for panel, (arm, counts) in zip(axes, kept.items(), strict=True):
            fraction = 100 * np.array([[n / sizes[layer] for n in counts[layer]] for layer in layers])
            numbers = list(epochs) or list(range(1, fraction.shape[1] + 1))
            edges = (numbers[0] - 0.5, numbers[-1] + 0.5, len(layers) - 0.5, -0.5)
            image = panel.imshow(
                fraction, aspect="auto", cmap=MAP, vmin=0, vmax=100, extent=edges, interpolation="nearest"
            )
            for i, layer in enumerate(layers):
                text = f" {counts[layer][-1]} of {sizes[layer]}"
                panel.annotate(text, (1, i), xycoords=("axes fraction", "data"), va="center")
            panel.set(xlabel="epoch", title=arm)
            panel.set_yticks(range(len(layers)), layers)
            panel.xaxis.set_major_locator(MaxNLocator(integer=True))
        panel.figure.colorbar(image, ax=list(axes), pad=0.12 / len(kept), label="channels on, %")


def _look(index: int) -> tuple[str, str]:
    """Colour and marker of the index-th arm or layer; markers go on changing when the colours start again."""
    return COLOURS[index % len(COLOURS)], MARKERS[(index + index // len(COLOURS)) % len(MARKERS)]


def _hide(unused: Sequence[Axes]) -> None:
    for axes in unused:
        axes.set_visible(False)


def _legend_outside(axes: Axes) -> None:
    axes.legend(frameon=False, loc="upper left", bbox_to_anchor=(1.0, 1.0))


@contextmanager
def _figure(
    path: Path, rows: int, columns: int, panel: tuple[float, float], *, width: float | None = None, sharey: bool = False
) -> Iterator[list[Axes]]:
    """Panels of so many inches, row by row, saved to `path` when the block succeeds.

    `width`, where given, is that of the panels after the first.
    """
    widths = [panel[0]] + [width or panel[0]] * (columns - 1)
    with plt.rc_context(_STYLE):
        figure, grid = plt.subplots(
            rows,
            columns,
            figsize=(sum(widths), rows * panel[1]),
            width_ratios=widths,
            sharey=sharey,
            squeeze=False,
            layout="constrained",
        )
        try:
            yield list(grid.flat)
            with atomic_path(path) as temporary:
                figure.savefig(temporary, dpi=100, format="png")
        finally:
            plt.close(figure)
