import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sca_deploy.hardware import arithmetic

LIMIT = 2**23
STATE = st.lists(st.integers(-LIMIT, LIMIT), min_size=1, max_size=50)


def tensor(values, dtype=torch.float64):
    return torch.tensor(values, dtype=dtype)


@settings(max_examples=500)
@given(STATE, st.integers(0, 4096) | st.sampled_from([0, 2048, 3072, 4095, 4096]))
def test_decay_is_the_sign_times_the_shifted_product_of_magnitudes(values, rate):
    left = arithmetic.decay_(tensor(values, arithmetic.state_dtype(rate)), rate).tolist()
    assert left == [(1 if x >= 0 else -1) * (abs(x) * (4096 - rate) >> 12) for x in values]


def test_only_decays_that_shift_are_held_in_float32():
    narrow = [rate for rate in range(4097) if arithmetic.state_dtype(rate) == torch.float32]
    assert sorted(4096 - rate for rate in narrow) == [0, *(2**n for n in range(13))]


@given(st.lists(st.integers(-2 * LIMIT, 2 * LIMIT), min_size=1, max_size=50))
def test_wrap_turns_once(values):
    expected = [x - 2 * LIMIT if x > LIMIT else x + 2 * LIMIT if x <= -LIMIT else x for x in values]
    assert arithmetic.wrap(tensor(values)).tolist() == expected


@given(st.lists(st.integers(-(2**25), 2**25), min_size=1, max_size=50))
def test_activations_wrap_like_24_bit_integers(values):
    as_24_bits = [int.from_bytes((x & 0xFFFFFF).to_bytes(3, "big"), "big", signed=True) for x in values]
    assert arithmetic.wrap_activation(tensor(values)).tolist() == as_24_bits


@given(st.lists(st.integers(-(2**25), 2**25), min_size=1, max_size=50))
def test_v_saturates_below_2_to_the_23(values):
    assert arithmetic.saturate_(tensor(values)).tolist() == [max(1 - LIMIT, min(LIMIT - 1, x)) for x in values]
