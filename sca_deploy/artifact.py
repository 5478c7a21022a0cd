"""What a path on the command line stands for: a run, an arm of it, a checkpoint, a graph, a Program, a .net file."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import nir

from sca_deploy.bringing import graph_dynamics
from sca_deploy.checkpoint import load_network
from sca_deploy.config import Config
from sca_deploy.conventions import Asked, settled
from sca_deploy.errors import ScaDeployError, UsageError
from sca_deploy.exporters.netx_reading import read_program
from sca_deploy.exporters.nir_reading import read_nir
from sca_deploy.files import read_json, sha256
from sca_deploy.graph import to_nir
from sca_deploy.hardware.dynamics import Dynamics
from sca_deploy.hardware.frontend import read_populations
from sca_deploy.hardware.lifting import lifted
from sca_deploy.hardware.lower import Rules, assemble, lower
from sca_deploy.hardware.program import Program
from sca_deploy.hardware.restoring import holds_integers, restored
from sca_deploy.hardware.scales import search_scales
from sca_deploy.hardware.simulate import check_input
from sca_deploy.nn.graph_network import GraphNetwork
from sca_deploy.pruning.compact import compact
from sca_deploy.pruning.group import Network
from sca_deploy.recording import load_input

ARMS = ("dense", "pruned")
KINDS = {".pt": "network_path", ".nir": "graph_path", ".npz": "program_path", ".net": "net_path"}
SUFFIXES = "give a run folder, or a .pt, .nir, .npz or .net file"


@dataclass(frozen=True)
class Reading:
    """What a foreign file does not say: dt in seconds, steps a sample, bits of a graded input.

    num_layers: how many entries of a .net file are read, from the first; None reads all.
    calibrate: a .npy file of real input, on which the scales of a graph's layers are searched.
    preset, reset, multi_spike, clamp, tie: how the neurons of a graph step; see `conventions`.
    """

    dt: float | None = None
    steps: int | None = None
    input_bits: int | None = None
    num_layers: int | None = None
    calibrate: Path | None = None
    preset: str | None = None
    reset: str | None = None
    multi_spike: bool | None = None
    clamp: float | str | None = None
    tie: str | None = None

    @property
    def asked(self) -> Asked:
        """What was said about the neurons."""
        return Asked(self.dt, self.reset, self.multi_spike, self.clamp, self.tie, self.preset)


@dataclass(frozen=True, eq=False)
class Artifact:
    """A network in whatever form the path holds; the other forms are derived when asked for.

    `network_path` leads to all three, a run's to the Program at `program_path`; a loihi2 folder has a `graph_path`
    and a `program_path`; a `net_path` leads to a Program only.
    """

    path: Path
    title: str
    network_path: Path | None = None
    graph_path: Path | None = None
    program_path: Path | None = None
    net_path: Path | None = None
    config: Config | None = None
    reading: Reading = Reading()

    @cached_property
    def network(self) -> Network | None:
        """The torch network without masked channels; None for graphs and Programs."""
        return None if self._loaded is None else compact(self._loaded[0])

    @cached_property
    def _loaded(self) -> tuple[Network, dict[str, Any]] | None:
        if self.network_path is None:
            return None
        if self.reading.asked != Asked():
            raise UsageError(
                f"{self.network_path} says how its neurons step",
                "--dt, --preset, --reset, --multi-spike, --clamp and --tie are for .nir files",
            )
        loaded = load_network(self.network_path)
        if self.reading.steps not in (None, loaded[0].steps):
            raise UsageError(f"{self.network_path} lasts {loaded[0].steps} steps, not --steps {self.reading.steps}")
        return loaded

    @cached_property
    def graph(self) -> nir.NIRGraph | None:
        """The NIR graph, a .net file's integers in floats; None for a lone Program."""
        if self.net_path is not None:
            return lifted(self.program)
        if self.network is not None:
            graph = to_nir(self.network)
            if self._loaded is not None and self._loaded[1].get("scales"):
                # One flat string: some readers fail on nested metadata.
                graph.metadata["scales"] = json.dumps(self._loaded[1]["scales"])
            return graph
        return None if self._settled is None else self._settled[0]

    @cached_property
    def _settled(self) -> tuple[nir.NIRGraph, Dynamics] | None:
        """The graph of a file, read as the flags say."""
        if self.graph_path is None:
            return None
        graph, dynamics = settled(read_nir(self.graph_path), self.reading.asked, str(self.graph_path))
        if self.reading.steps is not None and not holds_integers(graph):
            graph.metadata["T"] = self.reading.steps
        return graph, dynamics

    @property
    def dynamics(self) -> Dynamics:
        """How the neurons of the graph step.

        Raises:
            UsageError: if nothing says what matters.
        """
        if self.graph is None:
            raise ScaDeployError(f"{self.path} holds integers only", "give a run, a .pt or a .nir file")
        return graph_dynamics(self.graph) if self._settled is None else self._settled[1]

    @cached_property
    def module(self) -> Network:
        """The torch network, made of the graph where there is no checkpoint.

        Raises:
            UsageError: if nothing says how many steps a sample lasts.
        """
        if self.network is not None:
            return self.network
        if self.graph is None:
            raise ScaDeployError(f"{self.path} holds integers only", "give a run, a .pt or a .nir file")
        return GraphNetwork(self.graph, self.dynamics, self._steps()).eval()

    @cached_property
    def program(self) -> Program:
        """The integer Program, loaded or lowered."""
        if self.net_path is not None:
            return self._net_program(self.net_path)
        if self.reading.num_layers is not None:
            raise UsageError(f"{self.path} is not a .net file", "--num-layers is for .net files")
        if self.program_path is not None:
            if self.reading != Reading():
                raise UsageError(
                    f"{self.program_path} holds integers already",
                    "--dt, --steps, --input-bits and --calibrate are for files of other tools",
                )
            return Program.load(self.program_path)
        if self.graph is None:
            raise ScaDeployError(f"{self.path} holds no network")
        if holds_integers(self.graph):
            return self._restored(self.graph)
        scales = _scales(self.graph)
        if self.reading.calibrate is not None:
            scales = self._searched(self.graph, self.reading.calibrate)
        return lower(self.graph, dt=self.dt, steps=self._steps(), input_bits=self._input_bits(), scales=scales)

    def _restored(self, graph: nir.NIRGraph) -> Program:
        """The integers that a graph says it was made of; nothing about them is open."""
        program, reading = restored(graph), self.reading
        same = reading.steps in (None, program.steps) and reading.input_bits in (None, program.input_bits)
        if not same or reading.calibrate is not None:
            raise UsageError(f"{self.path} holds integers already", "leave --steps, --input-bits and --calibrate out")
        return program

    def _searched(self, graph: nir.NIRGraph, path: Path) -> dict[str, float]:
        """The scales that fit the input in a file best."""
        rules = Rules(self._steps(), self._input_bits())
        shape, populations = read_populations(graph, self.dt)
        x = load_input(path, shape)
        check_input(assemble(shape, populations, rules), x)
        return {choice.name: choice.chosen for choice in search_scales(shape, populations, rules, x)}

    def _net_program(self, path: Path) -> Program:
        if self.reading.calibrate is not None:
            raise UsageError(f"{path} holds integers already", "leave --calibrate out; it is for graphs of floats")
        if self.reading.dt is not None:
            raise UsageError(f"{path} holds decays a step, not time constants", "leave --dt out; it is for .nir files")
        bits, num_layers = self.reading.input_bits or 0, self.reading.num_layers
        return read_program(path, steps=self._steps(), input_bits=bits, num_layers=num_layers)

    @property
    def dt(self) -> float:
        """The time step of the graph in seconds."""
        return self.dynamics.dt

    def _steps(self) -> int:
        # A .net file says nothing, and its graph is made of a Program of so many steps.
        remark = None if self.net_path is not None or self.graph is None else self.graph.metadata.get("T")
        value = self.reading.steps if self.reading.steps is not None else remark
        if not isinstance(value, int) or value < 1:
            said = "does not say how many steps a sample lasts" if value is None else f"says {value!r} steps a sample"
            raise UsageError(f"{self.path} {said}", "give --steps T")
        return value

    def _input_bits(self) -> int:
        if self.reading.input_bits is not None:
            return self.reading.input_bits
        if self._loaded is not None and "input_bits" in self._loaded[1]:
            return int(self._loaded[1]["input_bits"])
        raise UsageError(
            f"{self.path} does not say what its input spikes carry", "give --input-bits 0 (binary) or e.g. 8"
        )


