"""The benchmarks say what they measure, and refuse to compare what is not the same."""

import importlib.util
import json
import subprocess
import sys

import pytest
import torch

from sca_deploy.errors import Mismatch

SMALL = ["--batch", "4", "--rounds", "2", "--channels", "4", "4", "6", "6", "--json"]


@pytest.fixture(autouse=True)
def threads():
    """Benchmarks choose the number of threads; other tests keep theirs."""
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def load(root, name, monkeypatch):
    spec = importlib.util.spec_from_file_location(name, root / "benchmarks" / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, name, module)
    spec.loader.exec_module(module)
    return module


def test_a_training_step_is_measured_for_every_framework(root):
    command = [sys.executable, root / "benchmarks" / "training_step.py", "--peers", "norse", *SMALL]
    done = subprocess.run(command, cwd=root, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    assert list(result["frameworks"]) == ["sca-deploy", "sca-deploy, SCA", "norse"]
    for row in result["frameworks"].values():
        assert row["peak_memory_bytes"] > 0
        assert 0 < row["seconds_least"] <= row["seconds"]
        assert row["ratio"]["low"] <= row["ratio"]["median"] <= row["ratio"]["high"]
    assert result["frameworks"]["sca-deploy"]["ratio"]["median"] == 1


@pytest.mark.parametrize(
    ("limits", "code"),
    [
        ([], 0),
        (["--at-least", "1.1"], 0),
        (["--at-least", "1.3"], 1),
        (["--sca-at-most", "3"], 0),
        (["--sca-at-most", "1"], 1),
    ],
)
def test_a_training_step_that_misses_its_mark_fails(root, monkeypatch, limits, code):
    benchmark = load(root, "training_step", monkeypatch)
    ratios = {benchmark.OURS: 1.0, benchmark.SCA: 1.02, "norse": 1.2}
    result = {"frameworks": {name: {"ratio": {"median": ratio}} for name, ratio in ratios.items()}}
    monkeypatch.setattr(benchmark, "measure", lambda names, options: result)
    monkeypatch.setattr(sys, "argv", ["training_step.py", "--peers", "norse", "--json", *limits])
    assert benchmark.main() == code


def test_peers_that_are_not_installed_are_named_with_the_line_that_installs_them(root, monkeypatch, capsys):
    benchmark = load(root, "training_step", monkeypatch)
    monkeypatch.setattr(benchmark, "find_spec", lambda name: None if name == "snntorch" else "found")
    monkeypatch.setattr(sys, "argv", ["training_step.py"])
    assert benchmark.main() == 5
    assert capsys.readouterr().err == "error: not installed: snntorch\nfix: pip install snntorch\n"


def test_a_peer_that_computes_another_network_is_not_timed(root, monkeypatch):
    benchmark = load(root, "training_step", monkeypatch)
    options = benchmark.argparse.Namespace(batch=4, channels=[4, 4, 6, 6])
    benchmark.check((benchmark.OURS, "norse"), options)
    monkeypatch.setattr(benchmark, "SLOPE", 1.0)
    theirs = benchmark.norse(options.channels)
    monkeypatch.undo()
    monkeypatch.setitem(benchmark.BUILDERS, "norse", lambda _: theirs)
    with pytest.raises(Mismatch, match="norse computes another network"):
        benchmark.check((benchmark.OURS, "norse"), options)


def test_compacted_inference_is_measured_beside_its_ideal(root, monkeypatch, capsys, tmp_path):
    benchmark, picture = load(root, "compact_inference", monkeypatch), tmp_path / "ratios.png"
    arguments = [*SMALL, "--kept", "0.5", "0.25", "--plot", str(picture)]
    monkeypatch.setattr(sys, "argv", ["compact_inference.py", *arguments])
    assert benchmark.main() == 0
    result = json.loads(capsys.readouterr().out)

    def by_hand(a, b, c, d, n=4, steps=4):
        """Multiply-accumulates: 3 x 3 kernels on 28 x 28 and 14 x 14 maps; the first sees one frame."""
        first, second = n * 28 * 28 * a * 9, n * steps * 28 * 28 * b * a * 9
        return first + second + n * steps * 14 * 14 * 9 * (c * b + d * c) + n * 10 * d * 7 * 7

    whole = by_hand(4, 4, 6, 6)
    assert result["dense_multiply_accumulates"] == whole
    assert [row["channels"] for row in result["fractions"]] == [[2, 2, 3, 3], [1, 1, 2, 2]]
    assert [row["ideal"] for row in result["fractions"]] == [by_hand(2, 2, 3, 3) / whole, by_hand(1, 1, 2, 2) / whole]
    assert all(row["spikes_compared"] > 0 for row in result["fractions"])
    assert picture.read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize("kept", ["0", "1.5"])
def test_a_kept_fraction_that_is_none_is_refused(root, monkeypatch, capsys, kept):
    benchmark = load(root, "compact_inference", monkeypatch)
    monkeypatch.setattr(sys, "argv", ["compact_inference.py", *SMALL, "--kept", kept])
    assert benchmark.main() == 2
    assert capsys.readouterr().err.startswith(f"error: the kept fraction {kept} is outside 0 to 1\n")


def test_masks_of_the_benchmark_keep_the_fraction_of_every_layer(root, monkeypatch):
    benchmark = load(root, "compact_inference", monkeypatch)
    network = benchmark.dense([10, 10, 20, 20], torch.rand(4, 1, 28, 28))
    assert list(benchmark.masked(network, 0.4).kept_channels.values()) == [4, 4, 8, 8]
    assert list(benchmark.masked(network, 0.01).kept_channels.values()) == [1, 1, 1, 1]


def test_the_scale_search_is_measured_on_the_test_set_of_a_run(root, digits_run):
    command = [sys.executable, root / "benchmarks" / "scale_search.py", digits_run, "--json", "--within", "100"]
    done = subprocess.run(command, cwd=root, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    dense, pruned = json.loads(done.stdout)
    figures = json.loads((digits_run / "compare.json").read_text())
    for side, measured in (("dense", dense), ("pruned", pruned)):
        assert measured["float"] == pytest.approx(100 * figures[side]["accuracy_float"])
        assert measured["searched"] == pytest.approx(100 * figures[side]["accuracy_chip"])


def test_the_forms_of_an_onnx_file_are_measured(root):
    command = [sys.executable, root / "benchmarks" / "onnx_forms.py", "--steps", "3", "17"]
    command += ["--channels", "4", "4", "6", "6", "--rounds", "2", "--json"]
    done = subprocess.run(command, cwd=root, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    short, long = json.loads(done.stdout)["runs"]
    assert list(short["forms"]) == ["torch", "step", "scan", "unroll", "integer"]
    assert list(long["forms"]) == ["torch", "step", "scan"]
    assert all(run["spikes_compared"] > 0 for run in (short, long))


SWEEP = ["--cells", "3", "--empty", "4", "--epochs", "1", "--train-samples", "60", "--test-samples", "20"]


@pytest.mark.long
def test_a_sweep_is_measured_by_one_worker_and_by_two(root):
    pytest.importorskip("ray.tune", reason="ray is not installed")
    command = [sys.executable, root / "benchmarks" / "sweep_scaling.py", *SWEEP, "--json"]
    done = subprocess.run(command, cwd=root, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    for way in ("in turn", "Ray, 1 worker", "Ray, 2 workers"):
        for cells in ("real", "empty"):
            assert 0 < result[way][cells]["first_seconds"] <= result[way][cells]["seconds"]
    alone, one, two = (result[way]["real"]["cell_seconds"] for way in ("in turn", "Ray, 1 worker", "Ray, 2 workers"))
    assert result["speed_up"] == pytest.approx(one / two)
    assert result["overhead_seconds"] == pytest.approx(one - alone)


@pytest.mark.parametrize(("limits", "code"), [([], 0), (["--at-least", "1.5"], 0), (["--at-least", "1.7"], 1)])
def test_a_sweep_that_misses_its_mark_fails(root, monkeypatch, limits, code):
    benchmark = load(root, "sweep_scaling", monkeypatch)
    monkeypatch.setattr(benchmark, "measure", lambda options: {"speed_up": 1.6})
    monkeypatch.setattr(sys, "argv", ["sweep_scaling.py", "--json", *limits])
    assert benchmark.main() == code


def test_a_sweep_whose_ways_differ_is_not_timed(root, monkeypatch):
    benchmark = load(root, "sweep_scaling", monkeypatch)
    monkeypatch.setattr(benchmark, "done", lambda *_: {})
    monkeypatch.setattr(benchmark, "rows", lambda sweep, cells: [{"accuracy_chip": cells.name == "way2"}])
    options = benchmark.argparse.Namespace(cells=2, empty=2, epochs=1, train_samples=60, test_samples=20)
    with pytest.raises(Mismatch, match="Ray, 2 workers gives other figures"):
        benchmark.measure(options)
