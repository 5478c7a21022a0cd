"""What the command line does, from Python: `import sca_deploy as sd` has all of these names.

A network is a torch module that runs, learns and can be given to every function here. It remembers what was found out
about it, so that it need not be told again: `input_bits`, bits of a graded input (0: binary), and `scales`, at which
the layers of its integers lose least. Both are plain attributes of the module, and `save` keeps them.

An error is a ScaDeployError with `problem` and `fix`, one line each; str() has both.
"""

from __future__ import annotations

import functools
import json
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Literal, ParamSpec, TypeVar

import nir
import numpy as np
import numpy.typing as npt
import torch

from sca_deploy import bringing, pipeline, recording, train
from sca_deploy.artifact import Artifact, Reading, open_artifact
from sca_deploy.calibrate import calibrate as search_scales
from sca_deploy.checkpoint import load_network, save_network
from sca_deploy.compare import compare, compare_floats
from sca_deploy.config import Config, DataConfig
from sca_deploy.data import configured
from sca_deploy.data.arrays import NAME as ARRAYS
from sca_deploy.data.arrays import TIMED_DIMS, dataset_of
from sca_deploy.data.dataset import Dataset
from sca_deploy.errors import ScaDeployError, UsageError, unknown_name
from sca_deploy.evaluate import evaluate, float_figures
from sca_deploy.exporters.base import Exported, exporter
from sca_deploy.graph import to_nir as graph_of
from sca_deploy.hardware.chip import load_chip
from sca_deploy.hardware.lava.client import DEFAULT_TIMEOUT
from sca_deploy.hardware.lava.compare import Verification
from sca_deploy.hardware.mapping import Mapping, map_program
from sca_deploy.hardware.program import Program
from sca_deploy.hardware.restoring import holds_integers
from sca_deploy.hardware.simulate import simulate as run_program
from sca_deploy.inputs import Inputs, inputs_of
from sca_deploy.probe import SAMPLES, probe
from sca_deploy.pruning.compact import compact, prove
from sca_deploy.pruning.group import Network
from sca_deploy.verification import exported_folder, verify_source

Array = npt.NDArray[Any]
Arrays = Sequence[npt.ArrayLike]
P = ParamSpec("P")
R = TypeVar("R")

REMEMBERED = ("input_bits", "scales")
"""What a network remembers, as attributes, and files of it under the same keys."""

ENGINES = ("chip", "float")
TEMPORARY = "sca-deploy-call-"
"""How folders of files that are there during a call begin."""
KEYWORDS = {"data_folder": "folder"}
"""Flags of the command line that are called otherwise here."""


def _spoken(function: Callable[P, R]) -> Callable[P, R]:
    """Errors of the command line in the words of Python: keywords for flags, and the fix in str(error)."""

    @functools.wraps(function)
    def speaking(*args: P.args, **kwargs: P.kwargs) -> R:
        try:
            return function(*args, **kwargs)
        except ScaDeployError as error:
            error.problem, error.fix = _in_python(error.problem), _in_python(error.fix)
            error.args = ("; ".join(part for part in (error.problem, error.fix) if part),)
            raise

    return speaking


def _in_python(text: str) -> str:
    """--dt SECONDS -> dt=SECONDS, --input-bits -> input_bits, config key 'prune.keep' -> keep; no temporary folders."""

    def keyword(flag: re.Match[str]) -> str:
        name = flag["name"].replace("-", "_")
        return f"{KEYWORDS.get(name, name)}{'=' if flag['value'] else ''}"

    if "sca-deploy " in text:  # a whole command
        return text
    text = re.sub(rf"\S*/{TEMPORARY}\w+/", "", text)
    text = re.sub(r"config key '(?:\w+\.)?(\w+)'", r"\1", text)
    text = re.sub(r"\b(?:train|prune|network)\.(lr|keep|floor|epochs|batch_size|score|method|steps)\b", r"\1", text)
    return re.sub(r"(?<!\S)--(?P<name>[a-z][a-z-]*)(?P<value> (?=[A-Z0-9]|\S+\|))?", keyword, text)


