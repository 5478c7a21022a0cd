"""What can go wrong inside Lava: each ends with an error within its limit, and nothing of Lava stays behind.

The tests run Lava in this interpreter, or in the one SCA_DEPLOY_LAVA_PYTHON names.
"""

import os
import shlex
import shutil
import signal
import subprocess
import sys
import threading
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from sca_deploy.errors import ScaDeployError
from sca_deploy.exporters.lava import write_processes
from sca_deploy.exporters.netx import write_net
from sca_deploy.hardware.lava import client
from sca_deploy.hardware.lava.client import run_lava
from sca_deploy.hardware.program import INPUT, Dense, Layer, Program
from tests.conftest import needs_lava

linux = pytest.mark.skipif(not Path("/proc/self/cmdline").exists(), reason="looks at /proc")


def small():
    """Two layers, and three samples for them."""
    rng = np.random.default_rng(0)

    def layer(name, source, inputs):
        weight = 2 * rng.integers(-20, 40, (4, inputs)).astype(np.int32)
        return Layer(name, (4,), (Dense(source, weight),), 500, 60, np.zeros(4, np.int32))

    program = Program((5,), 0, 4, (layer("a", INPUT, 5), layer("b", "a", 4)), readout=False)
    return program, rng.integers(0, 2, (3, 4, 5)).astype(np.uint8)


def long_job(tmp_path):
    """A network and an input that keep Lava busy for minutes."""
    program, x = small()
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
        """Ids of all living processes that were started for a job: they know its folder from their environment."""
        return [pid for pid in map(int, filter(str.isdigit, os.listdir("/proc"))) if self._owns(pid)]

    def _owns(self, pid):
        try:
            environment, state = Path(f"/proc/{pid}/environ").read_bytes(), Path(f"/proc/{pid}/stat").read_text()
        except OSError:
            return False
        ours = os.fsencode(f"TMPDIR={self.folder}") in environment.split(b"\0")
        return ours and state.rsplit(")")[-1].split()[0] != "Z"

    def workers(self):
        """The worker and what it forked, which are called the same."""
        return [pid for pid in self.processes() if b"worker.py" in Path(f"/proc/{pid}/cmdline").read_bytes()]

    def segments(self):
        return list(client.SHARED_MEMORY.glob(f"sca-lava-{self.token}-*"))

    def running(self):
        return bool(self.segments()) and len(self.workers()) > 5

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
@pytest.mark.parametrize("victim", ["the worker", "a Lava process"])
def test_a_killed_worker_is_an_error_at_once_and_leaves_nothing(victim, tmp_path, jobs):
    program, x = long_job(tmp_path)

    def kill():
        until(jobs.running)
        time.sleep(2)  # until the run itself has begun
        (leader,) = (pid for pid in jobs.workers() if os.getsid(pid) == pid)
        child = max(pid for pid in jobs.workers() if pid != leader)
        os.kill(leader if victim == "the worker" else child, signal.SIGKILL)

    killer = threading.Thread(target=kill)
    killer.start()
    with pytest.raises(ScaDeployError, match=f"{victim.removeprefix('the ')} was killed by signal 9"):
        run_lava(tmp_path / "a.net", program, x, timeout=120)
    killer.join()
    assert until(jobs.gone, 5)


CALLER = """
import signal
signal.signal(signal.SIGINT, signal.default_int_handler)  # which a parent in the background has ignored
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


# A model that is broken, at the third step of its run.

BREAK = """

import os, signal, time
from lava.proc.lif.models import PyLifResetModelBitAcc

run_spk = PyLifResetModelBitAcc.run_spk

def broken(model):
    if model.time_step == 3:
        {fault}
    run_spk(model)

