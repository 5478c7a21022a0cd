"""Peak memory and time of the simulator on many samples: the network of configs/fashion.toml, lowered.

    python benchmarks/simulator_memory.py [--samples 10000] [--at-most 2.0] [--json]

Weights are seeded and random, and the samples random pictures of 28 x 28 pixels of 8 bits, shown over 4
steps from a memory map; nothing is recorded. The peak is that of the whole process, torch included, with
what it was before the run beside it.
"""

from __future__ import annotations

import argparse
import json
import resource
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from sca_deploy.config import load_config
from sca_deploy.graph import DT, to_nir
from sca_deploy.hardware.lower import lower
from sca_deploy.hardware.program import Program
from sca_deploy.hardware.simulate import simulate
from sca_deploy.nn.network import SpikingNetwork
from sca_deploy.nn.spec import NetworkSpec, parse_layers

SHAPE = (1, 28, 28)
PIXEL_MAX = 255
GIGABYTE = 1e9


def fashion() -> Program:
    """The network of configs/fashion.toml with random weights, for direct coding in 8 bits."""
    config = load_config("fashion").network
    layers = parse_layers(config.layers, config.neuron)
    torch.manual_seed(0)
    network = SpikingNetwork(NetworkSpec(SHAPE, layers, config.steps, 1 / PIXEL_MAX)).eval()
    return lower(to_nir(network), dt=DT, steps=config.steps, input_bits=8)


def pictures(path: Path, samples: int, steps: int) -> npt.NDArray[np.generic]:
    """Seeded random pictures as a memory map, (samples, steps, *SHAPE), without copies for the steps."""
    kept = np.lib.format.open_memmap(path, "w+", np.uint8, (samples, *SHAPE))
    rng = np.random.default_rng(0)
    for sample in kept:
        sample[:] = rng.integers(0, PIXEL_MAX + 1, SHAPE, np.uint8)
    kept.flush()
    read = np.load(path, mmap_mode="r")
    return np.broadcast_to(read[:, None], (samples, steps, *SHAPE))


def peak() -> float:
    """Bytes of memory that this process held at most."""
    status = Path("/proc/self/status")
    if status.exists():  # getrusage would begin with the peak of the process that started this one
        (line,) = (line for line in status.read_text().splitlines() if line.startswith("VmHWM"))
        return float(line.split()[1]) * 1024
    return float(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss) * (1 if sys.platform == "darwin" else 1024)


def measure(samples: int) -> dict[str, Any]:
    """Bytes and seconds of one run."""
    program = fashion()
    with tempfile.TemporaryDirectory() as folder:
        x = pictures(Path(folder) / "x.npy", samples, program.steps)
        before, started = peak(), time.perf_counter()
        simulate(program, x)
        seconds = time.perf_counter() - started
    return {
        "samples": samples,
        "steps": program.steps,
        "neurons": sum(layer.neurons for layer in program.layers),
        "threads": torch.get_num_threads(),
        "peak_bytes_before": before,
        "peak_bytes": peak(),
        "seconds": seconds,
        "samples_per_second": samples / seconds,
    }


def main() -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--samples", type=int, default=10_000)
    parser.add_argument("--at-most", type=float, default=float("inf"), help="exit with 1 above so many GB")
    parser.add_argument("--json", action="store_true", help="print one JSON document instead of a line")
    options = parser.parse_args()
    result = measure(options.samples)
    line = (
        f"{result['samples']} samples of {result['steps']} steps, {result['neurons']} neurons, "
        f"{result['threads']} thread(s): {result['seconds']:.1f} s, peak {result['peak_bytes'] / GIGABYTE:.2f} GB "
        f"({result['peak_bytes_before'] / GIGABYTE:.2f} GB before the run)"
    )
    print(json.dumps(result, indent=2) if options.json else line)
    return 0 if result["peak_bytes"] <= options.at_most * GIGABYTE else 1


if __name__ == "__main__":
    sys.exit(main())
