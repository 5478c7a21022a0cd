"""One cell of a sweep: worked on by one process at a time, and left with how it ended.

A cell is done when its cell.json says so of the same config, chip and file; what was begun goes on from its checkpoint.
"""

from __future__ import annotations

import fcntl
import os
import platform
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sca_deploy.config import decisive
from sca_deploy.errors import DoesNotFit, ScaDeployError
from sca_deploy.files import read_json, sha256, write_json
from sca_deploy.hardware.chip import load_chip
from sca_deploy.manifest import digest
from sca_deploy.study.cells import arm_of, cell_folder, make_cell
from sca_deploy.study.plan import Cell

OK, UNFIT = "ok", "does not fit"
PATIENCE = 30.0
"""Seconds to wait for a cell that another process works on; those of a killed sweep end within a few."""
ASKED_EVERY = 0.2


@dataclass(frozen=True)
class SweepCell:
    """Does a cell, for `study.cells.each`; an object, since work for other processes must be picklable.

    Args:
        threads: of torch, the same wherever the cell runs: results of other numbers may round differently.
        patience: seconds to wait for another process that works on the cell.
    """

    threads: int = 1
    patience: float = PATIENCE

    def __call__(self, cell: Cell, folder: Path, quiet: bool) -> None:
        """Train, compact, lower and evaluate the cell, and write its cell.json.

        That it does not fit is a result.

        Raises:
            ScaDeployError: if it fails otherwise, or another process works on it.
        """
        place = cell_folder(folder, cell).parent
        with alone_in(place, self.patience), torch_threads(self.threads):
            if ending(cell, folder) is not None:
                return
            began = time.monotonic()
            end: dict[str, Any] = {"key": key_of(cell), "status": OK, "threads": self.threads}
            try:
                make_cell(cell, folder, quiet)
            except DoesNotFit as unfit:
                end |= {"status": UNFIT, "reason": unfit.problem, "fix": unfit.fix}
            write_json(place / "cell.json", {**end, "seconds": round(time.monotonic() - began, 3)})


def ending(cell: Cell, folder: Path) -> dict[str, Any] | None:
    """What the cell.json of a cell that is done holds; None of one that is not, or was done from another config."""
    arm = cell_folder(folder, cell)
    path = arm.parent / "cell.json"
    document = read_json(path) if path.exists() else {}
    if not isinstance(document, dict) or document.get("key") != key_of(cell):
        return None
    return document if document.get("status") == UNFIT or (arm / "evaluation.json").exists() else None


def key_of(cell: Cell) -> str:
    """A digest of all that decides what a cell comes to, but for the data and the machine."""
    file = cell.config.network.file
    begins = sha256(file) if file else ""
    return digest([decisive(cell.config), arm_of(cell), load_chip(cell.config.chip).sha256, begins])


@contextmanager
def torch_threads(count: int) -> Iterator[None]:
    """So many threads of torch while the block runs."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@contextmanager
def alone_in(folder: Path, patience: float = PATIENCE) -> Iterator[None]:
    """Only one process at a time is in the block of a folder; the kernel lets go of it for one that dies.

    Raises:
        ScaDeployError: if another one is still in it after `patience` seconds, or the folder cannot be locked.
    """
    path = folder / ".lock"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
    except OSError as error:
        raise ScaDeployError(f"cannot write {path}: {error.strerror or error}", "choose another --output") from error
    try:
        _lock(handle, path, patience)
        os.ftruncate(handle, 0)
        os.pwrite(handle, f"process {os.getpid()} on {platform.node()}\n".encode(), 0)
        yield
    finally:
        os.close(handle)


def _lock(handle: int, path: Path, patience: float) -> None:
    until = time.monotonic() + patience
    while True:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return
        except BlockingIOError:
            if time.monotonic() < until:
                time.sleep(ASKED_EVERY)
                continue
            holder = os.pread(handle, 200, 0).decode(errors="replace").strip() or "another process"
            problem = f"{path.parent} is worked on by {holder}"
            raise ScaDeployError(problem, "wait until it is done, or end it, and repeat the command") from None
        except OSError as error:
            problem = f"{path} cannot be locked: {error.strerror or error}"
            raise ScaDeployError(problem, "choose an --output on a file system that has locks") from error
