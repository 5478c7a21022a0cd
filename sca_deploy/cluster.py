"""Ray, as this package uses it: a few workers on this machine, or a cluster that is already running.

Ray is the optional extra `sweep`. It is imported when a block begins, never before, and it is kept quiet: no dashboard,
no usage statistics, nothing on stdout or stderr. Workers compute with one thread each.
"""

from __future__ import annotations

import importlib.util
import os
import re
import shutil
import socket
import tempfile
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

from sca_deploy.errors import MissingExtra, ScaDeployError, UsageError

LOCAL, AUTO = "local", "auto"
INSTALL = "pip install 'sca-deploy[sweep]'"
START = "start one with `ray start --head --port=6379` and give HOST:6379"
ANSWER = 10.0
"""Seconds a cluster may take to say that it is there."""
PROBE = 60.0
"""Seconds a node may take to start a process and say what it runs."""
OBJECT_STORE = 256 << 20
"""Bytes of shared memory of a Ray started here; what does not fit goes to disk."""
RAY_FOLDER = "/tmp"
"""Holds the sockets of a Ray started here: their paths may have 107 characters, which a long TMPDIR would exceed."""
HTTP2_PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes((0, 0, 0, 4, 0, 0, 0, 0, 0))
"""What a client of HTTP/2 sends first, with empty settings (RFC 9113, section 3.4)."""
SETTINGS_FRAME = 4
BREAKPOINT = "PYTHONBREAKPOINT"
"""Ray sets it, and every later child of this process would stop in Ray's debugger."""
TOKEN = "set RAY_AUTH_MODE=token, and RAY_AUTH_TOKEN_PATH if the token of its head is not in ~/.ray/auth_token"
COMPARED = ("sca-deploy", "python", "torch", "numpy")
"""What must be the same on every node, for the same numbers everywhere."""
ENVIRONMENT = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",  # a task sees the devices that its driver would see
    "RAY_task_oom_retries": "3",  # Ray's own default is to try for ever
}


@dataclass(frozen=True)
class Cluster:
    """What a block is connected to.

    Args:
        address: of the cluster, HOST:PORT.
        nodes: machines that are alive.
        cpus: that may be used at once.
    """

    address: str
    nodes: int
    cpus: int


@contextmanager
def connected(address: str, workers: int | None = None, verbose: bool = False) -> Iterator[Cluster]:
    """Be connected to Ray while the block runs; what was started here is stopped at its end.

    Args:
        address: "local" starts Ray on this machine; HOST:PORT joins the cluster whose head listens there, "auto" the
            one that runs on this machine.
        workers: CPUs to use, at most; of a Ray started here None means all of this machine, of a cluster all it has.
        verbose: let Ray say what it does, on stderr.

    Raises:
        MissingExtra: if Ray is not installed.
        UsageError: if the address cannot be meant, or Ray is in use already.
        ScaDeployError: if no cluster answers there, or one of its nodes runs other versions than this process.
    """
    _check_address(address)
    if workers is not None and workers < 1:
        raise UsageError(f"{workers} workers can do nothing", "give at least 1")
    if importlib.util.find_spec("ray") is None:
        raise MissingExtra("spreading work over processes or machines needs the ray package", INSTALL)
    for name, value in ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    import ray

    if ray.is_initialized():
        raise UsageError("this process is connected to Ray already", "call ray.shutdown() first")
    folder = tempfile.mkdtemp(prefix="sca-ray-", dir=RAY_FOLDER) if address == LOCAL else None
    debugger = os.environ.get(BREAKPOINT)
    try:
        if folder is None:
            _join(ray, address, verbose)
        else:
            _start(ray, folder, workers or os.cpu_count() or 1, verbose)
        yield _described(ray, workers, here=folder is not None)
    finally:
        with _quiet(verbose):
            ray.shutdown()
        os.environ.pop(BREAKPOINT, None)
        if debugger is not None:
            os.environ[BREAKPOINT] = debugger
        if folder is not None:
            shutil.rmtree(folder, ignore_errors=True)


def _check_address(address: str) -> None:
    if address in (LOCAL, AUTO):
        return
    found = re.fullmatch(r"(?P<host>[^\s:/]+|\[[0-9a-fA-F:]+\]):(?P<port>\d{1,5})", address)
    if found is None or not 0 < int(found["port"]) < 1 << 16:
        raise UsageError(f"'{address}' is not the address of a Ray cluster", f"give {LOCAL}, {AUTO} or HOST:PORT")


def _start(ray: Any, folder: str, workers: int, verbose: bool) -> None:
    """Ray on this machine, for this process only."""
    try:
        with _quiet(verbose):
            ray.init(
                address=LOCAL,
                num_cpus=workers,
                include_dashboard=False,
                object_store_memory=OBJECT_STORE,
                _temp_dir=folder,
                **_settings(verbose),
            )
    except (Exception, SystemExit) as error:
        raise ScaDeployError(f"Ray does not start: {_first_line(error)}", "-v shows what it says") from error