@dataclass(frozen=True, eq=False)
class Data:
    """A labelled set and how its samples become input over time; `dataset` makes one.

    Args:
        dataset: the samples, integers from 0 to `dataset.pixel_max`, and their classes.
        config: where it is from; `config.coding` is "direct" (the image at every step), "rate", "latency" or "events".
        steps: time steps a sample lasts; None for images, which last as long as the network asks for.
    """

    dataset: Dataset
    config: DataConfig
    steps: int | None = None

    def input(self, network: Network, samples: int | None = None, *, split: Literal["train", "test"] = "test") -> Array:
        """Samples as `simulate`, `verify` and `lower` take them.

        Args:
            network: whose steps images are shown for.
            samples: the first so many; None for all.
            split: "train" or "test".

        Returns:
            Integers, (samples, steps, *input shape).

        Raises:
            UsageError: if the network lasts another number of steps than the recordings.
        """
        x = self.dataset.train_x if split == "train" else self.dataset.test_x
        return self._inputs(network).over_time(x[:samples])

    @_spoken
    def _inputs(self, network: Network) -> Inputs:
        return inputs_of(_config(network, self), self.dataset)


@_spoken
def load(
    path: str | Path,
    *,
    dt: float | None = None,
    preset: str | None = None,
    reset: str | None = None,
    multi_spike: bool | None = None,
    clamp: float | str | None = None,
    tie: str | None = None,
    steps: int | None = None,
) -> Network:
    """The network of a file, in evaluation mode, without the channels that masks had made superfluous.

    >>> net = sd.load("x.nir", dt=1e-4, reset="hard", steps=4)
    >>> logits = net(torch.zeros(1, *net.input_shape))  # (samples, classes), summed over time

    Args:
        path: a .nir graph, a .pt checkpoint, a lava-dl .net file, a run or one of its arms.
        dt: time step in seconds, which a foreign .nir file does not say.
        preset: read a .nir file as "nir", "norse", "snntorch", "spikingjelly" or "sinabs" does.
        reset: what a spike leaves, "hard" (v_reset) or "subtract" (v - v_threshold).
        multi_spike: whether a neuron may spike more than once a step.
        clamp: the lowest potential, a number or "threshold" (-v_threshold); "none" against a preset's.
        tie: whether v = v_threshold fires, "gt" (no) or "ge" (yes).
        steps: time steps a sample lasts, which a .nir or .net file may not say.

    Raises:
        UsageError: if the file leaves open what matters and no argument says it, or says it already.
        ScaDeployError: if the file is missing, damaged, or holds a node that cannot be run.
    """
    reading = Reading(dt=dt, steps=steps, preset=preset, reset=reset, multi_spike=multi_spike, clamp=clamp, tie=tie)
    artifact = open_artifact(path, reading)
    _refuse_unread(artifact)
    network = artifact.module.eval()
    _remember(network, **_known(artifact))
    return network


def _refuse_unread(artifact: Artifact) -> None:
    """Refuse arguments that the file leaves no room for."""
    says = {".nir": (), ".net": ("dt", "preset", "reset", "multi_spike", "clamp", "tie")}
    fixed = says.get(artifact.path.suffix, ("dt", "preset", "reset", "multi_spike", "clamp", "tie", "steps"))
    given = [name for name in fixed if getattr(artifact.reading, name) is not None]
    if given:
        raise UsageError(f"{artifact.path} says itself how its neurons step", f"leave {', '.join(given)} out")


def _known(artifact: Artifact) -> dict[str, Any]:
    """What a file says beyond its network."""
    if artifact.network_path is not None:
        document = load_network(artifact.network_path)[1]
        return {key: document[key] for key in REMEMBERED if key in document}
    graph, known = artifact.graph, {}
    if artifact.program_path is not None:  # beside the graph, in a folder that was exported
        known["input_bits"] = Program.load(artifact.program_path).input_bits
    elif artifact.net_path is not None:  # which does not say what its input carries
        return {"scales": _scales_of(artifact.program)}
    elif graph is not None and holds_integers(graph):
        return {"input_bits": artifact.program.input_bits, "scales": _scales_of(artifact.program)}
    remark = None if graph is None else graph.metadata.get("scales")
    try:
        return known if remark is None else known | {"scales": dict(json.loads(remark))}
    except (TypeError, ValueError) as error:
        raise ScaDeployError(f"{artifact.path} says scales {remark!r:.80}", "export it again") from error


