"""`sca-deploy prune`, as people who bring a network meet it."""

import json

import nir
import numpy as np
import pytest
import torch

from sca_deploy.artifact import open_artifact
from sca_deploy.checkpoint import load_network, save_network
from sca_deploy.exporters.base import Deployable
from sca_deploy.exporters.nir import write_nir
from sca_deploy.exporters.nir_reading import read_nir
from sca_deploy.hardware.float_graph import run_graph
from sca_deploy.hardware.program import Program
from sca_deploy.nn.graph_network import GraphNetwork
from sca_deploy.nn.network import SpikingNetwork
from sca_deploy.nn.spec import NetworkSpec, parse_layers
from tests.graphs import DT, PLAIN, STEPS, Made, architecture, graph_of, spikes_in

TRAIN, TEST = 40, 20


@pytest.fixture
def command(in_process):
    """Runs `prune` in this process; gives its exit code, stdout and stderr."""
    return lambda *arguments: in_process("prune", *arguments)


def brought(folder, name="feed-forward"):
    """net.nir and its data, mine.npz; labels are what the network answers, so that it is right about them all."""
    graph, dynamics = architecture(name, dtype=np.float32)
    write_nir(Deployable(graph, DT, dynamics=dynamics), folder / "net.nir")
    x = spikes_in(graph, samples=TRAIN + TEST, seed=1)
    answers = run_graph(graph, dynamics, x)["output"].sum(1)
    y = (answers - answers.mean(0)).argmax(1)
    sets = {"x_train": x[:TRAIN], "y_train": y[:TRAIN], "x_test": x[TRAIN:], "y_test": y[TRAIN:]}
    np.savez(folder / "mine.npz", timed=1, **sets)
    return graph, dynamics, x, y


ONCE = ("--keep", 0.5, "--score", "rate")


def test_a_network_is_pruned_once_on_data_without_training(tmp_path, command):
    graph, dynamics, x, y = brought(tmp_path)
    run = tmp_path / "run"
    code, out, err = command(tmp_path / "net.nir", "--data", tmp_path / "mine.npz", *ONCE, "--json", "-o", run)
    assert code == 0, err
    document = json.loads(out)
    assert (document["dense"]["channels"], document["pruned"]["channels"], document["ratio"]["channels"]) == (
        14,
        7,
        0.5,
    )
    assert json.loads((run / "compare.json").read_text()) == document

    answers = run_graph(graph, dynamics, x[TRAIN:])["output"].sum(1).argmax(1)
    assert document["dense"]["accuracy_float"] == pytest.approx((answers == y[TRAIN:]).mean())
    small = load_network(run / "pruned" / "network.pt")[0]
    with torch.no_grad():
        assert document["pruned"]["accuracy_float"] == pytest.approx(
            (small(torch.from_numpy(x[TRAIN:])).argmax(1).numpy() == y[TRAIN:]).mean()
        )
    # The channels that fire least on training samples are gone; what is left is as it was.
    fired = run_graph(graph, dynamics, x[:TRAIN], torch.float32)
    rates = {
        name: np.moveaxis(fired[name], 2, 0).reshape(fired[name].shape[2], -1).mean(1) for name in ("n1", "n2", "n3")
    }
    best = {(name, int(row.argmax())) for name, row in rates.items()}
    others = sorted(((rate, (name, n)) for name, row in rates.items() for n, rate in enumerate(row)), reverse=True)
    kept = best | {place for _, place in [entry for entry in others if entry[1] not in best][: 7 - len(best)]}
    for name, conv in (("n1", "conv1"), ("n2", "conv2")):
        rows = sorted(n for population, n in kept if population == name)
        np.testing.assert_array_equal(small.graph.nodes[conv].bias, graph.nodes[conv].bias[rows])

    dense = read_nir(run / "dense" / "network.nir")
    for name in ("conv1", "conv2", "fc1", "fc2"):
        np.testing.assert_array_equal(dense.nodes[name].weight, graph.nodes[name].weight)
    for arm in ("dense", "pruned"):
        assert Program.load(run / arm / "program.npz").steps == STEPS
        assert document[arm]["cores"] >= 1


