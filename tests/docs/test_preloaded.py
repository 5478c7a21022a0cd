"""A command that is run in a fork is a process as any other: it ends, prints and dies as its own interpreter would."""

from __future__ import annotations

import os
import signal
import subprocess
import sysconfig
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.conftest import ROOT
from tests.docs.preloaded import command

INSTALLED = str(Path(sysconfig.get_path("scripts")) / "sca-deploy")
SLOW = ("train", "digits", "--epochs", "1000", "-o", "run")


def environment(**variables: str) -> dict[str, str]:
    return os.environ | {"PYTHONPATH": str(ROOT)} | variables


@pytest.mark.parametrize("arguments", [["--version"], ["targets", "--json"], ["mpa"], ["map", "nothing.nir"], []])
def test_it_ends_and_prints_as_the_installed_command(arguments: list[str], tmp_path: Path) -> None:
    ended = [
        subprocess.run([program, *arguments], cwd=tmp_path, env=environment(), capture_output=True)
        for program in (command(), INSTALLED)
    ]
    assert len({(done.returncode, done.stdout, done.stderr) for done in ended}) == 1


def test_a_pipe_that_is_left_early_is_no_error(tmp_path: Path) -> None:
    line = f"{command()} targets --json | head -c 1"
    done = subprocess.run(["bash", "-c", line], cwd=tmp_path, env=environment(), capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (0, "{", "")


def forks_in(folder: Path) -> list[int]:
    """The processes that work in a folder."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            if (process / "cwd").resolve() == folder:
                found.append(int(process.name))
        except (PermissionError, FileNotFoundError, ProcessLookupError):
            continue
    return found


def until(true: Callable[[], bool]) -> bool:
    """Whether something becomes true before a minute is over."""
    end = time.monotonic() + 60
    while time.monotonic() < end:
        if true():
            return True
        time.sleep(0.05)
    return False


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM])
def test_what_is_killed_leaves_no_process(how: signal.Signals, tmp_path: Path) -> None:
    asked = subprocess.Popen([command(), *SLOW], cwd=tmp_path, env=environment(), stderr=subprocess.DEVNULL)
    with asked:
        try:
            assert until((tmp_path / "run" / "config.json").exists)
            assert until(lambda: len(forks_in(tmp_path)) == 2), "who asks, and the fork that trains"
        finally:
            asked.send_signal(how)
    assert asked.returncode == -how
    assert until(lambda: not forks_in(tmp_path))
