"""Pictures of a run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
from matplotlib.axes import Axes

from sca_deploy.files import atomic_path, read_json
from sca_deploy.report.figures import percent
from sca_deploy.train import read_log

BLUE, ORANGE = "#0072b2", "#d55e00"
"""Told apart by every common kind of colour vision (Okabe and Ito)."""

_COSTS = {
    "parameters": "parameters",
    "channels": "channels",
    "spikes_per_sample": "spikes",
    "synops_per_sample": "synaptic\noperations",
    "neuron_updates_per_sample": "neuron\nupdates",
    "cores": "cores",
    "energy_nj_per_sample": "energy",
}


def plot_run(folder: Path) -> Path:
    """compare.png in a run folder: accuracy over epochs, kept channels over epochs, what is left of each cost."""
    logs = {arm: read_log(folder / arm / "train") for arm in ("dense", "pruned")}
    document = read_json(folder / "compare.json")
    plt.rcParams.update({"font.size": 12, "axes.spines.top": False, "axes.spines.right": False})
    figure, (left, middle, right) = plt.subplots(1, 3, figsize=(16, 4.8), layout="constrained")
    _plot_accuracy(left, logs, document)
    _plot_channels(middle, logs["pruned"])
    _plot_costs(right, document)
    path = folder / "compare.png"
    with atomic_path(path) as temporary:
        figure.savefig(temporary, dpi=100, format="png")
    plt.close(figure)
    return path


def _plot_accuracy(axes: Axes, logs: dict[str, list[dict[str, Any]]], document: dict[str, Any]) -> None:
    for (arm, log), colour in zip(logs.items(), (BLUE, ORANGE), strict=True):
        epochs = [entry["epoch"] for entry in log]
        axes.plot(epochs, [100 * entry["test_accuracy"] for entry in log], color=colour, label=arm)
        chip = 100 * document[arm]["accuracy_chip"]
        axes.plot([epochs[-1]], [chip], "o", color=colour, label=f"{arm} on chip, {chip:.1f} %")
    lowest = min(entry["test_accuracy"] for log in logs.values() for entry in log[len(log) // 3 :])
    axes.set_ylim(max(0, 100 * lowest - 5), 100.5)
    axes.set(xlabel="epoch", ylabel="test accuracy, %", title="Accuracy (float measured, chip simulated)")
    axes.legend(frameon=False, loc="lower right")


def _plot_channels(axes: Axes, log: list[dict[str, Any]]) -> None:
    layers = list(log[0]["pruning"]["kept"])
    kept = [[entry["pruning"]["kept"][layer] for entry in log] for layer in layers]
    colours = plt.get_cmap("cividis")([0.15 + 0.7 * i / max(1, len(layers) - 1) for i in range(len(layers))])
    axes.stackplot([entry["epoch"] for entry in log], kept, labels=layers, colors=colours)
    axes.set(xlabel="epoch", ylabel="on", title="What pruning kept (measured)")
    axes.legend(frameon=False, loc="upper right", reverse=True)


def _plot_costs(axes: Axes, document: dict[str, Any]) -> None:
    ratios = [document["ratio"][key] for key in _COSTS]
    left = [ratio["typical"] if isinstance(ratio, dict) else ratio for ratio in ratios]
    known = [place for place, share in enumerate(left) if share is not None]
    axes.barh(known, [100 * left[place] for place in known], color=ORANGE)
    for place, share in enumerate(left):  # where dense has 0 there is nothing to draw
        at, text = (0, "-") if share is None else (100 * share, percent(share))
        axes.annotate(text, (at, place), xytext=(4, 0), textcoords="offset points", va="center")
    axes.set_yticks(range(len(_COSTS)), [f"{title} ({document['labels'][key]})" for key, title in _COSTS.items()])
    axes.axvline(100, color=BLUE, linewidth=2)
    axes.set(xlim=(0, 118), ylim=(-0.6, len(_COSTS) - 0.4), xlabel="% of dense", title="What pruning left")
    axes.invert_yaxis()
