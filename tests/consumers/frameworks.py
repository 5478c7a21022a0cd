"""The frameworks that run NIR files, each in a process of its own, with its own packages where it cannot share ours."""

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

import nir
import numpy as np

HERE = Path(__file__).resolve().parent
PEERS = HERE.parents[1] / ".peers"


class CannotRun(Exception):
    """A framework does not run a file; its own words."""


@dataclass(frozen=True)
class Played:
    """What a framework made of a file: by population, (samples, steps, *shape), and under "output" the network's."""

    framework: str
    values: dict[str, np.ndarray]


@dataclass(frozen=True)
class Framework:
    """A framework and where it is.

    Args:
        name: as it is imported, and as its player is called.
        variable: the environment variable that may name the folder it was installed into; empty where it is part of
            the project's own environment.
    """

    name: str
    variable: str = ""

    @property
    def folder(self) -> Path:
        """The packages of its own."""
        return Path(os.environ.get(self.variable, PEERS / self.name))

    @property
    def missing(self) -> str:
        """Why it cannot be run; empty if it can."""
        if not self.variable:
            return "" if find_spec(self.name) else f"{self.name} is not installed"
        there = (self.folder / self.name).is_dir()
        return "" if there else f"{self.name} is not in {self.folder}: `make peers`, or set {self.variable}"


class Player:
    """A process that runs NIR files in a framework, one after the other."""

    def __init__(self, framework: Framework, log: Path) -> None:
        environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
        if framework.variable:
            environment["PYTHONPATH"] = str(framework.folder)
        self._log = log
        with log.open("w") as errors:
            self._process = subprocess.Popen(
                [sys.executable, str(HERE / "players" / f"{framework.name}.py")],
                stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=errors, env=environment, text=True,
            )  # fmt: skip

    def play(self, graph: nir.NIRGraph | Path, x: np.ndarray, folder: Path, dt: float) -> Played:
        """Run a file, or a graph written to one as it is, on x (samples, steps, *input shape).

        Raises:
            CannotRun: with what the framework said.
        """
        source = graph if isinstance(graph, Path) else written(graph, folder / "graph.nir")
        given, found = folder / "x.npy", folder / "found.npz"
        np.save(given, x)
        self._process.stdin.write(
            json.dumps({"graph": str(source), "x": str(given), "out": str(found), "dt": dt}) + "\n"
        )
        self._process.stdin.flush()
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError(f"the player ended: {self._log.read_text()}")
        answer = json.loads(line)
        if "failed" in answer:
            raise CannotRun(answer["failed"])
        with np.load(found) as values:
            return Played(answer["ran"], dict(values))

    def close(self) -> None:
        """End the process."""
        self._process.stdin.close()
        self._process.wait(60)
        self._process.stdout.close()


class _WithoutResets:
    """What `nir.write` asks of a graph, less the resets to 0, with which nir < 1.0.6 reads no file."""

    def __init__(self, graph: nir.NIRGraph) -> None:
        self._graph = graph

    def to_dict(self) -> dict:
        document = self._graph.to_dict()
        for node in document["nodes"].values():
            if not np.any(node.get("v_reset", 0.0)):
                node.pop("v_reset", None)
        return document


def written(graph: nir.NIRGraph, path: Path) -> Path:
    """Write a graph as it is."""
    nir.write(path, _WithoutResets(graph))
    return path


FRAMEWORKS = {
    framework.name: framework
    for framework in (
        Framework("norse"),
        Framework("snntorch"),
        Framework("spikingjelly", "SCA_DEPLOY_SPIKINGJELLY"),
        Framework("sinabs", "SCA_DEPLOY_SINABS"),
    )
}


def which_ran(reports: list) -> list[str]:
    """One line a framework, for the end of a test run: its version and how many tests ran it, or why none did.

    Args:
        reports: pytest's reports of tests that passed, failed or were skipped.
    """
    counts: dict[str, int] = {}
    for report in reports:
        for played in {value for key, value in report.user_properties if key == "framework"}:
            counts[played] = counts.get(played, 0) + 1
    lines = [f"{played}: {count} tests" for played, count in sorted(counts.items())]
    asked = {value for report in reports for key, value in report.user_properties if key == "framework missing"}
    return lines + [f"{FRAMEWORKS[name].missing or name}: not run" for name in sorted(asked)]
