"""Does what is left to do of a sweep: in this process, in several, or on a cluster, with the same results."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from sca_deploy.console import Console
from sca_deploy.errors import DoesNotFit, ScaDeployError
from sca_deploy.pipeline import Job, start
from sca_deploy.study.board import look_at
from sca_deploy.study.cells import Runner, arm_of, cell_folder, each
from sca_deploy.study.plan import Cell
from sca_deploy.sweep.cell import OK, SweepCell, ending
from sca_deploy.sweep.plan import Sweep
from sca_deploy.sweep.results import Row, write_results


@dataclass(frozen=True)
class Place:
    """Where the cells of a sweep are done.

    Args:
        jobs: how many at once by processes of this machine, where there is no address.
        address: of a cluster of Ray, as `cluster.connected` takes it; empty for this machine without Ray.
        workers: cores of the cluster to use, at most; None for all.
        cpus: cores that a cell takes of the cluster; 0 for as many as it has threads.
        threads: of torch in every cell. Results of other numbers may round differently.
    """

    jobs: int = 1
    address: str = ""
    workers: int | None = None
    cpus: int = 0
    threads: int = 1


def run_sweep(sweep: Sweep, folder: Path, console: Console, place: Place = Place()) -> list[Row]:
    """Do what is left of a sweep, and write its results.

    Args:
        folder: for the cells and for results.csv, pareto.png and manifest.json.

    Returns:
        A row a cell.

    Raises:
        UsageError: if a cell cannot be meant, or its folder holds another one.
        ScaDeployError: if a cell failed; the others that had begun are finished.
    """
    folder = folder.resolve()  # nodes of a cluster have other working directories
    cells = folder / "cells"
    left = [cell for cell in sweep.cells if ending(cell, cells) is None]
    _check(left, cells, console)
    if done := len(sweep.cells) - len(left):
        console.say(f"sweep: {done} of {len(sweep.cells)} cells are already done")
    if left:
        with _runner(folder, place, console) as (runner, jobs):
            work = SweepCell(place.threads)
            each(
                left, cells, console, jobs, work, "sweep", lambda cell: look_at(cell, cell_folder(cells, cell)), runner
            )
    found = write_results(sweep, folder)
    for row in found:
        if row["status"] != OK:
            console.say(f"sweep: {row['cell']}, seed {row['seed']}: {row['reason']}")
    return found


def _check(left: list[Cell], cells: Path, console: Console) -> None:
    """What can be known to be wrong, before any training; that a network does not fit is for its cell to say."""
    for cell in {cell.arm: cell for cell in reversed(left)}.values():  # seeds are alike in this
        try:
            start(Job(cell.config, cell_folder(cells, cell).parent, console), [arm_of(cell)])
        except DoesNotFit:
            continue
        except ScaDeployError as error:
            raise type(error)(f"{cell.title}: {error.problem}", error.fix) from error


@contextmanager
def _runner(folder: Path, place: Place, console: Console) -> Iterator[tuple[Runner | None, int]]:
    """Who does the cells, None for processes of this machine, and how many at once."""
    if not place.address:
        yield None, place.jobs
        return
    from sca_deploy.cluster import connected
    from sca_deploy.sweep.tuning import Tuned, check_nodes

    cpus = place.cpus or place.threads
    with connected(place.address, place.workers, console.verbose) as cluster:
        check_nodes(folder, cpus)
        jobs = max(1, cluster.cpus // cpus)
        yield Tuned(folder, cpus, jobs, console.say), jobs