def test_the_table_and_the_next_command_are_for_people(tmp_path, command):
    brought(tmp_path)
    run = tmp_path / "run"
    code, out, err = command(tmp_path / "net.nir", "--data", tmp_path / "mine.npz", *ONCE, "-o", run)
    assert code == 0
    assert "channels" in out
    assert out.endswith(f"written: {run}\n")
    assert f"next: sca-deploy export {run} --target loihi2" in err
    assert "pruned: compacted to 7 channels" in err
    assert "already done" not in err, "all of it was done just now"


def test_channels_that_cannot_go_are_told_from_those_that_were_kept(tmp_path, command):
    made = Made(dtype=np.float32)
    nodes = {"fc1": made.affine(10, 6), "n1": made.lif(10), "fc2": made.affine(3, 10), "n2": made.lif(3)}
    graph = graph_of((6,), 3, nodes, ["input fc1 n1 fc2 n2 output"])
    write_nir(Deployable(graph, DT, dynamics=PLAIN), tmp_path / "net.nir")
    x, y = spikes_in(graph, samples=TRAIN + TEST), np.arange(TRAIN + TEST) % 3
    sets = {"x_train": x[:TRAIN], "y_train": y[:TRAIN], "x_test": x[TRAIN:], "y_test": y[TRAIN:]}
    np.savez(tmp_path / "mine.npz", timed=1, **sets)
    code, _, err = command(tmp_path / "net.nir", "--data", tmp_path / "mine.npz", *ONCE, "-o", tmp_path / "run")
    assert code == 0, err
    assert "pruned: compacted to 8 channels, 3 of them of the last population; " in err
    (line,) = (line for line in err.splitlines() if line.startswith("dense: compacted to 13 channels; "))
    assert line.endswith(" spikes equal, logits equal")


def test_pruned_while_it_is_fine_tuned_and_the_dense_arm_is_what_was_brought(tmp_path, command):
    graph, _, _, _ = brought(tmp_path, "recurrent, nested")
    run = tmp_path / "run"
    code, _, err = command(tmp_path / "net.nir", "--data", tmp_path / "mine.npz", "--keep", 0.5, "--epochs", 3,
                           "--batch-size", 10, "--lr", 0.01, "-o", run, "--json")  # fmt: skip
    assert code == 0, err
    logs = {arm: (run / arm / "train" / "metrics.jsonl").read_text().splitlines() for arm in ("dense", "pruned")}
    assert (len(logs["dense"]), len(logs["pruned"])) == (1, 3)
    dense, pruned = (load_network(run / arm / "network.pt")[0] for arm in ("dense", "pruned"))
    np.testing.assert_array_equal(dense.graph.nodes["fc2"].weight, graph.nodes["fc2"].weight)
    assert sum(pruned.kept_channels.values()) == round(0.5 * sum(dense.kept_channels.values()))
    weights = pruned.graph.nodes["fc3"].weight
    assert not np.isin(weights, graph.nodes["fc3"].weight).any(), "nothing was learnt"


def test_repeated_it_continues_and_does_nothing_twice(tmp_path, command):
    brought(tmp_path)
    run = tmp_path / "run"
    arguments = (tmp_path / "net.nir", "--data", tmp_path / "mine.npz", *ONCE, "--epochs", 2, "--json", "-o", run)
    _, first, _ = command(*arguments)
    (run / "pruned" / "network.pt").unlink()
    before = (run / "pruned" / "train" / "checkpoint.pt").stat().st_mtime_ns
    code, second, err = command(*arguments)
    assert code == 0
    assert json.loads(second) == json.loads(first)
    assert {"dense: train is already done", "dense: compact is already done", "pruned: train is already done"} < set(
        err.splitlines()
    )
    assert "pruned: compact is already done" not in err.split("pruned: compacted to")[0]
    assert (run / "pruned" / "train" / "checkpoint.pt").stat().st_mtime_ns == before


