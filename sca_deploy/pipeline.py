"""The main job: one config in, a dense and a pruned network out, compared, exported, verified.

Every arm goes through the same named steps. A step writes its result before the next starts and is
skipped when it was already done from the same inputs, so a run that was interrupted can be repeated.
Both arms are compared before either is exported: a dense network that does not fit the chip is a reason
to prune, not to stop.

    run/  config.json  compare.json  compare.png  report.html
          dense/ pruned/   train/{checkpoint.pt, metrics.jsonl}  (with a budget: fitted.pt, budget.json)
                           network.pt  compaction.json  network.nir  program.npz  manifest.json
                           evaluation.json  network.onnx  loihi2/  verify.json  steps.json
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from sca_deploy.artifact import ARMS, Artifact, Reading, arm_folder, open_artifact
from sca_deploy.budget import amount, kept, number
from sca_deploy.calibrate import Calibrated, calibrate
from sca_deploy.checkpoint import load_network, save_network
from sca_deploy.compare import compare, compare_floats
from sca_deploy.config import Config, PruneConfig, decisive
from sca_deploy.console import Console
from sca_deploy.data import Dataset, configured
from sca_deploy.errors import DoesNotFit, MissingExtra, ScaDeployError, UsageError
from sca_deploy.evaluate import evaluate, float_figures
from sca_deploy.exporters.base import Deployable, Exporter, exporter
from sca_deploy.exporters.loihi2 import network_file
from sca_deploy.exporters.nir import write_nir
from sca_deploy.files import read_json, sha256, write_json
from sca_deploy.fitting import Fit, fit
from sca_deploy.graph import populations_of, to_nir
from sca_deploy.hardware.chip import Chip, load_chip
from sca_deploy.hardware.lava.compare import Verification, verify
from sca_deploy.hardware.lower import Rules, assemble
from sca_deploy.hardware.program import Program
from sca_deploy.inputs import Inputs, inputs_of
from sca_deploy.manifest import digest, manifest
from sca_deploy.nn.graph_network import GraphNetwork
from sca_deploy.oracle import Oracle
from sca_deploy.probe import SAMPLES, probe
from sca_deploy.pruning.compact import compact, prove
from sca_deploy.pruning.group import Network
from sca_deploy.pruning.groups import channel_groups
from sca_deploy.pruning.method import method
from sca_deploy.pruning.schedule import Plan
from sca_deploy.report.budgets import budget_lines
from sca_deploy.report.figures import counted
from sca_deploy.train import initial_network, read_log, train

PROOF_SAMPLES = 64
ASKED = {"traces": "traces", "over_steps": "accuracy over the steps", "agreement": "agreement of spikes"}
"""Parts of a report on the chip that every arm should have, in words."""


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
        return configured(self.config.data, self.config.network.steps)

    @property
    def inputs(self) -> Inputs:
        """How its samples become input over time."""
        return inputs_of(self.config, self.dataset)

    @cached_property
    def chip(self) -> Chip:
        """The config's chip."""
        return load_chip(self.config.chip)


def arm_config(config: Config, arm: str) -> Config:
    """The config an arm is trained with: a dense one beside a pruned one has no pruning and no penalty.

    That of a network which was brought is not trained at all: it is what was brought.
    """
    if arm == "dense" and config.prune.method != "dense":
        config = replace(config, prune=PruneConfig(method="dense"))
    if arm == "dense" and config.network.file:
        return replace(config, train=replace(config.train, epochs=0))
    return config


def start(job: Job, arms: Sequence[str] = ARMS) -> None:
    """Find out what can be known to be wrong before any training, then leave the resolved config in the folder.

    Raises:
        UsageError: if the config cannot be meant, or the folder holds a run of another one.
        ScaDeployError: if the data set is missing, or the network is one that no chip can run.
        DoesNotFit: if no network of these layers could be inside the budget.
    """
    network = initial_network(job.config, job.dataset)
    if not job.config.network.file:  # what is brought may be pruned without being lowered
        populations_of(network)
    _ = job.chip
    for arm in arms:
        prune = arm_config(job.config, arm).prune
        method(prune.method)(network, prune, Plan(job.config.train.epochs, 1))
        if prune.budget:
            Oracle.of(job.config, job.dataset, samples=1).refuse_hopeless(network, prune.budget)
    path = job.folder / "config.json"
    trained = any((job.folder / arm / "train" / "checkpoint.pt").exists() for arm in ARMS)
    if trained and path.exists():
        there, asked = _decides(read_json(path)), _decides(job.config.to_plain())
        if there != asked:
            problem = f"{job.folder} holds a run of another config{_difference(there, asked)}"
            raise UsageError(problem, "choose another --output, or delete the folder")
    write_json(path, job.config.to_plain())


