import numpy as np
import pytest
import torch

from sca_deploy.pruning.scores import score


@pytest.fixture(scope="module")
def activity():
    """Potentials before the reset and spikes of (T, N, C, H, W) = (3, 4, 2, 2, 2) neurons."""
    v = np.random.default_rng(0).normal(0.5, 1.0, (3, 4, 2, 2, 2))
    return v, (v > 1.0).astype(float)


def by_hand(v, s, term):
    """The average of term(v, s) over every neuron, step and sample of each channel."""
    totals, count = [0.0] * v.shape[2], v.size // v.shape[2]
    for index in np.ndindex(v.shape):
        totals[index[2]] += term(v[index], s[index]) / count
    return totals


@pytest.mark.parametrize(
    ("name", "term"),
    [
        ("potential", lambda v, s: abs(v)),
        ("activity", lambda v, s: s + abs(v * (1 - s))),
        ("rate", lambda v, s: s),
    ],
)
def test_score_is_the_mean_over_time_samples_and_space(activity, name, term):
    v, s = activity
    assert score(name)(torch.from_numpy(v), torch.from_numpy(s)).tolist() == pytest.approx(by_hand(v, s, term))
