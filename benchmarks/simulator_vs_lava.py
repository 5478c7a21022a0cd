"""Samples a second of the simulator and of Lava: one network, one input, the same bits, in one run.

    python benchmarks/simulator_vs_lava.py [--samples 256] [--at-least 50] [--json]

The network is a small convolutional one with seeded random weights. The simulator's time is everything
from the input array to the spikes, on one thread; Lava's is given twice, the run alone (after it was
compiled and all its processes had started) and the whole worker, on all cores. The ratio is the one
against the run alone. Speeds are printed only if every spike of every layer and every read-out potential
were equal.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch

from sca_deploy.errors import ScaDeployError
from sca_deploy.exporters.netx import write_net
from sca_deploy.hardware.lava.client import LavaRun, run_lava
from sca_deploy.hardware.lava.compare import verify
from sca_deploy.hardware.program import INPUT, THRESHOLD_MAX, Conv, Dense, IntArray, Layer, Program
from sca_deploy.hardware.simulate import simulate

STEPS = 16
TIMES = 3


def network(rng: np.random.Generator) -> Program:
    """Two convolutions, a dense layer and a read-out: 2 x 20 x 20 spikes to 10 classes, 16 steps."""

    def weights(*shape: int) -> IntArray:
        return (rng.integers(-100, 110, shape) // 2 * 2).astype(np.int32)

    conv1 = Conv(INPUT, weights(8, 2, 3, 3), padding=(1, 1))
    conv2 = Conv("conv1", weights(16, 8, 3, 3), stride=(2, 2), padding=(1, 1))
    layers = (
        Layer("conv1", (8, 20, 20), (conv1,), 410, 350, np.zeros(8, np.int32)),
        Layer("conv2", (16, 10, 10), (conv2,), 410, 500, np.zeros(16, np.int32)),
        Layer("hidden", (64,), (Dense("conv2", weights(64, 1600)),), 410, 900, np.zeros(64, np.int32)),
        Layer("readout", (10,), (Dense("hidden", weights(10, 64)),), 0, THRESHOLD_MAX, np.zeros(10, np.int32)),
    )
    return Program((2, 20, 20), 0, STEPS, layers, readout=True)


def measure(samples: int, python: str | None) -> dict[str, float]:
    """Run both on the same samples.

    Raises:
        Mismatch: if a value differs.
    """
    rng = np.random.default_rng(0)
    program = network(rng)
    x = (rng.random((samples, STEPS, *program.input_shape)) < 0.2).astype(np.uint8)
    with tempfile.TemporaryDirectory() as folder:
        net = Path(folder) / "network.net"
        write_net(program, net)
        verify(program, net, x, python=python, timeout=3600).raise_on_mismatch()
        lava: LavaRun = run_lava(net, program, x, python=python, timeout=3600)
    torch.set_num_threads(1)
    simulator = min(_simulate(program, x) for _ in range(TIMES))
    return {
        "samples": samples,
        "steps": STEPS,
        "neurons": sum(layer.neurons for layer in program.layers),
        "simulator_seconds": simulator,
        "lava_run_seconds": lava.seconds,
        "lava_worker_seconds": lava.total_seconds,
        "simulator_samples_per_second": samples / simulator,
        "lava_run_samples_per_second": samples / lava.seconds,
        "lava_worker_samples_per_second": samples / lava.total_seconds,
        "ratio": lava.seconds / simulator,
    }


def _simulate(program: Program, x: npt.NDArray[np.uint8]) -> float:
    started = time.perf_counter()
    simulate(program, x, record=("spikes",))
    return time.perf_counter() - started


def table(result: dict[str, float]) -> str:
    """The result for people."""
    rows = [
        f"{result['neurons']} neurons, {result['steps']} steps a sample, {result['samples']} samples; all values equal",
        f"{'':<14}{'seconds':>10}{'samples/s':>12}",
    ]
    for name, key in (("simulator", "simulator"), ("Lava, run", "lava_run"), ("Lava, worker", "lava_worker")):
        rows.append(f"{name:<14}{result[f'{key}_seconds']:>10.3f}{result[f'{key}_samples_per_second']:>12.1f}")
    rows.append(f"the simulator is {result['ratio']:.0f} times as fast as Lava's run, on one thread")
    return "\n".join(rows)


def main() -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--samples", type=int, default=256)
    parser.add_argument("--json", action="store_true", help="print one JSON document instead of the table")
    parser.add_argument("--at-least", type=float, default=0.0, help="exit with 1 below this ratio")
    parser.add_argument("--lava-python", help="the interpreter that has Lava")
    options = parser.parse_args()
    try:
        result = measure(options.samples, options.lava_python)
    except ScaDeployError as error:
        print(f"{error.problem}\n{error.fix}", file=sys.stderr)
        return error.exit_code
    print(json.dumps(result, indent=2) if options.json else table(result))
    return 0 if result["ratio"] >= options.at_least else 1


if __name__ == "__main__":
    sys.exit(main())
