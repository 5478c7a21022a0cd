import json
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from unittest.mock import patch

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sca_deploy.errors import ScaDeployError, UsageError
from sca_deploy.hardware import events
from sca_deploy.hardware import simulate as module
from sca_deploy.hardware.program import INPUT, Conv, Dense, Layer, Program
from sca_deploy.hardware.simulate import FreeRun, simulate
from tests.hardware.programs import brute_force, programs


def dense(weight, threshold=10, v_decay=0, bias=0, readout=False, bits=0, steps=3):
    weight = np.array(weight, np.int32)
    biases = np.full(weight.shape[0], bias, np.int32)
    layer = Layer("out", weight.shape[:1], (Dense(INPUT, weight),), v_decay, threshold, biases)
    return Program((weight.shape[1],), bits, steps, (layer,), readout)


def assert_equal_records(records, expected):
    for name, values in expected.items():
        for what in ("spikes", "u", "v"):
            np.testing.assert_array_equal(records[name][what], values[what], f"{what} of {name}")


@settings(max_examples=1500)
@given(programs())
def test_every_spike_u_and_v_is_that_of_the_brute_force_loop(case):
    program, x = case
    assert_equal_records(simulate(program, x, record=("spikes", "u", "v")).records, brute_force(program, x))


@settings(max_examples=700)
@given(programs(), st.sampled_from([None, 1, 2, 3, 17]))
def test_a_free_run_is_that_of_a_loop_over_the_chips_steps(case, interval):
    program, x = case
    run = simulate(program, x, record=("spikes", "u", "v"), free_run=FreeRun(interval))
    assert_equal_records(run.records, brute_force(program, x, free_run=True, reset_interval=interval))


@settings(max_examples=500)
@given(programs())
def test_sums_made_event_by_event_are_the_same(case):
    program, x = case
    # However many spikes there are, as if events always paid.
    with patch.object(events, "pays_below", lambda *sizes: 2.0):
        records = simulate(program, x, record=("spikes", "u", "v")).records
    assert_equal_records(records, brute_force(program, x))


@settings(max_examples=100)
@given(programs().filter(lambda case: not case[0].carries))
def test_samples_in_one_free_run_with_resets_are_what_they_are_from_rest(case):
    program, x = case
    steps, depth = x.shape[1], max(program.stages.values())
    # One sample after the other, and silence until the last layer is done.
    silence = np.zeros((1, depth, *program.input_shape), x.dtype)
    run = simulate(
        program,
        np.concatenate([x.reshape(1, -1, *program.input_shape), silence], axis=1),
        record=("spikes", "u", "v"),
        free_run=FreeRun(steps),
    )
    for name, expected in brute_force(program, x).items():
        for what, values in expected.items():
            seen = run.records[name][what][0, program.stages[name] :][: len(x) * steps]
            np.testing.assert_array_equal(seen.reshape(values.shape), values)


@settings(max_examples=100)
@given(programs())
def test_messages_are_the_spikes_summed_and_payloads_the_values(case):
    program, x = case
    run, expected = simulate(program, x), brute_force(program, x)
    sent = np.zeros_like(x) if program.injected else x
    np.testing.assert_array_equal(run.messages[INPUT], (sent != 0).sum((0, 1)))
    np.testing.assert_array_equal(run.payload[INPUT], sent.sum((0, 1)))
    for layer in program.layers:
        np.testing.assert_array_equal(run.messages[layer.name], expected[layer.name]["spikes"].sum((0, 1)))


def test_sums_of_several_synapses_reach_one_population():
    rng = np.random.default_rng(0)

    def conv(source, channels):
        return Conv(source, (2 * rng.integers(-60, 60, (3, channels, 3, 3))).astype(np.int32), padding=(1, 1))

    zero = np.zeros(3, np.int32)
    first = Layer("first", (3, 5, 5), (conv(INPUT, 2),), 2048, 90, zero)
    joined = Layer("joined", (3, 5, 5), (conv(INPUT, 2), conv("first", 3)), 1024, 150, zero)
    program = Program((2, 5, 5), 0, 4, (first, joined), False)
    x = rng.integers(0, 2, (2, 4, 2, 5, 5))
    np.testing.assert_array_equal(
        simulate(program, x, record=["v"]).records["joined"]["v"], brute_force(program, x)["joined"]["v"]
    )


