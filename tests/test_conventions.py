"""What a NIR file leaves open: who may say it, what is asked for, and what each preset makes of a neuron."""

from itertools import pairwise
from typing import Any

import nir
import numpy as np
import pytest

from sca_deploy.conventions import PRESETS, Asked, settled
from sca_deploy.errors import ScaDeployError, UsageError
from sca_deploy.hardware.dynamics import Dynamics
from sca_deploy.hardware.float_graph import run_graph

SIZE = 6


def neuron(kind: type, **given: float) -> nir.NIRNode:
    """A node with one value for all of its neurons; what is not given is the usual."""
    usual = {
        nir.IF: {"r": 1, "v_threshold": 1, "v_reset": 0},
        nir.I: {"r": 1},
        nir.LI: {"tau": 1e-3, "r": 1, "v_leak": 0},
        nir.LIF: {"tau": 1e-3, "r": 1, "v_leak": 0, "v_threshold": 1, "v_reset": 0},
        nir.CubaLI: {"tau_syn": 1e-3, "tau_mem": 1e-3, "r": 1, "v_leak": 0, "w_in": 1},
        nir.CubaLIF: {"tau_syn": 1e-3, "tau_mem": 1e-3, "r": 1, "v_leak": 0, "v_threshold": 1, "v_reset": 0, "w_in": 1},
        nir.Delay: {"delay": 1e-3},
        nir.Threshold: {"threshold": 0.5},
        nir.Scale: {"scale": 2.0},
    }[kind]
    return kind(**{key: np.full(SIZE, value, np.float32) for key, value in (usual | given).items()})


def graph(node: nir.NIRNode, metadata: dict[str, Any] | None = None) -> nir.NIRGraph:
    """The input, the node, the output."""
    ends = nir.Input(np.array([SIZE])), nir.Output(np.array([SIZE]))
    named = dict(zip(("input", "node", "output"), (ends[0], node, ends[1]), strict=True))
    return nir.NIRGraph(named, list(pairwise(named)), metadata or {})


def dynamics_of(node: nir.NIRNode, metadata: dict[str, Any] | None = None, **asked: Any) -> Dynamics:
    return settled(graph(node, metadata), Asked(**asked), "network.nir")[1]


TIMED = [nir.LIF, nir.LI, nir.IF, nir.I, nir.CubaLIF, nir.CubaLI, nir.Delay]


@pytest.mark.parametrize("kind", TIMED)
def test_the_time_step_is_asked_for_where_it_matters(kind: type) -> None:
    with pytest.raises(UsageError, match=f"network.nir says no time step.*{kind.__name__}") as raised:
        dynamics_of(neuron(kind), reset="hard")
    assert "--dt SECONDS" in raised.value.fix
    assert all(name in raised.value.fix for name in PRESETS)


@pytest.mark.parametrize("kind", [nir.LIF, nir.IF, nir.CubaLIF])
def test_the_reset_is_asked_for_where_something_fires(kind: type) -> None:
    with pytest.raises(UsageError, match="network.nir says no reset") as raised:
        dynamics_of(neuron(kind), dt=1e-4)
    assert "--reset hard|subtract" in raised.value.fix


def test_both_are_asked_for_in_one_error() -> None:
    with pytest.raises(UsageError, match="says no time step and no reset") as raised:
        dynamics_of(neuron(nir.LIF))
    assert "--dt SECONDS and --reset hard|subtract" in raised.value.fix


@pytest.mark.parametrize("kind", [nir.LI, nir.I, nir.CubaLI, nir.Delay])
def test_the_reset_is_not_asked_for_where_nothing_fires(kind: type) -> None:
    assert dynamics_of(neuron(kind), dt=1e-3).dt == 1e-3


@pytest.mark.parametrize("kind", [nir.Scale, nir.Threshold])
def test_nothing_is_asked_for_where_nothing_has_a_state(kind: type) -> None:
    assert dynamics_of(neuron(kind)).plain


