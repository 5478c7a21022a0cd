"""Runs the cells of a study, one after another or several at once; a cell that is done is not done again."""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from contextlib import contextmanager, nullcontext
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


def cell_folder(folder: Path, cell: Cell) -> Path:
    """Where a cell's arm lies: STUDY/ARM/seedN/(dense or pruned)."""
    return folder / cell.arm / f"seed{cell.seed}" / _arm(cell)


def run_cells(study: Study, folder: Path, console: Console, jobs: int) -> None:
    """Train, compact, lower and evaluate every cell.

    Args:
        jobs: how many cells are worked on at once, each by a process with its share of the cores.
    """
    for cell in study.cells[: len(study.arms)]:  # what can be known to be wrong, before any training
        start(Job(cell.config, cell_folder(folder, cell).parent, console), [_arm(cell)])
    each(study, folder, console, jobs, make_cell, "study", lambda cell: look_at(cell, cell_folder(folder, cell)))


def each(
    study: Study,
    folder: Path,
    console: Console,
    jobs: int,
    work: Work,
    title: str,
    look: Callable[[Cell], Look] = lambda cell: Look(),
) -> None:
    """Do `work` for every cell; it must leave alone what it finds done.

    What a cell says itself is heard where it is asked for (-v) and nothing else speaks: in a log, one cell at a time.

    Raises:
        ScaDeployError: the first failure of a cell, after the others that had begun are finished.
    """
    quiet = jobs > 1 or console.moves or not console.verbose
    begin = _at_once(jobs) if jobs > 1 else nullcontext(_in_turn)
    with shown(Board(title, study.cells, jobs, look), console) as finish, begin as attempts:
        for number, failure in attempts([(work, cell, folder, quiet) for cell in study.cells]):
            cell = study.cells[number]
            if failure is not None:
                kind, problem, fix = failure
                raise kind(f"{cell.title}: {problem}", fix)
            finish(number)


Attempt = tuple[Work, Cell, Path, bool]


def _in_turn(attempts: Sequence[Attempt]) -> Iterator[tuple[int, Failure | None]]:
    for number, attempt in enumerate(attempts):
        yield number, _attempt(*attempt)


@contextmanager
def _at_once(jobs: int) -> Iterator[Callable[[Sequence[Attempt]], Iterator[tuple[int, Failure | None]]]]:
    """Processes that share the cores; left early, what has begun is finished and the rest is not begun."""
    threads = max(1, (os.cpu_count() or 1) // jobs)
    context = multiprocessing.get_context("spawn")
    pool = ProcessPoolExecutor(jobs, context, _limit_threads, (threads,))

    def attempted(attempts: Sequence[Attempt]) -> Iterator[tuple[int, Failure | None]]:
        running = {pool.submit(_attempt, *attempt): number for number, attempt in enumerate(attempts)}
        for done in as_completed(running):
            yield running[done], done.result()

    try:
        yield attempted
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def make_cell(cell: Cell, folder: Path, quiet: bool) -> None:
    """One cell through the steps of a run."""
    arm = _arm(cell)
    job = Job(cell.config, cell_folder(folder, cell).parent, Console(quiet))
    start(job, [arm])
    make_arm(job, arm)


def rows(study: Study, folder: Path) -> list[Row]:
    """One row a cell: what it is, and its figures."""
    return [_row(cell, cell_folder(folder, cell)) for cell in study.cells]


def _row(cell: Cell, folder: Path) -> Row:
    config, document = cell.config, read_json(folder / "evaluation.json")
    row: Row = {
        "arm": cell.arm,
        "seed": cell.seed,
        "method": config.prune.method,
        "regrow_by": config.prune.regrow_by,
        "steps": config.network.steps,
        "epochs": config.train.epochs,
        "keep": config.prune.keep if config.prune.method != "dense" else 1.0,
    }
    for key, value in document["figures"].items():
        if isinstance(value, dict):
            row |= {f"{key}_{band}": number for band, number in value.items()}
        else:
            row[key] = value
    return row


def _arm(cell: Cell) -> str:
    return "dense" if cell.config.prune.method == "dense" else "pruned"


def _attempt(work: Work, cell: Cell, folder: Path, quiet: bool) -> Failure | None:
    """The failure, if there was one, in a form that travels between processes."""
    try:
        work(cell, folder, quiet)
    except ScaDeployError as error:
        return type(error), error.problem, error.fix
    return None


def _limit_threads(threads: int) -> None:
    import torch

    torch.set_num_threads(threads)
