import pytest
import torch
from norse.torch.functional.threshold import heavi_tanh_fn, triangle_fn

from sca_deploy.errors import UsageError
from sca_deploy.nn.surrogate import SURROGATES, surrogate

X = torch.linspace(-3, 3, 601)


def gradient(function, x=X):
    leaf = x.clone().requires_grad_()
    function(leaf).sum().backward()
    return leaf.grad


@pytest.mark.parametrize("name", SURROGATES)
def test_forward_is_a_strict_step(name):
    spikes = surrogate(name)(torch.tensor([-1.0, 0.0, 1e-6, 2.0]))
    assert spikes.tolist() == [0, 0, 1, 1]


def test_sigmoid_of_sharpness_4_has_the_gradient_of_norses_tanh_of_sharpness_2():
    torch.testing.assert_close(gradient(surrogate("sigmoid", 4.0)), gradient(lambda x: heavi_tanh_fn(x, 2.0)))


def test_triangle_is_norses():
    torch.testing.assert_close(gradient(surrogate("triangle", 0.3)), gradient(lambda x: triangle_fn(x, 0.3)))


def test_atan_of_sharpness_2_has_the_published_derivative():
    torch.testing.assert_close(gradient(surrogate("atan", 2.0)), 1 / (1 + (torch.pi * X) ** 2))


@pytest.mark.parametrize(("name", "alpha"), [("sigmoid", 2.5), ("atan", 3.0), ("triangle", 1.0)])
def test_every_gradient_is_a_bump_at_the_threshold(name, alpha):
    bump = gradient(surrogate(name, alpha))
    assert bump.argmax() == 300
    torch.testing.assert_close(bump, bump.flip(0))


def test_an_unknown_name_is_answered_with_the_nearest():
    with pytest.raises(UsageError) as caught:
        surrogate("sigmod")
    assert "did you mean 'sigmoid'" in caught.value.fix
