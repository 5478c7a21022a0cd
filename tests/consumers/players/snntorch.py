"""Plays NIR files in snntorch, whose time step is 1e-4 s whatever is asked."""

import sys
from pathlib import Path

# This file has the framework's name, and Python looks beside a script first.
sys.path.append(sys.path.pop(0))

import nir
import torch
from recording import Played, play_as_nir, serve
from snntorch import SpikingNeuron
from snntorch.import_nir import import_from_nir


def play(file: Path, x: torch.Tensor, dt: float) -> Played:
    """Read by snntorch itself, which takes a graph."""
    return play_as_nir(file, lambda: import_from_nir(nir.read(file)), (SpikingNeuron,), x)


if __name__ == "__main__":
    serve("snntorch", play)