def _scales_of(program: Program) -> dict[str, float]:
    """By the names that layers have in the graph which a Program is lifted to."""
    return {re.sub(r"[^A-Za-z0-9_]", "_", layer.name): layer.scale for layer in program.layers}


@_spoken
def save(network: Network, path: str | Path) -> Path:
    """Write a network, and what it remembers, to a .pt file of plain values, which `load` reads.

    >>> sd.save(net, "net.pt")
    >>> net = sd.load("net.pt")

    Returns:
        The path.

    Raises:
        UsageError: if the path does not end in .pt.
        ScaDeployError: if the file cannot be written.
    """
    place = Path(path)
    if place.suffix != ".pt":
        raise UsageError(f"{place} does not end in .pt", "save it as .pt, or export it to nir or onnx")
    save_network(place, network, **_remembered(network))
    return place


@_spoken
def dataset(
    source: str | Path | Arrays,
    *,
    folder: str | Path | None = None,
    steps: int | None = None,
    coding: str | None = None,
    size: int = 0,
    train_samples: int = 0,
    test_samples: int = 0,
) -> Data:
    """A labelled set of images, feature vectors or recordings.

    >>> digits = sd.dataset("digits")
    >>> mine = sd.dataset((x_train, y_train, x_test, y_test))

    Args:
        source: a set's name (see `sca-deploy data list`), a .npz file, a .toml config that names a set, or the arrays
            x_train, y_train, x_test, y_test: whole numbers from 0 to 255, (samples, C, H, W), (samples, H, W),
            (samples, features) or recordings (samples, steps, C, H, W), with coding="events" also (samples, steps,
            features); and their classes (samples,), from 0.
        folder: where the files of a set are; None for the usual places.
        steps: time steps a sample lasts; asked for by sets of events, which are binned into so many.
        coding: "direct", "rate" or "latency" for images; recordings are "events".
        size: height and width to bring images to; 0 leaves them as they are.
        train_samples, test_samples: use only the first so many; 0 for all.

    Raises:
        UsageError: if there is no such set, or an argument does not suit it.
        ScaDeployError: if files are missing or damaged, or arrays hold something else.
    """
    if not isinstance(source, str | Path):
        if folder is not None or size:
            raise UsageError("arrays have neither a folder nor another size", "leave folder and size out")
        given = _of_arrays(source, steps, coding)
        return replace(given, dataset=given.dataset.first(train_samples, test_samples))
    config = bringing.data_config(
        str(source),
        folder=None if folder is None else str(folder),
        coding=coding,
        size=size or None,
        train_samples=train_samples or None,
        test_samples=test_samples or None,
    )
    lasts = steps or bringing.recorded(config)
    return Data(configured(config, lasts), config, lasts)


def _of_arrays(arrays: Arrays, steps: int | None, coding: str | None) -> Data:
    if len(arrays) != 4:
        raise UsageError(f"{len(arrays)} arrays are given", "give x_train, y_train, x_test, y_test")
    x_train, y_train, x_test, y_test = (np.asarray(array) for array in arrays)
    x_train, x_test = (_whole(name, x, np.uint8) for name, x in (("x_train", x_train), ("x_test", x_test)))
    y_train, y_test = (_whole(name, y, np.int64) for name, y in (("y_train", y_train), ("y_test", y_test)))
    timed = x_train.ndim == TIMED_DIMS or (coding == "events" and x_train.ndim == TIMED_DIMS - 2)
    if timed and steps not in (None, x_train.shape[1]):
        raise UsageError(f"the recordings last {x_train.shape[1]} steps, not {steps}", "leave steps out")
    if not timed and x_train.ndim == 3:  # images of one channel
        x_train, x_test = x_train[:, None], x_test[:, None]
    held = dataset_of("arrays", (x_train, y_train), (x_test, y_test), timed)
    config = DataConfig(set=ARRAYS, coding=coding or ("events" if timed else "direct"))
    return Data(held, config, x_train.shape[1] if timed else steps)


