"""Inference by a compacted network against the dense and the masked one it came from.

    python benchmarks/compact_inference.py [--kept 0.8 0.6 0.4 0.2 0.1] [--rounds 20] [--plot FILE] [--json]

A convolutional spiking network, 28 x 28 pixels shown over T = 4 steps; for each kept fraction, random
masks keep that fraction of the channels of every layer. The masked network is the dense one with its
masks, which saves nothing; the compacted one has lost the channels. Beside the measured ratio stands the
ideal one, multiply-accumulates of the compacted over those of the dense network: neurons, batch-norm and
the overhead of small operations do not shrink with it.

All networks take turns in one process, a batch each; times are medians over the rounds, ratios the median of
the rounds' ratios with their quartiles. Times are printed only if compaction was exact, spike for spike.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from sca_deploy.errors import ScaDeployError, UsageError
from sca_deploy.nn.network import SpikingNetwork
from sca_deploy.nn.spec import NetworkSpec, parse_layers
from sca_deploy.pruning.compact import compact, prove
from sca_deploy.report.tables import table

STEPS, SIDE, CLASSES = 4, 28, 10
LAYOUTS = {"contiguous": torch.contiguous_format, "channels-last": torch.channels_last}
CLOCKS = {"wall": time.perf_counter, "cpu": time.process_time}
PROVED = 16
WARM_UP = 3


def dense(channels: Sequence[int], images: torch.Tensor) -> SpikingNetwork:
    """A network with seeded random weights whose batch-norms have seen the images."""
    layers: list[dict[str, Any]] = []
    for position, width in enumerate(channels):
        layers.append({"type": "conv", "channels": width, "kernel": 3, "padding": 1})
        layers += [{"type": "batch_norm"}, {"type": "lif", "beta": 0.5}]
        if position % 2:
            layers.append({"type": "avg_pool", "kernel": 2})
    layers += [{"type": "flatten"}, {"type": "linear", "features": CLASSES}]
    torch.manual_seed(0)
    network = SpikingNetwork(NetworkSpec((1, SIDE, SIDE), parse_layers(layers, {}), STEPS)).train()
    with torch.no_grad():
        for _ in range(10):
            network(images)
    return network.eval()


def masked(network: SpikingNetwork, kept: float) -> SpikingNetwork:
    """The network with that fraction of the channels of every layer, chosen at random, and at least one."""
    twin = SpikingNetwork(network.spec).eval()
    twin.load_state_dict(network.state_dict())
    generator = torch.Generator().manual_seed(0)
    for norm in twin.norms().values():
        channels = len(norm.mask)
        off = torch.randperm(channels, generator=generator)[max(1, round(kept * channels)) :]
        norm.mask[off] = 0
    return twin


def multiply_accumulates(network: SpikingNetwork, images: torch.Tensor) -> int:
    """Those of convolutions and linear layers for a batch; the input's layer computes one step."""
    counts = []

    def count(layer: nn.Module, _: Any, output: torch.Tensor) -> None:
        counts.append(output.numel() * layer.weight[0].numel())

    *hidden, readout = network.layers.values()
    handles = [layer.register_forward_hook(count) for layer in hidden if isinstance(layer, nn.Conv2d | nn.Linear)]
    with torch.inference_mode():
        network(images)
    for handle in handles:
        handle.remove()
    return sum(counts) + len(images) * readout.weight.numel()


def measure(options: argparse.Namespace) -> dict[str, Any]:
    """Times and ratios for every kept fraction.

    Raises:
        UsageError: if a fraction is not one.
        Mismatch: if a compacted network computes anything else than the masked one.
    """
    for kept in options.kept:
        if not 0 < kept <= 1:
            raise UsageError(f"the kept fraction {kept:g} is outside 0 to 1", "give fractions such as 0.4")
    torch.set_num_threads(options.threads)
    images = torch.rand(options.batch, 1, SIDE, SIDE, generator=torch.Generator().manual_seed(1))
    networks = {("dense", 1.0): dense(options.channels, images)}
    proofs = {}
    for kept in options.kept:
        wide = masked(networks["dense", 1.0], kept)
        narrow = compact(wide)
        proofs[kept] = prove(wide, narrow, images[:PROVED])
        networks |= {("masked", kept): wide, ("compacted", kept): narrow}
    layout = LAYOUTS[options.layout]
    for network in networks.values():
        network.to(memory_format=layout)
    seconds = _take_turns(networks, images.to(memory_format=layout), CLOCKS[options.clock], options.rounds)
    rows = []
    work = {key: multiply_accumulates(network, images) for key, network in networks.items()}
    for kept in options.kept:
        rows.append(
            {
                "kept": kept,
                "channels": list(networks["compacted", kept].kept_channels.values()),
                "masked_seconds": statistics.median(seconds["masked", kept]),
                "compacted_seconds": statistics.median(seconds["compacted", kept]),
                "masked_over_dense": _ratio(seconds["masked", kept], seconds["dense", 1.0]),
                "compacted_over_dense": _ratio(seconds["compacted", kept], seconds["dense", 1.0]),
                "ideal": work["compacted", kept] / work["dense", 1.0],
                "spikes_compared": proofs[kept].spikes_compared,
            }
        )
    return {
        "batch": options.batch,
        "channels": options.channels,
        "steps": STEPS,
        "threads": options.threads,
        "rounds": options.rounds,
        "clock": options.clock,
        "layout": options.layout,
        "torch": torch.__version__,
        "dense_seconds": statistics.median(seconds["dense", 1.0]),
        "dense_multiply_accumulates": work["dense", 1.0],
        "fractions": rows,
    }


