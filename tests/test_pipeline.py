"""The main job on real digits, as a user runs it."""

import json
import os
import shutil
import venv
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch

from sca_deploy.artifact import open_artifact
from sca_deploy.checkpoint import load_network
from sca_deploy.data import load_dataset
from sca_deploy.exporters.nir_reading import read_nir as read_graph
from sca_deploy.hardware.program import Program
from sca_deploy.hardware.simulate import simulate
from sca_deploy.verification import outdated_report
from tests.conftest import sca_deploy

ARMS = ["dense", "pruned"]
FIGURES = {
    "parameters",
    "channels",
    "accuracy_float",
    "accuracy_chip",
    "test_samples",
    "spikes_per_sample",
    "synops_per_sample",
    "synops_stored_per_sample",
    "parameters_nonzero",
    "neuron_updates_per_sample",
    "cores",
    "energy_nj_per_sample",
    "messages_per_sample",
    "hops_per_sample",
    "synops_busiest_core_per_sample",
    "step_time_ns",
    "cores_compiler_like",
    "static_energy_nj_per_sample",
}
BANDS = {"energy_nj_per_sample", "static_energy_nj_per_sample", "step_time_ns"}


@pytest.fixture(scope="module")
def comparison(digits_run):
    return json.loads((digits_run / "compare.json").read_text())


@pytest.fixture(scope="module")
def test_set():
    dataset = load_dataset("digits")
    return dataset.test_x, dataset.test_y


def test_the_comparison_keeps_its_contract(comparison):
    for arm in ARMS:
        assert set(comparison[arm]) == FIGURES
        for key in BANDS:
            assert set(comparison[arm][key]) == {"low", "typical", "high"}
    assert set(comparison["ratio"]) == FIGURES - {"test_samples"}
    for key in FIGURES - {"test_samples"} - BANDS:
        assert comparison["ratio"][key] == pytest.approx(comparison["pruned"][key] / comparison["dense"][key])


def test_every_figure_says_where_it_comes_from(comparison):
    assert set(comparison["labels"]) == FIGURES
    assert set(comparison["labels"].values()) == {"measured", "simulated", "estimated"}


def test_pruning_leaves_the_asked_fraction_of_the_channels(comparison):
    assert comparison["dense"]["channels"] == 224
    assert comparison["pruned"]["channels"] == round(0.3 * 224)


def test_compare_prints_the_same_document(digits_run, comparison):
    done = sca_deploy("compare", digits_run / "dense", digits_run / "pruned", "--json")
    assert json.loads(done.stdout) == comparison


def test_the_table_of_a_run_shows_both_networks(digits_run, comparison):
    printed = (digits_run.parent / "stdout").read_text()
    assert f"{100 * comparison['dense']['accuracy_chip']:.2f} %" in printed
    assert f"{100 * comparison['pruned']['accuracy_float']:.2f} %" in printed
    assert "next: sca-deploy map" in (digits_run.parent / "stderr").read_text()


def test_a_run_leaves_its_report_and_says_so(digits_run):
    page = (digits_run / "report.html").read_text()
    assert "805,376" in page  # values of the dense network that Lava repeated: it is written after the verification
    files = " ".join(f"{digits_run}/{name}" for name in ("compare.json,", "compare.png and", "report.html"))
    assert (digits_run.parent / "stdout").read_text().endswith(f"\nwritten: {files}\n")


def test_what_lava_said_of_other_integers_does_not_outlive_them(digits_run, tmp_path, root):
    run, config = tmp_path / "digits", tmp_path / "digits.toml"
    shutil.copytree(digits_run, run)
    config.write_text((root / "configs" / "digits.toml").read_text() + "\n[lower]\nsearch = false\n")
    venv.create(tmp_path / "empty", symlinks=True)
    without_lava = ["--lava-python", tmp_path / "empty" / "bin" / "python"]
    done = sca_deploy("run", config, "--epochs", 6, *without_lava, "-o", run)
    assert done.returncode == 5, done.stderr
    for arm in ARMS:
        assert (run / arm / "program.npz").read_bytes() != (digits_run / arm / "program.npz").read_bytes()
        assert not (run / arm / "verify.json").exists()


def test_verify_leaves_in_the_arm_what_lava_said_of_the_program_it_runs(digits_run, tmp_path):
    folder = tmp_path / "digits"
    shutil.copytree(digits_run, folder)
    said = folder / "pruned" / "verify.json"
    said.unlink()
    done = sca_deploy("verify", folder, "--samples", 3)
    assert done.returncode == 0
    assert json.loads(said.read_text())["samples"] == 3
    again = f"sca-deploy compare {folder}/dense {folder}/pruned --html {folder}/report.html"
    assert done.stderr.endswith(f"next: {again}\n")
    shutil.copy(folder / "dense" / "program.npz", folder / "pruned" / "program.npz")
    said.unlink()
    assert sca_deploy("verify", folder, "--samples", 3).returncode == 0
    assert not said.exists(), "the arm runs another Program than the exported one"