def _whole(name: str, array: Array, kind: type[np.integer[Any]]) -> Array:
    """The array in another type, if that holds the same numbers."""
    if array.dtype.kind not in "iufb":
        raise UsageError(f"{name} is {array.dtype}, numbers are needed")
    with np.errstate(invalid="ignore"):  # NaN has no whole number
        whole = array.astype(kind)
    if not np.array_equal(whole, array):
        limits = np.iinfo(kind)
        raise UsageError(
            f"{name} holds values from {array.min():g} to {array.max():g}, whole numbers from {limits.min} to "
            f"{limits.max} are needed",
            "multiply pixels of 0 to 1 by 255 and round them" if kind is np.uint8 else "number the classes from 0",
        )
    return whole


@_spoken
def prune(
    network: Network,
    data: Data,
    *,
    keep: float | None = None,
    budget: dict[str, float] | None = None,
    method: str = "sca",
    score: str = "",
    epochs: int = 0,
    lr: float = bringing.RATE,
    batch_size: int = 64,
    seed: int = 0,
    floor: float = 0.1,
    chip: str = "loihi2",
    progress: Callable[[dict[str, Any]], None] | None = None,
) -> Network:
    """A smaller network: channels are ranked on training samples, cut out, and the rest proven to compute the same.

    The network given stays as it is. Images go into a graph that was brought as 0..1, by a node behind its Input; what
    comes back has that node. It remembers `input_bits` and, if a chip can carry it, the `scales` of its integers that
    differ least on training samples. keep=1 does only that.

    >>> small = sd.prune(net, digits, keep=0.3)
    >>> tuned = sd.prune(net, digits, keep=0.3, epochs=2, lr=1e-3)
    >>> fits = sd.prune(net, digits, budget={"cores": 6})

    Args:
        network: trained here or elsewhere.
        data: what to rank the channels, and to fine-tune, on; its test samples prove the compaction.
        keep: fraction of all channels that is left.
        budget: in its place, what the network may take on the chip: "cores", "words", "synops", "energy-nj", "step-us".
        method: "sca", "criticality-structured", "slimming" or "random"; others prune no channels.
        score: what channels are ranked by; "" is the method's own.
        epochs: of fine-tuning while it is pruned; 0 prunes once.
        lr, batch_size, seed: of the fine-tuning, which runs on the network's device.
        floor: fraction of its channels that every layer keeps at least.
        chip: whose rules a budget is kept by, a name or a .toml file.
        progress: called with the log of each epoch: "epoch", "loss", "train_accuracy", "test_accuracy", ...

    Returns:
        A new network in evaluation mode, on the same device.

    Raises:
        UsageError: if a value is out of range, or the network does not fit the data.
        DoesNotFit: if the smallest network that was reached takes more than the budget.
        ScaDeployError: if no channel of a layer is left, or the loss is not finite.
        Mismatch: if the compacted network computes something else than the masked one.
    """
    config = _config(
        network,
        data,
        keep=keep,
        budget=budget,
        chip=chip,
        method=method,
        score=score,
        epochs=epochs,
        lr=lr,
        batch_size=batch_size,
        seed=seed,
        floor=floor,
    )
    device, inputs = _device(network), inputs_of(config, data.dataset)
    with (
        TemporaryDirectory(prefix=TEMPORARY) as folder,
        torch.random.fork_rng(devices=[device] if device.type == "cuda" else []),
    ):
        file = Path(folder) / "network.pt"
        save_network(file, _fitted(network, data))
        config = replace(config, network=replace(config.network, file=str(file)))
        masked = train.train(config, data.dataset, Path(folder) / "train", on_epoch=progress)
        if budget:
            failure = pipeline.held(masked, Path(folder) / "train", config, data.dataset).failure
            if failure is not None:
                raise failure
    small = compact(masked)
    prove(masked, small, torch.from_numpy(inputs.fixed(data.dataset.test_x[: pipeline.PROOF_SAMPLES])))
    return _ready(small, config, data).to(device)


@_spoken
def accuracy(network: Network, data: Data) -> float:
    """The fraction of test samples, 0 to 1, whose largest logit is the label's; in floats.

    >>> before, after = sd.accuracy(net, digits), sd.accuracy(small, digits)

    Raises:
        UsageError: if the network does not fit the data.
    """
    held, inputs = data.dataset, inputs_of(_config(network, data), data.dataset)
    return train.accuracy(_fitted(network, data), inputs.fixed(held.test_x), held.test_y)


