"""The names that `import sca_deploy as sd` gives: which they are, what they take, and that they do what commands do."""

from __future__ import annotations

import doctest
import inspect
import shutil
import subprocess
import sys
from itertools import pairwise
from pathlib import Path

import nir
import numpy as np
import pytest
import torch

import sca_deploy as sd
from sca_deploy import api
from sca_deploy.errors import Mismatch, ScaDeployError, UsageError
from sca_deploy.files import read_json
from sca_deploy.hardware.program import Program
from tests.conftest import needs_lava, run_python, sca_deploy

DT = 1e-4
STEPS = 4

SIGNATURES = {
    "Data": "(dataset: Dataset, config: DataConfig, steps: int | None = None) -> None",
    "Data.input": (
        "(self, network: Network, samples: int | None = None, *, split: Literal[train, test] = test) -> Array"
    ),
    "ScaDeployError": "(problem: str, fix: str = ) -> None",
    "accuracy": "(network: Network, data: Data) -> float",
    "comparison": "(dense: Network, pruned: Network, data: Data, *, chip: str = loihi2) -> dict[str, Any]",
    "dataset": (
        "(source: str | Path | Arrays, *, folder: str | Path | None = None, steps: int | None = None, "
        "coding: str | None = None, size: int = 0, train_samples: int = 0, test_samples: int = 0) -> Data"
    ),
    "export": (
        "(network: Network, target: str, path: str | Path | None = None, *, chip: str = loihi2, "
        "input_bits: int | None = None, **options: Any) -> Exported"
    ),
    "load": (
        "(path: str | Path, *, dt: float | None = None, preset: str | None = None, reset: str | None = None, "
        "multi_spike: bool | None = None, clamp: float | str | None = None, tie: str | None = None, "
        "steps: int | None = None) -> Network"
    ),
    "lower": (
        "(network: Network, *, input_bits: int | None = None, calibrate: npt.ArrayLike | None = None) -> Program"
    ),
    "map": "(network: Network | Program, chip: str = loihi2, *, input_bits: int | None = None) -> Mapping",
    "prune": (
        "(network: Network, data: Data, *, keep: float | None = None, budget: dict[str, float] | None = None, "
        "method: str = sca, score: str = , epochs: int = 0, "
        "lr: float = 0.0002, batch_size: int = 64, seed: int = 0, floor: float = 0.1, chip: str = loihi2, "
        "progress: Callable[[dict[str, Any]], None] | None = None) -> Network"
    ),
    "save": "(network: Network, path: str | Path) -> Path",
    "simulate": (
        "(network: Network | Program, x: npt.ArrayLike, *, engine: Literal[chip, float] = chip, "
        "record: str = spikes, input_bits: int | None = None) -> dict[str, Array]"
    ),
    "to_nir": "(network: Network) -> nir.NIRGraph",
    "verify": (
        "(exported: Exported | str | Path, x: npt.ArrayLike | None = None, *, samples: int = 32, "
        "lava_python: str | None = None) -> Verification"
    ),
}
"""What the next version must still take, with the quotation marks left out, which differ between Pythons."""

FUNCTIONS = [name for name in SIGNATURES if name[0].islower()]


# What there is


def test_the_names_are_these() -> None:
    assert sorted(sd.__all__) == sorted({name for name in SIGNATURES if "." not in name} | {"__version__"})
    assert set(sd.__all__) <= set(dir(sd))


@pytest.mark.parametrize("name", SIGNATURES)
def test_every_signature_is_pinned(name: str) -> None:
    value = sd
    for part in name.split("."):
        value = getattr(value, part)
    assert str(inspect.signature(value)).replace("'", "").replace('"', "") == SIGNATURES[name]


@pytest.mark.parametrize("name", FUNCTIONS)
def test_every_argument_error_and_result_is_documented(name: str) -> None:
    function = getattr(sd, name)
    text = inspect.getdoc(function)
    assert "\n>>> " in text
    assert "\nRaises:\n" in text
    arguments = text.partition("\nArgs:\n")[2] or text
    undocumented = [argument for argument in inspect.signature(function).parameters if argument not in arguments]
    assert undocumented in ([], ["network"], ["network", "data"])  # these say themselves what they are