def test_another_network_or_another_wish_does_not_overwrite_a_run(tmp_path, command):
    brought(tmp_path)
    run = tmp_path / "run"
    data = ("--data", tmp_path / "mine.npz", "-o", run)
    assert command(tmp_path / "net.nir", *data, *ONCE)[0] == 0
    code, _, err = command(tmp_path / "net.nir", *data, "--keep", 0.7)
    assert code == 2
    assert f"error: {run} holds a run of another config" in err


@pytest.mark.parametrize("name", ["subtract", "a value a neuron"])
def test_what_the_chip_cannot_carry_is_pruned_all_the_same_and_says_why_it_stays_in_floats(name, tmp_path, command):
    brought(tmp_path, name)
    run = tmp_path / "run"
    code, out, err = command(tmp_path / "net.nir", "--data", tmp_path / "mine.npz", *ONCE, "-o", run, "--json")
    assert code == 0, err
    document = json.loads(out)
    assert document["pruned"]["channels"] == 7
    assert document["pruned"]["parameters"] < document["dense"]["parameters"]
    assert 0 <= document["pruned"]["accuracy_float"] <= 1
    assert "cores" not in document["ratio"]
    [why] = {line for line in err.splitlines() if line.startswith("pruned: stays in floats: ")}
    assert len(why) > len("pruned: stays in floats: ")
    assert not (run / "pruned" / "program.npz").exists()
    # Its graph steps as it did: its pruned form is there to be exported.
    assert open_artifact(run / "pruned").dynamics == architecture(name)[1]


def test_a_mobile_network_with_convolutions_of_single_channels_is_pruned(tmp_path, command):
    graph, dynamics = architecture("depthwise and grouped", dtype=np.float32)
    brought(tmp_path)  # its data
    save_network(tmp_path / "net.pt", GraphNetwork(graph, dynamics, STEPS))
    code, out, err = command(
        tmp_path / "net.pt", "--data", tmp_path / "mine.npz", *ONCE, "-o", tmp_path / "run", "--json"
    )
    assert code == 0, err
    document = json.loads(out)
    # Those of the convolution in two groups stay: 6 + 6 + 4 + 4, of which the first twelve live in pairs.
    assert (document["dense"]["channels"], document["pruned"]["channels"]) == (20, 14)


def checkpoint_of_layers(path):
    layers = [{"type": "conv", "channels": 4, "kernel": 3, "padding": 1}, {"type": "batch_norm"}, {"type": "if"},
              {"type": "flatten"}, {"type": "linear", "features": 10}]  # fmt: skip
    torch.manual_seed(0)
    save_network(path, SpikingNetwork(NetworkSpec((1, 8, 8), parse_layers(layers, {}), steps=2, input_scale=1 / 16)))


def test_a_checkpoint_of_layers_is_pruned_on_a_set_by_its_name(tmp_path, command):
    checkpoint_of_layers(tmp_path / "net.pt")
    arguments = ("--data", "digits", "--train-samples", 200, "--test-samples", 30, "--keep", 0.5, "--json")
    code, out, err = command(tmp_path / "net.pt", *arguments, "-o", tmp_path / "run")
    assert code == 0, err
    document = json.loads(out)
    assert (document["dense"]["channels"], document["pruned"]["channels"]) == (4, 2)
    assert document["dense"]["test_samples"] == 30
    assert isinstance(load_network(tmp_path / "run" / "pruned" / "network.pt")[0], SpikingNetwork)


