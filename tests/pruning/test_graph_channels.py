"""Channels of networks that are brought as graphs: which are the same, and what is left without them."""

import dataclasses
from pathlib import Path

import nir
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sca_deploy.checkpoint import load_network
from sca_deploy.config import Config, DataConfig, NetworkConfig, PruneConfig, TrainConfig
from sca_deploy.data.dataset import Dataset
from sca_deploy.errors import ScaDeployError, UsageError
from sca_deploy.exporters.base import Deployable
from sca_deploy.exporters.nir import NirExporter, write_nir
from sca_deploy.exporters.nir_reading import read_nir
from sca_deploy.graph import to_nir
from sca_deploy.hardware.dynamics import Dynamics
from sca_deploy.hardware.float_graph import run_graph
from sca_deploy.hardware.lower import lower
from sca_deploy.hardware.simulate import simulate
from sca_deploy.nn.graph_network import GraphNetwork
from sca_deploy.pruning.compact import compact, prove
from sca_deploy.pruning.graph_channels import Channels, compact_graph, graph_groups, kept_channels
from sca_deploy.pruning.method import method, methods
from sca_deploy.pruning.penalties import Penalties
from sca_deploy.pruning.schedule import Plan
from sca_deploy.train import read_log, train
from tests.graphs import (
    ARCHITECTURES,
    DT,
    PLAIN,
    STEPS,
    Made,
    architecture,
    flatten,
    graph_of,
    pool,
    residual,
    spikes_in,
)

GROUPS = {
    "feed-forward": [["n1"], ["n2"], ["n3"]],
    "residual, identity": [["n0", "n2"], ["n1"]],
    "residual, projection": [["n0"], ["n1"], ["n2"]],
    "recurrent, flat": [["n1"], ["n2"]],
    "recurrent, nested": [["rec.cell"], ["n2"]],
    "depthwise and grouped": [["n1", "n2"]],
    "a value a neuron": [["n1"], ["n2"], ["n3"]],
    "synaptic currents": [["n1"], ["n2"], ["n3"]],
    "subtract, several spikes": [["n1"], ["n2"], ["n3"]],
    "subtract": [["n1"], ["n2"], ["n3"]],
}
"""Populations whose channels live and die together, of every architecture; those of convolutions in groups stay."""


def network_of(name, seed=0, dtype=np.float64):
    graph, dynamics = architecture(name, seed, dtype)
    return GraphNetwork(graph, dynamics, STEPS).eval()


def named_groups(network):
    names = {id(gate): name for name, gate in network.norms().items()}
    return [[names[id(gate)] for gate in group.norms] for group in graph_groups(network)]


def masked(network, seed, share=0.5):
    """Masks at random on every group, at least one channel on, and scales and shifts as a training leaves them."""
    generator = torch.Generator().manual_seed(seed)
    for group in graph_groups(network):
        mask = (torch.rand(group.channels, generator=generator) < share).double()
        mask[int(torch.randint(group.channels, (1,), generator=generator))] = 1
        for gate in group.norms:
            gate.mask.copy_(mask)
    with torch.no_grad():
        for gate in network.norms().values():
            if gate.folds:
                gate.weight.copy_(torch.rand(gate.weight.shape, generator=generator) + 0.6)
            if gate.bias.requires_grad:
                gate.bias.copy_(torch.rand(gate.bias.shape, generator=generator) * 0.2)
    return network


def assert_same_without_masked_channels(network, x):
    """The compacted network; its spikes are those of the kept channels, its logits the same, in float64."""
    small = compact_graph(network)
    with torch.no_grad(), network.recording() as whole, small.recording() as left:
        difference = (network(x, per_step=True) - small(x, per_step=True)).abs().max()
    assert difference < 1e-9
    assert left.keys() == whole.keys()
    for name, spikes in left.items():
        kept = network.norms()[name].mask.bool()
        # What is masked alone, in channels that others hold on to, is left out nowhere.
        on = kept if spikes.shape[2] == int(kept.sum()) else torch.ones_like(kept)
        assert torch.equal(spikes, whole[name][:, :, on]), name
    return small


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_channels_that_meet_are_one_group(name):
    assert named_groups(network_of(name)) == GROUPS[name]


