"""Lava as the reference: what it computes, that it agrees, and that nothing of it stays behind.

The tests that run Lava need it in this interpreter, or in the one SCA_DEPLOY_LAVA_PYTHON names.
"""

import ast
import importlib.util
import os
import signal
import subprocess
import sys
import threading
import time
import venv
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from sca_deploy.errors import Mismatch, MissingExtra, ScaDeployError, UsageError
from sca_deploy.exporters.netx import write_net
from sca_deploy.hardware.lava import client
from sca_deploy.hardware.lava.client import PYTHON_VARIABLE, lava_versions, run_lava
from sca_deploy.hardware.lava.compare import verify
from sca_deploy.hardware.program import INPUT, THRESHOLD_MAX, Conv, Dense, Layer, Program

needs_lava = pytest.mark.skipif(
    PYTHON_VARIABLE not in os.environ and importlib.util.find_spec("lava") is None, reason="Lava is not installed"
)
linux = pytest.mark.skipif(not Path("/proc/self/cmdline").exists(), reason="looks at /proc")


# The equations of Lava's LIFReset and one network step, without delays, in plain 64-bit integers.


def decayed(x, decay):
    return np.sign(x) * ((np.abs(x) * (4096 - decay)) >> 12)


def summed(synapse, frame):
    weight = synapse.weight.astype(np.int64)
    if isinstance(synapse, Dense):
        return weight @ frame.reshape(-1)
    (top, left), (down, right), (dy, dx) = synapse.padding, synapse.stride, synapse.dilation
    out_c, in_c, kernel_h, kernel_w = weight.shape
    padded = np.pad(frame, ((0, 0), (top, top), (left, left)))
    height = (padded.shape[1] - dy * (kernel_h - 1) - 1) // down + 1
    width = (padded.shape[2] - dx * (kernel_w - 1) - 1) // right + 1
    out = np.zeros((out_c, height, width), np.int64)
    for o in range(out_c):
        group = o // (out_c // synapse.groups)
        for i in range(in_c):
            for y in range(kernel_h):
                for x in range(kernel_w):
                    rows = slice(y * dy, y * dy + down * (height - 1) + 1, down)
                    columns = slice(x * dx, x * dx + right * (width - 1) + 1, right)
                    out[o] += weight[o, i, y, x] * padded[group * in_c + i, rows, columns]
    return (out + (1 << 23)) % (1 << 24) - (1 << 23)


def without_delay(program, x):
    """layer -> (spikes, u, v), each (samples, steps, *shape)."""
    samples, steps = x.shape[:2]
    trace = {layer.name: np.zeros((3, samples, steps, *layer.shape), np.int64) for layer in program.layers}
    for n in range(samples):
        u = {layer.name: np.zeros(layer.shape, np.int64) for layer in program.layers}
        v = {layer.name: np.zeros(layer.shape, np.int64) for layer in program.layers}
        for t in range(steps):
            frame = x[n, t].astype(np.int64)
            for layer in program.layers:
                name = layer.name
                bias = layer.bias.astype(np.int64)
                if bias.shape != layer.shape:
                    bias = bias.reshape(-1, 1, 1)
                u[name] = decayed(u[name], layer.u_decay) + (summed(layer.synapses[0], frame) << 6)
                u[name] = u[name] - (u[name] > 1 << 23) * (1 << 24) + (u[name] <= -(1 << 23)) * (1 << 24)
                v[name] = decayed(v[name], layer.v_decay) + u[name] + (bias << 6)
                v[name] = np.clip(v[name], 1 - (1 << 23), (1 << 23) - 1)
                frame = (v[name] > layer.threshold << 6).astype(np.int64)
                v[name] = v[name] * (1 - frame)
                trace[name][:, n, t] = frame, u[name], v[name]
    return trace


# A catalogue of networks.


