from unittest import mock

import numpy as np
import pytest
import torch

from sca_deploy.nn import layout as module
from sca_deploy.nn.neuron import LIF
from sca_deploy.nn.surrogate import SURROGATES, surrogate


def lif(beta=0.5, threshold=1.0):
    return LIF(beta, threshold, surrogate("sigmoid"))


def by_hand(a, beta, threshold):
    """Spikes and potentials of one neuron, step by step, in Python floats."""
    v, spikes, potentials = 0.0, [], []
    for current in a:
        v = beta * v + current
        potentials.append(v)
        spikes.append(1.0 if v > threshold else 0.0)
        if v > threshold:
            v = 0.0
    return spikes, potentials


def unrolled(a, beta, threshold, step):
    """(spikes, potentials) by torch's own operations, with their own gradients."""
    v, spikes, potentials = torch.zeros_like(a[0]), [], []
    for current in a:
        v = beta * v + current
        s = step(v - threshold)
        potentials.append(v)
        spikes.append(s)
        v = v * (1 - s.detach())
    return torch.stack(spikes), torch.stack(potentials)


def noise(*shape, dtype=torch.float64, seed=1):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


@pytest.mark.parametrize("beta", [0.0, 0.25, 0.5, 0.9, 1.0])
def test_update_is_decay_add_compare_reset_in_one_step(beta):
    a = np.random.default_rng(0).normal(0.4, 0.8, (20, 30))
    spikes = lif(beta)(torch.from_numpy(a)[:, :, None]).squeeze(-1).numpy()
    for neuron in range(a.shape[1]):
        assert spikes[:, neuron].tolist() == by_hand(a[:, neuron], beta, 1.0)[0]


def test_a_potential_on_the_threshold_does_not_spike():
    assert lif(1.0)(torch.tensor([[0.5], [0.5], [0.001]])).flatten().tolist() == [0, 0, 1]


def test_the_observer_sees_potentials_before_the_reset():
    seen, neuron, a = [], lif(0.5), np.array([0.8, 0.9, 0.3])
    neuron.observers.append(lambda v, s: seen.append((v, s)))
    neuron(torch.from_numpy(a)[:, None])
    spikes, potentials = by_hand(a, 0.5, 1.0)
    assert seen[0][0].flatten().tolist() == pytest.approx(potentials)
    assert seen[0][1].flatten().tolist() == spikes


@pytest.mark.parametrize("name", SURROGATES)
def test_gradient_is_that_of_the_unrolled_equations_with_detached_reset(name):
    step, a, weights = surrogate(name), noise(8, 4, 3), noise(8, 4, 3, seed=2)
    theirs, mine = a.clone().requires_grad_(), a.clone().requires_grad_()
    (weights * unrolled(theirs, 0.7, 1.0, step)[0]).sum().backward()
    (weights * LIF(0.7, 1.0, step)(mine)).sum().backward()
    torch.testing.assert_close(mine.grad, theirs.grad)


@pytest.mark.parametrize("with_spikes", [False, True])
def test_a_penalty_on_the_potentials_reaches_the_input(with_spikes):
    step, a, weights = surrogate("sigmoid"), noise(8, 4, 3), noise(8, 4, 3, seed=2)

    def loss(spikes, potentials):
        return potentials.square().sum() + (weights * spikes).sum() * with_spikes

    theirs, mine, seen = a.clone().requires_grad_(), a.clone().requires_grad_(), []
    loss(*unrolled(theirs, 0.7, 1.0, step)).backward()
    neuron = LIF(0.7, 1.0, step)
    neuron.observers.append(lambda v, s: seen.append((s, v)))
    neuron(mine)
    loss(*seen[0]).backward()
    torch.testing.assert_close(mine.grad, theirs.grad)


@pytest.mark.parametrize("threads", [1, 2])
def test_blocks_of_neurons_join_without_a_seam(threads):
    a, weights = noise(5, 7, 11), noise(5, 7, 11, seed=2)
    theirs, mine = a.clone().requires_grad_(), a.clone().requires_grad_()
    (weights * unrolled(theirs, 0.7, 1.0, surrogate("sigmoid"))[0]).sum().backward()
    with mock.patch.object(module, "BLOCK", 10), mock.patch.object(torch, "get_num_threads", return_value=threads):
        spikes = lif(0.7)(mine)
        (weights * spikes).sum().backward()
    for neuron, fired in zip(a.flatten(1).T.tolist(), spikes.flatten(1).T.tolist(), strict=True):
        assert fired == by_hand(neuron, 0.7, 1.0)[0]
    torch.testing.assert_close(mine.grad, theirs.grad)


