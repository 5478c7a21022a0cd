"""The main job: one config in, a dense and a pruned network out, exported, verified and compared.

Every arm goes through the same named steps. A step writes its result before the next starts and is
skipped when it was already done from the same inputs, so a run that was interrupted can be repeated.

    run/  config.json  compare.json  compare.png
          dense/ pruned/   train/{checkpoint.pt, metrics.jsonl}
                           network.pt  compaction.json  network.nir  program.npz
                           evaluation.json  network.onnx  loihi2/  verify.json  steps.json
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch

from sca_deploy.artifact import ARMS, Artifact, arm_folder, open_artifact, read_graph
from sca_deploy.checkpoint import load_network, save_network
from sca_deploy.compare import compare
from sca_deploy.config import Config
from sca_deploy.console import Console
from sca_deploy.data import Dataset, load_dataset
from sca_deploy.errors import ScaDeployError, UsageError
from sca_deploy.evaluate import direct_code, evaluate
from sca_deploy.exporters.base import Deployable, exporter
from sca_deploy.files import read_json, write_json
from sca_deploy.graph import DT, to_nir
from sca_deploy.hardware.chip import Chip, load_chip
from sca_deploy.hardware.lava.compare import Verification, verify
from sca_deploy.hardware.lower import lower
from sca_deploy.hardware.program import Program
from sca_deploy.manifest import digest, manifest
from sca_deploy.nn.network import SpikingNetwork
from sca_deploy.probe import SAMPLES, probe
from sca_deploy.pruning.compact import compact, prove
from sca_deploy.train import train

PROOF_SAMPLES = 64


@dataclass(frozen=True)
class Job:
    """What all steps share."""

    config: Config
    folder: Path
    console: Console
    lava_python: str | None = None

    @cached_property
    def dataset(self) -> Dataset:
        """The config's data set."""
        data = self.config.data
        dataset = load_dataset(data.set, Path(data.folder) if data.folder else None)
        return dataset.first(data.train_samples, data.test_samples)

    @cached_property
    def chip(self) -> Chip:
        """The config's chip."""
        return load_chip(self.config.chip)


def start(job: Job) -> None:
    """Make the run folder and leave the resolved config in it.

    Raises:
        UsageError: if the folder holds a run of another config.
    """
    path, plain = job.folder / "config.json", job.config.to_plain()
    if path.exists() and read_json(path) != plain:
        raise UsageError(f"{job.folder} holds a run of another config", "choose another --output, or delete the folder")
    write_json(path, plain)


def run(job: Job) -> dict[str, Any]:
    """The whole pipe for both arms; returns the comparison, which is also in compare.json."""
    start(job)
    for arm in ARMS:
        run_arm(job, arm)
    document = compare(*(read_json(job.folder / arm / "evaluation.json") for arm in ARMS))
    write_json(job.folder / "compare.json", document)
    from sca_deploy.report.plots import plot_run  # matplotlib takes a second to import

    plot_run(job.folder)
    return document


def run_arm(job: Job, arm: str) -> None:
    """All steps of one arm, each skipped where it is already done."""
    steps = _Steps(job.folder / arm, digest(job.config.to_plain()), job.console)
    folder = job.folder / arm
    steps.do("train", lambda: train_arm(job, arm), folder / "train" / "checkpoint.pt")
    steps.do("compact", lambda: compact_arm(job, arm), folder / "network.pt")
    steps.do("lower", lambda: lower_arm(job, arm), folder / "program.npz")
    steps.do("evaluate", lambda: evaluate_arm(job, arm), folder / "evaluation.json")
    steps.do("export", lambda: export_arm(job, arm), folder / "loihi2")
    steps.do("verify", lambda: verify_arm(job, arm), folder / "verify.json")


def train_arm(job: Job, arm: str) -> SpikingNetwork:
    """Train one arm, continuing what an interruption left."""
    config = job.config
    with job.console.progress(f"{arm}: train", config.train.epochs) as advance:

        def show(entry: dict[str, Any]) -> None:
            kept = entry.get("sca", {}).get("kept")
            remark = f"loss {entry['loss']:.3f}  test {100 * entry['test_accuracy']:.1f} %"
            advance(1, remark + (f"  channels {sum(kept.values())}" if kept else ""))

        return train(config, job.dataset, job.folder / arm / "train", prune=arm == "pruned", progress=show)


def compact_arm(job: Job, arm: str) -> None:
    """Checkpoint -> network.pt without masked channels, proven on real test samples."""
    folder = job.folder / arm
    network, _ = load_network(folder / "train" / "checkpoint.pt")
    small = compact(network)
    proof = prove(network, small, torch.from_numpy(job.dataset.test_x[:PROOF_SAMPLES]))
    save_network(folder / "network.pt", small, input_bits=job.dataset.bits)
    write_json(
        folder / "compaction.json", {**vars(proof), "before": network.kept_channels, "after": small.kept_channels}
    )
    job.console.say(
        f"{arm}: compacted to {sum(small.kept_channels.values())} channels; {proof.spikes_compared:,} spikes equal, "
        f"logits within {proof.max_logit_difference:g}"
    )