def even(rng, *shape, low=-60, high=70):
    return (rng.integers(low // 2, high // 2, shape) * 2).astype(np.int32)


def binary(rng, *shape, rate=0.4):
    return (rng.random(shape) < rate).astype(np.uint8)


def chain(input_shape, layers, steps=4, input_bits=0, readout=False):
    return Program(input_shape, input_bits, steps, tuple(layers), readout)


def layer(name, input_shape, synapse, v_decay=500, threshold=120, bias=None, **more):
    shape = synapse.output_shape(input_shape)
    return Layer(
        name, shape, (synapse,), v_decay, threshold, np.zeros(shape[:1], np.int32) if bias is None else bias, **more
    )


def conv_geometry(rng):
    first = layer("a", (2, 9, 7), Conv(INPUT, even(rng, 4, 2, 3, 2), (2, 1), (1, 2), (1, 2)))
    second = layer("b", first.shape, Conv("a", even(rng, 6, 2, 2, 3), (1, 2), (0, 1), (2, 1), groups=2))
    return chain((2, 9, 7), [first, second]), binary(rng, 3, 4, 2, 9, 7)


def dense_after_conv(rng):
    first = layer("a", (1, 5, 4), Conv(INPUT, even(rng, 3, 1, 2, 2)))
    second = layer("b", first.shape, Dense("a", even(rng, 7, 36)))
    third = layer("c", (7,), Dense("b", even(rng, 3, 7)), 0, THRESHOLD_MAX)
    return chain((1, 5, 4), [first, second, third], readout=True), binary(rng, 4, 4, 1, 5, 4)


def dense_on_a_map(rng):
    return chain((2, 3, 4), [layer("a", (2, 3, 4), Dense(INPUT, even(rng, 5, 24)))]), binary(rng, 3, 4, 2, 3, 4)


def graded_into_conv(rng):
    first = layer("a", (2, 5, 5), Conv(INPUT, even(rng, 3, 2, 3, 3)), threshold=20_000)
    return chain((2, 5, 5), [first], input_bits=8), rng.integers(0, 256, (3, 4, 2, 5, 5)).astype(np.uint8)


def graded_into_dense(rng):
    first = layer("a", (9,), Dense(INPUT, even(rng, 6, 9)), threshold=20_000)
    return chain((9,), [first], input_bits=8), rng.integers(0, 256, (3, 4, 9)).astype(np.uint8)


def biases(rng):
    by_channel = layer("a", (1, 4, 3), Conv(INPUT, even(rng, 2, 1, 2, 2)), bias=np.array([-4096, 4095], np.int32))
    by_neuron = rng.integers(-200, 200, (2, 2, 1)).astype(np.int32)
    second = layer("b", by_channel.shape, Conv("a", even(rng, 2, 2, 2, 2)), bias=by_neuron)
    third = layer("c", second.shape, Dense("b", even(rng, 4, 4)), bias=rng.integers(-99, 99, 4).astype(np.int32))
    return chain((1, 4, 3), [by_channel, second, third]), binary(rng, 4, 4, 1, 4, 3)


def decays(rng):
    layers, previous = [], (6,)
    for index, (u_decay, v_decay) in enumerate([(0, 0), (4096, 4096), (1, 4095), (2048, 1234)]):
        source = layers[-1].name if layers else INPUT
        layers.append(layer(f"l{index}", previous, Dense(source, even(rng, 6, 6)), v_decay, 90, u_decay=u_decay))
        previous = (6,)
    return chain((6,), layers, steps=6), binary(rng, 3, 6, 6)


def all_zero(rng):
    first = layer("a", (1, 2, 3), Conv(INPUT, even(rng, 2, 1, 1, 1)))
    zero = layer("b", first.shape, Dense("a", np.zeros((6, 12), np.int32)), bias=np.arange(6, dtype=np.int32) * 30)
    last = layer("c", (6,), Dense("b", even(rng, 3, 6)))
    return chain((1, 2, 3), [first, zero, last]), binary(rng, 3, 4, 1, 2, 3)


def never_positive(rng, low):
    """The most negative weight is a power of two, after a dense layer and before another."""
    weight = even(rng, 4, 5, low=low, high=1)
    weight[1, 2] = low
    bias = np.full(4, 1500, np.int32)
    layers = [
        layer("a", (6,), Dense(INPUT, even(rng, 5, 6))),
        layer("b", (5,), Dense("a", weight), bias=bias),
        layer("c", (4,), Dense("b", even(rng, 3, 4))),
    ]
    return chain((6,), layers), binary(rng, 4, 4, 6, rate=0.8)


def strictly_negative(rng):
    weight = even(rng, 4, 6, low=-254, high=-2)
    return chain((6,), [layer("a", (6,), Dense(INPUT, weight), bias=np.full(4, 900, np.int32))]), binary(rng, 4, 4, 6)


def never_negative(rng):
    weight = even(rng, 4, 6, low=0, high=256)
    weight[0, 0] = 254
    return chain((6,), [layer("a", (6,), Dense(INPUT, weight), threshold=900)]), binary(rng, 4, 4, 6)


def more_groups_than_8_bits(rng):
    first = layer("a", (144, 2, 1), Conv(INPUT, even(rng, 144, 1, 2, 1), groups=144), threshold=10)
    return chain((144, 2, 1), [first]), binary(rng, 2, 2, 144, 2, 1)


def more_pixels_and_channels_than_8_bits(rng):
    first = layer("a", (1, 130, 3), Conv(INPUT, even(rng, 130, 1, 2, 2), padding=(2, 0)))
    return chain((1, 130, 3), [first], steps=2), binary(rng, 1, 2, 1, 130, 3)


def one_step_a_sample(rng):
    layers = [
        layer("a", (5,), Dense(INPUT, even(rng, 6, 5)), bias=np.full(6, 30, np.int32)),
        layer("b", (6,), Dense("a", even(rng, 4, 6)), bias=np.full(4, -20, np.int32)),
    ]
    return chain((5,), layers, steps=1), binary(rng, 6, 1, 5)


def wrapping_and_saturating(rng):
    """16-bit messages: the convolution's sums wrap at 24 bits, u wraps, v saturates."""
    first = layer("a", (1, 3, 3), Conv(INPUT, even(rng, 2, 1, 1, 1, low=-256, high=254)), 0, u_decay=100)
    return chain((1, 3, 3), [first], input_bits=16), rng.integers(0, 1 << 16, (3, 4, 1, 3, 3)).astype(np.uint16)


CATALOGUE = {
    build.__name__: build
    for build in (
        conv_geometry,
        dense_after_conv,
        dense_on_a_map,
        graded_into_conv,
        graded_into_dense,
        biases,
        decays,
        all_zero,
        strictly_negative,
        never_negative,
        more_groups_than_8_bits,
        more_pixels_and_channels_than_8_bits,
        one_step_a_sample,
        wrapping_and_saturating,
    )
} | {f"never_positive_{low}": lambda rng, low=low: never_positive(rng, low) for low in (-256, -128, -2)}


@needs_lava
@pytest.mark.parametrize("name", CATALOGUE)
def test_lava_computes_the_equations_without_delay_sample_after_sample(name, tmp_path):
    program, x = CATALOGUE[name](np.random.default_rng(5))
    write_net(program, tmp_path / "a.net")
    run = run_lava(tmp_path / "a.net", program, x, states=True)
    for layer_name, expected in without_delay(program, x).items():
        for what, values in zip(("spikes", "u", "v"), expected, strict=True):
            np.testing.assert_array_equal(run.records[layer_name][what], values, err_msg=f"{layer_name} {what}")
    assert any(trace[0].any() for trace in without_delay(program, x).values())


@needs_lava
def test_the_simulator_agrees_with_lava_in_every_value(tmp_path):
    program, x = conv_geometry(np.random.default_rng(1))
    write_net(program, tmp_path / "a.net")
    verification = verify(program, tmp_path / "a.net", x, states=True)
    verification.raise_on_mismatch()
    report = verification.as_dict()
    assert list(report) == ["samples", "steps", "layers", "mismatches", "simulator_seconds", "lava_seconds"]
    assert (report["samples"], report["steps"], report["mismatches"]) == (3, 4, 0)
    expected = without_delay(program, x)
    for row in report["layers"]:
        spikes = expected[row["name"]][0]
        assert row == {"name": row["name"], "values": 3 * spikes.size, "spikes": spikes.sum(), "mismatches": 0}


@needs_lava
def test_the_readout_is_recorded_without_asking_for_states(tmp_path):
    program, x = dense_after_conv(np.random.default_rng(2))
    write_net(program, tmp_path / "a.net")
    run = run_lava(tmp_path / "a.net", program, x)
    expected = without_delay(program, x)["c"][2]
    assert {name: set(kinds) for name, kinds in run.records.items()} == {
        "a": {"spikes"},
        "b": {"spikes"},
        "c": {"spikes", "v"},
    }
    np.testing.assert_array_equal(run.records["c"]["v"], expected)
    np.testing.assert_array_equal(run.readout, expected[:, -1])
    assert 0 < run.seconds < run.total_seconds


@needs_lava
def test_a_frame_repeated_by_broadcasting_is_repeated_in_lava(tmp_path):
    program, x = graded_into_dense(np.random.default_rng(3))
    repeated = np.broadcast_to(x[:, :1], x.shape)
    write_net(program, tmp_path / "a.net")
    run = run_lava(tmp_path / "a.net", program, repeated)
    np.testing.assert_array_equal(run.records["a"]["spikes"], without_delay(program, repeated)["a"][0])


@needs_lava
def test_a_mismatch_names_the_first_layer_sample_step_and_neuron(tmp_path):
    program, x = dense_after_conv(np.random.default_rng(4))
    weight = program["b"].synapses[0].weight.copy()
    weight[5] += 40
    other = chain((1, 5, 4), [program["a"], layer("b", (3, 4, 3), Dense("a", weight)), program["c"]], readout=True)
    write_net(other, tmp_path / "other.net")
    ours, theirs = without_delay(program, x)["b"][0], without_delay(other, x)["b"][0]
    sample, step, neuron = np.argwhere(ours != theirs)[0]
    verification = verify(program, tmp_path / "other.net", x)
    assert [check.mismatches > 0 for check in verification.layers][:2] == [False, True]
    assert verification.layers[1].mismatches == np.count_nonzero(ours != theirs)
    with pytest.raises(Mismatch) as raised:
        verification.raise_on_mismatch()
    place = f"layer 'b', sample {sample}, step {step}, neuron ({neuron},): spikes"
    assert raised.value.problem.startswith(place)
    assert raised.value.exit_code == 4


@needs_lava
def test_a_file_of_another_network_is_refused(tmp_path):
    program, x = dense_on_a_map(np.random.default_rng(0))
    write_net(one_step_a_sample(np.random.default_rng(0))[0], tmp_path / "other.net")
    with pytest.raises(ScaDeployError, match=r"layers of \[6, 4\] neurons, the network has \[5\]"):
        run_lava(tmp_path / "other.net", program, x)


def test_an_input_outside_the_range_is_refused_before_lava_starts(tmp_path):
    program, x = dense_on_a_map(np.random.default_rng(0))
    write_net(program, tmp_path / "a.net")
    with pytest.raises(ScaDeployError, match="input holds 2"):
        run_lava(tmp_path / "a.net", program, x * 2, python="/no/such/python")


# Interpreters.


@needs_lava
def test_the_callers_python_settings_do_not_reach_lava(monkeypatch):
    monkeypatch.setenv("PYTHONWARNINGS", "error")
    monkeypatch.setenv("PYTHONSAFEPATH", "1")
    assert lava_versions()["lava-nc"] == "0.10.0"


@needs_lava
def test_versions_are_those_of_the_last_lava_releases():
    versions = lava_versions()
    assert (versions["lava-nc"], versions["lava-dl"]) == ("0.10.0", "0.6.0")
    assert {"python", "numpy", "scipy", "h5py"} < set(versions)


@pytest.fixture(scope="module")
def bare_python(tmp_path_factory):
    """An interpreter without any package."""
    folder = tmp_path_factory.mktemp("bare")
    venv.create(folder, symlinks=True)
    return folder / "bin" / "python"


def test_an_interpreter_without_lava_is_a_missing_extra_with_the_install_line(bare_python, tmp_path, monkeypatch):
    monkeypatch.delenv("PYTHONPATH", raising=False)
    program, x = dense_on_a_map(np.random.default_rng(0))
    write_net(program, tmp_path / "a.net")
    for call in (
        lambda: run_lava(tmp_path / "a.net", program, x, python=bare_python),
        lambda: lava_versions(bare_python),
    ):
        with pytest.raises(MissingExtra, match="no module 'lava'") as raised:
            call()
        assert "pip install --no-deps --ignore-requires-python lava-nc==0.10.0 lava-dl==0.6.0" in raised.value.fix
        assert raised.value.exit_code == 5


def test_the_environment_variable_names_the_interpreter_and_the_argument_wins(monkeypatch):
    monkeypatch.setenv(PYTHON_VARIABLE, "/no/such/python")
    with pytest.raises(UsageError, match="/no/such/python"):
        lava_versions()
    with pytest.raises(UsageError, match="/not/this/either"):
        lava_versions("/not/this/either")


# What stays behind: nothing.


def long_job(tmp_path):
    """A network and an input that keep Lava busy for minutes."""
    program, x = conv_geometry(np.random.default_rng(0))
    write_net(program, tmp_path / "a.net")
    return program, np.broadcast_to(x[:1], (50_000, *x.shape[1:]))


def until(condition, seconds=30.0):
    """Whether the condition came true in time."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if condition():
            return True
        time.sleep(0.05)
    return False


@dataclass
class Jobs:
    """Where the worker of a test keeps its files, and what its shared memory is called."""

    folder: Path
    token: str

    def processes(self):
        """Ids of the living processes whose command line names a job in the folder: the worker and what it forked."""
        return [pid for pid in map(int, filter(str.isdigit, os.listdir("/proc"))) if self._owns(pid)]

    def _owns(self, pid):
        try:
            command, state = Path(f"/proc/{pid}/cmdline").read_bytes(), Path(f"/proc/{pid}/stat").read_text()
        except OSError:
            return False
        return (
            b"worker.py" in command and os.fsencode(self.folder) in command and state.rsplit(")")[-1].split()[0] != "Z"
        )

    def segments(self):
        return list(client.SHARED_MEMORY.glob(f"sca-lava-{self.token}-*"))

    def running(self):
        return bool(self.segments()) and len(self.processes()) > 5

    def gone(self):
        return not self.processes() and not self.segments() and not list(self.folder.iterdir())


@pytest.fixture
def jobs(tmp_path, monkeypatch):
    jobs = Jobs(tmp_path / "jobs", client.secrets.token_hex(4))
    jobs.folder.mkdir()
    monkeypatch.setattr(client.tempfile, "tempdir", str(jobs.folder))
    monkeypatch.setenv("TMPDIR", str(jobs.folder))
    monkeypatch.setattr(client.secrets, "token_hex", lambda size: jobs.token)
    return jobs


@needs_lava
@linux
def test_after_a_timeout_no_process_segment_or_file_is_left(tmp_path, jobs):
    program, x = long_job(tmp_path)
    seen = []
    watcher = threading.Thread(target=lambda: seen.append(until(jobs.running)))
    watcher.start()
    with pytest.raises(ScaDeployError, match="did not finish within 10 s"):
        run_lava(tmp_path / "a.net", program, x, timeout=10)
    watcher.join()
    assert seen == [True], "Lava was not running yet when the time was up"
    assert until(jobs.gone, 5)


@needs_lava
@linux
@pytest.mark.parametrize("victim", ["the worker", "a Lava process"])
def test_a_killed_worker_is_an_error_at_once_and_leaves_nothing(victim, tmp_path, jobs):
    program, x = long_job(tmp_path)

    def kill():
        until(jobs.running)
        time.sleep(2)  # until the run itself has begun
        (leader,) = (pid for pid in jobs.processes() if os.getsid(pid) == pid)
        child = max(pid for pid in jobs.processes() if pid != leader)
        os.kill(leader if victim == "the worker" else child, signal.SIGKILL)

    killer = threading.Thread(target=kill)
    killer.start()
    with pytest.raises(ScaDeployError, match=f"{victim.removeprefix('the ')} was killed by signal 9"):
        run_lava(tmp_path / "a.net", program, x, timeout=120)
    killer.join()
    assert until(jobs.gone, 5)


CALLER = """
import numpy as np, sys
from sca_deploy.hardware.lava import client
from sca_deploy.hardware.program import Program
client.secrets.token_hex = lambda size: sys.argv[3]
program = Program.load(sys.argv[1])
x = np.broadcast_to(np.ones((1, 4, *program.input_shape), np.uint8), (50_000, 4, *program.input_shape))
client.run_lava(sys.argv[2], program, x)
"""


@needs_lava
@linux
@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGINT])
def test_a_killed_or_interrupted_caller_leaves_nothing(how, tmp_path, jobs):
    program, _ = long_job(tmp_path)
    program.save(tmp_path / "program.npz")
    arguments = [str(tmp_path / "program.npz"), str(tmp_path / "a.net"), jobs.token]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    caller = subprocess.Popen([sys.executable, "-c", CALLER, *arguments], env=environment, stderr=subprocess.DEVNULL)
    try:
        assert until(jobs.running, 90)
        caller.send_signal(how)
        caller.wait(30)
        assert until(jobs.gone, 20)
    finally:
        caller.kill()
        caller.wait()


@needs_lava
def test_an_exception_inside_lava_is_reported_with_its_last_line(tmp_path, monkeypatch):
    program, x = dense_on_a_map(np.random.default_rng(0))
    write_net(program, tmp_path / "a.net")
    save = np.save
    # An input of another shape than the job says: the source process fails at its first step.
    monkeypatch.setattr(client.np, "save", lambda path, array: save(path, array[:, :, :1]))
    with pytest.raises(ScaDeployError, match="cannot reshape array"):
        run_lava(tmp_path / "a.net", program, x, timeout=60)


# The scripts.


def test_the_scripts_of_the_worker_import_nothing_of_this_package():
    for script in client.WORKER.parent.glob("*.py"):
        for node in ast.walk(ast.parse(script.read_text(encoding="utf-8"))):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            assert not [name for name in names if name.startswith("sca_deploy")], script.name


@needs_lava
def test_numpy_2_4_dropped_the_keyword_that_the_shim_avoids():
    script = (
        "import sys, numpy as np; sys.path.insert(0, sys.argv[1])\n"
        "import shim; shim.apply('sca-lava-test-', 'error: ')\n"
        "from lava.magma.core.process.ports.ports import ReshapePort\n"
        "port = ReshapePort((6,), (2, 3))\n"
        "forward, back = port.get_transform_func_fwd(), port.get_transform_func_bwd()\n"
        "assert 'newshape' not in (forward.keywords | back.keywords)\n"
        "assert forward(np.zeros((2, 3))).shape == (6,) and back(np.zeros(6)).shape == (2, 3)\n"
    )
    subprocess.run([client.lava_python(), "-c", script, str(client.WORKER.parent)], check=True, timeout=60)