def _decides(plain: Any) -> Any:
    """The part of a config.json that decides the networks; a run may be lowered again in another way."""
    if not isinstance(plain, dict):
        return plain
    decides = decisive(Config.from_plain(plain))
    del decides["lower"]
    return decides


def _difference(there: Any, asked: Any, path: str = "") -> str:
    """The first key of two configs that differs, in brackets, with both values; nothing where they are no tables."""
    if not (isinstance(there, dict) and isinstance(asked, dict)):
        return ""
    key = next(key for key in {**asked, **there} if there.get(key) != asked.get(key))
    old, new, name = there.get(key), asked.get(key), f"{path}{key}"
    if isinstance(new, dict):
        return _difference(old, new, f"{name}.")
    return f" ({name})" if isinstance(new, list) else f" ({name} {_value(old)}, not {_value(new)})"


def _value(value: Any) -> str:
    """As a config file has it; what is empty, or not there, is seen to be."""
    if value is None:
        return "none"
    return f"'{value}'" if isinstance(value, str) and not value else str(value)


def run(job: Job) -> tuple[dict[str, Any], ScaDeployError | None]:
    """The whole pipe for both arms.

    Returns:
        The comparison, which is also in compare.json, and the first reason why an arm could not be exported or
        verified (it does not fit, Lava is missing), if there was one.
    """
    start(job)
    for arm in ARMS:
        make_arm(job, arm)
    document = _both(job)
    write_json(job.folder / "compare.json", document)
    from sca_deploy.report.plots import plot_run  # matplotlib takes a second to import

    plot_run(job.folder)
    failures = [_deliver(job, arm) for arm in ARMS]
    _report(job, document)
    return document, next(filter(None, [broken_budget(document), *failures]), None)


def _both(job: Job) -> dict[str, Any]:
    """Both arms of a run compared, and its budget."""
    dense, pruned = (evaluation(job.console, job.folder / arm) for arm in ARMS)
    budget = {"budget": pruned["budget"]} if "budget" in pruned else {}
    return compare(dense, pruned) | budget


def broken_budget(document: dict[str, Any]) -> DoesNotFit | None:
    """The error of a comparison whose pruned network takes more on test samples than its budget, else None."""
    for found in document.get("budget", ()):
        if not found["kept"]:
            return DoesNotFit(
                f"pruned: the budget {found['name']}={number(found['limit'])} is exceeded: on test samples the network "
                f"takes {amount(found['name'], found['value'])}",
                "ask for a little less, so that what training samples did not show fits too",
            )
    return None


def prune(job: Job) -> dict[str, Any]:
    """A brought network as it is and pruned, both compacted; where the chip carries both, also lowered and evaluated.

    Returns:
        The comparison, as `compare` gives it, or of the float figures alone; it is also in compare.json.
    """
    start(job)
    steps = [_compacted(job, arm) for arm in ARMS]
    bits = job.inputs.bits
    if all(not_lowered(load_network(job.folder / arm / "network.pt")[0], bits) is None for arm in ARMS):
        for of_arm in steps:
            _evaluated_on_chip(job, of_arm)
        document = _both(job)
    else:
        document = compare_floats(*(_float_figures(job, arm) for arm in ARMS))
    write_json(job.folder / "compare.json", document)
    _report(job, document)
    return document


def _report(job: Job, document: dict[str, Any]) -> None:
    write_report(job.console, job.folder / "dense", job.folder / "pruned", document, job.folder / "report.html")


