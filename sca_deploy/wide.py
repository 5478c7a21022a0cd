"""The figures of one or many networks, in this process or spread over the workers of a Ray cluster.

The test set of every network is cut into parts. A worker is sent the bounds of a part; it reads the data set itself,
from where the run's config says, and fetches the network and its Program from Ray's object store. What comes back are
counts and answers, which are merged as those of one process are: the figures are the same to the last bit.
"""

from __future__ import annotations

import socket
import zlib
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import nir
import numpy as np
import numpy.typing as npt

from sca_deploy.artifact import Artifact, open_artifact
from sca_deploy.cluster import Cluster
from sca_deploy.config import Config, DataConfig
from sca_deploy.console import Console
from sca_deploy.data import Dataset, configured
from sca_deploy.errors import ScaDeployError
from sca_deploy.evaluate import Observed, Part, cut, document, evaluate, merged, observe
from sca_deploy.hardware.chip import load_chip
from sca_deploy.hardware.program import Program
from sca_deploy.hardware.simulate import Simulation
from sca_deploy.inputs import Inputs, inputs_of
from sca_deploy.pruning.group import Network

PARTS_A_WORKER = 4
"""Parts of a test set for every worker, so that nobody waits long for the last one."""
SMALLEST_PART = 25
"""Samples of a part, at least: fewer take longer to send than to run."""
RETRIES = 3
"""How often a part is run again because its worker died."""

Advance = Callable[[int, str], None]


@dataclass(frozen=True, eq=False)
class Subject:
    """A network to evaluate.

    Args:
        source: as the user named it.
        artifact: what is there.
        config: of its run; it says the test set, how that is encoded, and the chip.
    """

    source: str
    artifact: Artifact
    config: Config

    @property
    def dataset(self) -> Dataset:
        """The data set that the config names."""
        return _dataset(self.config.data, self.config.network.steps)

    def forms(self) -> tuple[Network, nir.NIRGraph, Program]:
        """The network, its graph and its Program, loaded anew: those of many networks are not kept.

        Raises:
            ScaDeployError: if there are integers only, or it cannot be lowered.
        """
        artifact = replace(self.artifact)
        module, graph = artifact.module, artifact.graph
        if graph is None:
            raise ScaDeployError(f"{self.source} holds integers only", "give a run or one of its arms")
        return module, graph, artifact.program


@dataclass(frozen=True, eq=False)
class Evaluation:
    """What became of a network: its `evaluate.document`, or why there is none."""

    subject: Subject
    document: dict[str, Any] | None = None
    failure: ScaDeployError | None = None


def subject(source: str | Path) -> Subject:
    """The network that a path stands for, with the config of its run.

    Raises:
        ScaDeployError: if there is no network, or no run that says what it is tested on.
    """
    artifact = open_artifact(source)
    if artifact.config is None:
        raise ScaDeployError(
            f"{source} is not in a run, which says what to test it on", "give a run or one of its arms"
        )
    return Subject(str(source), artifact, artifact.config)


def evaluate_all(networks: Sequence[Subject], console: Console, cluster: Cluster | None = None) -> list[Evaluation]:
    """Evaluate networks on their test sets; one that fails costs the others nothing.

    Args:
        networks: what to evaluate.
        console: shows how far it is.
        cluster: whose workers run the parts; None runs everything in this process.

    Returns:
        What became of each, in the order they were given.

    Raises:
        ScaDeployError: if a data set is missing here.
    """
    with console.progress("simulate", sum(len(network.dataset.test_x) for network in networks)) as advance:
        if cluster is None:
            return [_here(network, advance) for network in networks]
        found = list(_spread(networks, cluster, advance))
    return sorted(found, key=lambda evaluation: networks.index(evaluation.subject))


def _here(network: Subject, advance: Advance) -> Evaluation:
    """Evaluate in this process."""
    dataset, config, title = network.dataset, network.config, network.artifact.title
    try:
        inputs, chip = inputs_of(config, dataset), load_chip(config.chip)
        found = evaluate(*network.forms(), dataset, inputs, chip, lambda samples: advance(samples, title))
    except ScaDeployError as failure:
        return Evaluation(network, failure=failure)
    return Evaluation(network, found)