@given(name=st.sampled_from(list(ARCHITECTURES)), seed=st.integers(0, 10_000), share=st.floats(0.0, 1.0))
@settings(max_examples=80)
def test_without_its_masked_channels_a_network_fires_and_answers_the_same(name, seed, share):
    network = masked(network_of(name, seed), seed, share)
    x = torch.from_numpy(spikes_in(network.graph, seed=seed))
    small = assert_same_without_masked_channels(network, x)
    assert all(gate.open for gate in small.norms().values())
    expected = {population: int(gate.mask.sum()) for population, gate in network.norms().items()}
    assert small.kept_channels == expected
    assert {key: int(mask.sum()) for key, mask in kept_channels(network).items()} == expected


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_the_smaller_graph_is_one_of_its_own_that_is_proven_and_exported(name, tmp_path):
    network = masked(network_of(name), 1)
    small = compact(network)
    graph = small.to_nir()
    weights = sum(node.weight.size for node in graph.nodes.values() if hasattr(node, "weight"))
    assert weights < sum(value[0].numel() for value in network.linear_maps().values())
    x = spikes_in(network.graph)
    with torch.no_grad():
        logits = network(torch.from_numpy(x), per_step=True).transpose(0, 1).numpy()
    np.testing.assert_allclose(run_graph(graph, network.dynamics, x)["output"], logits, atol=1e-9)
    assert prove(network, small, torch.from_numpy(x)).spikes_compared > 0
    given = Deployable(graph, DT, dynamics=network.dynamics)
    if name in ("a value a neuron", "subtract", "subtract, several spikes"):
        with pytest.raises(ScaDeployError, match="outside the portable NIR profile"):
            NirExporter().export(given, tmp_path / "small.nir")
        return
    NirExporter().export(given, tmp_path / "small.nir")
    portable = run_graph(read_nir(tmp_path / "small.nir"), PLAIN, x, torch.float32)
    np.testing.assert_allclose(portable["output"], logits, atol=1e-5)


@pytest.mark.parametrize("name", ["feed-forward", "residual, identity", "residual, projection", "recurrent, flat",
                                  "recurrent, nested", "depthwise and grouped", "synaptic currents"])  # fmt: skip
def test_what_the_chip_carries_is_lowered_after_the_compaction(name):
    small = compact(masked(network_of(name, 2), 2, 0.7))
    x = spikes_in(small.graph, samples=20)
    program = lower(to_nir(small), dt=DT, steps=STEPS, input_bits=2)
    with torch.no_grad():
        logits = small(torch.from_numpy(x)).numpy()
    found = simulate(program, x).readout
    # Weights of 8 bits: the answers go together, they are not the same.
    assert np.corrcoef(np.ravel(found), np.ravel(logits))[0, 1] > 0.9


def test_the_proof_holds_for_scales_that_single_precision_folds_with_a_rounding():
    """Of 720,000 spikes two stand so near the threshold that the rounding of a folded weight turns them."""
    network = network_of("feed-forward", 17, np.float32)
    generator = torch.Generator().manual_seed(17)
    with torch.no_grad():
        for gate in network.norms().values():
            gate.weight.copy_(1 + 0.1 * torch.randn(gate.weight.shape, generator=generator))
    x = torch.from_numpy(spikes_in(network.graph, samples=2000, seed=17))
    assert prove(network, compact(network), x).spikes_compared > 720_000


# ---- what must not be cut ----


def test_a_pool_behind_two_channels_keeps_its_two_sides():
    network = network_of("feed-forward")
    network.norms()["n1"].mask[0] = 0
    small = compact_graph(network)
    assert small.graph.nodes["pool"].kernel_size.tolist() == [2, 2]
    assert small.kept_channels["n1"] == 1


