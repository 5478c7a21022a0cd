"""What people see while they wait, on stderr: on a terminal pictures that move, elsewhere a few plain lines."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from rich.console import Console as RichConsole
from rich.console import ConsoleOptions, ConsoleRenderable, RenderResult
from rich.live import Live
from rich.text import Text

Advance = Callable[[int, str], None]
Earlier = Callable[[], Sequence[dict[str, Any]]]

PLAIN_WIDTH = 80
"""Columns of a drawing that goes to a file or a pipe, whatever the terminal beside it has."""
BAR_WIDTH = 40
REFRESHED = 4
"""Times a second that a moving picture is drawn."""
EPOCH_LINES = 20
"""Lines of a training's epochs in a log, at most."""
FEW_EPOCHS = 10
"""With fewer epochs than that, a log also tells of every tenth of the batches."""
SHORTEST_BAR = 8
MARGIN = 3
"""Columns of a moving picture that stay free, so that the ^C of an interruption does not begin a line."""

BLOCKS, ASCII_LEVELS = "▁▂▃▄▅▆▇█", ".:-=+*#@"


@dataclass(frozen=True)
class Surface:
    """What a drawing is shown on.

    Args:
        width: columns.
        colours: whether it has colours; their number is rich's to find out.
        blocks: whether it shows more than ASCII.
    """

    width: int = PLAIN_WIDTH
    colours: bool = False
    blocks: bool = False

    @classmethod
    def of_stdout(cls) -> Surface:
        """Of a terminal what it can do; a file or a pipe gets the plain one, so that it always holds the same."""
        seen = RichConsole()
        if not seen.is_terminal:
            return cls()
        return cls(seen.width, seen.color_system is not None and not seen.no_color, not ascii_only(seen))


def columns() -> int | None:
    """Of the terminal that results are shown on; None for a file or a pipe, whose lines are as long as they are."""
    return RichConsole().width if sys.stdout.isatty() else None


def ascii_only(console: RichConsole) -> bool:
    """Whether a console cannot be trusted with more than ASCII.

    Python writes UTF-8 even where the locale is C, which says that the terminal cannot read it.
    """
    plain_locale = (os.environ.get("LC_ALL") or os.environ.get("LANG")) in ("C", "POSIX")
    return plain_locale or console.options.ascii_only


class Console:
    """Writes to stderr, unless it is quiet; results go to stdout by whoever has them."""

    def __init__(self, quiet: bool = False, verbose: bool = False) -> None:
        self.quiet = quiet
        self.verbose = verbose
        self._rich = RichConsole(stderr=True, highlight=False)

    @property
    def moves(self) -> bool:
        """Whether pictures can move on it: a terminal that is not a dumb one, and not quiet."""
        return not self.quiet and self._rich.is_interactive and not self._rich.is_dumb_terminal

    def say(self, line: str) -> None:
        """One line of progress."""
        if not self.quiet:
            self._rich.print(line, markup=False, soft_wrap=True)

    def detail(self, line: str) -> None:
        """A line that only -v shows."""
        if self.verbose:
            self.say(line)

    @contextmanager
    def live(self, picture: ConsoleRenderable) -> Iterator[None]:
        """Draw a picture again and again while the block runs, and wipe it away; only where pictures can move."""
        if not self.moves:
            yield
            return
        # What is written to stdout meanwhile is a result, and stays there.
        with Live(picture, console=self._rich, refresh_per_second=REFRESHED, transient=True, redirect_stdout=False):
            yield

    @contextmanager
    def progress(self, title: str, total: int) -> Iterator[Advance]:
        """A bar on a terminal; elsewhere about ten plain lines. Call what it yields with (amount, remark)."""
        if self.moves:
            shown = _Progress(title, total)
            with self.live(shown):
                yield shown
        else:
            yield _Lines(self, title, total)

    @contextmanager
    def training(self, title: str, epochs: int, batches: int, earlier: Earlier) -> Iterator[Training]:
        """A panel on a terminal, elsewhere a line an epoch or so; then one line on how it ended.

        Args:
            title: what is trained.
            epochs: that it takes; without any, nothing is shown.
            batches: of all epochs together.
            earlier: reads what was logged before an interruption.
        """
        watched = Training(title, epochs, batches, earlier)
        if not epochs:
            yield watched
            return
        if self.moves:
            watched = TrainingPanel(title, epochs, batches, earlier)
            with self.live(watched):
                yield watched
        else:
            watched = TrainingLines(title, epochs, batches, earlier, self.say)
            yield watched
        if watched.log:
            self.say(watched.summary())


