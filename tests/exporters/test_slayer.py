"""Networks of lava-dl's own slayer: what its `.net` files become computes, spike for spike, what slayer computes.

slayer trains here for some steps with weights, decays, delays and norms that learn, then runs its quantised network and
exports it. Its layers start together and each is a step behind the one before, as on the chip; an empty first step
stands for the one that the chip's input takes.
"""

import subprocess

import numpy as np
import pytest
import torch

from sca_deploy.errors import UsageError
from sca_deploy.exporters.netx import read_program, write_net
from sca_deploy.exporters.slayer import refuse_state
from sca_deploy.hardware.dynamics import Dynamics
from sca_deploy.hardware.float_graph import run_graph
from sca_deploy.hardware.lava import client
from sca_deploy.hardware.lifting import lifted
from sca_deploy.hardware.lower import lower
from sca_deploy.hardware.restoring import restored
from sca_deploy.hardware.simulate import FreeRun, simulate
from tests.conftest import needs_lava

STEPS = 30
DT = 1e-4
SLAYER = """
import sys, types
sys.path.insert(0, sys.argv[1])
import shim
shim._import_var_model()
# What detects objects in images needs OpenCV, and nothing here needs it.
sys.modules["lava.lib.dl.slayer.object_detection"] = types.ModuleType("object_detection")
import h5py, numpy as np, torch
from lava.lib.dl.slayer import neuron, block
B = block.cuba
torch.manual_seed(3)
torch.set_num_threads(1)

def cuba(current, voltage, **more):
    return dict(threshold=1.0, current_decay=current, voltage_decay=voltage, requires_grad=True) | more

def normed(current, voltage):
    return cuba(current, voltage, norm=neuron.norm.MeanOnlyBatchNorm)

def start():
    return B.Input(None, delay_shift=False)

def trained():
    return [
        start(),
        B.Conv(cuba(0.3, 0.06), 2, 6, 3, stride=2, padding=1, weight_scale=3, weight_norm=True),
        B.Conv(normed(0.25, 0.05), 6, 8, (3, 2), padding=(1, 0), groups=2, weight_scale=4),
        B.Flatten(),
        B.Dense(cuba(0.5, 0.02), 96, 20, weight_scale=4, delay=True),
        B.Dense(normed(1.0, 0.1), 20, 7, weight_scale=3),
    ], (2, 8, 8)

def plain():
    return [
        start(),
        B.Conv(cuba(0.3, 0.06), 2, 6, 3, stride=2, padding=1, weight_scale=3),
        B.Flatten(),
        B.Dense(cuba(0.5, 0.02), 96, 20, weight_scale=4, delay=True),
        B.Dense(cuba(1.0, 0.1), 20, 7, weight_scale=3),
    ], (2, 8, 8)

def recurrent():
    return [start(), B.Recurrent(cuba(0.4, 0.1), 12, 10, weight_scale=2), B.Dense(cuba(0.5, 0.2), 10, 4)], (12,)

def run(blocks, x):
    outputs = []
    for b in blocks:
        x = b(x)
        outputs.append(x)
    return outputs

def train(blocks, x):
    run(blocks, x)  # norms and delays learn their sizes
    named = list(torch.nn.ModuleList(blocks).named_parameters())
    decays = [p for n, p in named if n.endswith("_decay")]
    delays = [p for n, p in named if n.endswith("delay.delay")]
    others = [p for n, p in named if not n.endswith("delay") and not n.endswith("_decay")]
    for p in delays:
        p.data = torch.rand(p.shape) * 20
    groups = [dict(params=others, lr=0.02), dict(params=decays, lr=30.0), dict(params=delays, lr=0.3)]
    optimizer = torch.optim.Adam(groups)
    for _ in range(10):
        loss = ((run(blocks, x)[-1].mean(-1) - 0.2) ** 2).sum()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

for make in (trained, plain, recurrent):
    blocks, shape = make()
    x = (torch.rand(6, *shape, int(sys.argv[3])) < 0.25).float()
    x[..., 0] = 0
    if make is not recurrent:  # it keeps its potentials from one sample to the next
        train(blocks, x)
    for b in blocks:
        b.eval()
    with torch.no_grad():
        outputs = run(blocks, x)
    path = f"{sys.argv[2]}/{make.__name__}"
    with h5py.File(path + ".net", "w") as file:
        for i, b in enumerate(blocks):
            b.export_hdf5(file.create_group(f"layer/{i}"))
    arrays = {f"layer{i}": np.moveaxis(y.numpy(), -1, 1).astype(np.uint8) for i, y in enumerate(outputs)}
    np.savez(path + ".npz", input=np.moveaxis(x.numpy(), -1, 1).astype(np.uint8), **arrays)
    torch.save(torch.nn.ModuleList(blocks).state_dict(), path + ".pt")
"""
NETWORKS = ["trained", "plain", "recurrent"]