@_spoken
def to_nir(network: Network) -> nir.NIRGraph:
    """The network as a NIR graph, metadata {dt, T, reset, ...}: what was brought comes back as it was.

    Readers of NIR differ; `export` to "nir" rewrites the graph into what they take, and checks it.

    >>> graph = sd.to_nir(small)
    >>> weights = graph.nodes["fc"].weight

    Raises:
        ScaDeployError: if a weight is not finite, or a mask cannot be written as weights.
    """
    return graph_of(network)


@_spoken
def lower(network: Network, *, input_bits: int | None = None, calibrate: npt.ArrayLike | None = None) -> Program:
    """The integers with which Loihi 2 runs the network.

    >>> program = sd.lower(small)
    >>> program = sd.lower(net, input_bits=5, calibrate=digits.input(net, 64, split="train"))

    Args:
        network: whose neurons the chip can carry.
        input_bits: 0 for a binary input, b for graded input spikes of 0 to 2^b - 1; None for what it remembers.
        calibrate: real input, integers of (samples, steps, *input shape), on which each layer's scale is searched;
            None for the scales it remembers, else the largest that fit.

    Raises:
        UsageError: if nothing says what the input spikes carry.
        ScaDeployError: naming the node or layer that the chip cannot carry, and the limit it breaks.
    """
    _check_bits(network, input_bits)
    with _artifact(network, input_bits, calibrate) as artifact:
        return artifact.program


@_spoken
def simulate(
    network: Network | Program,
    x: npt.ArrayLike,
    *,
    engine: Literal["chip", "float"] = "chip",
    record: str = "spikes",
    input_bits: int | None = None,
) -> dict[str, Array]:
    """What every layer does when samples run through the simulated chip, bit for bit, or in floats.

    >>> spikes = sd.simulate(small, digits.input(small, 8))
    >>> v = sd.simulate(small, digits.input(small, 8), engine="float", record="v")

    Args:
        network: floats, or what `lower` made of them.
        x: (samples, steps, *input shape); integers for the chip.
        engine: "chip" for the integers of Loihi 2, "float" for the graph in double precision.
        record: "spikes", "u" or "v" of the chip's layers; of the graph's nodes "spikes", "v", or "values" of those
            that are no neurons.
        input_bits: as for `lower`.

    Returns:
        By name, (samples, steps, *shape): of layers on the chip, of nodes in floats. The current `u` and the potential
        `v` are those after the step.

    Raises:
        UsageError: if `engine` or `record` is unknown, or nothing says what the input spikes carry.
        ScaDeployError: if x has a wrong shape, type or range, or the network cannot be run so.
    """
    if engine not in ENGINES:
        raise unknown_name("engine", engine, ENGINES)
    given = np.asarray(x)
    if engine == "chip":
        records = run_program(_lowered(network, input_bits), given, record=(record,)).records
    elif isinstance(network, Program):
        raise UsageError("a Program holds integers only", "give the network, or engine='chip'")
    else:
        with _artifact(network) as artifact:
            records = recording.float_records(_graph(artifact), artifact.dynamics, given, (record,))
    return {name: kept[record] for name, kept in records.items() if record in kept}


@_spoken
def map(network: Network | Program, chip: str = "loihi2", *, input_bits: int | None = None) -> Mapping:
    """The neurocores that each layer takes, how full they are, and what fills them (estimated).

    >>> cores = sd.map(small).cores
    >>> rows = sd.map(small).as_dict()["layers"]

    Args:
        network: floats, or what `lower` made of them.
        chip: a chip's name or .toml file.
        input_bits: as for `lower`.

    Raises:
        UsageError: if there is no such chip, or nothing says what the input spikes carry.
        ScaDeployError: if the network cannot be lowered. A network too large does not raise.
    """
    return map_program(_lowered(network, input_bits), load_chip(chip))