LAYOUTS = {
    "contiguous": lambda x: x,
    "channels-last": lambda x: x.flatten(0, 1).to(memory_format=torch.channels_last).unflatten(0, x.shape[:2]),
    "time innermost": lambda x: x.permute(1, 2, 3, 4, 0).contiguous().permute(4, 0, 1, 2, 3),
    "transposed maps": lambda x: x.mT.contiguous().mT,
    "every other map": lambda x: x.repeat_interleave(2, 2)[:, :, ::2],
}


@pytest.mark.parametrize("arrives", LAYOUTS)
@pytest.mark.parametrize("layout", LAYOUTS)
def test_the_memory_layout_changes_no_value(layout, arrives):
    step, a, weights = surrogate("sigmoid"), noise(4, 3, 6, 5, 2), noise(4, 3, 6, 5, 2, seed=2)
    theirs, mine = a.clone().requires_grad_(), LAYOUTS[layout](a).requires_grad_()
    spikes, _ = unrolled(theirs, 0.7, 1.0, step)
    spikes.backward(weights)
    ours = LIF(0.7, 1.0, step)(mine)
    ours.backward(LAYOUTS[arrives](weights))
    assert torch.equal(ours, spikes)
    torch.testing.assert_close(mine.grad, theirs.grad)


def test_channels_last_stays_channels_last():
    a, seen, neuron = LAYOUTS["channels-last"](noise(4, 3, 6, 5, 2)).requires_grad_(), [], lif()
    neuron.observers.append(lambda v, s: seen.extend([v, s]))
    for value in (neuron(a), *seen, lif()(a.detach()), torch.autograd.grad(lif()(a).sum(), a)[0]):
        assert value.flatten(0, 1).is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize("layout", ["contiguous", "channels-last", "transposed maps"])
def test_one_frame_can_be_repeated(layout):
    step, frame, weights = surrogate("sigmoid"), LAYOUTS[layout](noise(1, 3, 6, 5, 2)), noise(4, 3, 6, 5, 2, seed=2)
    theirs = frame.clone().requires_grad_()
    spikes, _ = unrolled(theirs.expand(4, 3, 6, 5, 2), 0.7, 1.0, step)
    spikes.backward(weights)
    for repeat in (lambda neuron, a: neuron(a, 4), lambda neuron, a: neuron(a.expand(4, 3, 6, 5, 2))):
        mine = frame.clone().requires_grad_()
        ours = repeat(LIF(0.7, 1.0, step), mine)
        ours.backward(weights)
        assert torch.equal(ours, spikes)
        torch.testing.assert_close(mine.grad, theirs.grad)


@pytest.mark.parametrize("shape", [(1, 4, 3), (3, 0, 5), (6,), (3, 1, 1, 1, 1)])
def test_one_step_no_sample_and_one_neuron_are_populations_too(shape):
    a = noise(*shape).requires_grad_()
    spikes = lif(0.7)(a)
    spikes.sum().backward()
    columns = a.detach().reshape(shape[0], -1).T.tolist()
    assert spikes.reshape(shape[0], -1).T.tolist() == [by_hand(column, 0.7, 1.0)[0] for column in columns]
    assert a.grad.shape == shape


def test_potentials_of_half_precision_inputs_are_added_up_in_float32():
    # 0.0078125 added to 2 is lost in bfloat16, and a hundred of them would be lost one by one.
    a = torch.tensor([2.0, *[0.0078125] * 100], dtype=torch.bfloat16)[:, None].requires_grad_()
    neuron, seen = lif(1.0, threshold=2.7), []
    neuron.observers.append(lambda v, s: seen.append(v))
    spikes = neuron(a)
    assert seen[0].dtype == torch.float32
    assert seen[0].flatten()[:91].tolist() == [2.0 + 0.0078125 * t for t in range(91)]
    assert spikes.flatten().tolist() == [0.0] * 90 + [1.0] + [0.0] * 10
    spikes.sum().backward()
    assert spikes.dtype == a.grad.dtype == torch.bfloat16


def test_the_gradient_of_half_precision_inputs_is_that_of_float32_rounded_once():
    a, weights = noise(6, 50, dtype=torch.bfloat16), noise(6, 50, dtype=torch.bfloat16, seed=2)
    theirs, mine = a.float().requires_grad_(), a.clone().requires_grad_()
    unrolled(theirs, 0.7, 1.0, surrogate("sigmoid"))[0].backward(weights.float())
    lif(0.7)(mine).backward(weights)
    torch.testing.assert_close(mine.grad.float(), theirs.grad, rtol=2**-8, atol=1e-6)


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_without_gradients_only_spikes_are_allocated(mode):
    a = noise(16, 4, 1000, dtype=torch.float32).requires_grad_()
    expected = lif()(a)
    with mode(), torch.profiler.profile(profile_memory=True) as profile:
        spikes = lif()(a)
    assert torch.equal(spikes, expected)
    allocated = sum(max(0, event.self_device_memory_usage or event.self_cpu_memory_usage) for event in profile.events())
    frame = 4 * a[0].numel()
    assert allocated <= (16 + 3) * frame
