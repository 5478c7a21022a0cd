"""A sweep on two nodes of Ray, each started by its own command: as in one process, whoever is killed meanwhile."""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from sca_deploy.errors import ScaDeployError, UsageError
from sca_deploy.sweep import tuning
from tests.conftest import ROOT

ray = pytest.importorskip("ray", reason="ray is not installed")
pytest.importorskip("ray.tune", reason="ray is not installed")

NODE = (
    "--num-cpus=1",
    "--object-store-memory=100000000",
    "--node-ip-address=127.0.0.1",
    # Two nodes of one machine must not want the same ports.
    "--min-worker-port=0",
    "--max-worker-port=0",
    "--dashboard-agent-listen-port=0",
    "--block",
)
PATIENCE = 200.0


class Nodes(NamedTuple):
    """A cluster of two nodes with one core each."""

    address: str
    environment: dict[str, str]


@pytest.fixture(scope="module")
def nodes() -> Iterator[Nodes]:
    """`ray start --head` and `ray start --address`, with a token that only this cluster has."""
    folder = Path(tempfile.mkdtemp(prefix="ray-test-", dir="/tmp"))  # its sockets need a short path
    (folder / "token").write_text(secrets.token_hex(32))
    environment = {
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN_PATH": str(folder / "token"),
        "RAY_USAGE_STATS_ENABLED": "0",
        "OMP_NUM_THREADS": "1",
        "PYTHONPATH": str(ROOT),
    }
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    address, started = f"127.0.0.1:{port}", list[subprocess.Popen[bytes]]()
    head = ("--head", f"--port={port}", f"--temp-dir={folder}", "--include-dashboard=false")
    try:
        with (folder / "log").open("wb") as log:
            for number, arguments in enumerate((head, (f"--address={address}",)), 1):
                command = [sys.executable, "-m", "ray.scripts.scripts", "start", *arguments, *NODE]
                started.append(
                    subprocess.Popen(command, env=os.environ | environment, stdout=log, stderr=log, cwd=folder)
                )
                wait_until(lambda n=number: told(folder).count("Ray runtime started") == n, lambda: told(folder))
        yield Nodes(address, environment)
    finally:
        for process in reversed(started):
            process.terminate()
        for process in started:
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(20)
            process.kill()
        shutil.rmtree(folder, ignore_errors=True)


def told(folder: Path) -> str:
    return (folder / "log").read_text()


def wait_until(true: Callable[[], object], told: Callable[[], str]) -> None:
    until = time.monotonic() + PATIENCE
    while not true():
        if time.monotonic() > until:
            pytest.fail(told())
        time.sleep(0.02)


@contextlib.contextmanager
def sweeping(grid: Path, folder: Path, nodes: Nodes) -> Iterator[subprocess.Popen[str]]:
    """The sweep on the cluster, in a process of its own."""
    command = [sys.executable, "-m", "sca_deploy.cli", "sweep", grid, "-o", folder, "--address", nodes.address]
    with folder.with_name(f"{folder.name}.err").open("w") as stderr:
        process = subprocess.Popen(
            [str(part) for part in command],
            env=os.environ | nodes.environment,
            stdout=subprocess.PIPE,
            stderr=stderr,
            text=True,
        )
        try:
            yield process
        finally:
            process.kill()
            process.communicate()


def begun(folder: Path) -> dict[Path, str]:
    """Cells that have trained an epoch and are not done: their folders, with the log of what they trained."""
    logs = folder.glob("cells/*/seed*/*/train/metrics.jsonl")
    cells = {log.parents[2]: log.read_text() for log in logs}
    return {cell: log for cell, log in cells.items() if not (cell / "cell.json").exists()}


def ended(folder: Path) -> dict[Path, int]:
    """The files of cells that are done, with the time of their last change."""
    cells = [path.parent for path in folder.glob("cells/*/seed*/cell.json")]
    return {path: path.stat().st_mtime_ns for cell in cells for path in cell.rglob("*") if path.is_file()}


def said(folder: Path) -> str:
    """What a sweep said while it ran."""
    return folder.with_name(f"{folder.name}.err").read_text()


def workers(folder: Path) -> set[str]:
    """The processes that did cells."""
    return {lock.read_text() for lock in folder.glob("cells/*/seed*/.lock")} - {""}


