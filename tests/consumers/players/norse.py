"""Plays NIR files in norse, which takes the time step as an argument."""

import sys
from pathlib import Path

# This file has the framework's name, and Python looks beside a script first.
sys.path.append(sys.path.pop(0))

import torch
from norse.torch import from_nir
from norse.torch.module.snn import SNNCell
from norse.torch.utils.import_nir import CubaLIF
from recording import Played, play_as_nir, serve


def play(file: Path, x: torch.Tensor, dt: float) -> Played:
    """Read by norse itself, which would only warn of what it ignores."""
    return play_as_nir(file, lambda: from_nir(str(file), ignore_warnings=True, dt=dt), (SNNCell, CubaLIF), x)


if __name__ == "__main__":
    serve("norse", play)