def test_importing_the_package_loads_no_torch_and_no_nir() -> None:
    ask = (
        "import sys, sca_deploy as sd; assert 'load' in dir(sd); heavy = {'torch', 'nir', 'h5py', 'lava', 'numpy'}; "
        "print(sorted(heavy & set(sys.modules))); sd.load; print('torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", ask], capture_output=True, text=True, check=True)
    assert done.stdout.split("\n")[:2] == ["[]", "True"]


def test_a_name_that_does_not_exist_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="module 'sca_deploy' has no attribute 'prun'"):
        sd.prun  # noqa: B018


@pytest.mark.parametrize("order", [("sca_deploy.data.digits", "dataset"), ("sca_deploy.compare", "comparison")])
def test_no_name_is_hidden_by_a_module_of_the_package(order: tuple[str, str]) -> None:
    ask = f"import {order[0]}, sca_deploy as sd; print(callable(sd.{order[1]}))"
    done = subprocess.run([sys.executable, "-c", ask], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "True"


# What it does


def brought(path: Path, seed: int = 0) -> Path:
    """A convolution and two matrices on digits, as another framework would write them: no T, no steps, no remark."""
    rng = np.random.default_rng(seed)

    def lif(*shape: int) -> nir.LIF:
        values = (2 * DT, 2.0, 0.0, 1.0, 0.0)
        return nir.LIF(*(np.full(shape, value, np.float32) for value in values))

    def weights(*shape: int) -> np.ndarray:
        return (1.5 * rng.standard_normal(shape) / np.sqrt(np.prod(shape[1:]))).astype(np.float32)

    def zeros(size: int) -> np.ndarray:
        return np.zeros(size, np.float32)

    nodes = {
        "input": nir.Input({"input": np.array([1, 8, 8])}),
        "conv": nir.Conv2d((8, 8), weights(8, 1, 3, 3), 1, 1, 1, 1, zeros(8)),
        "lif1": lif(8, 8, 8),
        "flat": nir.Flatten({"input": np.array([8, 8, 8])}, 0, -1),
        "hidden": nir.Affine(weights(32, 512), zeros(32)),
        "lif2": lif(32),
        "fc": nir.Affine(weights(10, 32), zeros(10)),
        "output": nir.Output({"output": np.array([10])}),
    }
    names = ["input", "conv", "lif1", "flat", "hidden", "lif2", "fc", "output"]
    nir.write(path, nir.NIRGraph(nodes, list(pairwise(names))))
    return path


@pytest.fixture(scope="module")
def digits() -> sd.Data:
    return sd.dataset("digits")


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return brought(tmp_path_factory.mktemp("brought") / "x.nir")


@pytest.fixture
def net(file: Path):
    return sd.load(file, dt=DT, reset="hard", steps=STEPS)


@pytest.fixture(scope="module")
def small(file: Path, digits: sd.Data):
    """Half of the channels, fine-tuned. Tests must not change it."""
    net = sd.load(file, dt=DT, reset="hard", steps=STEPS)
    return sd.prune(net, digits, keep=0.5, epochs=3, lr=5e-3)


@needs_lava
def test_the_four_lines_that_bring_prune_export_and_verify(
    file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    shutil.copy(file, "x.nir")
    net = sd.load("x.nir", dt=1e-4, steps=4)
    small = sd.prune(net, sd.dataset("digits"), keep=0.3)
    art = sd.export(small, "loihi2")
    assert sd.verify(art).mismatches == 0
    assert art.path == Path("loihi2")
    assert all(check.max_difference == 0 for check in art.checks)
    assert sum(small.kept_channels.values()) == round(0.3 * (8 + 32))


@needs_lava
def test_the_examples_of_the_documentation_run(
    file: Path, digits: sd.Data, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    shutil.copy(file, "x.nir")
    held = digits.dataset
    names = {"sd": sd, "torch": torch, "x_train": held.train_x, "y_train": held.train_y}
    names |= {"x_test": held.test_x, "y_test": held.test_y}
    runner, parser = doctest.DocTestRunner(), doctest.DocTestParser()
    for name in ("load", "dataset", "prune", *(set(FUNCTIONS) - {"load", "dataset", "prune", "verify"}), "verify"):
        # A value that an example shows is not its point.
        lines = [e.source for e in parser.get_examples(inspect.getdoc(getattr(sd, name)))]
        assert lines
        text = "".join(f">>> {line.rstrip()}\n" if "=" in line else f">>> _ = {line.rstrip()}\n" for line in lines)
        test = parser.get_doctest(text, names, name, None, 0)
        assert runner.run(test, clear_globs=False).failed == 0, name
        names |= test.globs


def test_fine_tuning_learns_and_leaves_the_network_it_was_given_alone(net, digits: sd.Data) -> None:
    before, random = {key: value.clone() for key, value in net.state_dict().items()}, torch.get_rng_state()
    log = []
    small = sd.prune(net, digits, keep=0.5, epochs=3, lr=5e-3, progress=log.append)
    assert [entry["epoch"] for entry in log] == [1, 2, 3]
    assert sum(small.kept_channels.values()) == round(0.5 * (8 + 32))
    assert sd.accuracy(small, digits) == log[-1]["test_accuracy"] > 2 * sd.accuracy(net, digits)
    assert all(torch.equal(value, before[key]) for key, value in net.state_dict().items())
    assert torch.equal(random, torch.get_rng_state())
    assert not small.training


def test_keeping_all_channels_only_scales_images_to_1(net, digits: sd.Data) -> None:
    same = sd.prune(net, digits, keep=1.0)
    x = torch.from_numpy(digits.dataset.test_x[:64])
    with torch.no_grad():
        torch.testing.assert_close(same(x), net(x / 16))


def test_a_network_is_pruned_twice_and_scaled_once(small, digits: sd.Data) -> None:
    same = sd.prune(small, digits, keep=1.0)
    assert sd.accuracy(same, digits) == sd.accuracy(small, digits)
    assert sum(sd.prune(small, digits, keep=0.5).kept_channels.values()) == round(0.5 * 20)


def test_a_network_that_was_exported_and_brought_again_is_scaled_once(small, digits: sd.Data, tmp_path: Path) -> None:
    again = sd.load(sd.export(small, "nir", tmp_path / "small.nir").path)
    assert sd.accuracy(again, digits) == sd.accuracy(small, digits)
    assert again.scales == small.scales


def test_it_is_what_the_command_does(small, net, file: Path, digits: sd.Data, tmp_path: Path) -> None:
    given = ["--keep", 0.5, "--epochs", 3, "--lr", 5e-3, "--dt", DT, "--reset", "hard", "--steps", STEPS]
    done = sca_deploy("prune", file, "--data", "digits", *given, "-o", tmp_path / "run")
    assert done.returncode == 0, done.stderr
    theirs = sd.load(tmp_path / "run")
    assert all(torch.equal(value, theirs.state_dict()[key]) for key, value in small.state_dict().items())
    assert (theirs.scales, theirs.input_bits) == (small.scales, small.input_bits)
    assert_same_integers(sd.lower(small), Program.load(tmp_path / "run" / "pruned" / "program.npz"))
    assert sd.comparison(net, small, digits) == read_json(tmp_path / "run" / "compare.json")


def assert_same_integers(one: Program, other: Program, *, named: bool = True) -> None:
    assert (one.input_shape, one.input_bits, one.steps) == (other.input_shape, other.input_bits, other.steps)
    for a, b in zip(one.layers, other.layers, strict=True):
        assert not named or a.name == b.name
        assert (a.v_decay, a.u_decay, a.threshold) == (b.v_decay, b.u_decay, b.threshold)
        np.testing.assert_array_equal(a.full_bias(), b.full_bias())
        for s, t in zip(a.synapses, b.synapses, strict=True):
            np.testing.assert_array_equal(s.weight, t.weight)


def test_a_network_in_a_file_remembers_its_integers(small, tmp_path: Path) -> None:
    again = sd.load(sd.save(small, tmp_path / "small.pt"))
    assert (again.input_bits, again.scales) == (5, small.scales)
    assert_same_integers(sd.lower(again), sd.lower(small))


def test_a_net_file_becomes_a_network_that_is_lowered_to_its_integers(small, tmp_path: Path) -> None:
    folder = sd.export(small, "loihi2", tmp_path / "loihi2").path
    again = sd.load(folder / "network.net", steps=STEPS)
    assert_same_integers(sd.lower(again, input_bits=5), Program.load(folder / "program.npz"), named=False)


def test_a_graph_that_was_brought_comes_back_bit_for_bit(net, file: Path) -> None:
    given, back = nir.read(file), sd.to_nir(net)
    assert set(back.edges) == set(given.edges)
    for name, node in given.nodes.items():
        for key in ("weight", "bias", "tau", "r", "v_leak", "v_threshold", "v_reset"):
            if hasattr(node, key):
                np.testing.assert_array_equal(getattr(back.nodes[name], key), getattr(node, key))
    assert back.metadata["dt"] == DT
    assert back.metadata["T"] == STEPS


def test_floats_run_as_the_equation_says(net, file: Path, digits: sd.Data) -> None:
    x = digits.input(net, 3)
    graph = nir.read(file)
    weight = torch.from_numpy(graph.nodes["conv"].weight).double()
    current = torch.nn.functional.conv2d(torch.tensor(x[:, 0]).double(), weight, padding=1).numpy()
    v, fired = np.zeros_like(current), []
    for _ in range(STEPS):  # tau = 2 dt, R = 2: v + dt / tau (R I - v)
        v = v + 0.5 * (2 * current - v)
        fired.append(v > 1)
        v[fired[-1]] = 0
    np.testing.assert_array_equal(sd.simulate(net, x, engine="float")["lif1"], np.stack(fired, 1))
    np.testing.assert_allclose(sd.simulate(net, x, engine="float", record="v")["lif1"][:, -1], v, atol=1e-9)


def test_the_chip_runs_a_program_and_a_network_alike(small, digits: sd.Data) -> None:
    x = digits.input(small, 5)
    program = sd.lower(small)
    for record in ("spikes", "u", "v"):
        one, other = sd.simulate(small, x, record=record), sd.simulate(program, x, record=record)
        assert {name: values.shape for name, values in one.items()} == {
            layer.name: (5, STEPS, *layer.shape) for layer in program.layers
        }
        assert all(np.array_equal(values, other[name]) for name, values in one.items())


def test_real_input_chooses_the_scales(net, digits: sd.Data) -> None:
    whole = sd.prune(net, digits, keep=1.0)
    kept, whole.scales = whole.scales, {}
    searched = sd.lower(whole, calibrate=digits.input(whole, 128, split="train"))
    assert {layer.name: layer.scale for layer in searched.layers} == pytest.approx(kept)
    assert {layer.name: layer.scale for layer in sd.lower(whole).layers} != pytest.approx(kept)


def test_cores_are_counted(small) -> None:
    mapping = sd.map(small)
    assert mapping.cores == sum(layer.cores for layer in mapping.layers) >= 3
    assert mapping.as_dict() == sd.map(sd.lower(small), "loihi2").as_dict()


@pytest.mark.parametrize("form", ["step", "scan"])
def test_options_reach_the_exporter_and_onnx_is_run_on_random_spikes(small, form: str, tmp_path: Path) -> None:
    exported = sd.export(small, "onnx", tmp_path / "x.onnx", form=form)
    assert exported.path.is_file()
    assert any("16 samples in onnxruntime" in str(check) for check in exported.checks)


@needs_lava
def test_what_differs_from_lava_is_raised(small, net, digits: sd.Data, tmp_path: Path) -> None:
    folder = sd.export(small, "loihi2", tmp_path / "loihi2").path
    program = Program.load(folder / "program.npz")
    changed = sd.load(sd.save(small, tmp_path / "small.pt"))
    with torch.no_grad():
        changed.part("fc").weight *= -1
    sd.lower(changed).save(folder / "program.npz")
    with pytest.raises(Mismatch, match="layer 'fc'"):
        sd.verify(folder, digits.input(small), samples=4)
    program.save(folder / "program.npz")
    found = sd.verify(folder, digits.input(small), samples=4)
    assert (found.samples, found.steps, found.mismatches) == (4, STEPS, 0)


@needs_lava
def test_without_input_verify_makes_its_own_the_same_every_time(small, tmp_path: Path) -> None:
    exported = sd.export(small, "loihi2", tmp_path / "loihi2")
    first, second = (sd.verify(exported, samples=3) for _ in range(2))
    assert first.samples == 3
    assert [layer.spikes for layer in first.layers] == [layer.spikes for layer in second.layers]
    assert sum(layer.spikes for layer in first.layers) > 0


def test_networks_that_no_chip_carries_are_pruned_and_compared_in_floats(file: Path, digits: sd.Data) -> None:
    net = sd.load(file, preset="sinabs", steps=STEPS)
    small = sd.prune(net, digits, keep=0.5)
    document = sd.comparison(net, small, digits)
    assert document["ratio"]["channels"] == 0.5
    assert "cores" not in document["ratio"]
    assert document["pruned"]["accuracy_float"] == sd.accuracy(small, digits)
    with pytest.raises(ScaDeployError, match="subtract"):
        sd.lower(small)


# Data


def test_arrays_are_what_a_file_of_them_is(digits: sd.Data, tmp_path: Path) -> None:
    held = digits.dataset
    arrays = {
        "x_train": held.train_x[:, 0],
        "y_train": held.train_y,
        "x_test": held.test_x[:, 0],
        "y_test": held.test_y,
    }
    np.savez(tmp_path / "mine.npz", **arrays)
    one, other = sd.dataset(tuple(arrays.values()), test_samples=50), sd.dataset(tmp_path / "mine.npz", test_samples=50)
    for name in ("train_x", "train_y", "test_x", "test_y"):
        np.testing.assert_array_equal(getattr(one.dataset, name), getattr(other.dataset, name))
    for name in ("classes", "pixel_max", "timed"):
        assert getattr(one.dataset, name) == getattr(other.dataset, name)
    assert one.config.coding == other.config.coding == "direct"
    assert len(one.dataset.test_x) == 50


@pytest.mark.parametrize(
    ("shape", "coding", "frame"), [((6, 3, 1, 8, 8), None, (1, 8, 8)), ((6, 3, 20), "events", (20,))]
)
def test_arrays_over_time_are_recordings(shape, coding, frame) -> None:
    x, y = np.ones(shape, np.uint8), np.arange(6) % 2
    data = sd.dataset((x, y, x, y), coding=coding)
    assert (data.dataset.shape, data.steps, data.config.coding) == (frame, 3, "events")


def test_input_is_what_enters_at_every_step(net, digits: sd.Data) -> None:
    x = digits.input(net, 7, split="train")
    assert x.shape == (7, STEPS, 1, 8, 8)
    np.testing.assert_array_equal(x[:, 2], digits.dataset.train_x[:7])


# Errors


def error_of(action, words: str = "") -> ScaDeployError:
    try:
        action()
    except ScaDeployError as error:
        return error
    return pytest.fail(f"nothing was raised: {words}")


def test_an_error_says_its_problem_and_its_fix_in_the_words_of_python(file: Path) -> None:
    error = error_of(lambda: sd.load(file, steps=4))
    assert isinstance(error, UsageError)
    assert error.fix.startswith("give dt=SECONDS")
    assert str(error) == f"{error.problem}; {error.fix}"


def wrong_calls(net, small, digits, file, tmp_path):
    """What is called wrongly, by the words that the error has to say."""
    x = digits.input(small, 2)
    y = [0, 1]
    return {
        "says no time step": lambda: sd.load(file, steps=4),
        "give steps=T": lambda: sd.load(file, dt=DT),
        "dt is -1 s": lambda: sd.load(file, dt=-1, steps=4),
        "leave dt out": lambda: sd.load(sd.save(small, tmp_path / "small.pt"), dt=DT),
        "no such file or folder": lambda: sd.load("nothing.nir"),
        "does not end in .pt": lambda: sd.save(net, tmp_path / "net.nir"),
        "did you mean 'digits'": lambda: sd.dataset("digts"),
        "3 arrays are given": lambda: sd.dataset((x, y, x)),
        "multiply pixels": lambda: sd.dataset(([[0.5, 1.0]] * 2, y, [[0.5, 1.0]], [0])),
        "y_test holds values from 0.5": lambda: sd.dataset((x, y, x, [0.5, 1])),
        "x_train is <U1": lambda: sd.dataset((["a", "b"], y, x, y)),
        "leave folder and size out": lambda: sd.dataset((x, y, x, y), size=4),
        "load the network with steps=9": lambda: sd.accuracy(net, sd.dataset("digits", steps=9)),
        "the network takes (1, 8, 8)": lambda: sd.prune(net, sd.dataset((x[:, 0, 0, :5], y) * 2), keep=1),
        "keep is 2, outside": lambda: sd.prune(net, digits, keep=2),
        "lr is 0, outside": lambda: sd.prune(net, digits, keep=0.5, epochs=1, lr=0),
        "unknown method 'sc'": lambda: sd.prune(net, digits, keep=0.5, method="sc"),
        "give input_bits=0 (binary)": lambda: sd.lower(net),
        "or prune it on data": lambda: sd.export(net, "loihi2", tmp_path / "out"),
        "leave input_bits out": lambda: sd.map(sd.lower(small), input_bits=5),
        "x.npy does not hold one array": lambda: sd.lower(small, calibrate=np.zeros(3)),
        "the chip takes integers": lambda: sd.simulate(small, x / 2),
        "cannot record w": lambda: sd.simulate(small, x, record="w"),
        "unknown engine 'gpu'": lambda: sd.simulate(small, x, engine="gpu"),
        "a Program holds integers only": lambda: sd.simulate(sd.lower(small), x, engine="float"),
        "unknown target 'lohi2'": lambda: sd.export(small, "lohi2"),
        "takes no form; its options: profile": lambda: sd.export(small, "nir", tmp_path / "x.nir", form="scan"),
        "unknown chip": lambda: sd.map(small, "loihi3"),
        "at least 1 is needed": lambda: sd.verify("loihi2", samples=0),
        "holds no loihi2 or lava export": lambda: sd.verify(tmp_path),
    }


def test_every_wrong_call_is_one_line_without_flags_or_temporary_files(net, small, digits, file, tmp_path) -> None:
    for words, action in wrong_calls(net, small, digits, file, tmp_path).items():
        error = error_of(action, words)
        assert words in str(error)
        assert "\n" not in str(error), words
        assert " --" not in str(error).partition("sca-deploy ")[0], words
        assert api.TEMPORARY not in str(error), words


# A plug-in target

PLUGIN = """\
import csv

from sca_deploy.errors import Mismatch
from sca_deploy.exporters.base import Check, Exported
from sca_deploy.files import write_table


class CsvExporter:
    name, summary, suffix = "csv", "table of the layers as the chip runs them", ".csv"
    integers, probes = True, False  # it needs the integer Program, and no samples to check itself with

    def export(self, deployable, output):
        layers = deployable.lowered.layers
        rows = [{"layer": layer.name, "neurons": layer.neurons, "threshold": layer.threshold} for layer in layers]
        write_table(output, rows)
        with output.open(newline="") as file:
            if [row["layer"] for row in csv.DictReader(file)] != [layer.name for layer in layers]:
                raise Mismatch(f"{output} does not read back as it was written")
        return Exported(self.name, output, (Check(f"re-read {output.name}", 0.0),))
"""
PROJECT = """\
[project]
name = "sca-deploy-csv"
version = "1.0"
[project.entry-points."sca_deploy.exporters"]
csv = "sca_deploy_csv:CsvExporter"
"""


def test_a_package_with_an_entry_point_is_a_target(small, tmp_path: Path) -> None:
    source, site = tmp_path / "source", tmp_path / "site"
    source.mkdir()
    (source / "sca_deploy_csv.py").write_text(PLUGIN)
    (source / "pyproject.toml").write_text(PROJECT)
    install = ["-m", "pip", "install", "--no-index", "--no-deps", "--no-build-isolation", "--target", site, source]
    run_python(sys.executable, [str(part) for part in install], tmp_path, {"PATH": "/usr/bin:/bin"})
    here = {"PYTHONPATH": f"{Path(__file__).resolve().parents[1]}:{site}"}
    assert "csv      table of the layers" in sca_deploy("targets", **here).stdout
    saved = sd.save(small, tmp_path / "small.pt")
    done = sca_deploy("export", saved, "--target", "csv", cwd=tmp_path, **here)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "small.csv").read_text().splitlines()[0] == "layer,neurons,threshold"
    assert len((tmp_path / "small.csv").read_text().splitlines()) == 1 + 3
    code = "import sys, sca_deploy as sd; print(sd.export(sd.load('small.pt'), 'csv').path)"
    run = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, env=here, capture_output=True, text=True)
    assert run.stdout.strip() == "network.csv", run.stderr