def test_what_nirs_equations_say_is_not_asked_for() -> None:
    assert dynamics_of(neuron(nir.LIF), dt=1e-4, reset="hard") == Dynamics(1e-4, "hard", False, None, "gt")


def test_neurons_inside_nested_graphs_ask_as_well() -> None:
    outer = graph(neuron(nir.Scale))
    outer.nodes["node"] = graph(neuron(nir.LIF))
    with pytest.raises(UsageError, match="LIF"):
        settled(outer, Asked(), "network.nir")


def test_an_if_of_r_1_is_asked_about_with_what_it_mostly_means() -> None:
    with pytest.raises(UsageError) as raised:
        dynamics_of(neuron(nir.IF))
    assert "the input is added as it is, as norse and sinabs do" in raised.value.fix
    with pytest.raises(UsageError) as raised:
        dynamics_of(neuron(nir.IF, r=1e4))
    assert "added as it is" not in raised.value.fix


@pytest.mark.parametrize(("preset", "default"), [("norse", "1e-3"), ("spikingjelly", "1e-4")])
def test_a_framework_that_takes_dt_as_an_argument_is_not_given_its_default_silently(preset: str, default: str) -> None:
    with pytest.raises(UsageError, match="says no time step") as raised:
        dynamics_of(neuron(nir.LIF), preset=preset)
    assert f"{preset} takes it as an argument, which is {default}" in raised.value.fix


@pytest.mark.parametrize(("preset", "kind"), [("norse", nir.IF), ("sinabs", nir.IF), ("sinabs", nir.LIF)])
def test_neurons_that_ignore_the_time_step_do_not_ask_for_it(preset: str, kind: type) -> None:
    given = graph(neuron(kind, v_threshold=2, **({"tau": 20} if kind is nir.LIF else {})))
    slow, fast, unsaid = (settled(given, Asked(preset=preset, dt=dt), "") for dt in (1.0, 1e-4, None))
    x = np.random.default_rng(0).random((2, 30, SIZE))
    runs = [run_graph(*read, x)["node"] for read in (slow, fast, unsaid)]
    assert runs[0].any()
    np.testing.assert_array_equal(runs[0], runs[1])
    np.testing.assert_array_equal(runs[0], runs[2])


SAID = {
    "nir": Dynamics(1e-3),
    "norse": Dynamics(1e-3),
    "spikingjelly": Dynamics(1e-3, tie="ge"),
    "sinabs": Dynamics(1e-3, "subtract", True, "threshold", "ge"),
}


@pytest.mark.parametrize("preset", SAID)
def test_a_preset_says_the_rest(preset: str) -> None:
    assert dynamics_of(neuron(nir.IF, r=1e3), preset=preset, dt=1e-3) == SAID[preset]


def test_snntorch_says_the_time_step_too() -> None:
    assert dynamics_of(neuron(nir.LIF), preset="snntorch") == Dynamics(1e-4)


def test_an_unknown_preset_is_answered_with_the_known_ones() -> None:
    with pytest.raises(UsageError, match="unknown preset 'nores'") as raised:
        dynamics_of(neuron(nir.IF), preset="nores")
    assert raised.value.fix == "did you mean 'norse'? known: nir, norse, sinabs, snntorch, spikingjelly"


def test_flags_go_before_the_preset_and_the_preset_before_the_metadata() -> None:
    metadata = {"dt": 1e-2, "reset": "subtract", "tie": "ge", "clamp": -1.0, "multi_spike": 1}
    lif = neuron(nir.LIF)
    assert dynamics_of(lif, metadata) == Dynamics(1e-2, "subtract", True, -1.0, "ge")
    assert dynamics_of(lif, metadata, preset="norse") == Dynamics(1e-2)
    assert dynamics_of(lif, metadata, preset="snntorch") == Dynamics(1e-4)
    assert dynamics_of(lif, metadata, preset="norse", tie="ge", dt=1e-3) == Dynamics(1e-3, tie="ge")
    assert dynamics_of(lif, metadata, clamp="none", multi_spike=False) == Dynamics(1e-2, "subtract", tie="ge")


