import math
import pickle

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


def test_sigmoid_has_the_derivative_of_the_logistic_function():
    leaf = X.double().requires_grad_()
    torch.sigmoid(2.5 * leaf).sum().backward()
    torch.testing.assert_close(surrogate("sigmoid", 2.5).derivative(X.double()), leaf.grad)


def test_triangle_is_norses():
    torch.testing.assert_close(gradient(surrogate("triangle", 0.3)), gradient(lambda x: triangle_fn(x, 0.3)))


def test_atan_of_sharpness_2_has_the_published_derivative():
    torch.testing.assert_close(gradient(surrogate("atan", 2.0)), 1 / (1 + (torch.pi * X) ** 2))


@pytest.mark.parametrize("alpha", [0.5, 3.0])
def test_tanh_is_the_derivative_of_a_tanh_that_rises_by_one_around_the_threshold(alpha):
    leaf = X.double().requires_grad_()
    rise = torch.tanh(alpha * leaf) / (2 * math.tanh(alpha / 2))
    rise.sum().backward()
    torch.testing.assert_close(surrogate("tanh", alpha).derivative(X.double()), leaf.grad)


def test_the_default_sharpnesses():
    assert {name: surrogate(name).alpha for name in SURROGATES} == {
        "sigmoid": 4.0,
        "tanh": 3.0,
        "atan": 2.0,
        "triangle": 1.0,
    }


@pytest.mark.parametrize(("name", "alpha"), [("sigmoid", 2.5), ("tanh", 2.0), ("atan", 3.0), ("triangle", 1.0)])
def test_every_gradient_is_a_bump_at_the_threshold(name, alpha):
    bump = gradient(surrogate(name, alpha))
    assert bump.argmax() == 300
    torch.testing.assert_close(bump, bump.flip(0))


@pytest.mark.parametrize("name", SURROGATES)
def test_the_gradient_is_the_derivative_times_what_arrives(name):
    x, arriving = X.clone().requires_grad_(), torch.linspace(-1, 2, 601)
    surrogate(name)(x).backward(arriving)
    assert torch.equal(x.grad, arriving * surrogate(name).derivative(X))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize("name", SURROGATES)
def test_the_derivative_can_be_written_over_its_argument(name, dtype):
    x = X.to(dtype)
    expected, kept = surrogate(name).derivative(x), x.clone()
    assert torch.equal(x, kept)
    assert expected.dtype == dtype
    assert surrogate(name).derivative(x, out=x) is x
    assert torch.equal(x, expected)


@pytest.mark.parametrize("name", SURROGATES)
def test_the_derivative_carries_no_gradient(name):
    assert not surrogate(name).derivative(X.clone().requires_grad_()).requires_grad


@pytest.mark.parametrize("name", SURROGATES)
def test_a_surrogate_is_a_value(name):
    step = surrogate(name, 1.5)
    assert pickle.loads(pickle.dumps(step)) == step == surrogate(name, 1.5) != surrogate(name, 2.5)


def test_an_unknown_name_is_answered_with_the_nearest():
    with pytest.raises(UsageError) as caught:
        surrogate("sigmod")
    assert "did you mean 'sigmoid'" in caught.value.fix