def half_way(folder: Path) -> bool:
    """Whether two workers have done half of the cells, and there is one to be killed: its place stays empty."""
    return len(list(folder.glob("cells/*/seed*/cell.json"))) >= 14 and len(workers(folder)) >= 2 and bool(begun(folder))


def kill_a_worker(folder: Path) -> tuple[Path, str]:
    """Kill a process in the middle of a cell: the cell, and the log of what it had trained."""
    while True:
        wait_until(lambda: half_way(folder), lambda: f"no two workers\n{said(folder)}")
        for cell in begun(folder):
            os.kill(int((cell / ".lock").read_text().split()[1]), signal.SIGKILL)
            time.sleep(0.05)
            if not (cell / "cell.json").exists():  # else it was quicker
                return cell, next(cell.glob("*/train/metrics.jsonl")).read_text()


def test_a_killed_worker_costs_nothing_that_a_checkpoint_held(grid, in_turn, nodes, tmp_path):
    with sweeping(grid, tmp_path / "sweep", nodes) as process:
        cell, log = kill_a_worker(tmp_path / "sweep")
        stdout, _ = process.communicate(timeout=PATIENCE)
    stderr = said(tmp_path / "sweep")
    assert process.returncode == 0, stderr
    assert (tmp_path / "sweep" / "results.csv").read_bytes() == (in_turn / "results.csv").read_bytes()
    # Every line of the log has the seconds that its epoch took: another training would have others.
    assert next(cell.glob("*/train/metrics.jsonl")).read_text().startswith(log)
    assert stdout.startswith("28 cells; ")
    assert f"the process that did {cell.parent.name}, seed {cell.name[4:]} died; the cell is tried again" in stderr
    assert all(line.startswith("sweep: ") for line in stderr.splitlines()), stderr


def test_a_killed_driver_costs_nothing_and_finished_cells_are_not_done_again(grid, in_turn, nodes, tmp_path):
    folder, half = tmp_path / "sweep", tmp_path / "half.toml"
    half.write_text(grid.read_text().replace("seeds = [0, 1]", "seeds = [0]"))
    with sweeping(half, folder, nodes) as process:
        wait_until(
            lambda: len(list(folder.glob("cells/*/seed*/cell.json"))) >= 4 and begun(folder),
            lambda: f"few cells were done\n{said(folder)}",
        )
        process.send_signal(signal.SIGKILL)
    before, left = ended(folder), begun(folder)
    assert not (folder / "results.csv").exists()
    with sweeping(half, folder, nodes) as process:
        process.communicate(timeout=PATIENCE)
    assert process.returncode == 0, said(folder)
    [head, *rows] = (in_turn / "results.csv").read_text().splitlines()
    assert (folder / "results.csv").read_text().splitlines() == [head, *rows[: len(rows) // 2]]  # seed by seed
    assert {path: path.stat().st_mtime_ns for path in before} == before
    for cell, log in left.items():
        assert next(cell.glob("*/train/metrics.jsonl")).read_text().startswith(log)


class Answers:
    """Ray with two nodes, of which one has another folder in the place of the sweep's."""

    exceptions = ray.exceptions

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def nodes(self) -> list[dict[str, Any]]:
        named = {"Alive": True, "Resources": {"CPU": 2.0}, "NodeManagerAddress": "10.0.0.1"}
        return [{**named, "NodeID": name * 8, "NodeManagerHostname": name} for name in ("here", "elsewhere")]

    def get(self, asked: tuple[str, Path], timeout: float) -> str:
        node, path = asked
        if node.startswith("else"):
            path = self.folder / path.name
        return tuning.copying()(path, path.name + node[:8])


def test_a_node_that_does_not_share_the_folder_is_named(tmp_path, monkeypatch):
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    monkeypatch.setattr(tuning, "_ray", lambda: Answers(elsewhere))
    monkeypatch.setattr(tuning, "_ask", lambda node, path: (node, path))
    with pytest.raises(ScaDeployError, match=r"^node elsewhere \(10.0.0.1\) does not share .*: No such file"):
        tuning.check_nodes(tmp_path / "sweep", cpus=1)
    assert list((tmp_path / "sweep").rglob("*token*")) == []
    with pytest.raises(UsageError, match="a cell takes 3 cores, the largest node of the cluster has 2"):
        tuning.check_nodes(tmp_path / "sweep", cpus=3)