def joined_outside(kind):
    """Channels of a population that meet others which no gate masks before a map reads them."""
    made = Made(7)
    nodes = {
        "conv1": made.conv(4, 2),
        "n1": made.lif(4, 6, 6),
        "pool": pool(),
        "flat": flatten(4, 3, 3),
        "fc": made.affine(3, 36),
    }
    edges = {
        "a map": ["input conv1 n1 pool flat fc output", "input conv2 pool"],
        "a biased depthwise map": ["input conv1 n1 dw pool flat fc output"],
        "an integrator that a map feeds": ["input conv1 n1 pool flat fc output", "input conv2 li pool"],
        "a population that leaks towards another rest": ["input conv1 n1 rest pool flat fc output"],
        "a threshold below zero": ["input conv1 n1 below pool flat fc output"],
        "the input": ["input conv1 n1 pool flat fc output", "input wide pool"],
    }[kind]
    rest = made.lif(4, 6, 6)
    rest.v_leak[:] = 0.5
    others = {
        "conv2": made.conv(4, 2), "dw": made.conv(4, 4, groups=4), "below": nir.Threshold(np.array([-0.5])),
        "rest": rest,
        "li": nir.LI(*(made.full((4, 6, 6), value) for value in (2 * DT, 1, 0))), "wide": made.conv(4, 2, groups=2),
    }  # fmt: skip
    used = " ".join(edges).split()
    nodes |= {name: node for name, node in others.items() if name in used}
    return GraphNetwork(graph_of((2, 6, 6), 3, nodes, edges), PLAIN, STEPS).eval()


@pytest.mark.parametrize("kind", ["a map", "a biased depthwise map", "an integrator that a map feeds",
                                  "a population that leaks towards another rest", "a threshold below zero",
                                  "the input"])  # fmt: skip
def test_channels_that_a_masked_population_would_not_silence_stay(kind):
    network = joined_outside(kind)
    assert named_groups(network) == []
    with pytest.raises(UsageError, match="no channel can be pruned"):
        method("sca")(network, PruneConfig(), Plan(1, 1))


def test_a_depthwise_map_without_bias_is_silent_with_its_population():
    network = joined_outside("a biased depthwise map")
    network.graph.nodes["dw"].bias[:] = 0
    network = GraphNetwork(network.graph, PLAIN, STEPS).eval()
    assert named_groups(network) == [["n1"]]
    assert_same_without_masked_channels(masked(network, 3), torch.from_numpy(spikes_in(network.graph)))


def test_what_only_populations_read_their_gates_stop():
    """A sum of two maps on its way to a population, and a matrix along the last axis."""
    made = Made(8)
    nodes = {"conv1": made.conv(4, 2), "conv2": made.conv(4, 2), "scale": nir.Scale(made.between(0.5, 1.5, 4, 6, 6)),
             "n1": made.lif(4, 6, 6), "along": nir.Linear(made.between(-1, 1, 6, 6)), "n2": made.lif(4, 6, 6),
             "late": nir.Delay(made.rng.integers(0, 2, (4, 6, 6)) * DT), "fc": made.affine(3, 144)}  # fmt: skip
    edges = ["input conv1 scale n1 along n2 late fc output", "input conv2 scale"]
    network = GraphNetwork(graph_of((2, 6, 6), 3, nodes, edges), PLAIN, STEPS).eval()
    assert named_groups(network) == [["n1", "n2"]]
    assert_same_without_masked_channels(masked(network, 3), torch.from_numpy(spikes_in(network.graph)))


def test_the_channels_of_input_and_output_stay():
    made = Made(1)
    nodes = {
        "n0": made.lif(4),
        "fc1": made.affine(5, 4),
        "n1": made.lif(5),
        "fc2": made.affine(3, 5),
        "n2": made.lif(3),
    }
    network = GraphNetwork(graph_of((4,), 3, nodes, ["input n0 fc1 n1 fc2 n2 output"]), PLAIN, STEPS)
    assert named_groups(network) == [["n1"]]


def test_a_flattened_map_loses_all_places_of_a_channel():
    network = network_of("feed-forward")
    network.norms()["n2"].mask[2] = 0
    small = compact_graph(network)
    np.testing.assert_array_equal(
        small.graph.nodes["fc1"].weight, np.delete(network.graph.nodes["fc1"].weight, range(18, 27), axis=1)
    )
    channels = Channels(network.walk)
    assert (channels.of("flat").each, channels.size("flat")) == (9, 5)


def test_every_neuron_keeps_its_own_numbers():
    network = network_of("a value a neuron")
    network.norms()["n2"].mask.copy_(torch.tensor([1, 0, 1, 1, 0]))
    small = compact_graph(network)
    for key in ("tau", "r", "v_leak", "v_threshold", "v_reset"):
        whole, left = (getattr(net.graph.nodes["n2"], key) for net in (network, small))
        np.testing.assert_array_equal(left, whole[[0, 2, 3]])
        assert left.dtype == whole.dtype