def test_sums_beyond_float32_are_exact():
    # 255 * 254 * 600 = 38.9 million: above 2^24, where float32 skips odd numbers.
    program = dense(np.full((1, 600), 254), threshold=131071, v_decay=4096, bits=8, steps=1)
    x = np.full((1, 1, 600), 255)
    x[0, 0, 0] = 254
    with pytest.raises(ScaDeployError, match="beyond 25 bits"):
        simulate(program, x)
    program = dense(np.full((1, 300), 254), threshold=131071, v_decay=4096, bits=8, steps=1)
    x = x[:, :, :300]
    np.testing.assert_array_equal(
        simulate(program, x, record=["u"]).records["out"]["u"], brute_force(program, x)["out"]["u"]
    )


def test_a_convolutions_sum_wraps_to_24_bits():
    # 65535 * 254 is beyond 2^23: Lava's convolutions keep the lower 24 bits, its matrices all of them.
    wide = Conv(INPUT, np.array([[[[254]]]], np.int32))
    layer = Layer("out", (1, 1, 2), (wide,), 4096, 131071, np.zeros(1, np.int32))
    program, x = Program((1, 1, 2), 16, 1, (layer,), False), np.array([65535, 3]).reshape(1, 1, 1, 1, 2)
    records = simulate(program, x, record=["spikes", "u", "v"]).records
    assert_equal_records(records, brute_force(program, x))
    a = 65535 * 254 - 2**24
    assert records["out"]["u"].reshape(-1).tolist() == [64 * a + 2**24, 64 * 3 * 254]


def test_a_current_that_could_leave_32_bits_is_refused():
    weight = np.full((1, 300), 254, np.int32)
    layer = Layer("out", (1,), (Dense(INPUT, weight),), 0, 10, np.zeros(1, np.int32), u_decay=1)
    program = Program((300,), 8, 2, (layer,), False)
    simulate(program, np.zeros((1, 1, 300), int))
    with pytest.raises(ScaDeployError, match="layer 'out': its current may reach .* beyond 31 bits"):
        simulate(program, np.zeros((1, 2, 300), int))


def test_the_read_out_is_the_final_potential():
    program = dense([[2, 4], [-6, 0]], threshold=131071, bias=1, readout=True)
    x = np.array([[[1, 0], [1, 1], [0, 1]]])
    assert simulate(program, x).readout.tolist() == [[(2 + 6 + 4 + 3) * 64, (-6 - 6 + 3) * 64]]


def test_a_frame_repeated_in_memory_gives_what_copies_of_it_give():
    rng = np.random.default_rng(1)
    program = dense(2 * rng.integers(-9, 9, (4, 6)), bits=4, steps=5)
    still = np.broadcast_to(rng.integers(0, 16, (3, 1, 6)), (3, 5, 6))
    views, copies = (simulate(program, x, record=["v"]) for x in (still, still.copy()))
    np.testing.assert_array_equal(views.records["out"]["v"], copies.records["out"]["v"])
    for source in (INPUT, "out"):
        np.testing.assert_array_equal(views.messages[source], copies.messages[source])
        np.testing.assert_array_equal(views.payload[source], copies.payload[source])


def test_chunks_change_nothing(monkeypatch):
    rng = np.random.default_rng(2)
    program, x = dense(2 * rng.integers(-9, 9, (4, 6))), rng.integers(0, 2, (7, 3, 6))
    whole = simulate(program, x, record=["spikes", "v"])
    monkeypatch.setattr(module, "CHUNK_VALUES", 40)
    finished = []
    parts = simulate(program, x, record=["spikes", "v"], progress=finished.append)
    assert finished == [2, 2, 2, 1]
    for what in ("spikes", "v"):
        np.testing.assert_array_equal(whole.records["out"][what], parts.records["out"][what])
    np.testing.assert_array_equal(whole.messages["out"], parts.messages["out"])


