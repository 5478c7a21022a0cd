"""The simulator against Lava, bit for bit, and against the same network in floats.

    python benchmarks/simulator_vs_lava.py [--network small four-conv pilotnet] [--samples N]
                                           [--at-least 200] [--torch-at-most 1.3] [--json]

    small      2 x 20 x 20 spikes, convolutions of 8 and 16 channels, 64 hidden neurons; seeded random weights
    four-conv  2 x 28 x 28 spikes, convolutions of 32, 32, 64 and 64 channels; seeded random weights
    pilotnet   lava-dl's PilotNet, five convolutions and four dense layers on 3 x 66 x 200 pixels

All on one thread but Lava, which is many processes on all cores; its time is that of the run alone, after
everything was compiled and started. Against Lava the simulator records every spike, from the input array to
the records. Against floats it counts them; the float network is sca-deploy's own SpikingNetwork with the same weights
in evaluation mode, the same batch, in the faster of two memory layouts. Both take turns; the ratio is the
median of the rounds' ratios. Lava's figures are printed only if every spike of every layer and every
read-out potential were equal.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from importlib.metadata import files
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from sca_deploy.errors import MissingExtra, ScaDeployError
from sca_deploy.exporters.netx import read_program, write_net
from sca_deploy.hardware.lava.client import INSTALL, run_lava
from sca_deploy.hardware.lava.compare import verify
from sca_deploy.hardware.program import DECAY_ONE, INPUT, THRESHOLD_MAX, Conv, Dense, IntArray, Layer, Program
from sca_deploy.hardware.simulate import simulate
from sca_deploy.nn.network import SpikingNetwork
from sca_deploy.nn.spec import NetworkSpec, parse_layers

STEPS = 16
DECAY = 410
ROUNDS = 7
ACTIVITY = 0.2
Clock = Callable[[], float]
CLOCKS: dict[str, Clock] = {"wall": time.perf_counter, "cpu": time.process_time}
PILOTNET = "pilotnet_lif/network.net"


def small() -> Program:
    """Two convolutions, a dense layer and a read-out: 2 x 20 x 20 spikes to 10 classes."""
    return _chain((2, 20, 20), [(8, 1, 350), (16, 2, 500)], [(64, 900)])


def four_conv() -> Program:
    """Four convolutions of 32, 32, 64 and 64 channels and a read-out: 2 x 28 x 28 spikes to 10 classes."""
    return _chain((2, 28, 28), [(32, 1, 350), (32, 2, 700), (64, 1, 700), (64, 2, 900)], [])


def pilotnet() -> Program:
    """The PilotNet of lava-dl's own tests; its input is a picture, injected into 39,600 neurons.

    Raises:
        MissingExtra: if lava-dl is not installed.
    """
    return read_program(_pilotnet_file(), steps=STEPS)


NETWORKS: dict[str, tuple[Callable[[], Program], int]] = {
    "small": (small, 256),
    "four-conv": (four_conv, 64),
    "pilotnet": (pilotnet, 16),
}
"""How each is made, and how many samples it is given: Lava takes seconds for each of the larger ones."""


def _chain(shape: tuple[int, ...], convs: list[tuple[int, int, int]], hidden: list[tuple[int, int]]) -> Program:
    """Layers of 3 x 3 convolutions (channels, stride, threshold), of dense (features, threshold), and a read-out."""
    rng = np.random.default_rng(0)

    def weights(*size: int) -> IntArray:
        return (rng.integers(-100, 110, size) // 2 * 2).astype(np.int32)

    layers: list[Layer] = []
    source, now = INPUT, shape
    for channels, stride, threshold in convs:
        conv = Conv(source, weights(channels, now[0], 3, 3), stride=(stride, stride), padding=(1, 1))
        source, now = f"conv{len(layers) + 1}", conv.output_shape(now)
        layers.append(Layer(source, now, (conv,), DECAY, threshold, np.zeros(channels, np.int32)))
    for features, threshold in hidden:
        dense = Dense(source, weights(features, int(np.prod(now))))
        source, now = f"hidden{len(layers) + 1}", (features,)
        layers.append(Layer(source, now, (dense,), DECAY, threshold, np.zeros(features, np.int32)))
    readout = Dense(source, weights(10, int(np.prod(now))))
    layers.append(Layer("readout", (10,), (readout,), 0, THRESHOLD_MAX, np.zeros(10, np.int32)))
    return Program(shape, 0, STEPS, tuple(layers), readout=True)


def _pilotnet_file() -> Path:
    found = [path for path in files("lava-dl") or () if str(path).endswith(PILOTNET)]
    if not found:
        raise MissingExtra("PilotNet comes with lava-dl, whose files are not here", INSTALL)
    return Path(str(found[0].locate()))


def inputs(program: Program, samples: int) -> npt.NDArray[np.generic]:
    """Seeded spikes, (samples, STEPS, ...), or pictures that stay the same over time where the input is injected."""
    rng = np.random.default_rng(1)
    if program.injected:
        pictures = rng.integers(0, 77, (samples, 1, *program.input_shape), dtype=np.int32)
        return np.broadcast_to(pictures, (samples, STEPS, *program.input_shape))
    return (rng.random((samples, STEPS, *program.input_shape)) < ACTIVITY).astype(np.uint8)


def float_network(program: Program) -> SpikingNetwork:
    """The Program as a SpikingNetwork: a chain whose weights and thresholds are the integers, as floats.

    A spec has square convolutions only, so the layers with weights are put in their places afterwards.
    """
    tables: list[dict[str, Any]] = []
    weighted: dict[str, nn.Module] = {}
    shape = program.input_shape
    for layer in program.layers:
        name, last = f"weights_{layer.name}", layer is program.layers[-1]
        if layer.injected:
            tables.append({"name": name, "type": "conv", "channels": layer.shape[0], "kernel": 1})
            weighted[name] = nn.Identity()
        else:
            [synapse] = layer.synapses
            if isinstance(synapse, Dense) and len(shape) == 3:
                tables.append({"type": "flatten"})
            weighted[name] = _weights(synapse, layer)
            kind = {"type": "linear", "features": layer.shape[0]}
            if isinstance(synapse, Conv):
                kind = {"type": "conv", "channels": layer.shape[0], "kernel": 1}
            tables.append({"name": name} | kind)
        if not last:
            tables.append({"type": "lif", "beta": 1 - layer.v_decay / DECAY_ONE, "threshold": max(layer.threshold, 1)})
        shape = layer.shape
    network = SpikingNetwork(NetworkSpec(program.input_shape, parse_layers(tables, {}), STEPS))
    for name, module in weighted.items():
        network.layers[name] = module
    return network.eval()


def _weights(synapse: Conv | Dense, layer: Layer) -> nn.Module:
    out, inside, *kernel = synapse.weight.shape
    biased = bool(layer.bias.any())
    module: nn.Conv2d | nn.Linear
    if isinstance(synapse, Conv):
        sides = (synapse.stride, synapse.padding, synapse.dilation, synapse.groups)
        module = nn.Conv2d(inside * synapse.groups, out, (kernel[0], kernel[1]), *sides, bias=biased)
    else:
        module = nn.Linear(inside, out, bias=biased)
    with torch.no_grad():
        module.weight.copy_(torch.from_numpy(synapse.weight))
        if module.bias is not None:
            module.bias.copy_(torch.from_numpy(layer.bias))
    return module


def against_floats(program: Program, x: npt.NDArray[np.generic], clock: Clock) -> dict[str, float]:
    """Median seconds of both, and the median of the rounds' ratios."""
    network = float_network(program)
    frames = torch.from_numpy(np.array(x[:, 0] if program.injected else x))
    layouts = (torch.contiguous_format, torch.channels_last)
    ours, floats, ratios = [], [], []
    with torch.inference_mode():
        for round_ in range(ROUNDS + 1):
            simulator = _seconds(lambda: simulate(program, x), clock)
            times = []
            for layout in layouts:
                network.to(memory_format=layout)
                times.append(_seconds(lambda: network(frames), clock))
            best = min(times)
            if round_:  # the first one warms up
                ours.append(simulator)
                floats.append(best)
                ratios.append(simulator / best)
    middle = [statistics.median(values) for values in (ours, floats, ratios)]
    return dict(zip(("simulator_seconds", "torch_seconds", "torch_ratio"), middle, strict=True))


