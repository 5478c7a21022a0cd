"""A sweep by one and by two workers of Ray, beside the same sweep in one process without Ray.

    python benchmarks/sweep_scaling.py [--cells 24] [--epochs 4] [--empty 200] [--at-least 1.5] [--json]

The cells are trainings of the packaged network conv2 on the real digits: one method, as many kept fractions as there
are cells, one thread each. Times are printed only if all three ways give the same figures for every cell.

A cell's time is the wall time of the sweep after its first cell, over the cells after it, so that the seconds that Ray
needs until its first worker works (they are given) do not count. The overhead a cell is what one worker of Ray takes
more for a cell than the process without Ray; an empty cell does nothing, so its time under Ray is all overhead. The
speed-up is one worker's time a cell over two workers': 2 at best, less where two processes share a memory bus.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

from sca_deploy.cluster import connected
from sca_deploy.errors import Mismatch, ScaDeployError, UsageError
from sca_deploy.report.tables import table
from sca_deploy.study.cells import Attempt, Failure, Runner, in_turn
from sca_deploy.study.plan import Cell
from sca_deploy.sweep.cell import SweepCell
from sca_deploy.sweep.plan import Sweep, load_sweep
from sca_deploy.sweep.results import rows
from sca_deploy.sweep.tuning import Tuned

WAYS = {"in turn": 0, "Ray, 1 worker": 1, "Ray, 2 workers": 2}
"""Every way, and its workers of Ray."""
PLAN = """
[data]
set = "digits"
train_samples = {train}
test_samples = {test}
[network]
name = "conv2"
neuron = {{ beta = 0.5 }}
[train]
epochs = {epochs}
[sweep]
dense = false
[sweep.axes]
"prune.keep" = {keep}
"""


def nothing(cell: Cell, folder: Path, quiet: bool) -> None:
    """The work of an empty cell."""


@dataclass
class Watch:
    """When attempts were over, in seconds since the beginning."""

    began: float = field(default_factory=time.perf_counter)
    over: list[float] = field(default_factory=list)

    def __call__(self, number: int, failure: Failure | None) -> None:
        """One is over."""
        if failure is not None:
            raise failure[0](*failure[1:])
        self.over.append(time.perf_counter() - self.began)

    def as_dict(self) -> dict[str, float]:
        """Seconds of all, until the first was over, and of each one after it."""
        first, last = self.over[0], self.over[-1]
        return {"seconds": last, "first_seconds": first, "cell_seconds": (last - first) / (len(self.over) - 1)}


def plan(options: argparse.Namespace, folder: Path) -> Sweep:
    """The sweep that is done in every way."""
    keep = [round(0.2 + 0.8 * (number + 1) / options.cells, 4) for number in range(options.cells)]
    text = PLAN.format(keep=keep, epochs=options.epochs, train=options.train_samples, test=options.test_samples)
    (folder / "scaling.toml").write_text(text, encoding="utf-8")
    return load_sweep(folder / "scaling.toml", {})


def timed(runner: Runner, attempts: Sequence[Attempt]) -> dict[str, float]:
    """The attempts by a runner."""
    watch = Watch()
    runner(attempts, watch)
    return watch.as_dict()


def measure(options: argparse.Namespace) -> dict[str, Any]:
    """Times of every way, real cells and empty ones."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        sweep = plan(options, folder)
        found, figures = {}, {}
        for number, (way, workers) in enumerate(WAYS.items()):
            cells = folder / f"way{number}"
            real = [(SweepCell(), cell, cells, True) for cell in sweep.cells]
            empty = [(nothing, sweep.cells[0], cells, True)] * options.empty
            found[way] = done(real, empty, cells, workers)
            figures[way] = rows(sweep, cells)
    different = [way for way in WAYS if figures[way] != figures["in turn"]]
    if different:
        raise Mismatch(f"{different[0]} gives other figures than one process in turn", "nothing is timed")
    return {"cells": options.cells, "empty": options.empty, "epochs": options.epochs, **found, **ratios(found)}


def done(real: Sequence[Attempt], empty: Sequence[Attempt], folder: Path, workers: int) -> dict[str, Any]:
    """Real and empty cells in one way."""
    if not workers:
        return {"start_seconds": 0.0, "real": timed(in_turn, real), "empty": timed(in_turn, empty)}
    began = time.perf_counter()
    with connected("local", workers):
        start = time.perf_counter() - began
        runner = Tuned(folder, 1, workers)
        return {"start_seconds": start, "real": timed(runner, real), "empty": timed(runner, empty)}


def ratios(found: dict[str, Any]) -> dict[str, float]:
    """The speed-up of two workers, and what Ray costs a cell."""
    alone, one, two = (found[way]["real"]["cell_seconds"] for way in WAYS)
    whole = (found[way]["real"]["seconds"] for way in list(WAYS)[1:])
    empty = found["Ray, 1 worker"]["empty"]["cell_seconds"] - found["in turn"]["empty"]["cell_seconds"]
    first, second = whole
    return {
        "speed_up": one / two,
        "speed_up_whole": first / second,
        "overhead_seconds": one - alone,
        "overhead_ratio": one / alone,
        "empty_overhead_seconds": empty,
    }


def text(result: dict[str, Any]) -> str:
    """The result for people."""
    shown = []
    for way in WAYS:
        of, empty = result[way]["real"], 1000 * result[way]["empty"]["cell_seconds"]
        times = (result[way]["start_seconds"], of["first_seconds"], of["seconds"], of["cell_seconds"])
        ratio = of["cell_seconds"] / result["in turn"]["real"]["cell_seconds"]
        shown.append((way, *(f"{seconds:.2f}" for seconds in times), f"{ratio:.2f}", f"{empty:.1f}"))
    head = ("", "s to start", "s to the first", "s in all", "s a cell", "time / in turn", "ms an empty cell")
    title = f"measured, wall time; {result['cells']} cells of {result['epochs']} epochs, {os.cpu_count()} cores"
    return (
        f"{table(head, shown, f'{title}, Ray ' + version('ray'))}\n\n"
        f"two workers against one: {result['speed_up']:.2f} a cell, {result['speed_up_whole']:.2f} of the whole sweep\n"
        f"overhead of Ray: {result['overhead_seconds']:+.3f} s a cell ({result['overhead_ratio']:.2f} of its time), "
        f"{1000 * result['empty_overhead_seconds']:.1f} ms an empty one"
    )


def main() -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cells", type=int, default=24)
    parser.add_argument("--epochs", type=int, default=4)
    parser.add_argument("--train-samples", type=int, default=0)
    parser.add_argument("--test-samples", type=int, default=0)
    parser.add_argument("--empty", type=int, default=200, help="empty cells")
    parser.add_argument("--at-least", type=float, help="exit 1 if two workers are not so much faster than one, a cell")
    parser.add_argument("--json", action="store_true", help="print one JSON document instead of the table")
    options = parser.parse_args()
    try:
        if min(options.cells, options.empty) < 2:
            raise UsageError("the time of a cell takes two of them", "give --cells 2 or more, and --empty too")
        result = measure(options)
    except ScaDeployError as error:
        print(f"error: {error.problem}\nfix: {error.fix}", file=sys.stderr)
        return error.exit_code
    print(json.dumps(result, indent=2) if options.json else text(result))
    return int(options.at_least is not None and result["speed_up"] < options.at_least)


if __name__ == "__main__":
    sys.exit(main())