def test_nothing_masked_is_the_same_network_with_graphs_inside_taken_apart():
    network = network_of("recurrent, nested")
    small = compact_graph(network)
    assert {"rec.cell", "rec.back"} < set(small.graph.nodes)
    x = torch.from_numpy(spikes_in(network.graph))
    with torch.no_grad():
        assert torch.equal(network(x), small(x))


def test_a_population_without_a_channel_is_refused_by_name():
    network = network_of("feed-forward")
    network.norms()["n2"].mask.fill_(0)
    with pytest.raises(ScaDeployError, match="population 'n2' has no channel left") as error:
        compact_graph(network)
    assert "floor" in error.value.fix


# ---- methods, while it is fine-tuned ----

STRUCTURED = {
    "sca": ("potential", "relu_potential", "activity", "rate", "gamma", "weight_l1", "taylor", "random"),
    "criticality-structured": ("criticality", "criticality_primitive"),
    "slimming": ("gamma",),
    "random": (),
}
UNSTRUCTURED = ("granet", "magnitude", "rigl", "criticality-unstructured")
SOURCES = ("feed-forward", "residual, identity", "recurrent, nested", "subtract, several spikes")


def dataset_for(graph, samples=24):
    x = spikes_in(graph, samples=samples + 6, seed=3)
    y = np.arange(samples + 6) % 3
    return Dataset("made", x[:samples], y[:samples], x[samples:], y[samples:], classes=3, pixel_max=2, timed=True)


def config_for(folder, graph, dynamics, **prune):
    """A fine-tuning of the graph, which is left in the folder as people bring it."""
    folder.mkdir(exist_ok=True)
    path = folder / "net.nir"
    write_nir(Deployable(graph, DT, dynamics=dynamics), path)
    return Config(
        data=DataConfig(coding="events"),
        network=NetworkConfig(file=str(path), steps=STEPS),
        train=TrainConfig(epochs=3, batch_size=8, lr=1e-3, checkpoint_seconds=0),
        prune=PruneConfig(**({"method": "sca", "keep": 0.5} | prune)),
    )


def test_every_method_is_accounted_for():
    assert set(methods()) == {*STRUCTURED, *UNSTRUCTURED, "dense"}


@pytest.mark.parametrize("name", SOURCES)
@pytest.mark.parametrize("method_name", STRUCTURED)
def test_every_structured_method_prunes_while_it_fine_tunes(name, method_name, tmp_path):
    graph, dynamics = architecture(name, dtype=np.float32)
    config = config_for(tmp_path, graph, dynamics, method=method_name)
    dataset = dataset_for(graph)
    network = train(config, dataset, tmp_path / "run")
    groups = graph_groups(network)
    on = sum(int(group.mask.sum()) for group in groups)
    assert on == round(0.5 * sum(group.channels for group in groups))
    first = GraphNetwork(graph, dynamics, STEPS)
    assert any(
        not torch.equal(a, b)
        for (_, a), (_, b) in zip(first.named_parameters(), network.named_parameters(), strict=True)
    )
    assert_same_without_masked_channels(network.twin(torch.float64), torch.from_numpy(dataset.test_x))


@pytest.mark.parametrize("score", sorted({score for scores in STRUCTURED.values() for score in scores}))
def test_every_score_ranks_the_channels_of_a_graph(score, tmp_path):
    graph, dynamics = architecture("residual, identity", dtype=np.float32)
    config = config_for(tmp_path, graph, dynamics, score=score, l1_gamma=1e-3)
    train(config, dataset_for(graph), tmp_path / "run")
    last = read_log(tmp_path / "run")[-1]["pruning"]
    for group, values in last["scores"].items():
        assert np.isfinite(values).all()
        assert len(set(values)) > 1, f"{score} tells no channel of {group} from another"


@pytest.mark.parametrize("signal", ["gamma_gradient", "weight_gradient", "criticality", "random", "none"])
@pytest.mark.parametrize("name", ["residual, identity", "recurrent, flat"])
def test_every_signal_brings_channels_of_a_graph_back(signal, name, tmp_path):
    graph, dynamics = architecture(name, dtype=np.float32)
    config = config_for(tmp_path, graph, dynamics, regrow_by=signal, regrow=0.5, fade=False)
    train(config, dataset_for(graph), tmp_path / "run")
    regrown = sum(entry["pruning"]["regrown"] for entry in read_log(tmp_path / "run"))
    assert (regrown > 0) == (signal != "none")


