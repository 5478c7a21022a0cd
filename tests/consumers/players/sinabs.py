"""Plays NIR files in sinabs, whose time constants are in steps; it runs all steps of a layer before the next layer."""

import sys
from pathlib import Path

# This file has the framework's name, and Python looks beside a script first.
sys.path.append(sys.path.pop(0))

import nir
import torch
from recording import Played, Recorder, serve
from sinabs.layers import StatefulLayer
from sinabs.nir import from_nir


def play(file: Path, x: torch.Tensor, dt: float) -> Played:
    """Read by sinabs itself; its batches hold samples and steps on one axis."""
    network = from_nir(nir.read(file), batch_size=len(x))
    recorder = Recorder(network, (StatefulLayer,))
    recorder.step(network, x.flatten(0, 1))
    return {name: value[0].unflatten(0, x.shape[:2]) for name, value in recorder.stacked().items()}


if __name__ == "__main__":
    serve("sinabs", play)