def against_lava(program: Program, x: npt.NDArray[np.generic], python: str | None) -> dict[str, float]:
    """The same samples through both.

    Raises:
        Mismatch: if a value differs.
    """
    with tempfile.TemporaryDirectory() as folder:
        net = Path(folder) / "network.net"
        if program.injected:
            net = _pilotnet_file()
        else:
            write_net(program, net)
        verify(program, net, x, python=python, timeout=3600).raise_on_mismatch()
        lava = run_lava(net, program, x, python=python, timeout=3600)
    recording = min(_seconds(lambda: simulate(program, x, record=("spikes",))) for _ in range(ROUNDS))
    return {
        "recording_seconds": recording,
        "lava_run_seconds": lava.seconds,
        "lava_worker_seconds": lava.total_seconds,
        "simulator_samples_per_second": len(x) / recording,
        "lava_run_samples_per_second": len(x) / lava.seconds,
        "lava_worker_samples_per_second": len(x) / lava.total_seconds,
        "ratio": lava.seconds / recording,
    }


def _seconds(work: Callable[[], object], clock: Clock = time.perf_counter) -> float:
    started = clock()
    work()
    return clock() - started


def measure(name: str, options: argparse.Namespace) -> dict[str, Any]:
    """One network's figures, on one thread.

    Raises:
        Mismatch: if the simulator and Lava differ.
        MissingExtra: if Lava is not installed.
    """
    torch.set_num_threads(1)
    build, usual = NETWORKS[name]
    program, samples = build(), options.samples or usual
    x = inputs(program, samples)
    run = simulate(program, x)
    neurons = sum(layer.neurons for layer in program.layers)
    fired = sum(int(run.messages[layer.name].sum()) for layer in program.layers)
    result: dict[str, Any] = {
        "network": name,
        "samples": samples,
        "steps": STEPS,
        "clock": options.clock,
        "neurons": neurons,
        "activity": fired / (samples * STEPS * neurons),
    }
    result |= against_floats(program, x, CLOCKS[options.clock])
    return result if options.no_lava else result | against_lava(program, x, options.lava_python)