def open_artifact(path: str | Path, reading: Reading | None = None) -> Artifact:
    """The network a path stands for. A whole run stands for its pruned arm.

    Raises:
        ScaDeployError: if there is nothing there that holds a network.
    """
    place, reading = Path(path), reading or Reading()
    if place.is_dir():
        return _open_folder(place, reading)
    if not place.exists():
        raise ScaDeployError(f"no such file or folder: {place}", SUFFIXES)
    kind = KINDS.get(place.suffix)
    if kind is None:
        raise ScaDeployError(f"{place} is not a network file", SUFFIXES)
    return Artifact(place, place.stem, **{kind: place}, config=_config_near(place), reading=reading)


def _scales(graph: nir.NIRGraph) -> dict[str, float] | None:
    """The scales of its layers that a graph of ours remembers, None for others.

    Raises:
        ScaDeployError: if it remembers something else.
    """
    remark = graph.metadata.get("scales")
    if remark is None:
        return None
    try:
        scales = {str(name): float(scale) for name, scale in json.loads(remark).items()}
    except (TypeError, ValueError, AttributeError) as error:
        raise ScaDeployError(f"the graph says scales {remark!r:.80}", "export it again") from error
    if not all(0 < scale < math.inf for scale in scales.values()):
        raise ScaDeployError(f"the graph says scales {remark!r:.80}, not all positive", "export it again")
    return scales


