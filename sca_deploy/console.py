"""What people see while they wait: progress and remarks on stderr, bars only on a terminal."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console as RichConsole
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

Advance = Callable[[int, str], None]


class Console:
    """Writes to stderr, unless it is quiet; results go to stdout by whoever has them."""

    def __init__(self, quiet: bool = False, verbose: bool = False) -> None:
        self.quiet = quiet
        self.verbose = verbose
        self._rich = RichConsole(stderr=True, highlight=False)

    def say(self, line: str) -> None:
        """One line of progress."""
        if not self.quiet:
            self._rich.print(line, markup=False, soft_wrap=True)

    def detail(self, line: str) -> None:
        """A line that only -v shows."""
        if self.verbose:
            self.say(line)

    @contextmanager
    def progress(self, title: str, total: int) -> Iterator[Advance]:
        """A bar on a terminal; elsewhere about ten plain lines. Call what it yields with (amount, remark)."""
        if self.quiet:
            yield lambda amount, remark: None
        elif self._rich.is_terminal:
            with self._bar() as bar:
                task = bar.add_task(title, total=total, remark="")
                yield lambda amount, remark: bar.update(task, advance=amount, remark=remark)
        else:
            yield _Lines(self, title, total)

    def _bar(self) -> Progress:
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
        return Progress(*columns, TextColumn("{task.fields[remark]}"), console=self._rich, transient=True)


class _Lines:
    """Progress for logs: a line whenever another tenth is done."""

    def __init__(self, console: Console, title: str, total: int) -> None:
        self._console, self._title, self._total = console, title, total
        self._done = self._shown = 0

    def __call__(self, amount: int, remark: str) -> None:
        self._done += amount
        tenth = 10 * self._done // self._total
        if tenth > self._shown:
            self._shown = tenth
            self._console.say(f"{self._title}: {self._done}/{self._total}  {remark}".rstrip())


def write_result(text: str) -> None:
    """A result, on stdout."""
    sys.stdout.write(text if text.endswith("\n") else f"{text}\n")