@pytest.mark.parametrize("name", UNSTRUCTURED)
def test_single_weights_of_a_graph_are_not_masked(name):
    with pytest.raises(UsageError, match=f"method '{name}' masks single weights") as error:
        method(name)(network_of("feed-forward"), PruneConfig(method=name), Plan(4, 4))
    assert "\n" not in error.value.problem
    assert "sca" in error.value.fix


@pytest.mark.parametrize("score", ["rate", "potential", "weight_l1", "taylor"])
def test_pruned_once_the_channels_that_score_least_are_off(score, tmp_path):
    graph, dynamics = architecture("feed-forward", dtype=np.float32)
    config = config_for(tmp_path, graph, dynamics, score=score, floor=0.0)
    config = dataclasses.replace(config, train=dataclasses.replace(config.train, epochs=0))
    dataset = dataset_for(graph)
    network = train(config, dataset, tmp_path / "run")
    [entry] = read_log(tmp_path / "run")
    scores = [(value, name, n) for name, row in entry["pruning"]["scores"].items() for n, value in enumerate(row)]
    on = {(name, n) for name, gate in network.norms().items() for n in range(len(gate.mask)) if gate.mask[n]}
    ranked = sorted(scores, reverse=True)
    best = [next(entry for entry in ranked if entry[1] == name) for name in ("n1", "n2", "n3")]
    assert on == {entry[1:] for entry in [*best, *(entry for entry in ranked if entry not in best)][:7]}
    if score == "rate":
        fired = run_graph(graph, dynamics, dataset.train_x, torch.float32)
        for name, row in entry["pruning"]["scores"].items():
            by_channel = np.moveaxis(fired[name], 2, 0).reshape(len(row), -1).mean(1)
            np.testing.assert_allclose(row, by_channel, atol=2e-6)


def test_scores_on_a_loop_are_those_of_all_steps_together():
    graph = architecture("recurrent, flat")[0]
    network = GraphNetwork(graph, PLAIN, STEPS)
    penalties = Penalties(network, PruneConfig(l1_spikes=1.0))
    penalties.attach()
    x = spikes_in(graph)
    with torch.no_grad():
        network(torch.from_numpy(x))
    fired = run_graph(graph, PLAIN, x)
    assert float(penalties.loss()) == pytest.approx(fired["n1"].mean() + fired["n2"].mean())


class Killed(Exception):
    """The process ends here."""


@pytest.mark.parametrize("name", SOURCES)
@pytest.mark.parametrize("at", [2, 5])
def test_an_interrupted_fine_tuning_ends_bit_for_bit_as_if_it_had_not_been(name, at, tmp_path):
    graph, dynamics = architecture(name, dtype=np.float32)
    config = config_for(tmp_path, graph, dynamics)
    dataset = dataset_for(graph)
    whole = train(config, dataset, tmp_path / "whole")
    done = 0

    def kill(batches):
        nonlocal done
        done += batches
        if done == at:
            raise Killed

    with pytest.raises(Killed):
        train(config, dataset, tmp_path / "killed", on_batch=kill)
    again = train(config, dataset, tmp_path / "killed")
    assert all(torch.equal(value, again.state_dict()[key]) for key, value in whole.state_dict().items())
    one, other = ([without_seconds(entry) for entry in read_log(tmp_path / place)] for place in ("whole", "killed"))
    assert one == other
    kept = load_network(Path(tmp_path / "killed" / "checkpoint.pt"))[0]
    assert all(torch.equal(value, kept.state_dict()[key]) for key, value in whole.state_dict().items())


def without_seconds(entry):
    return {key: value for key, value in entry.items() if key != "seconds"}


@pytest.mark.parametrize("said", [{"reset": "subtract"}, {"clamp": -0.2}, {"tie": "ge"}])
def test_masked_channels_are_silent_whatever_the_dynamics(said):
    graph = residual(Made(4), False)
    network = masked(GraphNetwork(graph, Dynamics(DT, **said), STEPS).eval(), 5)
    assert_same_without_masked_channels(network, torch.from_numpy(spikes_in(graph)))