pytestmark = needs_lava


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    made = tmp_path_factory.mktemp("slayer")
    command = [client.lava_python(), "-W", "ignore", "-c", SLAYER, client.WORKER.parent, made, STEPS]
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True, timeout=240)
    if "No module named 'torch'" in done.stderr:
        pytest.skip("the interpreter that has Lava has no torch, which slayer needs")
    assert done.returncode == 0, done.stderr
    return made


@pytest.fixture(params=NETWORKS)
def program(request, folder):
    return read_program(folder / f"{request.param}.net", steps=STEPS)


@pytest.fixture
def recorded(request, folder):
    name = request.node.callspec.params["program"]
    with np.load(folder / f"{name}.npz") as arrays:
        return dict(arrays)


def test_every_spike_is_slayers(program, recorded):
    """slayer's output at step t + 1 is what its neurons did at step t."""
    run = simulate(program, recorded["input"][:, 1:], record=("spikes",), free_run=FreeRun())
    for layer in program.layers:
        theirs = recorded[layer.name].reshape(6, STEPS, *layer.shape)
        assert not theirs[:, 0].any()
        np.testing.assert_array_equal(run.records[layer.name]["spikes"], theirs[:, 1:])
        assert theirs.any()


def test_the_decays_are_those_that_were_learnt(folder):
    program, state = read_program(folder / "trained.net", steps=STEPS), torch.load(folder / "trained.pt")
    begun = {1: (0.3, 0.06), 2: (0.25, 0.05), 4: (0.5, 0.02), 5: (1.0, 0.1)}
    for number, started in begun.items():
        layer = program[f"layer{number}"]
        learnt = [state[f"{number}.neuron.{what}_decay"].item() for what in ("current", "voltage")]
        assert (layer.u_decay, layer.v_decay) == tuple(min(max(round(value), 0), 4096) for value in learnt)
        assert (layer.u_decay, layer.v_decay) != tuple(round(share * 4096) for share in started)
    assert program["layer4"].synapses[0].delay_range[1] > 10
    assert program["layer2"].bias.any()


def test_the_graph_in_floats_fires_nearly_as_the_integers(program):
    """The chip rounds what its decays leave, the graph does not; later layers hear of every spike that moved."""
    x = np.random.default_rng(1).random((6, STEPS, *program.input_shape)) < 0.25
    ours = simulate(program, x.astype(np.uint8), record=("spikes",)).records["layer1"]["spikes"]
    floats = run_graph(lifted(program, DT), Dynamics(DT), x)["layer1"]
    assert ours.sum() > 200
    assert np.sum(floats != ours) <= 0.02 * ours.sum()


def test_net_to_nir_to_net_keeps_every_number(program, tmp_path):
    write_net(restored(lifted(program, DT)), tmp_path / "again.net")
    write_net(program, tmp_path / "once.net")
    assert (tmp_path / "again.net").read_bytes() == (tmp_path / "once.net").read_bytes()


@pytest.mark.parametrize("name", ["plain", "recurrent"])
def test_lowering_the_floats_at_the_scale_they_came_from_gives_the_same_net(name, folder, tmp_path):
    """Without the metadata; a bias beside a synaptic current is the one thing that lowering refuses."""
    program = read_program(folder / f"{name}.net", steps=STEPS)
    scales = {layer.name: layer.scale for layer in program.layers}
    again = lower(lifted(program, DT), dt=DT, steps=STEPS, input_bits=0, scales=scales)
    write_net(again, tmp_path / "again.net")
    write_net(program, tmp_path / "once.net")
    assert (tmp_path / "again.net").read_bytes() == (tmp_path / "once.net").read_bytes()


def test_a_saved_state_is_refused_with_what_to_bring_instead(folder):
    with pytest.raises(UsageError, match="a slayer network: weights and decays of 4 layers without") as error:
        refuse_state(torch.load(folder / "trained.pt"), "trained.pt")
    assert "export_hdf5" in error.value.fix


def test_other_states_pass():
    refuse_state(torch.nn.Sequential(torch.nn.Linear(2, 3), torch.nn.BatchNorm1d(3)).state_dict(), "mine.pt")
