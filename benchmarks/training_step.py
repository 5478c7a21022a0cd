"""One training step of the same spiking network in sca-deploy, norse, snntorch and spikingjelly.

    python benchmarks/training_step.py [--rounds 20] [--threads 1] [--at-least 1.0] [--sca-at-most 3] [--json]

Four convolutions with batch-norm, LIF neurons (beta 0.5, hard reset, sigmoid surrogate), two average
poolings and a linear read-out of the summed spikes; 28 x 28 pixels shown over T = 4 steps. A step is
forward, cross-entropy, backward and Adam. All start from the same weights, and times are printed only if
all give the same loss and the same gradients.

Each framework runs in its fastest form that computes this: time folded into the batch for all but the
neurons, the first convolution and its batch-norm once for the constant image, no gradient through the
reset. norse: LIFBoxCell under Lift; snntorch: Leaky in a loop; spikingjelly: LIFNode with step_mode "m".
Each has the memory layout, contiguous or channels-last, that is faster for it in trial rounds, and all
have the allocator setting of our trainer. norse has no sigmoid surrogate; its tanh of sharpness 2 has the
same gradient.

The frameworks take turns in one process, two steps each (SCA watches every second batch). Times are
medians over the rounds; ratios are the median of the rounds' ratios, with their quartiles. Memory is by
how much the peak of a fresh process grows in three steps.
"""

from __future__ import annotations

import argparse
import itertools
import json
import multiprocessing
import platform
import resource
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from sca_deploy.config import PruneConfig
from sca_deploy.errors import Mismatch, MissingExtra, ScaDeployError
from sca_deploy.nn.allocator import keep_freed_memory
from sca_deploy.nn.network import SpikingNetwork
from sca_deploy.nn.spec import NetworkSpec, parse_layers
from sca_deploy.pruning.channels import WATCHED_EVERY
from sca_deploy.pruning.method import method
from sca_deploy.pruning.schedule import Plan
from sca_deploy.report.tables import table

STEPS, BETA, SLOPE, SIDE, CLASSES = 4, 0.5, 4.0, 28, 10
OURS, SCA = "sca-deploy", "sca-deploy, SCA"
PEERS = ("norse", "snntorch", "spikingjelly")
LAYOUTS = {"contiguous": torch.contiguous_format, "channels-last": torch.channels_last}
CLOCKS = {"wall": time.perf_counter, "cpu": time.process_time}
TRIALS = 3
Step = Callable[[], float]
Neuron = Callable[[torch.Tensor], torch.Tensor]