def test_a_hard_reset_asked_for_leaves_one_spike_a_step_and_the_rest_as_it_was() -> None:
    hard = Dynamics(1e-4, "hard", False, "threshold", "ge")
    assert dynamics_of(neuron(nir.IF), preset="sinabs", reset="hard") == hard
    assert dynamics_of(neuron(nir.IF), {"dt": 1e-4, "reset": "subtract", "multi_spike": 1}, reset="hard").plain


def test_several_spikes_asked_for_beside_a_hard_reset_are_refused() -> None:
    with pytest.raises(UsageError, match="several spikes a step leave nothing to a hard reset"):
        dynamics_of(neuron(nir.IF), preset="norse", multi_spike=True)


def test_metadata_is_read_in_the_types_of_hdf5() -> None:
    metadata = {"dt": np.float32(0.5), "reset": b"subtract", "multi_spike": np.int64(1), "clamp": np.array([-2.0])}
    assert dynamics_of(neuron(nir.IF), metadata) == Dynamics(0.5, "subtract", True, -2.0)


@pytest.mark.parametrize("wrong", [{"dt": "soon"}, {"reset": 3}, {"multi_spike": "yes"}, {"tie": [1, 2]}])
def test_metadata_that_cannot_be_meant_is_named_unless_a_flag_replaces_it(wrong: dict[str, Any]) -> None:
    [key] = wrong
    metadata = {"dt": 1e-4, "reset": "hard"} | wrong
    with pytest.raises(ScaDeployError, match=f"network.nir: its metadata says {key} = ") as raised:
        dynamics_of(neuron(nir.IF), metadata)
    assert raised.value.fix == f"give --{key.replace('_', '-')}"
    flag = {"dt": 1e-4, "reset": "hard", "multi_spike": False, "tie": "gt"}[key]
    assert dynamics_of(neuron(nir.IF), metadata, **{key: flag}).plain


def test_the_graph_given_is_not_changed_and_the_one_returned_says_how_it_was_read() -> None:
    given = graph(neuron(nir.IF, r=5.0), {"title": "net", "dt": 1.0})
    read, dynamics = settled(given, Asked(preset="sinabs", dt=1e-3), "network.nir")
    assert given.metadata == {"title": "net", "dt": 1.0}
    assert (given.nodes["node"].r == 5.0).all()
    assert read.metadata == {"title": "net"} | dynamics.metadata()
    assert settled(read, Asked(), "network.nir")[1] == dynamics


def test_a_file_written_for_a_framework_is_read_as_that_framework() -> None:
    given = graph(neuron(nir.LIF, tau=5.0, r=7.0), {"dt": 1.0, "reset": "hard", "profile": "sinabs"})
    as_written, _ = settled(given, Asked(), "network.nir")
    as_asked, _ = settled(given, Asked(preset="sinabs"), "network.nir")
    np.testing.assert_array_equal(as_written.nodes["node"].tau, as_asked.nodes["node"].tau)
    assert (settled(given, Asked(preset="nir", dt=1.0), "network.nir")[0].nodes["node"].r == 7.0).all()
    assert "profile" not in as_written.metadata


def test_a_file_written_for_a_framework_without_a_preset_is_not_guessed_at() -> None:
    with pytest.raises(ScaDeployError, match="network.nir was written for spyx alone"):
        dynamics_of(neuron(nir.LIF), {"dt": 1.0, "reset": "subtract", "profile": "spyx"})