@_spoken
def export(
    network: Network,
    target: str,
    path: str | Path | None = None,
    *,
    chip: str = "loihi2",
    input_bits: int | None = None,
    **options: Any,
) -> Exported:
    """Write the network for a chip or another tool, read it back, and check it.

    >>> art = sd.export(small, "loihi2")
    >>> file = sd.export(small, "onnx", "small.onnx", form="scan").path

    Args:
        network: what to write.
        target: "loihi2", "lava", "nir", "onnx" or a plug-in's; see `sca-deploy targets`.
        path: file or folder to write, in place of what was there; None for one called after the target, here.
        chip: whose limits "loihi2" must fit; a name or .toml file.
        input_bits: as for `lower`; targets of floats do without.
        options: the target's own: "nir" takes profile, allow_lossy, integers; "onnx" takes form.

    Returns:
        `target`, `path`, and `checks`: what was compared, on random input where it is run, and the largest difference.

    Raises:
        UsageError: if there is no such target or option, or nothing says what the input spikes carry.
        DoesNotFit: if the network needs more than the chip has.
        Mismatch: if what was written is not what was given.
        MissingExtra: if the format needs a library that is not installed.
        ScaDeployError: if the format cannot carry the network, or cannot be written.
    """
    writer = exporter(target, options)
    place = Path(path) if path is not None else Path(f"network{writer.suffix}" if writer.suffix else target)
    if writer.integers:
        _check_bits(network, input_bits)
    with _artifact(network, input_bits) as artifact:
        given = pipeline.deployable(artifact, load_chip(chip), writer)
        if writer.probes and artifact.network is not None:
            bits = _remembered(network).get("input_bits", 0) if input_bits is None else input_bits
            given = replace(given, probe=probe(artifact.network, _random_spikes(network, bits)))
        return writer.export(given, place)


@_spoken
def verify(
    exported: Exported | str | Path,
    x: npt.ArrayLike | None = None,
    *,
    samples: int = 32,
    lava_python: str | None = None,
) -> Verification:
    """Compare the simulated chip with Lava, spike for spike; Lava runs the exported file in a process of its own.

    >>> equal = sd.verify(art)
    >>> equal = sd.verify("loihi2", digits.input(small), samples=8)

    Args:
        exported: what `export` to "loihi2" or "lava" returned, or the folder; its network.py is executed.
        x: integers, (samples, steps, *input shape); None for random ones over the whole range of the input, the same
            every time.
        samples: how many to compare.
        lava_python: an interpreter that has Lava; None for $SCA_DEPLOY_LAVA_PYTHON, else this one.

    Returns:
        What was compared, layer by layer; `mismatches` is 0.

    Raises:
        Mismatch: naming the first value that differs.
        UsageError: if nothing is to be compared.
        MissingExtra: if Lava is not installed.
        ScaDeployError: if the folder is damaged, x does not fit, or Lava fails.
    """
    if samples < 1:
        raise UsageError(f"{samples} samples are to be compared, at least 1 is needed")
    folder = exported_folder(Path(exported.path if isinstance(exported, Exported) else exported))
    given = _random_input(Program.load(folder / "program.npz"), samples) if x is None else np.asarray(x)[:samples]
    with TemporaryDirectory(prefix=TEMPORARY) as place:
        file = Path(place) / "x.npy"
        np.save(file, given, allow_pickle=False)
        found = verify_source(folder, len(given), file, False, DEFAULT_TIMEOUT, lava_python)
    found.raise_on_mismatch()
    return found


@_spoken
def comparison(dense: Network, pruned: Network, data: Data, *, chip: str = "loihi2") -> dict[str, Any]:
    """Two networks side by side on the test set: accuracy, spikes, synaptic operations, cores, energy, time.

    >>> document = sd.comparison(net, small, digits)
    >>> left = document["ratio"]["synops_per_sample"]

    Args:
        dense, pruned: two networks; one that remembers no scales is given those that fit training samples best.
        data: whose test samples are classified, in floats and on the simulated chip.
        chip: whose rules and prices count; a name or .toml file.

    Returns:
        {"dense", "pruned": figures, "ratio": pruned / dense, "labels": measured, simulated or estimated, ...}; where
        the chip cannot carry both networks, only the figures of floats.

    Raises:
        UsageError: if a network does not fit the data, or there is no such chip.
    """
    held, target = data.dataset, load_chip(chip)
    inputs = inputs_of(_config(dense, data), held)
    pair = [_prepared(network, data) for network in (dense, pruned)]
    if any(pipeline.not_lowered(network) for network in pair):
        return compare_floats(*(float_figures(network, graph_of(network), held, inputs) for network in pair))
    documents = []
    for network in pair:
        with _artifact(network) as artifact:
            documents.append(evaluate(network, _graph(artifact), artifact.program, held, inputs, target))
    return compare(*documents)