class Clock:
    """How much of something is done, and how long the rest takes at the pace of what was done while it was watched.

    Args:
        total: that there is to do.
        done: of it, before.
    """

    def __init__(self, total: float, done: float = 0.0) -> None:
        self.total, self.done = total, done
        self._before, self._began = done, time.monotonic()

    @property
    def fraction(self) -> float:
        """Of the total, 0 to 1."""
        return min(1.0, self.done / self.total) if self.total else 1.0

    @property
    def elapsed(self) -> float:
        """Seconds it was watched for."""
        return time.monotonic() - self._began

    @property
    def left(self) -> str:
        """The time left in words; empty where nothing is known, or nothing left."""
        paced, rest = self.done - self._before, self.total - self.done
        return f"{duration(self.elapsed * rest / paced)} left" if paced > 0 and rest > 0 else ""


class Training:
    """What a training tells its watcher; this one shows nothing.

    Args:
        title: what is trained.
        epochs: that it takes.
        batches: of all of them together.
        earlier: reads the epochs that were done before an interruption, as metrics.jsonl has them.
    """

    def __init__(self, title: str, epochs: int, batches: int, earlier: Earlier) -> None:
        self.title, self.epochs, self.log = title, epochs, list[dict[str, Any]]()
        self.clock, self._began, self._earlier = Clock(batches), False, earlier

    def batch(self, count: int) -> None:
        """So many batches are done; the first call tells of those that were done before an interruption."""
        if self._began:
            self.clock.done += count
            return
        self.clock, self._began = Clock(self.clock.total, count), True
        if count:
            self.log = list(self._earlier())

    def epoch(self, entry: dict[str, Any]) -> None:
        """An epoch is done, with its line of metrics.jsonl."""
        self.log.append(entry)

    def kept(self) -> dict[str, tuple[int, int]]:
        """Layer -> (channels that are on, all of them); weights, where a method prunes those."""
        prunings = [entry["pruning"] for entry in self.log if "kept" in entry.get("pruning", {})]
        if not prunings:
            return {}
        last, masks = prunings[-1]["kept"], prunings[-1].get("masks", {})
        # Without masks in the log, the most that was ever on.
        most = {name: max(pruning["kept"][name] for pruning in prunings) for name in last}
        return {name: (on, len(masks[name]) if masks else most[name]) for name, on in last.items()}

    def on(self) -> str:
        """The sum of it in words; empty where nothing is pruned."""
        if not (kept := self.kept().values()):
            return ""
        what = "channels" if "masks" in self.log[-1].get("pruning", {}) else "weights"
        return f"{sum(on for on, _ in kept):,} of {sum(each for _, each in kept):,} {what} on"

    def summary(self) -> str:
        """One line on what the training came to."""
        said = f"{self.title}: {_epochs(len(self.log))} in {duration(sum(entry['seconds'] for entry in self.log))}"
        return ", ".join(filter(None, (said, f"test accuracy {_percent(self.log[-1])} (measured)", self.on())))


