import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sca_deploy.hardware import arithmetic

LIMIT = 2**23
STATE = st.lists(st.integers(-LIMIT, LIMIT), min_size=1, max_size=50)


def tensor(values, dtype=torch.float64):
    return torch.tensor(values, dtype=dtype)


def decayed(values, rate, dtype, largest):
    x = tensor(values, dtype)
    return arithmetic.Decay(rate, largest, dtype)(x, torch.empty_like(x)).tolist()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@settings(max_examples=500)
@given(values=STATE, rate=st.integers(0, 4096) | st.sampled_from([0, 1024, 2048, 3072, 4095, 4096]))
def test_decay_is_the_sign_times_the_shifted_product_of_magnitudes(dtype, values, rate):
    expected = [(1 if x >= 0 else -1) * (abs(x) * (4096 - rate) >> 12) for x in values]
    assert decayed(values, rate, dtype, LIMIT) == expected
    assert decayed(values, rate, dtype, max(map(abs, values))) == expected


def test_every_decay_of_the_largest_states_is_exact_in_float32():
    values = [LIMIT, LIMIT - 1, 1 - LIMIT, 4097 * 2047, 4095, -4095]
    for rate in range(4097):
        expected = [(1 if x >= 0 else -1) * (abs(x) * (4096 - rate) >> 12) for x in values]
        assert decayed(values, rate, torch.float32, LIMIT) == expected


@given(st.lists(st.integers(-(2**24), 2**24), min_size=1, max_size=50))
def test_wrap_turns_once(values):
    expected = [x - 2 * LIMIT if x > LIMIT else x + 2 * LIMIT if x <= -LIMIT else x for x in values]
    assert arithmetic.wrap_(tensor(values)).tolist() == expected
    assert arithmetic.wrap_(tensor(values, torch.float32)).tolist() == expected


@given(st.lists(st.integers(-(2**25), 2**25), min_size=1, max_size=50))
def test_activations_wrap_like_24_bit_integers(values):
    as_24_bits = [int.from_bytes((x & 0xFFFFFF).to_bytes(3, "big"), "big", signed=True) for x in values]
    assert arithmetic.wrap_activation(tensor(values)).tolist() == as_24_bits


@given(st.lists(st.integers(-(2**25), 2**25), min_size=1, max_size=50))
def test_v_saturates_below_2_to_the_23(values):
    assert arithmetic.saturate_(tensor(values)).tolist() == [max(1 - LIMIT, min(LIMIT - 1, x)) for x in values]


def test_sums_stay_exact_whatever_precision_the_caller_allows():
    # 257 needs 9 bits, bfloat16 has 8.
    a = torch.full((64, 128), 257.0)
    with torch.autocast("cpu"), arithmetic.exact_kernels():
        assert (a @ a.T == 128 * 257**2).all()
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("medium")
    try:
        with arithmetic.exact_kernels():
            assert (a @ a.T == 128 * 257**2).all()
    finally:
        torch.set_float32_matmul_precision(before)