def write_report(
    console: Console,
    dense: Path,
    pruned: Path,
    document: dict[str, Any],
    path: Path,
    evaluations: Mapping[str, dict[str, Any]] | None = None,
) -> None:
    """The comparison of two arms as a page for a browser, with what is known of both.

    Args:
        console: shows what is worked out.
        dense, pruned: the arms.
        document: what `comparison` gave for them.
        path: the .html file to write.
        evaluations: of "dense" and "pruned", where they are known already.

    Raises:
        ScaDeployError: if a file of an arm is damaged, or the page cannot be written.
    """
    from sca_deploy.report.gathering import gather  # plotly takes its time to import
    from sca_deploy.report.page import write_page

    found = gather(console, dense, pruned, document, evaluations)
    write_page(found, path)
    for arm, part, reason in _lacking(found):
        console.say(f"report: no {part} of {arm}: {reason}")


def _lacking(report: dict[str, Any]) -> Iterator[tuple[str, str, str]]:
    """Arm, part and reason of all that was asked for and is not there; of networks in floats no chip was asked for."""
    if "accuracy_chip" not in report["comparison"]["labels"]:
        return
    for arm, found in report["arms"].items():
        for part, name in ASKED.items():
            if part in found["missing"]:
                yield arm, name, found["missing"][part]


def _float_figures(job: Job, arm: str) -> dict[str, Any]:
    network = load_network(job.folder / arm / "network.pt")[0]
    return float_figures(network, to_nir(network), job.dataset, job.inputs)


def make_arm(job: Job, arm: str) -> None:
    """Train, compact, lower and evaluate one arm, skipping what is done."""
    _evaluated_on_chip(job, _compacted(job, arm))


def _evaluated_on_chip(job: Job, steps: _Steps) -> None:
    """Lower and evaluate an arm that is compacted, skipping what is done."""
    folder = job.folder / steps.arm
    network, program = folder / "network.pt", folder / "program.npz"
    steps.do("lower", lower_arm, [program], network)
    steps.do("evaluate", evaluate_arm, [folder / "evaluation.json"], network, program, job.chip.path)


def _compacted(job: Job, arm: str) -> _Steps:
    """Train and compact one arm, skipping what is done."""
    steps = trained(job, arm)
    outputs = [job.folder / arm / name for name in ("network.pt", "compaction.json", "calibration.json")]
    steps.do("compact", compact_arm, outputs, trained_network(job, arm))
    return steps


def trained(job: Job, arm: str) -> _Steps:
    """Train one arm, and hold it to its budget if it has one, skipping what is done.

    Raises:
        DoesNotFit: if the smallest network that was reached takes more than the budget.
    """
    steps, folder = _Steps(job, arm), job.folder / arm
    checkpoint = folder / "train" / "checkpoint.pt"
    begins = [Path(job.config.network.file)] if job.config.network.file else []
    steps.do("train", train_arm, [checkpoint], *begins)
    if arm_config(job.config, arm).prune.budget:
        steps.do("fit", fit_arm, [folder / "fitted.pt", folder / "budget.json"], checkpoint, job.chip.path)
    return steps


def _deliver(job: Job, arm: str) -> ScaDeployError | None:
    """Export and verify an arm; what only this arm or this machine lacks must not cost the other its results."""
    steps, folder = _Steps(job, arm), job.folder / arm
    program, exported = folder / "program.npz", folder / "loihi2"
    try:
        steps.do("export", export_arm, [exported / "manifest.json"], folder / "network.pt", program, job.chip.path)
        steps.do("verify", verify_arm, [folder / "verify.json"], network_file(exported), program)
    except (DoesNotFit, MissingExtra) as failure:
        job.console.say(f"{arm}: {failure.problem}")
        return type(failure)(f"{arm}: {failure.problem}", failure.fix)
    return None


