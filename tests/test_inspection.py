"""What `inspect` says of a network: its nodes in floats, then its integers, or in one line why there are none."""

from __future__ import annotations

import json
import shutil
from itertools import pairwise
from pathlib import Path
from typing import Any

import nir
import numpy as np
import pytest
import torch

from sca_deploy.artifact import Reading, open_artifact
from sca_deploy.checkpoint import load_network
from sca_deploy.errors import ScaDeployError, UsageError
from sca_deploy.files import read_json
from sca_deploy.report.inspection import described, described_text, inspection, inspection_text
from tests.conftest import sca_deploy


def graph(tmp_path: Path, slowest: float = 4e-4, **metadata: Any) -> Path:
    """A convolution into LIF neurons of time constants from 0.2 ms, then a dense read-out that integrates."""
    tau = np.linspace(2e-4, slowest, 2 * 4 * 4, dtype=np.float32).reshape(2, 4, 4)
    ones = np.ones_like(tau)
    nodes = {
        "input": nir.Input({"input": np.array([1, 4, 4])}),
        "conv": nir.Conv2d((4, 4), np.ones((2, 1, 3, 3), np.float32), 1, 1, 1, 1, np.zeros(2, np.float32)),
        "lif": nir.LIF(tau=tau, r=ones, v_leak=0 * ones, v_threshold=ones, v_reset=0 * ones),
        "flat": nir.Flatten({"input": np.array([2, 4, 4])}, 0, -1),
        "dense": nir.Linear(np.ones((3, 32), np.float32)),
        "li": nir.LI(np.full(3, 2e-4, np.float32), np.ones(3, np.float32), np.zeros(3, np.float32)),
        "output": nir.Output({"output": np.array([3])}),
    }
    names = list(nodes)
    path = tmp_path / "net.nir"
    nir.write(path, nir.NIRGraph(nodes, list(pairwise(names)), metadata=metadata))
    return path


def rows(text: str) -> dict[str, list[str]]:
    """The lines of all tables by their first word; of floats and integers of one name the integers."""
    return {line.split()[0]: line.split() for line in text.splitlines() if line.strip()}


def test_nodes_say_what_they_are_what_they_read_and_what_they_hold(tmp_path: Path) -> None:
    found = described(open_artifact(graph(tmp_path), Reading(dt=1e-4, reset="hard")))
    nodes = {node["name"]: node for node in found["floats"]["nodes"]}
    assert list(nodes) == ["input", "conv", "lif", "flat", "dense", "li"]
    assert [node["parameters"] for node in nodes.values()] == [0, 2 * 9 + 2, 0, 0, 3 * 32, 0]
    assert found["floats"]["parameters"] == 116
    assert [node["shape"] for node in nodes.values()] == [[1, 4, 4], [2, 4, 4], [2, 4, 4], [32], [3], [3]]
    assert nodes["conv"]["kind"] == "Conv2d 3x3"
    assert nodes["flat"]["reads"] == ["lif"]


def test_the_constants_of_a_step_are_those_of_eulers_method(tmp_path: Path) -> None:
    found = described(open_artifact(graph(tmp_path), Reading(dt=1e-4, reset="hard")))
    lif = next(node for node in found["floats"]["nodes"] if node["name"] == "lif")
    assert lif["constants"]["beta"] == pytest.approx([1 - 1e-4 / 2e-4, 1 - 1e-4 / 4e-4])
    assert lif["constants"]["threshold"] == [1.0, 1.0]
    assert "beta 0.5 to 0.75, gain 0.25 to 0.5, threshold 1\n" in described_text(found)
    li = next(node for node in found["floats"]["nodes"] if node["name"] == "li")
    assert set(li["constants"]) == {"beta", "gain"}


def test_a_file_that_does_not_say_how_it_steps_is_shown_as_it_is(tmp_path: Path) -> None:
    done = sca_deploy("inspect", graph(tmp_path))
    assert done.returncode == 0, done.stderr
    assert "tau 0.0002 to 0.0004, r 1, v_threshold 1\n" in done.stdout
    assert "no steps: " in done.stdout
    assert "says no time step" in done.stdout
    assert "fix: give --dt SECONDS" in done.stdout
    assert "no integers" not in done.stdout


def test_without_steps_and_bits_the_floats_are_shown_and_the_flag_that_is_missing(tmp_path: Path) -> None:
    text = described_text(described(open_artifact(graph(tmp_path, 2e-4), Reading(dt=1e-4, reset="hard"))))
    assert text.splitlines()[-2].endswith("does not say how many steps a sample lasts")
    assert text.splitlines()[-1] == "fix: give --steps T"


