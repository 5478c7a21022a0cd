"""Runs the cells of a study or a sweep, one after another or several at once; what is done is not done again."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from functools import partial
from multiprocessing.connection import wait
from multiprocessing.synchronize import Event
from pathlib import Path
from typing import Any

from sca_deploy.console import Console
from sca_deploy.errors import ScaDeployError
from sca_deploy.files import read_json
from sca_deploy.pipeline import Job, make_arm, start
from sca_deploy.study.board import Board, Look, look_at, shown
from sca_deploy.study.plan import Cell, Study

Row = dict[str, Any]
Work = Callable[[Cell, Path, bool], None]
Failure = tuple[type[ScaDeployError], str, str]
Attempt = tuple[Work, Cell, Path, bool]
Done = Callable[[int, Failure | None], None]
Runner = Callable[[Sequence[Attempt], Done], None]
"""Tries every attempt, and calls `Done` with its number and its failure when it is over; what `Done` raises ends it."""


def cell_folder(folder: Path, cell: Cell) -> Path:
    """Where a cell's arm lies: STUDY/ARM/seedN/(dense or pruned)."""
    return folder / cell.arm / f"seed{cell.seed}" / arm_of(cell)


def run_cells(study: Study, folder: Path, console: Console, jobs: int) -> None:
    """Train, compact, lower and evaluate every cell.

    Args:
        jobs: how many cells are worked on at once, each by a process with its share of the cores.
    """
    for cell in study.cells[: len(study.arms)]:  # what can be known to be wrong, before any training
        start(Job(cell.config, cell_folder(folder, cell).parent, console), [arm_of(cell)])
    each(study.cells, folder, console, jobs, make_cell, "study", lambda cell: look_at(cell, cell_folder(folder, cell)))


def each(
    cells: Sequence[Cell],
    folder: Path,
    console: Console,
    jobs: int,
    work: Work,
    title: str,
    look: Callable[[Cell], Look] = lambda cell: Look(),
    runner: Runner | None = None,
) -> None:
    """Do `work` for every cell; it must leave alone what it finds done.

    What a cell says itself is heard where it is asked for (-v) and nothing else speaks: in a log, one cell at a time.

    Args:
        jobs: how many are worked on at once.
        runner: who does it; by default this process, or as many as `jobs` says.

    Raises:
        ScaDeployError: the first failure of a cell, after the others that had begun are finished.
    """
    quiet = jobs > 1 or console.moves or not console.verbose
    begin = runner or (partial(at_once, jobs) if jobs > 1 else in_turn)
    with shown(Board(title, list(cells), jobs, look), console) as finish:

        def done(number: int, failure: Failure | None) -> None:
            if failure is not None:
                kind, problem, fix = failure
                raise kind(f"{cells[number].title}: {problem}", fix)
            finish(number)

        begin([(work, cell, folder, quiet) for cell in cells], done)


def in_turn(attempts: Sequence[Attempt], done: Done) -> None:
    """One after another, in this process."""
    for number, each_attempt in enumerate(attempts):
        done(number, attempt(*each_attempt))


def at_once(jobs: int, attempts: Sequence[Attempt], done: Done) -> None:
    """By processes that share the cores; left early, what has begun is finished and the rest is not begun.

    Raises:
        ScaDeployError: if one of the processes was killed.
    """
    threads = max(1, (os.cpu_count() or 1) // jobs)
    context = multiprocessing.get_context("spawn")
    interrupted, hears = context.Event(), signal.getsignal(signal.SIGINT) != signal.SIG_IGN
    pool = ProcessPoolExecutor(jobs, context, _begin_worker, (threads, interrupted, hears))
    try:
        with _deaf():
            running = {pool.submit(attempt, *each_attempt): number for number, each_attempt in enumerate(attempts)}
        for over in as_completed(running):
            done(running[over], over.result())
    except BrokenProcessPool:
        raise ScaDeployError(
            "a process that did a cell was killed", "repeat the command to continue; fewer --jobs need less memory"
        ) from None
    except KeyboardInterrupt:
        interrupted.set()
        raise
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def make_cell(cell: Cell, folder: Path, quiet: bool) -> None:
    """One cell through the steps of a run."""
    arm = arm_of(cell)
    job = Job(cell.config, cell_folder(folder, cell).parent, Console(quiet))
    start(job, [arm])
    make_arm(job, arm)


def rows(study: Study, folder: Path) -> list[Row]:
    """One row a cell: what it is, and its figures."""
    return [row_of(cell, cell_folder(folder, cell)) for cell in study.cells]


def row_of(cell: Cell, folder: Path) -> Row:
    """What a cell is, and the figures of its evaluation; `folder` is its arm's."""
    document = read_json(folder / "evaluation.json")
    row: Row = {"arm": cell.arm, "seed": cell.seed, **trained_as(cell)}
    row["inside_budget"] = all(found["kept"] for found in document["budget"]) if "budget" in document else None
    for key, value in document["figures"].items():
        if isinstance(value, dict):
            row |= {f"{key}_{band}": number for band, number in value.items()}
        else:
            row[key] = value
    return row


def trained_as(cell: Cell) -> Row:
    """What the config of a cell says of its training."""
    config, dense = cell.config, cell.config.prune.method == "dense"
    return {
        "method": config.prune.method,
        "regrow_by": config.prune.regrow_by,
        "steps": config.network.steps,
        "epochs": config.train.epochs,
        # A budget decides how much is kept in the place of prune.keep.
        "keep": 1.0 if dense else None if config.prune.budget else config.prune.keep,
    }


def arm_of(cell: Cell) -> str:
    """The arm of a run that its training is."""
    return "dense" if cell.config.prune.method == "dense" else "pruned"


def attempt(work: Work, cell: Cell, folder: Path, quiet: bool) -> Failure | None:
    """The failure, if there was one, in a form that travels between processes."""
    try:
        work(cell, folder, quiet)
    except ScaDeployError as error:
        return type(error), error.problem, error.fix
    return None


@contextmanager
def _deaf() -> Iterator[None]:
    """^C is ignored in the block, and by the processes that begin in it: it would find them at their imports."""
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def _begin_worker(threads: int, interrupted: Event, hears: bool) -> None:
    import torch

    torch.set_num_threads(threads)
    if hears:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    if interrupted.is_set():
        os._exit(1)
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    """A worker whose parent was killed would finish its cell beside whoever repeats the command, then wait for ever."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        wait([parent.sentinel])
        os._exit(1)