@pytest.mark.parametrize(
    ("x", "message"),
    [
        (np.zeros((2, 3, 5), int), r"shape \(2, 3, 5\), the network expects \(samples, steps, 2\)"),
        (np.zeros((2, 2), int), "shape"),
        (np.zeros((0, 3, 2), int), "holds no values"),
        (np.zeros((2, 3, 2)), "type float64, the chip takes integers"),
        (np.full((2, 3, 2), 2), "holds 2, outside 0 to 1"),
        (np.full((2, 3, 2), -1), "holds -1, outside 0 to 1"),
    ],
)
def test_an_input_the_chip_cannot_be_given_is_refused(x, message):
    with pytest.raises(ScaDeployError, match=message):
        simulate(dense([[2, 2]]), x)


def injected(bias, steps=3):
    zero = np.full(2, bias, np.int32)
    return Program((2,), 0, steps, (Layer("in", (2,), (), 0, 5000, zero, injected=True),), False)


@pytest.mark.parametrize(("bias", "value", "sum_"), [(95, 4001, 4096), (-96, -4001, -4097)])
def test_an_injected_input_must_fit_the_bias_that_it_is_added_to(bias, value, sum_):
    x = np.zeros((2, 3, 2), int)
    x[1, 2, 1] = value - np.sign(value)
    simulate(injected(bias), x)
    x[1, 2, 1] = value
    with pytest.raises(ScaDeployError, match=f"its bias with the input is {sum_}, outside -4096 to 4095"):
        simulate(injected(bias), x)


def test_an_injected_input_is_no_message():
    run = simulate(injected(0), np.full((2, 3, 2), -7))
    assert run.messages[INPUT].tolist() == run.payload[INPUT].tolist() == [0, 0]


def test_a_read_out_that_is_reset_needs_head_room_for_the_interval_only():
    program = dense([[2, 4]], threshold=131071, readout=True, steps=3)
    x = np.ones((1, 9, 2), int)
    with pytest.raises(ScaDeployError, match="lasts 9 steps, the read-out has head-room for the 3"):
        simulate(program, x, free_run=FreeRun())
    # Reset before steps 1, 4 and 7; the last interval has lasted two steps.
    assert simulate(program, x, free_run=FreeRun(3)).readout.tolist() == [[2 * 6 * 64]]


def test_a_reset_interval_is_a_number_of_steps():
    with pytest.raises(UsageError, match="the reset interval is 0"):
        FreeRun(0)


def test_threads_change_nothing_and_leave_torch_as_it_was(monkeypatch):
    rng = np.random.default_rng(3)
    program, x = dense(2 * rng.integers(-9, 9, (4, 6))), rng.integers(0, 2, (40, 3, 6))
    monkeypatch.setattr(module, "CHUNK_VALUES", 40)
    before, runs, finished = torch.get_num_threads(), [], []
    try:
        for threads in (1, 3):
            torch.set_num_threads(threads)
            runs.append(simulate(program, x, record=["spikes", "u", "v"], progress=finished.append))
            assert torch.get_num_threads() == threads
            with ThreadPoolExecutor(1) as pool:
                assert pool.submit(torch.get_num_threads).result() == threads
    finally:
        torch.set_num_threads(before)
    assert finished == [2] * 40
    for what in ("spikes", "u", "v"):
        np.testing.assert_array_equal(runs[0].records["out"][what], runs[1].records["out"][what])
    np.testing.assert_array_equal(runs[0].messages["out"], runs[1].messages["out"])


def test_an_error_in_a_thread_is_the_callers(monkeypatch):
    program = dense([[2, 2]])
    monkeypatch.setattr(module, "CHUNK_VALUES", 1)
    before = torch.get_num_threads()

    def stop(samples):
        raise KeyboardInterrupt

    try:
        torch.set_num_threads(2)
        with pytest.raises(KeyboardInterrupt):
            simulate(program, np.zeros((9, 3, 2), int), progress=stop)
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)


def test_ten_thousand_samples_stream_in_less_than_two_gigabytes(root):
    command = [sys.executable, root / "benchmarks" / "simulator_memory.py", "--at-most", "2", "--json"]
    done = subprocess.run(command, cwd=root, capture_output=True, text=True, timeout=280)
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    assert result["samples"] == 10_000
    # All spikes of a single layer would be a gigabyte as bytes: none of them stay.
    assert result["peak_bytes"] - result["peak_bytes_before"] < 0.5e9


def test_only_states_can_be_recorded():
    with pytest.raises(UsageError, match="cannot record w"):
        simulate(dense([[2, 2]]), np.zeros((1, 1, 2), int), record=["w"])
