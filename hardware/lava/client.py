"""Start the Lava worker, wait for it within a limit, and leave nothing of it behind.

Lava needs `fork`, and this needs sessions and process groups: both are POSIX.
"""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from sca_deploy.errors import MissingExtra, ScaDeployError, UsageError
from sca_deploy.files import read_json, write_json
from sca_deploy.hardware.lava.timing import hosted, period
from sca_deploy.hardware.program import Program
from sca_deploy.hardware.simulate import Records, check_input

PYTHON_VARIABLE = "SCA_DEPLOY_LAVA_PYTHON"
INSTALL = (
    "pip install --no-deps --ignore-requires-python lava-nc==0.10.0 lava-dl==0.6.0"
    " && pip install numpy scipy h5py networkx asteval scikit-learn"
)
DEFAULT_TIMEOUT = 600.0
"""Seconds a whole run may take."""
WORKER = Path(__file__).parent / "standalone" / "worker.py"
EXIT_MISSING = 5
ERROR = "worker error: "
SHARED_MEMORY = Path("/dev/shm")
"""Where Linux shows shared-memory segments as files."""


@dataclass(frozen=True, eq=False)
class LavaRun:
    """What Lava computed.

    Args:
        records: layer -> "spikes" (uint8), and with states "u" and "v" (int32) -> (samples, steps, *shape);
            the read-out layer always has its "v". Values after the step, `v` after the reset.
        readout: (samples, classes) int64, the final `v` of the read-out; None without a read-out.
        seconds: the run itself, after everything was compiled and started.
        total_seconds: the whole worker, imports and compilation included.
        versions: of Python and the packages that ran it.
    """

    records: Records
    readout: npt.NDArray[np.int64] | None
    seconds: float
    total_seconds: float
    versions: dict[str, str]


def run_lava(
    network_path: str | Path,
    program: Program,
    x: npt.NDArray[np.generic],
    *,
    states: bool = False,
    python: str | Path | None = None,
    timeout: float = DEFAULT_TIMEOUT,
) -> LavaRun:
    """Run an exported network in Lava, all samples in one run, each from rest.

    Args:
        network_path: a .net file that `exporters.netx` wrote for `program`, or a network.py with its weights
            that `exporters.lava` wrote. The Python is executed.
        program: for names, shapes, timing and the input's range.
        x: integers, (samples, steps, *input_shape), as the simulator takes them.
        states: also record u and v of every layer at every step; about twice the time.
        python: the interpreter that has Lava; without it the one in SCA_DEPLOY_LAVA_PYTHON, else this one.
        timeout: seconds the whole worker may take.

    Raises:
        MissingExtra: if that interpreter has no Lava.
        UsageError: if there is no such interpreter.
        ScaDeployError: if the input or file does not belong to the network, Lava fails, or takes too long.
    """
    check_input(program, x)
    network = Path(network_path).resolve()
    if not network.is_file():
        raise ScaDeployError(f"no such file: {network_path}")
    started = time.perf_counter()
    segments = f"sca-lava-{secrets.token_hex(4)}-"
    with tempfile.TemporaryDirectory(prefix="sca-lava-") as name:
        folder = Path(name)
        _write_job(folder, network, program, x, states, segments)
        try:
            _run_worker(lava_python(python), folder, timeout)
        finally:
            _sweep(segments)
        result = read_json(folder / "result.json")
        records = _read_records(folder, program)
    readout = None
    if program.readout:
        readout = records[program.layers[-1].name]["v"][:, -1].astype(np.int64)
    return LavaRun(records, readout, result["seconds"], time.perf_counter() - started, result["versions"])


def lava_python(python: str | Path | None = None) -> str:
    """The interpreter to run Lava with: the one given, else SCA_DEPLOY_LAVA_PYTHON, else the current one."""
    return str(python or os.environ.get(PYTHON_VARIABLE) or sys.executable)


def lava_versions(python: str | Path | None = None) -> dict[str, str]:
    """The versions of python, lava-nc, lava-dl, numpy, scipy and h5py that would run a network.

    Raises:
        MissingExtra: if the interpreter has no Lava.
        UsageError: if there is no such interpreter.
        ScaDeployError: if Lava is there and cannot be imported.
    """
    interpreter = lava_python(python)
    with tempfile.TemporaryDirectory(prefix="sca-lava-") as name:
        folder = Path(name)
        _wait_for_worker(interpreter, ["--versions"], folder, timeout=60.0)
        versions: dict[str, str] = json.loads((folder / "stdout.txt").read_text(encoding="utf-8").splitlines()[-1])
    return versions


