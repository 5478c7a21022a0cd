"""Plays NIR files in spikingjelly, which takes the time step as an argument."""

import sys
from pathlib import Path

# This file has the framework's name, and Python looks beside a script first.
sys.path.append(sys.path.pop(0))

import torch
from recording import Played, play_batch, serve
from spikingjelly.activation_based.nir_exchange import import_from_nir
from spikingjelly.activation_based.nir_exchange.from_nir import _NIRStatefulModule


def play(file: Path, x: torch.Tensor, dt: float) -> Played:
    """Read by spikingjelly itself."""
    return play_batch(lambda: import_from_nir(file, dt=dt), (_NIRStatefulModule,), x)


if __name__ == "__main__":
    serve("spikingjelly", play)
