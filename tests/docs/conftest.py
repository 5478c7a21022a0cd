"""Where a reader of the documentation sits: a shell, a working directory, and a run that is made once for all pages."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from tests.conftest import FIRST_RUN

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
