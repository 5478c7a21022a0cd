import math

import numpy as np
import pytest
import torch

from sca_deploy.config import TrainConfig
from sca_deploy.errors import UsageError
from sca_deploy.optimization import device_of, loss_of, optimizer_of, rate, set_rate
from tests.pruning.plain import batch, loss, network


@pytest.mark.parametrize(("epoch", "part"), [(0, 1.0), (2.5, (2 + math.sqrt(2)) / 4), (5, 0.5), (10, 0.0)])
def test_a_cosine_falls_from_the_learning_rate_to_nothing(epoch, part):
    assert rate(TrainConfig(epochs=10, lr=0.3, rate="cosine"), epoch) == pytest.approx(0.3 * part)


@pytest.mark.parametrize(("epoch", "part"), [(0, 1), (4.9, 1), (5, 0.1), (7.4, 0.1), (7.5, 0.01), (9.9, 0.01)])
def test_steps_divide_by_ten_at_their_milestones(epoch, part):
    config = TrainConfig(epochs=10, lr=0.3, rate="step", milestones=[0.5, 0.75])
    assert rate(config, epoch) == pytest.approx(0.3 * part)


def test_a_constant_rate_stays():
    config = TrainConfig(epochs=10, lr=0.3, rate="constant")
    assert {rate(config, epoch / 4, (0, 7)) for epoch in range(40)} == {0.3}


@pytest.mark.parametrize("kind", ["cosine", "step"])
def test_every_phase_is_a_training_of_its_own_length(kind):
    whole = TrainConfig(epochs=10, rate=kind)
    for first, length in ((0, 6), (6, 4)):
        alone = TrainConfig(epochs=length, rate=kind)
        for quarter in range(4 * length):
            assert rate(whole, first + quarter / 4, (0, 6)) == rate(alone, quarter / 4)


def stepped(config, steps=2):
    """A weight, its gradients and itself after steps of the optimiser at half the rate."""
    made = network()
    optimizer, weight = optimizer_of(config, made), made.layers["conv1"].weight
    set_rate(optimizer, config.lr / 2)
    before, seen = weight.detach().numpy().copy(), []
    for number in range(steps):
        optimizer.zero_grad()
        loss(made, *batch(seed=number)).backward()
        seen.append(weight.grad.numpy().copy())
        optimizer.step()
    return before, seen, weight.detach().numpy()


def test_sgd_has_the_momentum_and_weight_decay_of_the_config():
    before, gradients, after = stepped(TrainConfig(optimizer="sgd", lr=0.2, momentum=0.8, weight_decay=0.01))
    w, v = before, 0.0
    for gradient in gradients:
        v = 0.8 * v + gradient + 0.01 * w
        w = w - 0.1 * v
    np.testing.assert_allclose(after, w)


def test_adam_has_the_weight_decay_of_the_config():
    before, gradients, after = stepped(TrainConfig(optimizer="adam", lr=0.02, weight_decay=0.01))
    w, m, s = before, 0.0, 0.0
    for t, gradient in enumerate(gradients, start=1):
        total = gradient + 0.01 * w
        m, s = 0.9 * m + 0.1 * total, 0.999 * s + 0.001 * total**2
        w = w - 0.01 * (m / (1 - 0.9**t)) / (np.sqrt(s / (1 - 0.999**t)) + 1e-8)
    np.testing.assert_allclose(after, w)


@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
def test_every_parameter_learns(optimizer):
    made = network()
    made_by = optimizer_of(TrainConfig(optimizer=optimizer, lr=0.01), made)
    before = {name: parameter.detach().clone() for name, parameter in made.named_parameters()}
    for number in range(2):
        loss(made, *batch(seed=number)).backward()
        made_by.step()
    # Batch-norm takes away whatever the bias of the convolution before it adds.
    assert {n for n, p in made.named_parameters() if torch.equal(p, before[n])} <= {"layers.conv2.bias"}


def cross_entropy(logits, label):
    return math.log(sum(math.exp(value) for value in logits)) - logits[label]


def test_the_loss_of_mean_logits_is_the_summed_cross_entropy_of_their_mean_over_time():
    logits, labels = torch.randn(4, 5, 3, dtype=torch.float64), torch.tensor([0, 2, 1, 1, 0])
    expected = sum(cross_entropy(logits[:, n].mean(0).tolist(), int(labels[n])) for n in range(5))
    assert float(loss_of("mean_logits", 4, logits.sum(0), labels)) == pytest.approx(expected)


def test_the_loss_per_step_is_the_mean_over_time_of_the_summed_cross_entropies():
    logits, labels = torch.randn(4, 5, 3, dtype=torch.float64), torch.tensor([0, 2, 1, 1, 0])
    terms = [cross_entropy(logits[t, n].tolist(), int(labels[n])) for t in range(4) for n in range(5)]
    assert float(loss_of("per_step", 4, logits, labels)) == pytest.approx(sum(terms) / 4)


def test_auto_is_a_device_that_is_there():
    assert device_of("auto").type == ("cuda" if torch.cuda.is_available() else "cpu")
    assert device_of("cpu") == torch.device("cpu")


@pytest.mark.parametrize("name", ["cuda:99", "abacus"])
def test_a_device_that_is_not_there_is_a_usage_error(name):
    with pytest.raises(UsageError, match=rf"train\.device '{name}' is not available here"):
        device_of(name)
