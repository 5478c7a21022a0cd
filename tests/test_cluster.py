"""A block is connected to Ray, quietly, and leaves nothing behind; what cannot be joined is one line."""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from sca_deploy import __version__, cluster
from sca_deploy.cluster import connected
from sca_deploy.errors import MissingExtra, ScaDeployError, UsageError
from tests.conftest import ROOT

ray = pytest.importorskip("ray")
RAY = str(Path(sys.executable).with_name("ray"))

# Ray leaves files and the handles of its processes to the garbage collector.
pytestmark = pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning")


@contextlib.contextmanager
def node(folder: Path, *arguments: str, **environment: str) -> Iterator[None]:
    """A node of a cluster, as `ray start` makes it, with 1 CPU."""
    fixed = ["--num-cpus=1", "--object-store-memory=100000000", "--disable-usage-stats"]
    command = [RAY, "start", "--block", *fixed, *arguments]
    with open(folder / "said", "ab") as said:
        process = subprocess.Popen(command, env=os.environ | environment, stdout=said, stderr=said)
    try:
        yield
    finally:
        process.terminate()  # it takes along what it started
        process.wait(60)


@pytest.fixture(scope="module", autouse=True)
def token() -> Iterator[None]:
    """Every Ray of these tests asks for the token of whoever runs them, which Ray makes if there is none."""
    from ray._raylet import Config

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_AUTH_MODE", "token")
        Config.initialize("")  # Ray has read the variable when it was imported
        subprocess.run([RAY, "get-auth-token", "--generate"], check=True, capture_output=True)
        yield


@pytest.fixture(scope="module")
def head() -> Iterator[str]:
    """The address of a running cluster with one node."""
    with socket.socket() as free:
        free.bind(("", 0))
        port = free.getsockname()[1]
    folder = Path(tempfile.mkdtemp(prefix="sca-head-", dir=cluster.RAY_FOLDER))
    try:
        with node(folder, "--head", "--include-dashboard=false", f"--port={port}", f"--temp-dir={folder}"):
            until(lambda: not cluster._silent(f"127.0.0.1:{port}"))
            yield f"127.0.0.1:{port}"
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def until(condition, seconds: float = 60) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.2)


def test_on_this_machine_tasks_run_with_one_thread_and_nothing_is_left(capfd: pytest.CaptureFixture[str]) -> None:
    before = os.environ.get("PYTHONBREAKPOINT")
    with connected("local", 2) as here:
        assert (here.nodes, here.cpus) == (1, 2)

        def seen() -> tuple[int, str, int]:
            import torch

            return torch.get_num_threads(), os.getcwd(), os.getpid()

        threads, folder, process = ray.get(ray.remote(seen).remote())
        [store] = [Path(found["ObjectStoreSocketName"]) for found in ray.nodes()]
        assert store.exists()
    assert threads == 1
    assert folder == os.getcwd()
    assert os.environ.get("PYTHONBREAKPOINT") == before
    assert not ray.is_initialized()
    assert not store.parents[2].exists()
    until(lambda: not Path(f"/proc/{process}").exists())
    assert capfd.readouterr() == ("", "")


def test_a_block_that_fails_is_left_as_well() -> None:
    with pytest.raises(KeyError), connected("local", 1):
        raise KeyError
    assert not ray.is_initialized()


def test_a_running_cluster_is_joined_and_lives_on(head: str) -> None:
    with connected(head, 5) as there:
        assert (there.nodes, there.cpus) == (1, 1)
        assert there.address.rpartition(":")[2] == head.rpartition(":")[2]
    assert not cluster._silent(head)


@pytest.mark.parametrize("mode", ["disabled", "token"])
def test_without_the_token_of_the_cluster(mode: str, head: str, tmp_path: Path) -> None:
    """In a process of its own: Ray reads how it is told of tokens once."""
    (tmp_path / "other").write_text("0" * 64)
    line = f"from sca_deploy.cluster import connected\nwith connected({head!r}): pass"
    token = {"RAY_AUTH_MODE": mode, "RAY_AUTH_TOKEN_PATH": str(tmp_path / "other")}
    environment = os.environ | token | {"RAY_NUM_REDIS_GET_RETRIES": "1"}  # Ray would try for twenty seconds
    tried = subprocess.run([sys.executable, "-c", line], env=environment, capture_output=True, text=True, cwd=ROOT)
    said = f"ScaDeployError: the Ray cluster at {head} asks for another token, or for one"
    assert tried.stderr.splitlines()[-1].endswith(said)


def test_a_node_must_have_the_package(head: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The second node finds a package of that name which cannot be imported."""
    monkeypatch.chdir(tmp_path)  # Ray lets workers import what is in the driver's folder
    package = tmp_path / "packages" / "sca_deploy"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text("raise ImportError")
    second = node(tmp_path, f"--address={head}", PYTHONPATH=str(package.parent))
    with second, pytest.raises(ScaDeployError) as failed:
        until(lambda: nodes(head) == 2)
    said = f"node {socket.gethostname()} of the Ray cluster has no sca-deploy, this process sca-deploy {__version__}"
    assert failed.value.problem == said
    assert not ray.is_initialized()


def nodes(head: str) -> int:
    with connected(head) as there:
        return there.nodes


@pytest.mark.parametrize("package", ["sca-deploy", "python", "torch", "numpy"])
def test_every_node_must_run_the_same_version(package: str) -> None:
    ours = cluster._versions()()
    cluster._check_node("a", ours, dict(ours))
    with pytest.raises(ScaDeployError) as failed:
        cluster._check_node("b", ours, ours | {package: "0.0.9"})
    said = f"node b of the Ray cluster has {package} 0.0.9, this process {package} {ours[package]}"
    assert failed.value.problem == said


@pytest.mark.parametrize("address", ["", "cluster", "head:", "head:0", "head:70000", "ray://head:10001", "a b:6379"])
def test_an_address_that_cannot_be_meant(address: str) -> None:
    with pytest.raises(UsageError, match=f"^'{address}' is not the address of a Ray cluster$"), connected(address):
        pass


def test_no_workers_are_too_few() -> None:
    with pytest.raises(UsageError, match="0 workers"), connected("local", 0):
        pass


def test_where_nothing_listens() -> None:
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{closed.getsockname()[1]}"
        with pytest.raises(ScaDeployError) as failed, connected(address):
            pass
    assert failed.value.problem == f"no Ray cluster answers at {address}: Connection refused"
    assert failed.value.exit_code == 1
    assert "ray start --head" in failed.value.fix


def test_where_something_else_listens(monkeypatch: pytest.MonkeyPatch) -> None:
    """It takes the connection and says nothing."""
    monkeypatch.setattr(cluster, "ANSWER", 0.2)
    with socket.create_server(("127.0.0.1", 0)) as deaf:
        address = f"127.0.0.1:{deaf.getsockname()[1]}"
        with (
            pytest.raises(ScaDeployError, match=f"^no Ray cluster answers at {address}: timed out$"),
            connected(address),
        ):
            pass


def test_without_ray(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(MissingExtra) as failed, connected("local"):
        pass
    assert failed.value.fix == "pip install 'sca-deploy[sweep]'"
    assert failed.value.exit_code == 5


def test_twice_at_once_is_refused() -> None:
    with connected("local", 1):
        with pytest.raises(UsageError, match="connected to Ray already"), connected("local", 1):
            pass
        assert ray.is_initialized()