class Folded(nn.Module):
    """The network around a framework's neurons, with time folded into the batch.

    Args:
        widths: channels of the convolutions.
        neuron: makes what turns inputs (T, N, ...) into spikes (T, N, ...), from rest in each forward.
        gain: what the framework's neurons want their input multiplied by to compute v = BETA v + input.
    """

    def __init__(self, widths: Sequence[int], neuron: Callable[[], Neuron], gain: float = 1.0) -> None:
        super().__init__()
        inputs = (1, *widths[:-1])
        self.convs = nn.ModuleList(
            nn.Conv2d(i, o, 3, padding=1, bias=False) for i, o in zip(inputs, widths, strict=True)
        )
        self.norms = nn.ModuleList(nn.BatchNorm2d(width) for width in widths)
        for norm in self.norms:
            nn.init.constant_(norm.weight, gain)
        self.neurons = [neuron() for _ in widths]
        self.readout = nn.Linear(widths[-1] * (SIDE // 4) ** 2, CLASSES)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Logits (N, classes), summed over time, of images (N, 1, SIDE, SIDE)."""
        spikes = x
        for position, (conv, norm, neuron) in enumerate(zip(self.convs, self.norms, self.neurons, strict=True)):
            currents = norm(conv(spikes))
            constant = position == 0
            over_time = currents.expand(STEPS, *currents.shape) if constant else currents.unflatten(0, (STEPS, -1))
            spikes = neuron(over_time).flatten(0, 1)
            if position % 2:
                spikes = F.avg_pool2d(spikes, 2)
        summed = spikes.flatten(1).unflatten(0, (STEPS, -1)).sum(0)
        return F.linear(summed, self.readout.weight, STEPS * self.readout.bias)


def ours(widths: Sequence[int]) -> nn.Module:
    """The network as a spec."""
    layers: list[dict[str, Any]] = []
    for position, width in enumerate(widths):
        layers.append({"type": "conv", "channels": width, "kernel": 3, "padding": 1})
        layers.append({"type": "batch_norm"})
        layers.append({"type": "lif", "beta": BETA, "surrogate": "sigmoid", "alpha": SLOPE})
        if position % 2:
            layers.append({"type": "avg_pool", "kernel": 2})
    layers += [{"type": "flatten"}, {"type": "linear", "features": CLASSES}]
    return SpikingNetwork(NetworkSpec((1, SIDE, SIDE), parse_layers(layers, {}), STEPS))


def norse(widths: Sequence[int]) -> nn.Module:
    """Norse's neurons; they take half of their input, so that batch-norm gives twice of it."""
    from norse.torch import LIFBoxCell, LIFBoxParameters, Lift

    def neuron() -> Neuron:
        parameters = LIFBoxParameters(
            tau_mem_inv=torch.as_tensor(1000 * (1 - BETA)),
            method="tanh",
            alpha=torch.as_tensor(SLOPE / 2),
            reset_method=lambda z, v, reset, threshold: (1 - z.detach()) * v,
        )
        lifted = Lift(LIFBoxCell(parameters))
        return lambda currents: lifted(currents)[0]

    return Folded(widths, neuron, 1 / (1 - BETA))


def snntorch(widths: Sequence[int]) -> nn.Module:
    """Snntorch's neurons."""
    from snntorch import Leaky
    from snntorch.surrogate import sigmoid

    def neuron() -> Neuron:
        leaky = Leaky(beta=BETA, spike_grad=sigmoid(slope=SLOPE), reset_mechanism="zero")

        def run(currents: torch.Tensor) -> torch.Tensor:
            v, spikes = leaky.reset_mem(), []
            for current in currents:
                spike, v = leaky(current, v)
                spikes.append(spike)
            return torch.stack(spikes)

        return run

    return Folded(widths, neuron)


def spikingjelly(widths: Sequence[int]) -> nn.Module:
    """Spikingjelly's neurons."""
    from spikingjelly.activation_based.neuron import LIFNode
    from spikingjelly.activation_based.surrogate import Sigmoid

    def neuron() -> Neuron:
        surrogate = Sigmoid(alpha=SLOPE)
        node = LIFNode(1 / (1 - BETA), False, surrogate_function=surrogate, detach_reset=True, step_mode="m")

        def run(currents: torch.Tensor) -> torch.Tensor:
            node.reset()
            return node(currents)

        return run

    return Folded(widths, neuron)


BUILDERS = {OURS: ours, SCA: ours, "norse": norse, "snntorch": snntorch, "spikingjelly": spikingjelly}


def shared(network: nn.Module) -> list[nn.Parameter]:
    """The weights that mean the same in every framework: of the convolutions, then of the read-out."""
    if isinstance(network, Folded):
        return [*(conv.weight for conv in network.convs), *network.readout.parameters()]
    layers = network.layers.values()
    convs = [layer.weight for layer in layers if isinstance(layer, nn.Conv2d)]
    return [*convs, *(p for layer in layers if isinstance(layer, nn.Linear) for p in layer.parameters())]


def build(name: str, layout: str, options: argparse.Namespace) -> tuple[nn.Module, Step]:
    """A framework's network, and a function that trains it by one step and returns the loss."""
    torch.manual_seed(0)
    start = shared(Folded(options.channels, nn.Identity))
    network = BUILDERS[name](options.channels).train()
    with torch.no_grad():
        for parameter, value in zip(shared(network), start, strict=True):
            parameter.copy_(value)
    network.to(memory_format=LAYOUTS[layout])
    images = torch.rand(options.batch, 1, SIDE, SIDE, generator=torch.Generator().manual_seed(1))
    images = images.to(memory_format=LAYOUTS[layout])
    labels = torch.arange(options.batch) % CLASSES
    optimizer = torch.optim.Adam(network.parameters(), 1e-3)
    pruner = method("sca")(network, PruneConfig(), Plan(100, 100)) if name == SCA else None

    numbers = itertools.count()

    def step() -> float:
        number = next(numbers)
        if pruner is not None:
            pruner.before_step(number)
        loss = F.cross_entropy(network(images) / STEPS, labels)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        if pruner is not None:
            pruner.after_backward(number)
        optimizer.step()
        if pruner is not None:
            pruner.after_step(number)
        return float(loss.detach())

    return network, step


def check(names: Sequence[str], options: argparse.Namespace) -> None:
    """Train every network by a step and compare.

    Raises:
        Mismatch: if a loss or a gradient is not that of the first.
    """
    results = {}
    for name in names:
        network, step = build(name, "contiguous", options)
        loss = step()
        results[name] = loss, [p.grad.flatten() for p in shared(network) if p.grad is not None]
    expected, gradients = results[names[0]]
    for name, (loss, others) in results.items():
        # Rounding may carry a potential over the threshold: single spikes differ, not more.
        closeness = min(F.cosine_similarity(g, o, 0).item() for g, o in zip(gradients, others, strict=True))
        if abs(loss - expected) > 1e-3 * expected or closeness < 0.999:
            raise Mismatch(
                f"{name} computes another network than {names[0]}: loss {loss:.6f} against {expected:.6f}, "
                f"cosine of the gradients {closeness:.5f}",
                "use norse 1.1, snntorch 1.0 and spikingjelly 2.0",
            )


def measure(names: Sequence[str], options: argparse.Namespace) -> dict[str, Any]:
    """Times, ratios and memory of the frameworks named."""
    torch.set_num_threads(options.threads)
    check(names, options)
    kept = keep_freed_memory()
    clock = CLOCKS[options.clock]
    trials = {(name, layout): build(name, layout, options)[1] for name in names if name != SCA for layout in LAYOUTS}
    seconds = _take_turns(trials, clock, TRIALS)
    layouts = {name: min(LAYOUTS, key=lambda layout: min(seconds[name, layout])) for name in names if name != SCA}
    layouts |= {SCA: layouts[OURS]} if SCA in names else {}
    del trials
    steps = {name: build(name, layouts[name], options)[1] for name in names}
    seconds = _take_turns(steps, clock, options.rounds)
    rows = {}
    for name in names:
        pairs = zip(seconds[name], seconds[OURS], strict=True)
        rows[name] = {
            "layout": layouts[name],
            "seconds": statistics.median(seconds[name]),
            "seconds_least": min(seconds[name]),
            "ratio": _quartiles([theirs / mine for theirs, mine in pairs]),
            "peak_memory_bytes": _peak_memory(name, layouts[name], options),
        }
    return {
        "batch": options.batch,
        "channels": options.channels,
        "steps": STEPS,
        "threads": options.threads,
        "rounds": options.rounds,
        "clock": options.clock,
        "freed_memory_is_kept": kept,
        "versions": {name: version(name) for name in ("torch", *(p for p in PEERS if p in names))},
        "frameworks": rows,
    }


def _take_turns(steps: dict[Any, Step], clock: Callable[[], float], rounds: int) -> dict[Any, list[float]]:
    """The seconds of every step in every round, after one that does not count.

    A turn is as many steps as SCA needs to watch one.
    """
    seconds: dict[Any, list[float]] = {name: [] for name in steps}
    for _ in range(rounds + 1):
        for name, step in steps.items():
            started = clock()
            for _ in range(WATCHED_EVERY):
                step()
            seconds[name].append((clock() - started) / WATCHED_EVERY)
    return {name: values[1:] for name, values in seconds.items()}


def _quartiles(values: list[float]) -> dict[str, float]:
    low, middle, high = statistics.quantiles(values, n=4) if len(values) > 1 else values * 3
    return {"low": low, "median": middle, "high": high}


def _peak_memory(name: str, layout: str, options: argparse.Namespace) -> int:
    """Bytes by which the largest resident set of a fresh process grows in three steps."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(_grow, (name, layout, options))


def _grow(name: str, layout: str, options: argparse.Namespace) -> int:
    torch.set_num_threads(options.threads)
    keep_freed_memory()
    small = argparse.Namespace(**{**vars(options), "batch": 1})
    build(name, layout, small)[1]()  # loads what is loaded on first use
    before = _peak()
    _, step = build(name, layout, options)
    for _ in range(3):
        step()
    return _peak() - before


def _peak() -> int:
    status = Path("/proc/self/status")
    if status.exists():  # getrusage would begin with the peak of the process that started this one
        return int(status.read_text(encoding="ascii").partition("VmHWM:")[2].split()[0]) * 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if platform.system() == "Darwin" else 1024)


def text(result: dict[str, Any]) -> str:
    """The result for people."""
    rows = []
    for name, row in result["frameworks"].items():
        ratio = row["ratio"]
        spread = "" if name == OURS else f"{ratio['median']:.3f}  ({ratio['low']:.3f} to {ratio['high']:.3f})"
        milliseconds = (f"{1000 * row[key]:.1f}" for key in ("seconds", "seconds_least"))
        label = f"{name} {result['versions'].get(name, '')}"
        rows.append((label, row["layout"], *milliseconds, spread, f"{row['peak_memory_bytes'] / 2**20:.0f}"))
    head = ("", "layout", "ms a step", "least", f"time / that of {OURS}", "peak MiB")
    note = (
        f"measured, {result['clock']} time; batch {result['batch']}, T = {STEPS}, channels {result['channels']}, "
        f"{result['threads']} thread(s), median of {result['rounds']} rounds (quartiles)"
    )
    return table(head, rows, note)


def main() -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--channels", type=int, nargs=4, default=[32, 32, 64, 64])
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--clock", choices=CLOCKS, default="wall", help="cpu: for a machine that others use too")
    parser.add_argument("--peers", choices=PEERS, nargs="*", default=list(PEERS), help="who to compare with")
    parser.add_argument("--at-least", type=float, default=0.0, help="exit with 1 if a peer needs less than this ratio")
    parser.add_argument("--sca-at-most", type=float, help="exit with 1 if SCA costs more than this per cent")
    parser.add_argument("--json", action="store_true", help="print one JSON document instead of the table")
    options = parser.parse_args()
    try:
        missing = [name for name in options.peers if find_spec(name) is None]
        if missing:
            raise MissingExtra(f"not installed: {', '.join(missing)}", f"pip install {' '.join(missing)}")
        result = measure((OURS, SCA, *options.peers), options)
    except ScaDeployError as error:
        print(f"error: {error.problem}\nfix: {error.fix}", file=sys.stderr)
        return error.exit_code
    print(json.dumps(result, indent=2) if options.json else text(result))
    ratios = {name: row["ratio"]["median"] for name, row in result["frameworks"].items()}
    slower = any(ratios[name] < options.at_least for name in options.peers)
    costly = options.sca_at_most is not None and ratios[SCA] > 1 + options.sca_at_most / 100
    return 1 if slower or costly else 0


if __name__ == "__main__":
    sys.exit(main())