def _join(ray: Any, address: str, verbose: bool) -> None:
    """The cluster at an address."""
    if address != AUTO and (reason := _silent(address)):
        raise ScaDeployError(f"no Ray cluster answers at {address}: {reason}", START)
    try:
        with _quiet(verbose):
            ray.init(address=address, **_settings(verbose))
    except (Exception, SystemExit) as error:  # Ray ends the process where the head does not answer as it should
        if _refused(error):
            raise ScaDeployError(f"the Ray cluster at {address} asks for another token, or for one", TOKEN) from error
        reason = "none was found" if address == AUTO and isinstance(error, ConnectionError) else _first_line(error)
        raise ScaDeployError(f"cannot join the Ray cluster at {address}: {reason}", START) from error


def _refused(error: BaseException | None) -> bool:
    """Whether it was for want of the right token; Ray says so in the words of the first of a chain of errors."""
    return error is not None and ("AuthenticationError" in f"{error!r}" or _refused(error.__cause__))


def _settings(verbose: bool) -> dict[str, Any]:
    return {
        "log_to_driver": verbose,
        "logging_level": "info" if verbose else "critical",
        "runtime_env": {"env_vars": {"OMP_NUM_THREADS": "1"}},
    }


def _silent(address: str) -> str:
    """Why nothing at an address can be the head of a cluster, which speaks gRPC; empty if something may be.

    Ray itself tries for two minutes, and then ends the process.
    """
    host, _, port = address.rpartition(":")
    try:
        with socket.create_connection((host.strip("[]"), int(port)), ANSWER) as connection:
            connection.sendall(HTTP2_PREFACE)
            said = connection.recv(9)
    except OSError as error:
        return error.strerror or str(error)
    return "" if len(said) > 3 and said[3] == SETTINGS_FRAME else "something else listens there"


def _described(ray: Any, workers: int | None, here: bool) -> Cluster:
    """The cluster, once every node is known to run what this process runs; one started here does."""
    nodes = [node for node in ray.nodes() if node["Alive"]]
    if not here:
        ours = _versions()()
        for node, theirs in zip(nodes, _probed(ray, nodes), strict=True):
            _check_node(node["NodeManagerHostname"] or node["NodeManagerAddress"], ours, theirs)
    cpus = sum(int(node["Resources"].get("CPU", 0)) for node in nodes)
    if cpus < 1:
        raise ScaDeployError("the Ray cluster has 0 CPUs, at least 1 is needed", "give its nodes --num-cpus")
    return Cluster(ray.get_runtime_context().gcs_address, len(nodes), min(cpus, workers or cpus))


def _probed(ray: Any, nodes: list[dict[str, Any]]) -> list[dict[str, str]]:
    """The versions on every node."""
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    task = ray.remote(num_cpus=0)(_versions())
    places = [NodeAffinitySchedulingStrategy(node["NodeID"], soft=False) for node in nodes]
    asked = [task.options(scheduling_strategy=place).remote() for place in places]
    try:
        found: list[dict[str, str]] = ray.get(asked, timeout=PROBE)
    except ray.exceptions.RayError as error:
        names = ", ".join(str(node["NodeManagerHostname"]) for node in nodes)
        problem = f"not every node of the Ray cluster can run a task ({names}): {_first_line(error)}"
        raise ScaDeployError(problem, "see `ray status`, and the logs of the nodes") from error
    return found


def _versions() -> Callable[[], dict[str, str]]:
    """What tells the versions of the process it is called in.

    A function made inside another travels as code, so that it also runs where this package is not installed.
    """

    def versions() -> dict[str, str]:
        import platform
        from importlib import metadata

        found = {"python": platform.python_version()}
        for package in ("torch", "numpy"):
            try:
                found[package] = metadata.version(package)
            except metadata.PackageNotFoundError:
                continue
        try:
            import sca_deploy
        except ImportError:
            return found
        return found | {"sca-deploy": sca_deploy.__version__}

    return versions


def _check_node(name: str, ours: dict[str, str], theirs: dict[str, str]) -> None:
    for package in COMPARED:
        here, there = ours.get(package), theirs.get(package)
        if here != there:
            found = f"{package} {there}" if there else f"no {package}"
            raise ScaDeployError(
                f"node {name} of the Ray cluster has {found}, this process {package} {here}",
                "install the same environment on every node",
            )


def _first_line(error: BaseException) -> str:
    """What an error says, in short; Ray's have many lines."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return f"{type(error).__name__}: {lines[0][:200]}" if lines else type(error).__name__


def _quiet(verbose: bool) -> AbstractContextManager[None]:
    return nullcontext() if verbose else _without_stderr()


@contextmanager
def _without_stderr() -> Iterator[None]:
    """Nothing of this process reaches stderr, not even what Ray's C++ writes there."""
    kept = os.dup(2)
    try:
        with open(os.devnull, "wb") as nowhere:
            os.dup2(nowhere.fileno(), 2)
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