PyLifResetModelBitAcc.run_spk = broken
"""


def broken(tmp_path, fault):
    """A Program, an input and its exported network, in which every layer does `fault` at its third step."""
    program, x = small()
    write_processes(program, tmp_path, "broken")
    with (tmp_path / "network.py").open("a") as file:
        file.write(BREAK.format(fault=fault))
    return tmp_path / "network.py", program, x


@needs_lava
@linux
@pytest.mark.parametrize(
    ("fault", "said"),
    [
        ("raise ArithmeticError('a model that\\n  raises')", r"failed \(1\): ArithmeticError: a model that"),
        ("os.kill(os.getpid(), signal.SIGSEGV)", "a Lava process was killed by signal 11"),
        ("os._exit(0)", r"the Lava worker failed \(1\)"),
    ],
    ids=["raises", "dies by a signal", "leaves without a word"],
)
def test_a_broken_model_is_an_error_at_once_and_leaves_nothing(fault, said, tmp_path, jobs):
    started = time.monotonic()
    with pytest.raises(ScaDeployError, match=said):
        run_lava(*broken(tmp_path, fault), timeout=120)
    assert time.monotonic() - started < 60
    assert until(jobs.gone, 5)


@needs_lava
@linux
def test_a_model_that_hangs_ends_with_the_time_limit_and_leaves_nothing(tmp_path, jobs):
    network, program, x = broken(tmp_path, "open({!r}, 'w').close(); time.sleep(600)".format(str(tmp_path / "hangs")))
    with pytest.raises(ScaDeployError, match="did not finish within 8 s"):
        run_lava(network, program, x, timeout=8)
    assert (tmp_path / "hangs").exists(), "Lava was not running yet when the time was up"
    assert until(jobs.gone, 5)


@needs_lava
@linux
def test_an_exported_file_that_raises_is_reported_with_its_last_line(tmp_path, jobs):
    program, x = small()
    write_processes(program, tmp_path, "broken")
    (tmp_path / "network.py").write_text("raise LookupError('somebody edited this')")
    with pytest.raises(ScaDeployError, match="LookupError: somebody edited this"):
        run_lava(tmp_path / "network.py", program, x, timeout=60)
    assert until(jobs.gone, 5)


# Shared memory that is full: 64 KiB in all, or 64 KiB a file; Lava wants more of both.

TINY = 'mount -t tmpfs -o size=64k tmpfs /dev/shm && exec {python} "$@"'
MAY_MOUNT = (
    shutil.which("unshare") is not None
    and subprocess.run(["unshare", "-Urm", "sh", "-c", TINY.format(python="true")], capture_output=True).returncode == 0
)


def full(tmp_path, how):
    """An interpreter of Lava that finds little room in its shared memory."""
    python = shlex.quote(client.lava_python())
    started = {
        "full": f'exec unshare -Urm sh -c {shlex.quote(TINY.format(python=python))} sh "$@"',
        "limited": f'ulimit -f 128 && exec {python} "$@"',
    }
    script = tmp_path / "python"
    script.write_text(f"#!/bin/sh\n{started[how]}\n")
    script.chmod(0o755)
    return script


@needs_lava
@linux
@pytest.mark.parametrize(
    ("how", "reason"),
    [
        pytest.param("full", "No space left", marks=pytest.mark.skipif(not MAY_MOUNT, reason="may not mount")),
        ("limited", "File too large"),
    ],
)
def test_a_full_shared_memory_is_an_error_that_says_so_and_leaves_nothing(how, reason, tmp_path, jobs):
    neurons = 6000
    weight = np.zeros((neurons, 5), np.int32)
    wide = Layer("a", (neurons,), (Dense(INPUT, weight),), 500, 60, np.zeros(neurons, np.int32))
    program, (_, x) = Program((5,), 0, 4, (wide,), readout=False), small()
    write_processes(program, tmp_path, "wide")
    with pytest.raises(ScaDeployError, match=rf"no room for another \d+ bytes of shared memory \({reason}") as raised:
        run_lava(tmp_path / "network.py", program, x[:1], python=full(tmp_path, how), timeout=60)
    assert "/dev/shm" in raised.value.fix
    assert until(jobs.gone, 5)


@needs_lava
@linux
def test_after_six_runs_in_a_row_nothing_is_left(tmp_path, jobs):
    program, x = small()
    write_processes(program, tmp_path, "small")
    first = run_lava(tmp_path / "network.py", program, x[:1])
    assert first.records["b"]["spikes"].any()
    for _ in range(5):
        again = run_lava(tmp_path / "network.py", program, x[:1], timeout=60)
        np.testing.assert_array_equal(again.records["b"]["spikes"], first.records["b"]["spikes"])
    assert jobs.gone()