def brute_force(framework: str, node: nir.NIRNode, x: np.ndarray, dt: float) -> np.ndarray:
    """Spikes, (steps, neurons), by the equations as the framework's documentation has them."""
    value = {key: np.float64(item) for key, item in vars(node).items() if isinstance(item, np.ndarray)}
    threshold = value["v_threshold"]
    v = value["v_reset"].copy() if framework == "spikingjelly" else value.get("v_leak", 0 * threshold).copy()
    spikes = []
    for now in x:
        if framework == "sinabs":
            v = v * (1 if isinstance(node, nir.IF) else np.exp(-1 / value["tau"])) + now
            fired = np.where(v > 0, np.trunc(v / threshold), 0)
            v = v - fired * threshold
            v = np.maximum(v, -threshold) if isinstance(node, nir.IF) else v
        else:
            if isinstance(node, nir.IF):
                v = v + now
            elif framework == "norse":
                v = v + dt / value["tau"] * (value["v_leak"] - v + now)
            else:
                steps = value["tau"] / dt
                v = v + (value["v_reset"] - v) / steps + (now if value["r"][0] != 1 else now / steps)
            fired = v > threshold if framework == "norse" else v >= threshold
            v = np.where(fired, 0 if framework == "norse" else value["v_reset"], v)
        spikes.append(fired)
    return np.stack(spikes)


READINGS = [
    ("norse", neuron(nir.LIF, r=3, v_leak=-0.3, v_threshold=0.3), 2e-4),
    ("norse", neuron(nir.IF, r=0.1), 2e-4),
    ("spikingjelly", neuron(nir.LIF, tau=2e-3, v_leak=-0.2, v_reset=-0.2, v_threshold=0.3), 2e-4),
    ("spikingjelly", neuron(nir.LIF, tau=2e-3, r=10), 2e-4),
    ("spikingjelly", neuron(nir.IF, r=5e3, v_reset=0.5, v_threshold=3), 2e-4),
    ("sinabs", neuron(nir.LIF, tau=4, r=9), 1e-4),
    ("sinabs", neuron(nir.IF, r=9, v_threshold=1.5), 1e-4),
]


@pytest.mark.parametrize(("framework", "node", "dt"), READINGS, ids=[f"{f} {type(n).__name__}" for f, n, _ in READINGS])
def test_a_preset_is_the_frameworks_equations(framework: str, node: nir.NIRNode, dt: float) -> None:
    x = np.random.default_rng(7).normal(0.4, 1.5, (50, SIZE))
    expected = brute_force(framework, node, x, dt)
    read, dynamics = settled(graph(node), Asked(preset=framework, dt=dt), "network.nir")
    assert 0.02 < (expected > 0).mean() < 0.8
    np.testing.assert_array_equal(run_graph(read, dynamics, x[None])["node"][0], expected)


@pytest.mark.parametrize("framework", ["norse", "snntorch", "spikingjelly", "sinabs"])
@pytest.mark.parametrize("kind", [nir.I, nir.CubaLI, nir.Delay, nir.Threshold, nir.Scale])
def test_nodes_no_framework_runs_are_refused_by_name(framework: str, kind: type) -> None:
    with pytest.raises(ScaDeployError, match=f"node 'node' .{kind.__name__}.: {framework} does not run"):
        dynamics_of(neuron(kind), preset=framework, dt=1e-4)


@pytest.mark.parametrize("framework", ["norse", "snntorch", "spikingjelly", "sinabs"])
def test_a_padded_sum_pooling_is_refused_because_its_padding_is_ignored(framework: str) -> None:
    pool = nir.SumPool2d(np.array([2, 2]), np.array([2, 2]), np.array([1, 1]))
    with pytest.raises(ScaDeployError, match=f"{framework} ignores the padding"):
        dynamics_of(pool, preset=framework, dt=1e-4)


def test_a_node_inside_a_nested_graph_is_named_with_its_graph() -> None:
    outer = graph(neuron(nir.Scale))
    outer.nodes["node"] = graph(neuron(nir.LIF, v_reset=0.1))
    with pytest.raises(ScaDeployError, match="node 'node.node' .LIF.: norse ignores v_reset, which is 0.1"):
        settled(outer, Asked(preset="norse", dt=1e-4), "network.nir")
