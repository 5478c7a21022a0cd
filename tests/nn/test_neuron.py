import numpy as np
import pytest
import torch

from sca_deploy.nn.neuron import LIF
from sca_deploy.nn.surrogate import surrogate


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


@pytest.mark.parametrize("name", ["sigmoid", "atan", "triangle"])
def test_gradient_is_that_of_the_unrolled_equations_with_detached_reset(name):
    step = surrogate(name)
    generator = torch.Generator().manual_seed(1)
    a = torch.randn(8, 4, 3, generator=generator, dtype=torch.float64)
    weights = torch.randn(8, 4, 3, generator=generator, dtype=torch.float64)

    unrolled = a.clone().requires_grad_()
    v, loss = torch.zeros(4, 3, dtype=torch.float64), 0.0
    for t in range(8):
        v = 0.7 * v + unrolled[t]
        s = step(v - 1.0)
        v = v * (1 - s.detach())
        loss = loss + (weights[t] * s).sum()
    loss.backward()

    ours = a.clone().requires_grad_()
    (weights * LIF(0.7, 1.0, step)(ours)).sum().backward()
    torch.testing.assert_close(ours.grad, unrolled.grad)
