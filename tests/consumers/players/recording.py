"""What the players share: they load NIR files with a framework's own reader, run them, and write down every spike.

A player reads one job a line from stdin, {"graph": FILE.nir, "x": FILE.npy, "out": FILE.npz, "dt": SECONDS}, and
answers each with a line on stdout, {"ran": "norse 1.1.0"} or {"failed": MESSAGE}. x is (samples, steps, *input shape);
out will hold (samples, steps, *shape) for every population, nested ones as `<graph>.<node>`, and for "output", what the
whole network gives.
"""

import json
import sys
from collections.abc import Callable
from contextlib import redirect_stdout
from importlib.metadata import version
from pathlib import Path
from typing import Any

import nir
import numpy as np
import torch

Played = dict[str, torch.Tensor]


def serve(framework: str, play: Callable[[Path, torch.Tensor, float], Played]) -> None:
    """Do the jobs that stdin names.

    Args:
        framework: its name among the installed packages.
        play: runs a file on x with a time step.
    """
    answers = sys.stdout
    for line in sys.stdin:
        job = json.loads(line)
        try:
            # What the framework has to say must not get between the answers.
            with redirect_stdout(sys.stderr), torch.no_grad():
                found = play(Path(job["graph"]), torch.from_numpy(np.load(job["x"])).float(), job["dt"])
                np.savez(job["out"], **{name: value.numpy() for name, value in found.items()})
            answer = {"ran": f"{framework} {version(framework)}"}
        except Exception as error:
            # A framework fails in any way it likes on a file it cannot run; which way, the caller is told.
            answer = {"failed": f"{type(error).__name__}: {error}"}
        print(json.dumps(answer), file=answers, flush=True)


class Recorder:
    """Keeps what the neurons of a network put out, step by step.

    A module that is called several times in a step counts once, with what it gave last.
    """

    def __init__(self, network: torch.nn.Module, neurons: tuple[type, ...]) -> None:
        self._steps: list[Played] = []
        names: list[str] = []
        for name, module in network.named_modules():
            # A population may be made of parts that are neurons themselves.
            if isinstance(module, neurons) and not any(name.startswith(f"{whole}.") for whole in names):
                names.append(name)
                module.register_forward_hook(self._keep(name))

    def _keep(self, name: str) -> Callable[..., None]:
        def hook(module: torch.nn.Module, given: Any, output: Any) -> None:
            self._steps[-1][name] = _first(output)

        return hook

    def step(self, network: torch.nn.Module, *given: Any) -> Any:
        """Call the network for one step; returns what it returns."""
        self._steps.append({})
        returned = network(*given)
        self._steps[-1]["output"] = _first(returned)
        return returned

    def stacked(self) -> Played:
        """By population: (steps, *what it put out in one)."""
        return {name: torch.stack([step[name] for step in self._steps]) for name in self._steps[0]}


def play_batch(read: Callable[[], torch.nn.Module], neurons: tuple[type, ...], x: torch.Tensor) -> Played:
    """Run a network that is called once a step and hands its state back. x is (samples, steps, *input shape)."""
    return {name: value.transpose(0, 1) for name, value in _steps(read(), neurons, x.transpose(0, 1)).items()}


def play_as_nir(file: Path, read: Callable[[], torch.nn.Module], neurons: tuple[type, ...], x: torch.Tensor) -> Played:
    """As `play_batch`, for readers that count axes as NIR does: a Flatten from axis 0 leaves no room for a batch."""
    flattens = [node for node in nir.read(file).nodes.values() if isinstance(node, nir.Flatten)]
    if all(node.start_dim < 0 for node in flattens):
        return play_batch(read, neurons, x)
    runs = [_steps(read(), neurons, sample) for sample in x]
    return {name: torch.stack([run[name] for run in runs]) for name in runs[0]}


def _steps(network: torch.nn.Module, neurons: tuple[type, ...], x: torch.Tensor) -> Played:
    """x is (steps, *what the network reads in one)."""
    recorder, state = Recorder(network, neurons), None
    for now in x:
        _, state = recorder.step(network, now, state)
    return recorder.stacked()


def _first(output: Any) -> torch.Tensor:
    """Spikes and output come first, state after them."""
    return output[0] if isinstance(output, tuple) else output