class _Underway:
    """A network that is being evaluated on a cluster, and what is known of its parts so far.

    Args:
        network: that it is.
        cluster: what it is cut for.

    Raises:
        ScaDeployError: if it cannot be lowered, or its chip is not known.
    """

    def __init__(self, network: Subject, cluster: Cluster) -> None:
        import ray

        self.subject, self.dataset = network, network.dataset
        self.module, self.graph, self.program = network.forms()
        self.chip = load_chip(network.config.chip)
        samples = len(self.dataset.test_x)
        size = max(SMALLEST_PART, -(-samples // (PARTS_A_WORKER * cluster.cpus)))
        self.parts = cut(self.module, samples, size)
        self.observed: dict[Part, Observed] = {}
        self.failure: ScaDeployError | None = None
        self.shared = ray.put((self.module, self.program))
        self.check = _checksum(self.dataset.test_x)

    @property
    def complete(self) -> bool:
        return len(self.observed) == len(self.parts)

    def evaluation(self) -> Evaluation:
        """What became of it, once it failed or all its parts are there."""
        if self.failure is not None:
            return Evaluation(self.subject, failure=self.failure)
        behaviour = merged(self.parts, [self.observed[part] for part in self.parts])
        try:
            found = document(self.module, self.graph, self.program, self.dataset, self.chip, behaviour)
        except ScaDeployError as failure:
            return Evaluation(self.subject, failure=failure)
        return Evaluation(self.subject, found)


def _spread(networks: Sequence[Subject], cluster: Cluster, advance: Advance) -> Iterator[Evaluation]:
    """Evaluate on a cluster; each is yielded as soon as all of its parts are there.

    Networks are loaded one after the other, when there are workers for their parts: many large ones need not be in
    memory at once.
    """
    import ray

    task = ray.remote(num_cpus=1, max_retries=RETRIES)(_run_part)
    todo, parts = deque(networks), deque[tuple[_Underway, Part]]()
    running: dict[Any, tuple[_Underway, Part]] = {}
    while todo or parts or running:
        if len(running) < cluster.cpus and (todo or parts):
            if not parts:
                try:
                    under = _Underway(todo[0], cluster)
                except ScaDeployError as failure:
                    yield Evaluation(todo[0], failure=failure)
                else:
                    parts.extend((under, part) for part in under.parts)
                todo.popleft()
                continue
            under, part = parts.popleft()
            if under.failure is None:
                running[task.remote(part, under.shared, under.subject.config, under.check)] = under, part
            continue
        [done], _ = ray.wait(list(running), num_returns=1)
        under, part = running.pop(done)
        if under.failure is not None:
            continue
        _take(under, part, done)
        if part.what == "chip":
            advance(part.stop - part.start, under.subject.artifact.title)
        if under.complete or under.failure is not None:
            yield under.evaluation()


def _take(under: _Underway, part: Part, done: Any) -> None:
    """What a task found, or why it did not."""
    import ray

    try:
        fields, answers, layers = ray.get(done)
    except ray.exceptions.RayTaskError as error:
        if not isinstance(error.cause, ScaDeployError):
            raise
        under.failure = error.cause
    except ray.exceptions.RayError as error:
        where = f"test samples {part.start} to {part.stop} of {under.subject.source}"
        problem = f"the worker of {where} died {RETRIES + 1} times: {type(error).__name__}"
        under.failure = ScaDeployError(problem, "use fewer workers a node, or give them more memory")
    else:
        run = None if fields is None else Simulation(program=under.program, **fields)
        under.observed[part] = Observed(run, answers, layers)


def _run_part(part: Part, shared: tuple[Network, Program], config: Config, check: int) -> tuple[Any, ...]:
    """What a worker does: run a part. The Program, which the driver has, is not sent back."""
    network, program = shared
    data, steps, node = config.data, config.network.steps, f"node {socket.gethostname()}"
    try:
        test_x, pixel_max, timed, found = _test_set(data, steps)
    except ScaDeployError as error:
        raise type(error)(f"{node}: {error.problem}", error.fix) from error
    if found != check:
        problem = f"{node} reads another test set '{data.set}' than this process"
        raise ScaDeployError(problem, "have the same data on every node")
    seen = observe(part, network, program, test_x, Inputs(data.coding, steps, pixel_max, timed, data.augment))
    fields = None if seen.run is None else {key: value for key, value in vars(seen.run).items() if key != "program"}
    return fields, seen.answers, seen.layers


@lru_cache(maxsize=2)
def _dataset(data: DataConfig, steps: int) -> Dataset:
    return configured(data, steps)


@lru_cache(maxsize=2)
def _test_set(data: DataConfig, steps: int) -> tuple[npt.NDArray[np.uint8], int, bool, int]:
    """What a worker needs of a data set, and its checksum; the training samples, most of the set, are let go."""
    dataset = configured(data, steps)
    return dataset.test_x.copy(), dataset.pixel_max, dataset.timed, _checksum(dataset.test_x)


def _checksum(x: npt.NDArray[np.uint8]) -> int:
    return zlib.crc32(np.ascontiguousarray(x).data)
