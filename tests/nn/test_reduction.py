from unittest import mock

import pytest
import torch

from sca_deploy.nn import reduction as module
from sca_deploy.nn.reduction import channel_mean


def noise(*shape, seed=1):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def channels_last(x):
    return x.flatten(0, 1).to(memory_format=torch.channels_last).unflatten(0, x.shape[:2])


@pytest.mark.parametrize("block", [1, 7, 64, 1 << 16])
@pytest.mark.parametrize("layout", ["contiguous", "channels-last", "mixed", "features"])
def test_it_is_the_mean_over_all_axes_but_the_channels(layout, block):
    v, s = noise(4, 3, 5, 6, 7), (noise(4, 3, 5, 6, 7, seed=2) > 0).float()
    if layout == "features":
        v, s = v[..., 0, 0], s[..., 0, 0]
    expected = torch.stack([(v.double() * s + v.double().abs())[:, :, channel].mean() for channel in range(5)])
    if layout == "channels-last":
        v, s = channels_last(v), channels_last(s)
    if layout == "mixed":
        v = channels_last(v)
    with mock.patch.object(module, "VALUES", block):
        mean = channel_mean(lambda v, s: v * s + v.abs(), v, s)
    torch.testing.assert_close(mean, expected.float())


@pytest.mark.parametrize("shape", [(4, 0, 5, 6, 7), (4, 0, 5), (1, 1, 1, 1, 1), (2, 3, 1, 4, 4)])
def test_no_sample_and_one_channel_have_means_too(shape):
    v = noise(*shape)
    axes = [axis for axis in range(v.dim()) if axis != 2]
    torch.testing.assert_close(channel_mean(torch.abs, v), v.abs().mean(axes).nan_to_num(0.0))


def test_a_long_sum_keeps_the_precision_of_float32():
    v = noise(4, 256, 2, 32, 32).abs() + 1
    torch.testing.assert_close(channel_mean(torch.abs, v).double(), v.double().mean((0, 1, 3, 4)), rtol=1e-6, atol=0)


def test_spikes_of_half_precision_are_counted_in_float32():
    spikes = torch.ones(7, 1001, 3, dtype=torch.bfloat16)  # bfloat16 does not know 7007
    mean = channel_mean(torch.clone, spikes)
    assert mean.dtype == torch.float32
    assert mean.tolist() == pytest.approx([1.0] * 3, rel=1e-6)


def test_it_needs_no_copy_of_what_it_reads():
    v = noise(4, 64, 32, 20, 20)
    with torch.profiler.profile(profile_memory=True) as profile:
        channel_mean(torch.abs, v)
    assert max(event.self_cpu_memory_usage for event in profile.events()) < v.nbytes / 4