def _take_turns(
    networks: dict[tuple[str, float], SpikingNetwork], images: torch.Tensor, clock: Any, rounds: int
) -> dict[tuple[str, float], list[float]]:
    """The seconds of every network in every round, after some that do not count."""
    seconds: dict[tuple[str, float], list[float]] = {key: [] for key in networks}
    with torch.inference_mode():
        for _ in range(WARM_UP + rounds):
            for key, network in networks.items():
                started = clock()
                network(images)
                seconds[key].append(clock() - started)
    return {key: values[WARM_UP:] for key, values in seconds.items()}


def _ratio(mine: list[float], dense: list[float]) -> dict[str, float]:
    values = [a / b for a, b in zip(mine, dense, strict=True)]
    low, middle, high = statistics.quantiles(values, n=4) if len(values) > 1 else values * 3
    return {"low": low, "median": middle, "high": high}


def text(result: dict[str, Any]) -> str:
    """The result for people."""
    rows = [("1", f"{1000 * result['dense_seconds']:.2f}", "", "", "", "1")]
    for row in result["fractions"]:
        times = (f"{1000 * row[key]:.2f}" for key in ("masked_seconds", "compacted_seconds"))
        spread = row["compacted_over_dense"]
        ratio = f"{spread['median']:.3f}  ({spread['low']:.3f} to {spread['high']:.3f})"
        masked = f"{row['masked_over_dense']['median']:.3f}"
        rows.append((f"{row['kept']:g}", *times, masked, ratio, f"{row['ideal']:.3f}"))
    head = ("kept", "dense or masked, ms", "compacted, ms", "masked / dense", "compacted / dense", "ideal")
    note = (
        f"measured, {result['clock']} time a batch of {result['batch']}, T = {STEPS}, channels {result['channels']}, "
        f"{result['layout']}, {result['threads']} thread(s), median of {result['rounds']} rounds (quartiles); "
        "ideal: multiply-accumulates, counted"
    )
    return table(head, rows, note)


def plot(result: dict[str, Any], path: Path) -> None:
    """The measured ratios beside the ideal one, as a picture."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    from sca_deploy.report.plots import BLUE, ORANGE

    figure, axes = plt.subplots(figsize=(6, 4.2), layout="constrained")
    rows = sorted(result["fractions"], key=lambda row: row["kept"])
    kept = [row["kept"] for row in rows]
    for key, colour in (("masked_over_dense", "grey"), ("compacted_over_dense", BLUE)):
        medians = [row[key]["median"] for row in rows]
        reach = [[abs(row[key][end] - row[key]["median"]) for row in rows] for end in ("low", "high")]
        label = key.partition("_")[0] + ", measured"
        axes.errorbar(kept, medians, reach, color=colour, marker="o", capsize=3, label=label)
    axes.plot(kept, [row["ideal"] for row in rows], color=ORANGE, linestyle="--", marker="s", label="ideal (MACs)")
    axes.set(
        xlabel="kept fraction of every layer's channels", ylabel="time / that of the dense network", ylim=(0, None)
    )
    axes.legend(frameon=False)
    axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=150)
    plt.close(figure)


def main() -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kept", type=float, nargs="+", default=[0.8, 0.6, 0.4, 0.2, 0.1])
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--channels", type=int, nargs="+", default=[32, 32, 64, 64])
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--layout", choices=LAYOUTS, default="channels-last")
    parser.add_argument("--clock", choices=CLOCKS, default="wall", help="cpu: for a machine that others use too")
    parser.add_argument("--at-least", type=float, default=0.0, help="exit with 1 if one is not this many times as fast")
    parser.add_argument("--plot", type=Path, help="write a PNG there")
    parser.add_argument("--json", action="store_true", help="print one JSON document instead of the table")
    options = parser.parse_args()
    try:
        result = measure(options)
    except ScaDeployError as error:
        print(f"error: {error.problem}\nfix: {error.fix}", file=sys.stderr)
        return error.exit_code
    if options.plot:
        plot(result, options.plot)
    print(json.dumps(result, indent=2) if options.json else text(result))
    slowest = max(row["compacted_over_dense"]["median"] for row in result["fractions"])
    return 0 if 1 / slowest >= options.at_least else 1


if __name__ == "__main__":
    sys.exit(main())
