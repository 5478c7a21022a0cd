"""Runs one exported network in Lava and writes down what every layer did. A script, started by path.

It needs an interpreter with lava-nc 0.10.0, for .net files also lava-dl 0.6.0 and h5py, not sca_deploy.

    python worker.py FOLDER       run FOLDER/job.json on FOLDER/input.npy (see `client` for both)
    python worker.py --versions   print the versions of what would run it, as JSON

The results are FOLDER/<what><layer>.npy, (samples, steps, *shape), and FOLDER/result.json, written last.
Standard input must be a pipe that the parent keeps open: when it closes, the worker ends its session.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import multiprocessing
import os
import shutil
import signal
import sys
import threading
import time
import traceback
from importlib.metadata import PackageNotFoundError, version
from multiprocessing.connection import wait
from pathlib import Path
from typing import Any

EXIT_MISSING = 5
ERROR = "worker error: "
"""Begins the first line of standard error that says what went wrong; anything may surround it."""
PACKAGES = ("lava-nc", "lava-dl", "numpy", "scipy", "h5py")


def main(argument: str) -> int:
    """Do what the command line says; the exit status is 5 when a package is missing."""
    try:
        if argument == "--versions":
            load_lava("sca-lava-versions-")
            importlib.import_module("lava.lib.dl.netx.hdf5")
            print(json.dumps(versions()))
        else:
            run(Path(argument))
    except ModuleNotFoundError as error:
        print(f"{ERROR}{error.name}", file=sys.stderr)
        return EXIT_MISSING
    except BaseException as error:
        traceback.print_exc()
        print(f"{ERROR}{type(error).__name__}: {error}", file=sys.stderr)
        return 1
    return 0


def load_lava(segments: str) -> None:
    """Import Lava with what it needs on this Python."""
    sys.path.insert(0, str(Path(__file__).parent))
    importlib.import_module("shim").apply(segments, ERROR)
    importlib.import_module("processes")


def versions() -> dict[str, str]:
    """The versions that a result depends on."""
    found = {"python": ".".join(map(str, sys.version_info[:3]))}
    for package in PACKAGES:
        # Only .net files need all of them, and have imported them by now.
        with contextlib.suppress(PackageNotFoundError):
            found[package] = version(package)
    return found


def run(folder: Path) -> None:
    """Run the job in `folder` from the first frame to the last answer of the last layer."""
    job = json.loads((folder / "job.json").read_text(encoding="utf-8"))
    threading.Thread(target=end_with_parent, args=(folder, job["segments"]), daemon=True).start()
    load_lava(job["segments"])
    from lava.magma.core.run_conditions import RunSteps
    from lava.magma.core.run_configs import Loihi2SimCfg

    networks = importlib.import_module("networks")
    load = networks.load_processes if job["network"].endswith(".py") else networks.load_net
    neurons = load(job, str(folder / "input.npy"))
    check_shapes(neurons, job["shapes"])
    root = record(neurons, job, folder)
    root.create_runtime(Loihi2SimCfg(select_tag="fixed_pt"))
    finished = threading.Event()
    children = {child.sentinel: child for child in multiprocessing.active_children()}
    threading.Thread(target=end_with_child, args=(children, finished), daemon=True).start()
    started = time.perf_counter()
    root.run(RunSteps(num_steps=job["samples"] * job["period"] + max(job["stages"])))
    seconds = time.perf_counter() - started
    # After a failure stop() could wait for ever for a dead process; then the parent ends the session.
    finished.set()
    root.stop()
    finish(folder, {"seconds": seconds, "versions": versions()})


def end_with_parent(folder: Path, segments: str) -> None:
    """When the parent is gone, do what it would have done: end this session and remove its traces."""
    # Not sys.stdin.read: its lock, held here, would block the processes Lava forks when they close it.
    os.read(0, 1)
    for path in Path("/dev/shm").glob(f"{segments}*"):
        path.unlink(missing_ok=True)
    shutil.rmtree(folder, ignore_errors=True)
    os.killpg(0, signal.SIGKILL)


def check_shapes(neurons: list[Any], shapes: list[list[int]]) -> None:
    """Refuse a file that is not the network the job describes; Lava would hang on it."""
    ours = [size(shape) for shape in shapes]
    theirs = [size(population.s_out.shape) for population in neurons]
    if ours != theirs:
        raise ValueError(f"the exported file has layers of {theirs} neurons, the network has {ours}")


def size(shape: Any) -> int:
    """How many neurons a shape holds."""
    count = 1
    for side in shape:
        count *= int(side)
    return count


def record(neurons: list[Any], job: dict[str, Any], folder: Path) -> Any:
    """Connect a sink to everything that is recorded; returns one of them."""
    processes, networks = (importlib.import_module(name) for name in ("processes", "networks"))
    last = len(neurons) - 1
    for index, population in enumerate(neurons):
        timing = networks.timing(job, job["stages"][index])
        shape = tuple(map(int, population.s_out.shape))
        path = record_file(folder / f"spikes{index}.npy", "uint8", job, index)
        sink = processes.SpikeSink(shape=shape, path=path, **timing)
        population.s_out.connect(sink.s_in)
        states = ("u", "v") if job["states"] else ("v",) if job["readout"] and index == last else ()
        for what in states:
            path = record_file(folder / f"{what}{index}.npy", "int32", job, index)
            processes.StateSink(shape=shape, path=path, **timing).state.connect_var(getattr(population, what))
    return sink


def record_file(path: Path, dtype: str, job: dict[str, Any], layer: int) -> str:
    """Create the .npy file of a record, with its space reserved: a full disk would kill a sink later."""
    npy: Any = importlib.import_module("numpy.lib.format")
    shape = (job["samples"], job["steps"], *job["shapes"][layer])
    npy.open_memmap(path, mode="w+", dtype=dtype, shape=shape).flush()
    if hasattr(os, "posix_fallocate"):
        with path.open("r+b") as file:
            os.posix_fallocate(file.fileno(), 0, path.stat().st_size)
    return str(path)


def end_with_child(children: dict[int, Any], finished: threading.Event) -> None:
    """End the worker when a Lava process dies during the run, which would wait for it for ever."""
    dead = wait(list(children))
    if finished.is_set():
        return
    # A process that failed has said so itself (see shim); one that was killed could not.
    codes = [exit_code(children[sentinel]) for sentinel in dead if isinstance(sentinel, int)]
    for code in codes:
        if code < 0:
            print(f"{ERROR}a Lava process was killed by signal {-code}", file=sys.stderr, flush=True)
    os._exit(1)


def exit_code(child: Any) -> int:
    """The exit code of a dying process; 0 when Lava has already put it away."""
    try:
        # Its sentinel is a pipe, which closes a moment before the system knows the exit code.
        multiprocessing.Process.join(child, timeout=5)
        return child.exitcode or 0
    except ValueError:
        return 0


def finish(folder: Path, result: dict[str, Any]) -> None:
    """Write result.json in one piece."""
    temporary = folder / "result.part"
    temporary.write_text(json.dumps(result), encoding="utf-8")
    temporary.replace(folder / "result.json")


if __name__ == "__main__":
    status = main(sys.argv[1])
    sys.stdout.flush()
    sys.stderr.flush()
    # Lava's queue threads can keep an ordinary exit waiting.
    os._exit(status)