def lower_arm(job: Job, arm: str) -> None:
    """network.pt -> network.nir -> program.npz."""
    folder = job.folder / arm
    network, _ = load_network(folder / "network.pt")
    deployable = Deployable(to_nir(network), DT, title=f"{job.config.name}-{arm}")
    exporter("nir").export(deployable, folder / "network.nir")
    graph = read_graph(folder / "network.nir")
    lower(graph, dt=DT, steps=network.spec.steps, input_bits=job.dataset.bits).save(folder / "program.npz")


def evaluate_arm(job: Job, arm: str) -> None:
    """All figures of the arm on the test set."""
    folder = job.folder / arm
    network, _ = load_network(folder / "network.pt")
    program = Program.load(folder / "program.npz")
    with job.console.progress(f"{arm}: simulate", len(job.dataset.test_x)) as advance:
        document = evaluate(
            network,
            read_graph(folder / "network.nir"),
            program,
            job.dataset,
            job.chip,
            progress=lambda n: advance(n, "samples"),
        )
    write_json(folder / "evaluation.json", document)


def export_arm(job: Job, arm: str) -> None:
    """The loihi2 folder and the ONNX file."""
    folder = job.folder / arm
    network, _ = load_network(folder / "network.pt")
    deployable = Deployable(
        graph=read_graph(folder / "network.nir"),
        dt=DT,
        program=Program.load(folder / "program.npz"),
        probe=probe(network, job.dataset.test_x[:SAMPLES]),
        manifest=manifest(job.config, job.chip, {"network.pt": folder / "network.pt"}),
        title=f"{job.config.name}-{arm}",
        chip=job.chip,
    )
    for target, output in (("loihi2", folder / "loihi2"), ("onnx", folder / "network.onnx")):
        for check in exporter(target).export(deployable, output).checks:
            job.console.say(f"{arm}: {check}")


def deployable(artifact: Artifact, chip: Chip, needs_program: bool) -> Deployable:
    """What exporters are given of an artefact, with a real batch of its run's test set where there is one.

    Raises:
        ScaDeployError: if the artefact is a bare Program, which holds no float network.
    """
    if artifact.graph is None:
        raise ScaDeployError(f"{artifact.path} holds integers only", "export from the run, the .pt or the .nir file")
    batch = None
    if artifact.network is not None and artifact.config is not None:
        data = artifact.config.data
        frames = load_dataset(data.set, Path(data.folder) if data.folder else None).test_x[:SAMPLES]
        batch = probe(artifact.network, frames)
    source = artifact.network_path or artifact.graph_path or artifact.path
    return Deployable(
        graph=artifact.graph,
        dt=artifact.dt,
        program=artifact.program if needs_program else None,
        probe=batch,
        manifest=manifest(artifact.config, chip, {source.name: source}),
        title=artifact.title,
        chip=chip,
    )


def evaluation(console: Console, path: Path) -> dict[str, Any]:
    """The figures of an arm: those of its run, or made now if it was only trained and compacted.

    Raises:
        ScaDeployError: if the path is not an arm of a run.
    """
    folder = arm_folder(path)
    if (folder / "evaluation.json").is_file():
        document: dict[str, Any] = read_json(folder / "evaluation.json")
        return document
    artifact = open_artifact(folder)
    if artifact.network is None or artifact.graph is None or artifact.config is None:
        raise ScaDeployError(f"{path} is not an arm of a run", "give runs/NAME/dense and runs/NAME/pruned")
    job = Job(artifact.config, folder.parent, console)
    return evaluate(artifact.network, artifact.graph, artifact.program, job.dataset, job.chip)


def verify_arm(job: Job, arm: str) -> None:
    """Real Lava against the simulator on test samples; a mismatch ends the run."""
    folder = job.folder / arm
    program = Program.load(folder / "program.npz")
    x = direct_code(job.dataset.test_x[: job.config.verify.samples], program.steps)
    verification = verify(
        program, folder / "loihi2" / "network.net", x, python=job.lava_python, timeout=job.config.verify.timeout
    )
    write_json(folder / "verify.json", verification.as_dict())
    verification.raise_on_mismatch()
    job.console.say(f"{arm}: {verified_line(verification)}")


def verified_line(verification: Verification) -> str:
    """One line for people."""
    result = verification.as_dict()
    values = sum(layer["values"] for layer in result["layers"])
    return (
        f"verified against Lava: {result['samples']} samples, {len(result['layers'])} layers, {values:,} values, "
        f"{result['mismatches']} mismatches (Lava {result['lava_seconds']:.1f} s, "
        f"simulator {result['simulator_seconds']:.3f} s)"
    )


class _Steps:
    """Which steps of an arm are done, and from which inputs: each key includes the one before it."""

    def __init__(self, folder: Path, key: str, console: Console) -> None:
        self._path = folder / "steps.json"
        self._done: dict[str, str] = read_json(self._path) if self._path.exists() else {}
        self._key, self._arm, self._console = key, folder.name, console

    def do(self, name: str, action: Callable[[], Any], output: Path) -> None:
        self._key = digest([self._key, name])
        if self._done.get(name) == self._key and output.exists():
            self._console.say(f"{self._arm}: {name} is already done")
            return
        action()
        self._done[name] = self._key
        write_json(self._path, self._done)


def history(folder: Path) -> list[dict[str, Any]]:
    """The log of an arm's training, one entry an epoch."""
    lines = (folder / "train" / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    return [json.loads(line) for line in lines]