def test_a_pruned_run_is_pruned_again(tmp_path, command):
    brought(tmp_path)
    data = ("--data", tmp_path / "mine.npz", "--json")
    assert command(tmp_path / "net.nir", *data, *ONCE, "-o", tmp_path / "once")[0] == 0
    code, out, err = command(tmp_path / "once", *data, "--keep", 0.6, "-o", tmp_path / "twice")
    assert code == 0, err
    document = json.loads(out)
    assert (document["dense"]["channels"], document["pruned"]["channels"]) == (7, 4)


def images(folder):
    """graph.pt, a network of images that a run scaled, as its folder holds it, and images.npz."""
    graph, dynamics = architecture("feed-forward", dtype=np.float32)
    write_nir(Deployable(graph, DT, dynamics=dynamics), folder / "net.nir")
    x = np.random.default_rng(0).integers(0, 256, (TRAIN + TEST, 2, 6, 6)).astype(np.uint8)
    y = np.arange(len(x)) % 3
    np.savez(folder / "images.npz", x_train=x[:TRAIN], y_train=y[:TRAIN], x_test=x[TRAIN:], y_test=y[TRAIN:])


def test_a_run_on_images_is_pruned_again_without_scaling_them_twice(tmp_path, command):
    images(tmp_path)
    data = ("--data", tmp_path / "images.npz", "--json")
    first = command(tmp_path / "net.nir", *data, "--steps", 4, *ONCE, "-o", tmp_path / "once")
    assert first[0] == 0, first[2]
    code, out, err = command(tmp_path / "once", *data, "--keep", 0.6, "-o", tmp_path / "twice")
    assert code == 0, err
    assert json.loads(out)["dense"]["accuracy_float"] == json.loads(first[1])["pruned"]["accuracy_float"]


def test_another_network_in_the_folder_of_a_run_is_refused(tmp_path, command):
    brought(tmp_path)
    arguments = ("--data", tmp_path / "mine.npz", *ONCE, "-o", tmp_path / "run")
    assert command(tmp_path / "net.nir", *arguments)[0] == 0
    graph, dynamics = architecture("feed-forward", seed=9, dtype=np.float32)
    write_nir(Deployable(graph, DT, dynamics=dynamics), tmp_path / "other.nir")
    code, _, err = command(tmp_path / "other.nir", *arguments)
    assert code == 2
    assert "holds a run of another network" in err


def test_without_a_folder_the_run_is_named_after_the_network(tmp_path, command, monkeypatch):
    brought(tmp_path)
    monkeypatch.chdir(tmp_path)
    code, _, err = command("net.nir", "--data", "mine.npz", *ONCE)
    assert code == 0, err
    assert (tmp_path / "runs" / "net" / "pruned" / "network.pt").is_file()


def test_a_file_that_does_not_say_how_its_neurons_step_is_asked_about(tmp_path, command):
    graph, _, _, _ = brought(tmp_path, "recurrent, flat")
    nir.write(tmp_path / "silent.nir", graph)
    arguments = (tmp_path / "silent.nir", "--data", tmp_path / "mine.npz", *ONCE, "-o", tmp_path / "run")
    code, out, err = command(*arguments)
    assert (code, out) == (2, "")
    assert err.startswith("error: ")
    assert "--dt" in err
    assert "--preset" in err
    assert len(err.splitlines()) == 2
    assert not (tmp_path / "run").exists()
    code, _, err = command(*arguments, "--preset", "nir", "--dt", DT)
    assert code == 0, err
    assert open_artifact(tmp_path / "run").dynamics == PLAIN


def test_what_flags_say_goes_before_what_the_file_says(tmp_path, command):
    brought(tmp_path)
    code, _, err = command(tmp_path / "net.nir", "--data", tmp_path / "mine.npz", *ONCE, "-o", tmp_path / "run",
                           "--reset", "subtract", "--tie", "ge", "--clamp", "-0.5")  # fmt: skip
    assert code == 0, err
    dynamics = open_artifact(tmp_path / "run").dynamics
    assert (dynamics.reset, dynamics.tie, dynamics.clamp) == ("subtract", "ge", -0.5)