def test_a_report_is_outdated_if_something_was_verified_since(digits_run, tmp_path, monkeypatch):
    folder = tmp_path / "digits"
    shutil.copytree(digits_run, folder)
    arm, page = folder / "pruned", folder / "report.html"
    os.utime(page, (1000, 1000))
    os.utime(arm / "verify.json", (1001, 1001))
    assert {outdated_report(source) for source in (folder, arm, arm / "loihi2")} == {folder}
    monkeypatch.chdir(tmp_path)
    assert outdated_report(Path("digits")) == Path("digits")
    os.utime(page, (1001, 1001))
    assert outdated_report(folder) is None
    os.utime(page, (1000, 1000))
    (arm / "verify.json").unlink()
    assert outdated_report(folder) is None
    shutil.copytree(arm / "loihi2", tmp_path / "alone")
    assert outdated_report(tmp_path / "alone") is None


def test_a_runs_commands_use_the_program_that_was_verified(digits_run, tmp_path):
    folder = tmp_path / "digits"
    shutil.copytree(digits_run, folder)
    arm = folder / "pruned"
    assert open_artifact(folder).program_path == arm / "program.npz"
    assert Program.load(arm / "program.npz").layers[0].threshold == open_artifact(folder).program.layers[0].threshold
    shutil.copy(folder / "dense" / "program.npz", arm / "program.npz")
    assert open_artifact(folder).program_path is None, "it was not lowered from this network"
    (arm / "manifest.json").write_text("[]")
    assert open_artifact(folder).program_path is None


@pytest.mark.parametrize("arm", ARMS)
def test_chip_accuracy_is_the_share_of_right_read_outs(digits_run, comparison, test_set, arm):
    x, y = test_set
    program = Program.load(digits_run / arm / "program.npz")
    readout = simulate(program, np.repeat(x[:, None], program.steps, axis=1)).readout
    right = sum(int(np.argmax(v)) == label for v, label in zip(readout, y, strict=True))
    assert comparison[arm]["accuracy_chip"] == pytest.approx(right / len(y))


@pytest.mark.parametrize("arm", ARMS)
def test_lava_repeats_every_spike_of_32_test_samples(digits_run, arm):
    done = sca_deploy("verify", digits_run / arm, "--samples", 32, "--json")
    document = json.loads(done.stdout)
    assert done.returncode == 0
    assert document["samples"] == 32
    assert document["mismatches"] == 0
    assert [layer["name"] for layer in document["layers"]] == ["lif1", "lif2", "lif3", "linear2"]
    assert all(layer["mismatches"] == 0 for layer in document["layers"])
    assert all(layer["spikes"] > 0 for layer in document["layers"][:-1])
    assert {"steps", "simulator_seconds", "lava_seconds"} <= set(document)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize("arm", ARMS)