def _config(network: Network, data: Data, **flags: Any) -> Config:
    """The config with which a network is pruned, evaluated and calibrated on some data."""
    if data.steps not in (None, network.steps):
        raise UsageError(
            f"the network lasts {network.steps} steps a sample, data set '{data.dataset.name}' {data.steps}",
            f"load the network with --steps {data.steps}",
        )
    usual = {"method": "dense", "keep": 1.0, "score": "", "epochs": 0, "seed": 0, "device": str(_device(network))}
    return bringing.pruning_config("network", Path("network.pt"), data.config, network.steps, usual | flags)


def _device(network: Network) -> torch.device:
    return next(network.parameters()).device


def _fitted(network: Network, data: Data) -> Network:
    inputs = inputs_of(_config(network, data), data.dataset)
    return bringing.fitted(network, data.dataset, inputs, "the network").to(_device(network))


def _prepared(network: Network, data: Data) -> Network:
    """A copy ready for the data and for the chip."""
    fitted = _fitted(network, data)
    small = compact(fitted)
    if fitted is network:
        _remember(small, **{key: value for key, value in _remembered(network).items() if key == "scales"})
    return _ready(small, _config(network, data), data)


def _ready(network: Network, config: Config, data: Data) -> Network:
    """The same compacted network, which remembers what its input carries and, if a chip can carry it, its scales."""
    if "scales" not in _remembered(network) and pipeline.not_lowered(network) is None:
        _remember(network, scales=search_scales(network, config, data.dataset).scales)
    _remember(network, input_bits=inputs_of(config, data.dataset).bits)
    return network


def _remember(network: Network, **values: Any) -> None:
    for key, value in values.items():
        setattr(network, key, value)


def _remembered(network: Network) -> dict[str, Any]:
    return {key: vars(network)[key] for key in REMEMBERED if key in vars(network)}


@contextmanager
def _artifact(
    network: Network, input_bits: int | None = None, calibrate: npt.ArrayLike | None = None
) -> Iterator[Artifact]:
    """The network as the commands open it, from a file that is there inside the block."""
    with TemporaryDirectory(prefix=TEMPORARY) as folder:
        path, real = Path(folder) / "network.pt", None
        save_network(path, network, **_remembered(network))
        if calibrate is not None:
            real = Path(folder) / "x.npy"
            np.save(real, np.asarray(calibrate), allow_pickle=False)
        yield open_artifact(path, Reading(input_bits=input_bits, calibrate=real))


def _lowered(network: Network | Program, input_bits: int | None) -> Program:
    if not isinstance(network, Program):
        return lower(network, input_bits=input_bits)
    if input_bits is not None:
        raise UsageError(f"a Program says itself that its input has {network.input_bits} bits", "leave input_bits out")
    return network


def _check_bits(network: Network, input_bits: int | None) -> None:
    if input_bits is None and "input_bits" not in _remembered(network):
        raise UsageError(
            "the network does not say what its input spikes carry",
            "give --input-bits 0 (binary) or e.g. 8, or prune it on data, which says it",
        )


def _random_input(program: Program, samples: int) -> Array:
    shape = (samples, program.steps, *program.input_shape)
    return np.random.default_rng(0).integers(program.input_min, program.input_max, shape, np.int32, endpoint=True)


def _random_spikes(network: Network, bits: int) -> npt.NDArray[np.uint8]:
    """Binary spikes, or graded ones of so many bits, at most 8, for a check without data."""
    shape = (SAMPLES, network.steps, *network.input_shape)
    return np.random.default_rng(0).integers(0, 1 << min(max(bits, 1), 8), shape, np.uint8)


def _graph(artifact: Artifact) -> nir.NIRGraph:
    if artifact.graph is None:
        raise ScaDeployError("the network holds no graph")
    return artifact.graph