def arrays(folder, **changes):
    _, _, x, y = brought(folder)
    found = {"x_train": x[:TRAIN], "y_train": y[:TRAIN], "x_test": x[TRAIN:], "y_test": y[TRAIN:]} | changes
    np.savez(folder / "mine.npz", **found)


@pytest.mark.parametrize(
    ("changes", "flags", "problem"),
    [
        ({"x_train": np.ones((TRAIN, STEPS, 2, 5, 5), int), "x_test": np.ones((TEST, STEPS, 2, 5, 5), int)}, ONCE,
         "takes (2, 6, 6), samples of data set 'mine' are (2, 5, 5)"),
        ({"y_test": np.full(TEST, 6)}, ONCE, "tells 3 classes apart, data set 'mine' has 7"),
        ({}, (*ONCE, "--steps", 9), "holds recordings of 5 steps, the network lasts 9"),
        ({}, ("--keep", 0.05), "is less than the 3 that the floor of 0.1 a layer needs"),
        ({}, ("--keep", 1.5), "config key 'prune.keep' is 1.5, outside 1e-06 to 1"),
        ({}, ("--keep", 0.5, "--method", "magnitude"), "method 'magnitude' masks single weights"),
        ({}, (*ONCE, "--method", "slim"), "unknown prune.method 'slim'"),
        ({}, ("--keep", 0.5, "--method", "slimming"), "score 'gamma' is the same for all channels of every layer"),
        ({}, ("--keep", 0.5, "--score", "best"), "unknown score 'best'"),
        ({}, (*ONCE, "--coding", "direct"), "direct"),
        ({}, (*ONCE, "--chip", "loihi9"), "loihi9"),
        ({}, (*ONCE, "--data-folder", "here"), "is a file"),
        ({}, (*ONCE, "--preset", "brian"), "unknown preset 'brian'"),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_one_line_and_one_fix_before_anything_is_trained(
    changes, flags, problem, tmp_path, command
):
    arrays(tmp_path, **changes)
    code, out, err = command(tmp_path / "net.nir", "--data", tmp_path / "mine.npz", *flags, "-o", tmp_path / "run")
    assert code == 2, err
    assert out == ""
    assert problem in err
    error, *fix = [line for line in err.splitlines() if line.startswith(("error: ", "fix: "))]
    assert error.startswith("error: ")
    assert len(fix) <= 1
    assert not (tmp_path / "run" / "pruned" / "network.pt").exists()


def test_files_that_are_not_there_or_no_network_are_named(tmp_path, command):
    brought(tmp_path)
    for source, problem in ((tmp_path / "gone.nir", "no such file or folder"), (tmp_path / "mine.npz", "mine.npz")):
        code, _, err = command(source, "--data", tmp_path / "mine.npz", *ONCE, "-o", tmp_path / "run")
        assert code in (1, 2)
        assert problem in err
    code, _, err = command(tmp_path / "net.nir", "--data", tmp_path / "gone.npz", *ONCE, "-o", tmp_path / "run")
    assert code == 1
    assert "no such file" in err


def test_a_network_that_others_trained_on_events_is_pruned_on_them(shared_data, tmp_path, command):
    source, data = shared_data / "nir" / "cnn_sinabs.nir", shared_data / "events" / "nmnist_small_T10.npz"
    code, out, err = command(source, "--preset", "sinabs", "--reset", "hard", "--clamp", "none", "--data", data,
                             "--train-samples", 64, "--test-samples", 20, *ONCE, "-o", tmp_path / "run",
                             "--json")  # fmt: skip
    assert code == 0, err
    document = json.loads(out)
    assert document["dense"]["accuracy_float"] >= 0.8
    assert (document["dense"]["channels"], document["pruned"]["channels"]) == (306, 158)
    assert document["ratio"]["synops_per_sample"] < 0.5