def test_what_no_chip_runs_is_shown_with_the_reason(tmp_path: Path) -> None:
    found = described(open_artifact(graph(tmp_path, T=4), Reading(dt=1e-4, reset="subtract")))
    assert found["layers"] == []
    assert "reset 'subtract'" in found["why_not"][0]
    assert "subtract reset" in described_text(found).splitlines()[0]
    assert json.loads(json.dumps(found)) == found


def test_who_asks_for_integers_gets_them_or_an_error(tmp_path: Path) -> None:
    path = graph(tmp_path)
    with pytest.raises(ScaDeployError, match="reset 'subtract'"):
        described(open_artifact(path, Reading(dt=1e-4, reset="subtract", steps=4, input_bits=0)))
    with pytest.raises(UsageError, match="dt is 0"):
        described(open_artifact(path, Reading(dt=0.0, reset="hard")))


def test_channels_that_a_mask_can_take_are_counted_and_those_of_the_read_out_not(tmp_path: Path) -> None:
    found = described(open_artifact(graph(tmp_path), Reading(dt=1e-4, reset="hard")))
    channels = {node["name"]: node["channels"] for node in found["floats"]["nodes"]}
    assert channels == {
        **dict.fromkeys(("input", "conv", "flat", "dense", "li")),
        "lif": {"kept": 2, "all": 2},
    }


def test_a_run_says_how_many_channels_it_was_left_with(digits_run: Path) -> None:
    found = described(open_artifact(digits_run))
    kept = read_json(digits_run / "pruned" / "compaction.json")["after"]
    whole, _ = load_network(digits_run / "pruned" / "train" / "checkpoint.pt")
    channels = [node["channels"] for node in found["floats"]["nodes"] if node["channels"] is not None]
    assert [each["kept"] for each in channels] == list(kept.values())
    assert [each["all"] for each in channels] == [len(norm.mask) for norm in whole.norms().values()]


def test_the_floats_of_a_run_have_as_many_parameters_as_its_torch_network(digits_run: Path) -> None:
    network, _ = load_network(digits_run / "pruned" / "network.pt")
    weights = {
        name: module.weight.numel()
        for name, module in network.layers.items()
        if isinstance(module, torch.nn.Conv2d | torch.nn.Linear)
    }
    nodes = {node["name"]: node for node in described(open_artifact(digits_run))["floats"]["nodes"]}
    # A batch-norm is folded into the map before it, which gets one bias a channel.
    for name, count in weights.items():
        assert nodes[name]["parameters"] == count + nodes[name]["shape"][0]


def test_the_integers_come_below_the_floats_as_they_are_without_them(digits_run: Path) -> None:
    artifact = open_artifact(digits_run)
    found = described(artifact)
    assert {key: value for key, value in found.items() if key != "floats"} == inspection(artifact)
    text = described_text(found)
    assert text.index("biases in floats") < text.index("5-bit graded spikes")
    assert max(map(len, text.splitlines())) <= 100


def test_a_layer_has_its_integers_with_commas_in_the_table_and_without_in_the_document(digits_run: Path) -> None:
    found = inspection(open_artifact(digits_run))
    first = found["layers"][0]
    assert min(first["bias_max"], first["threshold"]) >= 1000
    shown = rows(inspection_text(found))["lif1"]
    assert f"{first['bias_max']:,}" in shown
    assert f"{first['threshold']:,}" in shown


@pytest.mark.parametrize("width", [50, 80])
def test_on_a_narrow_terminal_what_a_neuron_holds_is_on_the_next_line(digits_run: Path, width: int) -> None:
    found = described(open_artifact(digits_run))
    narrow, wide = described_text(found, width), described_text(found)
    assert max(map(len, narrow.splitlines())) <= width
    assert narrow.split() == wide.split()
    assert wide.splitlines()[1].endswith("  kept  neuron")


def test_integers_without_floats_are_shown_alone(digits_run: Path, tmp_path: Path) -> None:
    shutil.copy(digits_run / "pruned" / "program.npz", tmp_path / "program.npz")
    found = described(open_artifact(tmp_path / "program.npz"))
    assert found["floats"] is None
    assert described_text(found).startswith("program: input 1x8x8 (5-bit graded spikes)")


def test_the_next_command_is_named_only_where_it_works(tmp_path: Path) -> None:
    done = sca_deploy("inspect", graph(tmp_path), "--dt", "1e-4", "--reset", "hard")
    assert done.returncode == 0
    assert "next:" not in done.stderr
    whole = sca_deploy(
        "inspect", graph(tmp_path, 2e-4), "--dt", "1e-4", "--reset", "hard", "--steps", 4, "--input-bits", 0
    )
    assert "next: sca-deploy map" in whole.stderr
    assert rows(whole.stdout)["lif"][1:3] == ["conv", "3x3"]