def arm_folder(path: str | Path) -> Path:
    """The folder of an arm, from itself or from a run (whose pruned arm it is)."""
    place = Path(path)
    for arm in reversed(ARMS):
        if (place / arm).is_dir():
            return place / arm
    # "." has no name to tell an arm by.
    return place.resolve() if place.name not in ARMS and place.resolve().name in ARMS else place


def _open_folder(place: Path, reading: Reading) -> Artifact:
    folder = arm_folder(place)
    title = f"{folder.resolve().parent.name}-{folder.name}" if folder.name in ARMS else folder.resolve().name
    config = _config_near(folder)
    network = _newest_network(folder)
    program = folder / "program.npz"
    if network is not None:
        # What was evaluated, exported and verified is the Program that the lower step wrote of this very network.
        lowered = program if _lowered_from(folder, network) else None
        return Artifact(folder, title, network_path=network, program_path=lowered, config=config, reading=reading)
    if program.exists():
        graph = folder / "network.nir"
        found = graph if graph.exists() else None
        return Artifact(folder, title, graph_path=found, program_path=program, config=config, reading=reading)
    raise ScaDeployError(f"{place} holds no network", "give a folder that run, train or export wrote")


def _lowered_from(folder: Path, network: Path) -> bool:
    """Whether the folder's program.npz was lowered from this network, as its manifest says."""
    program, manifest = folder / "program.npz", folder / "manifest.json"
    if network.name != "network.pt" or not (program.exists() and manifest.exists()):
        return False
    document = read_json(manifest)
    sources = document.get("sources") if isinstance(document, dict) else None
    return isinstance(sources, dict) and all(sources.get(path.name) == sha256(path) for path in (network, program))


def _newest_network(folder: Path) -> Path | None:
    """The compacted network of an arm, or the trained one where that is newer."""
    small, trained = folder / "network.pt", _newest_trained(folder)
    if not small.exists():
        return trained
    if trained is not None and load_network(small)[1].get("checkpoint") != sha256(trained):
        return trained
    return small


def _newest_trained(folder: Path) -> Path | None:
    """The checkpoint of an arm, or what was held to a budget, unless the checkpoint was trained further since."""
    checkpoint, held = folder / "train" / "checkpoint.pt", folder / "fitted.pt"
    if not checkpoint.exists():
        return None
    if held.exists() and load_network(held)[1].get("checkpoint") == sha256(checkpoint):
        return held
    return checkpoint


def _config_near(place: Path) -> Config | None:
    """The config of the run that holds this arm, or this file or folder of an arm."""
    for folder in (place.resolve(), *place.resolve().parents[:2]):
        path = folder.parent / "config.json"
        if folder.name in ARMS and path.is_file():
            return Config.from_plain(read_json(path))
    return None
