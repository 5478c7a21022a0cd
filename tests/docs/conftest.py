"""Where a reader of the documentation sits: a shell, a working directory, and a run that is made once for all pages."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

FIRST_RUN = "sca-deploy run digits"
SECONDS = 240

Done = subprocess.CompletedProcess[str]


@dataclass(frozen=True)
class Shell:
    """bash in a working directory, with the project's commands first on its path."""

    folder: Path
    environment: dict[str, str]
    first_run: tuple[Path, Done] | None = None

    def run(self, command: str) -> Done:
        """Run a command; what begins a page's runs/digits was done once for all pages, and is copied."""
        if command == FIRST_RUN and self.first_run and not (self.folder / "runs" / "digits").exists():
            folder, done = self.first_run
            shutil.copytree(folder, self.folder / "runs" / "digits")
            return done
        return subprocess.run(
            ["bash", "-c", command],
            cwd=self.folder,
            env=self.environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=SECONDS,
        )


@pytest.fixture(scope="session")
def shell_environment(root: Path) -> dict[str, str]:
    """One thread, 200 columns, no colours, and the `sca-deploy` and `python` that the tests run in."""
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', os.defpath)}"
    fixed = {"PATH": path, "PYTHONPATH": str(root), "OMP_NUM_THREADS": "1", "COLUMNS": "200", "NO_COLOR": "1"}
    return {name: value for name, value in os.environ.items() if not name.startswith("PYTEST")} | fixed


@pytest.fixture(scope="session")
def first_run(tmp_path_factory: pytest.TempPathFactory, shell_environment: dict[str, str]) -> tuple[Path, Done]:
    """`sca-deploy run digits`, all its epochs: the folder, which is copied and not changed, and what was printed."""
    folder = tmp_path_factory.mktemp("first-run")
    done = Shell(folder, shell_environment).run(FIRST_RUN)
    if done.returncode:
        pytest.fail(f"{FIRST_RUN} ended with {done.returncode}\n{done.stderr}")
    return folder / "runs" / "digits", done


@pytest.fixture
def shell(root: Path, tmp_path: Path, shell_environment: dict[str, str], first_run: tuple[Path, Done]) -> Shell:
    """A shell in a new folder that holds what a clone does: recipes and benchmarks."""
    for name in ("benchmarks", "configs"):
        shutil.copytree(root / name, tmp_path / name, ignore=shutil.ignore_patterns("__pycache__"))
    return Shell(tmp_path, shell_environment, first_run)


@pytest.fixture
def furnish(
    shell: Shell, first_run: tuple[Path, Done], request: pytest.FixtureRequest
) -> dict[str, Callable[[], None]]:
    """What a page can need, and how it gets into the working directory; a need that is not there skips the test."""

    def nmnist() -> None:
        shared = request.getfixturevalue("shared_data")
        shutil.copy(shared / "nir" / "cnn_sinabs.nir", shell.folder)
        recordings = shell.folder / "nmnist.npz"
        shutil.copy(shared / "events" / "nmnist_small_T10.npz", recordings)
        with np.load(recordings) as data:
            np.save(shell.folder / "x.npy", data["test"])

    return {"digits": lambda: shell.run(FIRST_RUN) and None, "nmnist": nmnist}
