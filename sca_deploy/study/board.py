"""The cells of a study as they are worked on: a row a cell on a terminal, elsewhere a line when one is done."""

from __future__ import annotations

import csv
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console as RichConsole
from rich.console import ConsoleOptions, RenderResult
from rich.text import Text

from sca_deploy.console import MARGIN, Clock, Console, ascii_only, bar, duration, fitted
from sca_deploy.files import read_json
from sca_deploy.study.plan import Cell

TOLD_EVERY = 300.0
"""Seconds after which a log is told where the study is, also where no cell was done."""
DOING = {"train": "training", "compact": "compacting", "lower": "lowering", "evaluate": "evaluating"}
"""The steps of a cell, in their order."""
NOT_ROWS = 4
"""Lines of the window that are not rows of cells."""


@dataclass(frozen=True)
class Look:
    """What a cell's folder tells of it.

    Args:
        doing: what it is at.
        fraction: of the work that is done, 0 to 1.
        figures: what is known of its network, in words.
    """

    doing: str = "at work"
    fraction: float = 0.0
    figures: str = ""


def look_at(cell: Cell, folder: Path) -> Look:
    """Where a cell is on its way from training to evaluation; `folder` is its arm's."""
    steps, log, epochs = folder / "steps.json", folder / "train" / "metrics.csv", cell.config.train.epochs
    done = read_json(steps) if steps.exists() else {}
    rows = list(csv.DictReader(log.read_text(encoding="utf-8").splitlines())) if log.exists() else []
    left = [step for step in DOING if step not in done]
    trained = len(rows) / max(1, epochs) if "train" in left else 1.0
    if not left:
        doing = "done"
    elif left[0] == "train":
        doing = f"training, epoch {min(len(rows) + 1, epochs)} of {epochs}"
    else:
        doing = DOING[left[0]]
    # Compared with the training the other steps are short.
    fraction = 1.0 if not left else 0.95 * trained
    return Look(doing, fraction, _figures(rows[-1]) if rows else "")


def _figures(row: dict[str, str]) -> str:
    on = sum(int(count) for key, count in row.items() if key.startswith("kept_") and count)
    return f"test {100 * float(row['test_accuracy']):.1f} %" + (f"  {on:,} on" if on else "")


class Board:
    """Which cells are done, at work and waiting.

    Args:
        title: what is done with the cells.
        cells: in the order in which they are begun.
        jobs: how many are worked on at once.
        look: what a cell's folder tells of it.
    """

    def __init__(self, title: str, cells: list[Cell], jobs: int, look: Callable[[Cell], Look]) -> None:
        self._title, self._cells, self._jobs, self._look = title, cells, jobs, look
        self._done: dict[int, float] = {}
        self._seen = [look(cell) for cell in cells]
        self._clock = Clock(len(cells), sum(seen.fraction for seen in self._seen))
        self._began: dict[int, float] = {}
        self._begin()

    def finish(self, number: int) -> str:
        """A cell is done; returns the line that says so."""
        self._done[number] = time.monotonic() - self._began.setdefault(number, time.monotonic())
        self._seen[number] = self._look(self._cells[number])
        self._begin()
        said = (self._cells[number].title, self._seen[number].figures, duration(self._done[number]))
        return f"{self._title}: {len(self._done)} of {len(self._cells)} done: {'  '.join(filter(None, said))}"

    def line(self) -> str:
        """Where the study is, in one line."""
        self._update()
        busy = "; ".join(f"{self._cells[i].title}: {self._seen[i].doing}" for i in self._at_work())
        counted = f"{self._title}: {len(self._done)} of {len(self._cells)} done"
        return ", ".join(filter(None, (counted, busy, self._clock.left)))

    def __rich_console__(self, console: RichConsole, options: ConsoleOptions) -> RenderResult:
        """As many rows as the window has: the cells at work, and those that were done last or come next."""
        self._update()
        width, busy = options.max_width - MARGIN, self._at_work()
        said = f"{len(self._done)} of {len(self._cells)} cells done  {self._clock.left}"
        lines = [bar(self._title, self._clock.fraction, said, width, ascii_only(console))]
        room = max(len(busy), console.size.height - NOT_ROWS)
        near = busy or [len(self._cells) - 1]
        ranked = sorted(range(len(self._cells)), key=lambda i: min(abs(i - number) for number in near))
        names = max(len(cell.title) for cell in self._cells)
        lines += [self._row(i, names, i in busy) for i in sorted(ranked[:room])]
        yield from fitted(lines, width)

    def _row(self, number: int, names: int, busy: bool) -> Text:
        look, title = self._seen[number], self._cells[number].title.ljust(names)
        if number in self._done:
            return Text(f"  {title}  {'done':<28}{duration(self._done[number])}  {look.figures}")
        if not busy:
            return Text(f"  {title}  waiting", "dim")
        elapsed = duration(time.monotonic() - self._began[number])
        return Text(f"> {title}  {look.doing:<28}{elapsed}  {look.figures}", "bold")

    def _at_work(self) -> list[int]:
        """They are begun in their order, and no more than `jobs` at once."""
        return [i for i in range(len(self._cells)) if i not in self._done][: self._jobs]

    def _begin(self) -> None:
        for number in self._at_work():
            self._began.setdefault(number, time.monotonic())

    def _update(self) -> None:
        for number in self._at_work():
            self._seen[number] = self._look(self._cells[number])
        shares = (1.0 if i in self._done else look.fraction for i, look in enumerate(self._seen))
        self._clock.done = sum(shares)


@contextmanager
def shown(board: Board, console: Console) -> Iterator[Callable[[int], None]]:
    """Show a board while the block runs; what it yields is to be called with the number of every cell that is done."""

    def finish(number: int) -> None:
        line = board.finish(number)
        if not console.moves:
            console.say(line)

    with console.live(board) if console.moves else _told(board, console):
        yield finish


@contextmanager
def _told(board: Board, console: Console) -> Iterator[None]:
    """Tell a log from time to time that the study lives."""
    over = threading.Event()

    def tell() -> None:
        while not over.wait(TOLD_EVERY):
            console.say(board.line())

    threading.Thread(target=tell, daemon=True).start()
    try:
        yield
    finally:
        over.set()