def test_norse_runs_the_exported_graph_with_the_same_spikes(digits_run, test_set, arm):
    import nir
    import norse.torch as norse

    path = digits_run / arm / "loihi2" / "network.nir"
    graph = nir.read(path, type_check=True)
    network, _ = load_network(digits_run / arm / "network.pt")
    frames = torch.from_numpy(test_set[0][:64])
    with torch.no_grad(), network.recording() as ours:
        logits = network(frames)
        spikes = dict(ours)
    module = norse.from_nir(graph, dt=1e-4)
    recorded = {}
    for name, child in module.named_children():
        if name.startswith("lif"):
            child.register_forward_hook(lambda m, i, out, name=name: recorded.setdefault(name, []).append(out[0]))
    state, total = None, 0
    with torch.no_grad():
        for _ in range(network.spec.steps):
            out, state = module(frames.float(), state)
            total = total + out
    assert set(recorded) == set(spikes) == {"lif1", "lif2", "lif3"}
    for name, theirs in recorded.items():
        assert torch.equal(torch.stack(theirs, 1), spikes[name])
    torch.testing.assert_close(total, logits, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("arm", ARMS)
def test_onnxruntime_runs_the_exported_step_with_the_same_predictions(digits_run, test_set, arm):
    x = test_set[0].astype(np.float32)
    session = onnxruntime.InferenceSession(str(digits_run / arm / "network.onnx"), providers=["CPUExecutionProvider"])
    state = {
        port.name: np.zeros([len(x), *port.shape[1:]], np.float32) for port in session.get_inputs() if port.name != "x"
    }
    logits = 0
    for _ in range(4):
        outputs = dict(zip([o.name for o in session.get_outputs()], session.run(None, {"x": x} | state), strict=True))
        logits = logits + outputs["logits"]
        state = {name: outputs[f"{name}_out"] for name in state}
    network, _ = load_network(digits_run / arm / "network.pt")
    with torch.no_grad():
        expected = network(torch.from_numpy(test_set[0])).argmax(1)
    assert np.array_equal(logits.argmax(1), expected.numpy())


def test_map_keeps_its_contract_and_sums_up(digits_run):
    done = sca_deploy("map", digits_run, "--json")
    document = json.loads(done.stdout)
    assert document["chip"] == "loihi2"
    assert document["cores"] == sum(layer["cores"] for layer in document["layers"])
    keys = {"name", "cores", "neurons", "synapse_words", "axon_in", "binding"}
    assert all(keys <= set(layer) for layer in document["layers"])


def test_simulate_records_what_the_contract_says(digits_run, test_set, tmp_path):
    x = np.repeat(test_set[0][:5, None], 4, axis=1)
    np.save(tmp_path / "x.npy", x)
    out = tmp_path / "out.npz"
    done = sca_deploy(
        "simulate", digits_run / "pruned" / "loihi2", "--input", tmp_path / "x.npy", "--record", "spikes,u,v", "-o", out
    )
    assert done.returncode == 0, done.stderr
    with np.load(out) as recorded:
        assert recorded["layers"].tolist() == ["lif1", "lif2", "lif3", "linear2"]
        program = Program.load(digits_run / "pruned" / "program.npz")
        for layer in program.layers:
            for what in ("spikes", "u", "v"):
                assert recorded[f"{layer.name}/{what}"].shape == (5, 4, *layer.shape)
        assert recorded["lif1/spikes"].any()


@pytest.mark.parametrize("source", ["pruned", "pruned/network.pt", "pruned/loihi2", "pruned/train/checkpoint.pt"])
def test_inspect_reads_a_network_in_every_form(digits_run, source):
    done = sca_deploy("inspect", digits_run / source, "--json")
    assert done.returncode == 0, done.stderr
    assert [layer["name"] for layer in json.loads(done.stdout)["layers"]] == ["lif1", "lif2", "lif3", "linear2"]


def test_a_nir_file_alone_lowers_to_the_same_program(digits_run, tmp_path):
    graph = tmp_path / "network.nir"
    shutil.copy(digits_run / "pruned" / "network.nir", graph)
    done = sca_deploy("export", graph, "--target", "loihi2", "--input-bits", 5, "-o", tmp_path / "out", "--json")
    assert done.returncode == 0, done.stderr
    assert all(check["max_difference"] == 0 for check in json.loads(done.stdout)["checks"])
    first, second = (Program.load(p) for p in (tmp_path / "out" / "program.npz", digits_run / "pruned" / "program.npz"))
    for a, b in zip(first.layers, second.layers, strict=True):
        np.testing.assert_array_equal(a.synapses[0].weight, b.synapses[0].weight)


def test_what_a_foreign_graph_does_not_say_is_asked_for(digits_run, tmp_path):
    graph = read_graph(digits_run / "pruned" / "network.nir")
    graph.metadata = {}
    import nir

    nir.write(tmp_path / "foreign.nir", graph)
    for flags, asked in [([], "--dt"), (["--dt", "1e-4"], "--steps"), (["--dt", "1e-4", "--steps", 4], "--input-bits")]:
        done = sca_deploy("map", tmp_path / "foreign.nir", *flags)
        assert done.returncode == 2
        assert asked in done.stderr


def test_a_finished_run_repeats_nothing(digits_run, tmp_path):
    copy = tmp_path / "digits"
    shutil.copytree(digits_run, copy)
    done = sca_deploy("run", "digits", "--epochs", 6, "-o", copy)
    assert done.returncode == 0
    assert done.stderr.count("is already done") == 12
    assert (copy / "compare.json").read_bytes() == (digits_run / "compare.json").read_bytes()


def test_a_run_of_another_config_is_not_overwritten(digits_run):
    before = (digits_run / "config.json").read_bytes()
    for flags, differs in (
        (("--epochs", 5), "train.epochs 6, not 5"),
        (("--epochs", 6, "--seed", 3), "seed 0, not 3"),
        (("--epochs", 6, "--method", "random", "--keep", 0.5), "prune.method sca, not random"),
        (("--epochs", 6, "--score", "rate"), "prune.score '', not rate"),
    ):
        done = sca_deploy("run", "digits", *flags, "-o", digits_run)
        assert done.returncode == 2
        assert f"error: {digits_run} holds a run of another config ({differs})\n" in done.stderr
    assert (digits_run / "config.json").read_bytes() == before


def test_the_steps_one_by_one_give_what_run_gives(digits_run, tmp_path):
    folder = tmp_path / "digits"
    for command in (
        ["train", "digits", "--epochs", 6, "-o", folder],
        ["compact", folder],
        ["export", folder],
        ["export", folder, "--target", "nir"],
        ["export", folder, "--target", "onnx"],
    ):
        done = sca_deploy(*command)
        assert done.returncode == 0, done.stderr
    same = ["program.npz", "network.nir", "network.net", "cores.json"]
    whole = json.loads((digits_run / "pruned" / "loihi2" / "manifest.json").read_text())["files"]
    parts = json.loads((folder / "pruned" / "loihi2" / "manifest.json").read_text())["files"]
    ours, theirs = (Program.load(p / "pruned" / "loihi2" / "program.npz") for p in (folder, digits_run))
    assert set(same) <= set(whole) == set(parts)
    for a, b in zip(ours.layers, theirs.layers, strict=True):
        np.testing.assert_array_equal(a.synapses[0].weight, b.synapses[0].weight)
    assert (folder / "pruned" / "network.onnx").is_file()