def train_arm(job: Job, arm: str) -> None:
    """Train one arm, continuing what an interruption left."""
    config, folder = arm_config(job.config, arm), job.folder / arm / "train"
    batches = config.train.epochs * -(-len(job.dataset.train_x) // config.train.batch_size)
    with job.console.training(f"{arm}: train", config.train.epochs, batches, lambda: read_log(folder)) as watched:

        def show(entry: dict[str, Any]) -> None:
            watched.epoch(entry)
            pruning = entry.get("pruning", {})
            if "kept" in pruning:
                layers = ", ".join(f"{name} {count}" for name, count in pruning["kept"].items())
                job.console.detail(f"{arm}: epoch {entry['epoch']}: {layers}; {pruning['regrown']} regrown")

        train(config, job.dataset, folder, on_epoch=show, on_batch=watched.batch)


def fit_arm(job: Job, arm: str) -> None:
    """Checkpoint -> fitted.pt, which is inside the budget once lowered, and budget.json, which says what it takes.

    Raises:
        DoesNotFit: if the smallest network that was reached takes more; budget.json tells of that one.
    """
    folder = job.folder / arm
    checkpoint = folder / "train" / "checkpoint.pt"
    network, _ = load_network(checkpoint)
    found = held(network, folder / "train", arm_config(job.config, arm), job.dataset)
    write_json(folder / "budget.json", found.report)
    for line in budget_lines(found.report):
        job.console.say(f"{arm}: {line}")
    if found.failure is not None:
        (folder / "fitted.pt").unlink(missing_ok=True)  # it was inside the budget of another chip
        raise found.failure
    save_network(folder / "fitted.pt", network, input_bits=job.inputs.bits, checkpoint=sha256(checkpoint))


def held(network: Network, log: Path, config: Config, dataset: Dataset) -> Fit:
    """A trained network held to its budget by the last scores of its training, whose folder is `log`."""
    scores = read_log(log)[-1]["pruning"]["scores"]
    return fit(network, [torch.tensor(score) for score in scores.values()], config, dataset)


def trained_network(job: Job, arm: str) -> Path:
    """The file of an arm's trained network: with a budget the one that was held to it."""
    name = "fitted.pt" if arm_config(job.config, arm).prune.budget else "train/checkpoint.pt"
    return job.folder / arm / name


def compact_arm(job: Job, arm: str) -> None:
    """Checkpoint -> network.pt without masked channels, proven on real test samples, with its integers' scales."""
    folder = job.folder / arm
    network, _ = load_network(trained_network(job, arm))
    small = compact(network)
    proof = prove(network, small, torch.from_numpy(job.inputs.fixed(job.dataset.test_x[:PROOF_SAMPLES])))
    kept = {"before": network.kept_channels, "after": small.kept_channels}
    write_json(folder / "compaction.json", {**vars(proof), **kept})
    logits = f"within {proof.max_logit_difference:g}" if proof.max_logit_difference else "equal"
    said = f"{proof.spikes_compared:,} spikes equal, logits {logits}"
    job.console.say(f"{arm}: compacted to {_channels_left(network, small)}; {said}")
    batches = job.config.lower.finetune * -(-len(job.dataset.train_x) // job.config.train.batch_size)
    if (why := not_lowered(small, job.inputs.bits)) is not None:
        job.console.say(f"{arm}: stays in floats: {why.problem}")
        calibrated = Calibrated(small, {}, {"layers": []})
    else:
        layers = len(populations_of(small)[1]) if job.config.lower.search else 0
        with job.console.progress(f"{arm}: calibrate", layers + batches) as advance:
            calibrated = calibrate(small, arm_config(job.config, arm), job.dataset, advance)
    write_json(folder / "calibration.json", calibrated.report)
    if "drop" in calibrated.report:
        said = "{drop_before:.2f} to {drop:.2f} points in {epochs} epochs".format(**calibrated.report)
        job.console.say(f"{arm}: fine-tuning in integers took what the chip loses on training samples from {said}")
    if over := calibrated.report.get("over_budget"):
        job.console.say(f"{arm}: {counted(over, 'epoch')} of it left the budget, and none of these was taken")
    checkpoint = sha256(trained_network(job, arm))  # by which it is known whether it was trained further since
    extra = {"input_bits": job.inputs.bits, "checkpoint": checkpoint, "scales": calibrated.scales}
    save_network(folder / "network.pt", calibrated.network, **extra)


def _channels_left(network: Network, small: Network) -> str:
    """How many, and of a pruned network how many of them could not go."""
    kept = small.kept_channels
    channels = counted(sum(kept.values()), "channel")
    pruned = {id(norm) for group in channel_groups(network) for norm in group.norms}
    whole = [name for name, norm in network.norms().items() if id(norm) not in pruned]
    if not whole or all(bool(norm.mask.all()) for norm in network.norms().values()):
        return channels
    of = "the last population" if whole == list(kept)[-1:] else "populations that are never pruned"
    return f"{channels}, {sum(kept[name] for name in whole)} of them of {of}"


def not_lowered(network: Network, input_bits: int = 0) -> ScaDeployError | None:
    """Why a brought network cannot become integers; None if it can."""
    if not isinstance(network, GraphNetwork):
        return None
    try:
        shape, populations = populations_of(network)
        assemble(shape, populations, Rules(network.steps, input_bits))
    except ScaDeployError as error:
        return error
    return None


def lower_arm(job: Job, arm: str) -> None:
    """network.pt -> network.nir -> program.npz, with a manifest for all three."""
    folder = job.folder / arm
    given = deployable(open_artifact(folder / "network.pt"), job.chip, exporter("nir"))
    # Networks whose paths join are outside the profile that `export --target nir` promises.
    write_nir(replace(given, title=f"{job.config.name}-{arm}", manifest={}), folder / "network.nir")
    (folder / "verify.json").unlink(missing_ok=True)  # it tells of another Program
    open_artifact(folder / "network.nir", Reading(input_bits=job.inputs.bits)).program.save(folder / "program.npz")
    files = {name: folder / name for name in ("network.pt", "network.nir", "program.npz")}
    write_json(folder / "manifest.json", manifest(job.config, job.chip, files))


def evaluate_arm(job: Job, arm: str) -> None:
    """All figures of the arm on the test set."""
    write_json(job.folder / arm / "evaluation.json", _evaluated(job, open_artifact(job.folder / arm)))


def export_arm(job: Job, arm: str) -> None:
    """The loihi2 folder and the ONNX file."""
    folder = job.folder / arm
    artifact = open_artifact(folder)
    for target, output in (("loihi2", folder / "loihi2"), ("onnx", folder / "network.onnx")):
        writer = exporter(target)
        for check in writer.export(deployable(artifact, job.chip, writer), output).checks:
            job.console.say(f"{arm}: {check}")


def verify_arm(job: Job, arm: str) -> None:
    """Real Lava against the simulator on test samples; a mismatch ends the run."""
    folder, limits = job.folder / arm, job.config.verify
    program = Program.load(folder / "program.npz")
    x = job.inputs.over_time(job.dataset.test_x[: limits.samples])
    verification = verify(program, network_file(folder / "loihi2"), x, python=job.lava_python, timeout=limits.timeout)
    verification.raise_on_mismatch()
    write_json(folder / "verify.json", verification.as_dict())
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


def deployable(artifact: Artifact, chip: Chip, writer: Exporter) -> Deployable:
    """What an exporter is given of an artefact: the Program and a real batch of test samples if it uses them.

    Raises:
        ScaDeployError: if the artefact is a bare Program, which holds no float network.
    """
    if artifact.graph is None:
        raise ScaDeployError(f"{artifact.path} holds integers only", "export from the run, the .pt or the .nir file")
    batch = None
    if writer.probes and artifact.network is not None and artifact.config is not None:
        batch = probe(artifact.network, encoded_test(artifact.config, SAMPLES))
    source = artifact.network_path or artifact.graph_path or artifact.path
    return Deployable(
        graph=artifact.graph,
        dt=artifact.dt,
        dynamics=artifact.dynamics,
        program=artifact.program if writer.integers else None,
        probe=batch,
        manifest=manifest(artifact.config, chip, {source.name: source}),
        title=artifact.title,
        chip=chip,
    )


def encoded_test(config: Config, samples: int | None = None) -> npt.NDArray[np.uint8]:
    """The test set of a config as the chip takes it, (samples, steps, *input_shape)."""
    dataset = configured(config.data, config.network.steps)
    return inputs_of(config, dataset).over_time(dataset.test_x[:samples])


def comparison(console: Console, dense: Path, pruned: Path) -> tuple[dict[str, Any], dict[str, dict[str, Any]]]:
    """The comparison of two arms; of their float figures alone, where one of them stays in floats.

    Returns:
        What `compare` gives, and the evaluations of "dense" and "pruned", none of networks that are compared in floats.
    """
    document, evaluations = _compared(console, [arm_folder(path) for path in (dense, pruned)])
    if _same_network(arm_folder(dense), arm_folder(pruned)):
        found = document["warnings"]
        document["warnings"] = found | {"pruned": [*found["pruned"], "it is the same network as dense"]}
    return document, evaluations


def arms_compared(dense: Path, pruned: Path) -> dict[str, Path]:
    """Which arms stand for "dense" and "pruned"; nothing where they are those of one run."""
    places = dict(zip(ARMS, (arm_folder(dense), arm_folder(pruned)), strict=True))
    there = [place.resolve() for place in places.values()]
    ours = tuple(place.name for place in there) == ARMS and there[0].parent == there[1].parent
    return {} if ours else places


def _same_network(dense: Path, pruned: Path) -> bool:
    networks = [place / "network.pt" for place in (dense, pruned)]
    if dense.resolve() == pruned.resolve():
        return True
    return all(path.is_file() for path in networks) and sha256(networks[0]) == sha256(networks[1])


def _compared(console: Console, places: Sequence[Path]) -> tuple[dict[str, Any], dict[str, dict[str, Any]]]:
    artifacts = [open_artifact(place) for place in places if not (place / "evaluation.json").is_file()]
    if any(artifact.network is not None and not_lowered(artifact.network) is not None for artifact in artifacts):
        jobs = [Job(config, place.parent, console) for place in places if (config := open_artifact(place).config)]
        figures = (_float_figures(job, place.name) for job, place in zip(jobs, places, strict=True))
        return compare_floats(*figures), {}
    evaluations = {arm: evaluation(console, place) for arm, place in zip(ARMS, places, strict=True)}
    return compare(*evaluations.values()), evaluations


def evaluation(console: Console, path: Path) -> dict[str, Any]:
    """The figures of an arm: those of its run, or made now if it was only trained.

    Raises:
        ScaDeployError: if the path is not an arm of a run, or its evaluation.json is damaged.
    """
    folder = arm_folder(path)
    written = folder / "evaluation.json"
    if written.is_file():
        document = read_json(written)
        if not isinstance(document, dict) or "figures" not in document:
            raise ScaDeployError(f"{written} holds no figures", "delete it and repeat the command")
        return document
    artifact = open_artifact(folder)
    if artifact.config is None:
        raise ScaDeployError(f"{path} is not an arm of a run", "give runs/NAME/dense and runs/NAME/pruned")
    return _evaluated(Job(artifact.config, folder.parent, console), artifact)


def _evaluated(job: Job, artifact: Artifact) -> dict[str, Any]:
    if artifact.network is None or artifact.graph is None:
        raise ScaDeployError(f"{artifact.path} is not an arm of a run", "give runs/NAME/dense and runs/NAME/pruned")
    with job.console.progress(f"{artifact.title}: simulate", len(job.dataset.test_x)) as advance:
        document = evaluate(
            artifact.network,
            artifact.graph,
            artifact.program,
            job.dataset,
            job.inputs,
            job.chip,
            progress=lambda n: advance(n, "samples"),
        )
    limits = arm_config(job.config, artifact.path.name).prune.budget
    return document | {"budget": kept(document, limits)} if limits else document


class _Steps:
    """Which steps of an arm are done, and from which inputs."""

    def __init__(self, job: Job, arm: str) -> None:
        self.arm, self._job = arm, job
        self._path = job.folder / arm / "steps.json"
        done = read_json(self._path) if self._path.exists() else {}
        self._done: dict[str, str] = done if isinstance(done, dict) else {}

    def do(self, name: str, action: Callable[[Job, str], None], outputs: Sequence[Path], *inputs: Path) -> None:
        """Run the action unless its outputs are there and were made from this config and these files."""
        key = digest([decisive(self._job.config), name, [sha256(path) for path in inputs]])
        if self._done.get(name) == key and all(output.exists() for output in outputs):
            self._job.console.say(f"{self.arm}: {name} is already done")
            return
        action(self._job, self.arm)
        self._done[name] = key
        write_json(self._path, self._done)