def _write_job(
    folder: Path, network: Path, program: Program, x: npt.NDArray[np.generic], states: bool, segments: str
) -> None:
    # A frame repeated by broadcasting is stored once; the source repeats it.
    np.save(folder / "input.npy", x[:, :1] if x.strides[1] == 0 else x)
    layers = program.layers
    job = {
        "network": str(network),
        "samples": x.shape[0],
        "steps": x.shape[1],
        "period": period(program, x.shape[1]),
        "carries": program.carries,
        "input_bits": program.input_bits,
        "shapes": [layer.shape for layer in layers],
        "stages": [program.stages[layer.name] for layer in layers],
        "host": [index for index, layer in enumerate(layers) if hosted(program, layer)],
        "injected": [index for index, layer in enumerate(layers) if layer.injected],
        "states": states,
        "readout": program.readout,
        "segments": segments,
    }
    write_json(folder / "job.json", job)


def _read_records(folder: Path, program: Program) -> Records:
    """The records, still on disk: the mappings outlive the files' names."""
    files = {
        layer.name: {what: folder / f"{what}{index}.npy" for what in ("spikes", "u", "v")}
        for index, layer in enumerate(program.layers)
    }
    return {
        name: {what: np.load(path, mmap_mode="r") for what, path in paths.items() if path.exists()}
        for name, paths in files.items()
    }


def _run_worker(interpreter: str, folder: Path, timeout: float) -> None:
    _wait_for_worker(interpreter, [str(folder)], folder, timeout)
    if not (folder / "result.json").exists():
        raise ScaDeployError("the Lava worker ended without a result", "run it again")


def _wait_for_worker(interpreter: str, arguments: list[str], folder: Path, timeout: float) -> None:
    """Run the worker in its own session; whatever happens, the whole session is gone afterwards."""
    errors = folder / "stderr.txt"
    # One thread a process: a Lava network is many processes already. Its many warnings are not for our users.
    threads = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")
    environment = os.environ | threads | {"PYTHONWARNINGS": "ignore"}
    with errors.open("wb") as stderr, (folder / "stdout.txt").open("wb") as stdout:
        try:
            process = subprocess.Popen(
                [interpreter, str(WORKER), *arguments],
                stdin=subprocess.PIPE,
                stdout=stdout,
                stderr=stderr,
                env=environment,
                start_new_session=True,
            )
        except OSError as error:
            raise UsageError(
                f"cannot start the Lava interpreter {interpreter}: {error.strerror}",
                f"name one that exists with --lava-python or {PYTHON_VARIABLE}",
            ) from error
        try:
            status = process.wait(timeout)
        except subprocess.TimeoutExpired as error:
            raise ScaDeployError(
                f"the Lava worker did not finish within {timeout:g} s", "give it fewer samples or a longer timeout"
            ) from error
        finally:
            _end_session(process)
    if status == EXIT_MISSING:
        raise MissingExtra(f"{interpreter} has no module '{_error_line(errors)}', which running Lava needs", INSTALL)
    if status != 0:
        how = f"was killed by signal {-status}" if status < 0 else f"failed ({status})"
        raise ScaDeployError(
            f"the Lava worker {how}: {_error_line(errors)}",
            "if memory, /dev/shm or the disk is full, free some; else run it again with fewer samples",
        )


def _end_session(process: subprocess.Popen[bytes]) -> None:
    # The session is gone already when everything ended by itself.
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    if process.stdin is not None:
        process.stdin.close()


def _sweep(segments: str) -> None:
    """Remove the shared memory of a worker that could not do it itself."""
    for path in SHARED_MEMORY.glob(f"{segments}*"):
        path.unlink(missing_ok=True)


def _error_line(path: Path) -> str:
    """What the worker said went wrong, else the last line of its standard error."""
    lines = path.read_text(encoding="utf-8", errors="replace").strip().splitlines() or ["it printed nothing"]
    said = [line for line in lines if line.startswith(ERROR)]
    return said[0].removeprefix(ERROR) if said else lines[-1].strip()