def table(results: list[dict[str, Any]]) -> str:
    """The results for people."""
    rows = []
    for result in results:
        rows += [
            f"{result['network']}: {result['neurons']} neurons, {result['steps']} steps, {result['samples']} samples, "
            f"{result['activity']:.1%} of neurons fire a step",
            f"  {'simulator':<28}{result['simulator_seconds']:>10.3f} s",
            f"  {'float network':<28}{result['torch_seconds']:>10.3f} s, ratio {result['torch_ratio']:.2f}",
        ]
        if "ratio" in result:
            rows += [
                f"  {'simulator, recording spikes':<28}{result['recording_seconds']:>10.3f} s,"
                f" {result['simulator_samples_per_second']:.1f} samples/s",
                f"  {'Lava, run':<28}{result['lava_run_seconds']:>10.3f} s,"
                f" {result['lava_run_samples_per_second']:.2f} samples/s",
                f"  {'Lava, whole worker':<28}{result['lava_worker_seconds']:>10.3f} s,"
                f" {result['lava_worker_samples_per_second']:.2f} samples/s",
                f"  all values equal; {result['ratio']:.0f} times as fast as Lava's run",
            ]
    return "\n".join(rows)


def main() -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--network", nargs="+", choices=list(NETWORKS), default=list(NETWORKS), metavar="NAME")
    parser.add_argument("--samples", type=int, help="instead of each network's usual number")
    parser.add_argument("--clock", choices=CLOCKS, default="wall", help="against floats; cpu: for a busy machine")
    parser.add_argument("--no-lava", action="store_true", help="compare with the float network only")
    parser.add_argument("--at-least", type=float, default=0.0, help="exit with 1 below this ratio of speeds")
    parser.add_argument("--torch-at-most", type=float, help="exit with 1 above this ratio of times")
    parser.add_argument("--json", action="store_true", help="print one JSON document instead of the table")
    parser.add_argument("--lava-python", help="the interpreter that has Lava")
    options = parser.parse_args()
    try:
        results = [measure(name, options) for name in options.network]
    except ScaDeployError as error:
        print(f"error: {error.problem}\nfix: {error.fix}", file=sys.stderr)
        return error.exit_code
    print(json.dumps(results, indent=2) if options.json else table(results))
    fast = all(result.get("ratio", options.at_least) >= options.at_least for result in results)
    near = all(result["torch_ratio"] <= (options.torch_at_most or float("inf")) for result in results)
    return 0 if fast and near else 1


if __name__ == "__main__":
    sys.exit(main())