class TrainingLines(Training):
    """For logs: a line an epoch, thinned to `EPOCH_LINES`; of few epochs also what lies between."""

    def __init__(self, title: str, epochs: int, batches: int, earlier: Earlier, say: Callable[[str], None]) -> None:
        super().__init__(title, epochs, batches, earlier)
        self._say, self._tenths = say, 0

    def batch(self, count: int) -> None:
        """Every tenth of them is a line, if there are few epochs."""
        first = not self._began
        super().batch(count)
        tenths = int(10 * self.clock.fraction)
        if self.epochs < FEW_EPOCHS and self._tenths < tenths < 10 and not first:
            self._say(_spaced(f"{self.title}: batch {self.clock.done:,.0f} of {self.clock.total:,}", self.clock.left))
        self._tenths = tenths

    def epoch(self, entry: dict[str, Any]) -> None:
        """A line on it, unless there are too many."""
        super().epoch(entry)
        epoch, every = entry["epoch"], -(-self.epochs // EPOCH_LINES)
        if epoch % every == 0 or epoch == self.epochs:
            said = f"{self.title}: epoch {epoch} of {self.epochs}"
            self._say(_spaced(said, f"loss {entry['loss']:.3f}", f"test {_percent(entry)}", self.on(), self.clock.left))


class TrainingPanel(Training):
    """For terminals: how far it is, what the last epoch gave, the test accuracy so far, what is left of every layer."""

    def __rich_console__(self, console: RichConsole, options: ConsoleOptions) -> RenderResult:
        """Lines that are cut where the window ends."""
        plain, width = ascii_only(console), options.max_width - MARGIN
        counted = f"{self.clock.done:,.0f} of {self.clock.total:,} batches"
        lines = [bar(self.title, self.clock.fraction, _spaced(counted, self.clock.left), width, plain)]
        if self.log:
            lines += [Text(f"  {line}") for line in self._lines(plain, max(1, width - 40))]
        else:
            lines.append(Text(f"  epoch 1 of {self.epochs}"))
        yield from fitted(lines, width)

    def _lines(self, plain: bool, most: int) -> Iterator[str]:
        last, tests = self.log[-1], [entry["test_accuracy"] for entry in self.log]
        epoch = min(last["epoch"] + 1, self.epochs)
        yield f"epoch {epoch} of {self.epochs}; the last one: loss {last['loss']:.3f}, train {_percent(last, 'train')}"
        best = f"best {100 * max(tests):.1f} %"
        yield _spaced(f"test   {_spark(tests[-most:], plain)}", _percent(last), best)
        if kept := self.kept():
            shares = _levels([on / max(each, 1) for on, each in kept.values()], plain)
            layers = ", ".join(f"{name} {on:,}/{each:,}" for name, (on, each) in kept.items())
            yield _spaced(f"kept   {shares}", f"{self.on()}: {layers}")


class _Progress:
    """A bar on a terminal."""

    def __init__(self, title: str, total: int) -> None:
        self._title, self._remark, self._clock = title, "", Clock(total)

    def __call__(self, amount: int, remark: str) -> None:
        self._clock.done += amount
        self._remark = remark

    def __rich_console__(self, console: RichConsole, options: ConsoleOptions) -> RenderResult:
        counted = f"{self._clock.done:,.0f} of {self._clock.total:,}"
        said = _spaced(counted if not self._remark else f"{counted} {self._remark}", self._clock.left)
        width = options.max_width - MARGIN
        yield from fitted([bar(self._title, self._clock.fraction, said, width, ascii_only(console))], width)


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


def duration(seconds: float) -> str:
    """Hours, minutes and seconds, 1:05:09."""
    return str(timedelta(seconds=round(seconds)))


def write_result(text: str) -> None:
    """A result, on stdout."""
    sys.stdout.write(text if text.endswith("\n") else f"{text}\n")


def _spaced(*parts: str) -> str:
    return "  ".join(part for part in parts if part)


def _epochs(count: int) -> str:
    return "1 epoch" if count == 1 else f"{count:,} epochs"


def _percent(entry: dict[str, Any], of: str = "test") -> str:
    return f"{100 * entry[f'{of}_accuracy']:.1f} %"


def bar(title: str, fraction: float, said: str, width: int, plain: bool) -> Text:
    """Title, bar, words; where it is narrow, the bar goes first."""
    room = min(BAR_WIDTH, width - len(title) - len(said) - 4)
    full, rest = ("#", "-") if plain else ("━", "─")
    line = Text(title)
    if room >= SHORTEST_BAR:
        done = round(room * fraction)
        line.append("  ").append(full * done, "bar.complete").append(rest * (room - done), "bar.back")
    return line.append(f"  {said}")


def _levels(shares: Sequence[float], plain: bool) -> str:
    """A character a share of 0 to 1, the higher the fuller."""
    levels = ASCII_LEVELS if plain else BLOCKS
    return "".join(levels[min(len(levels) - 1, int(share * len(levels)))] for share in shares)


def _spark(values: Sequence[float], plain: bool) -> str:
    """The course of some values between the least and the most of them."""
    least, most = min(values), max(values)
    return _levels([(value - least) / (most - least) if most > least else 0.5 for value in values], plain)


def fitted(lines: Sequence[Text], width: int) -> Iterator[Text]:
    """The lines, cut at `width`."""
    for line in lines:
        line.truncate(width, overflow="ellipsis")
        line.no_wrap = True
        yield line
