"""What is seen while one waits: pictures on a terminal, few lines in a log, nothing with -q, and never on stdout."""

from __future__ import annotations

import io
import re
import sys
import time
from collections.abc import Callable
from typing import Any, TypeVar

import pytest
from rich.console import Console as RichConsole

from sca_deploy import console as module
from sca_deploy.console import Clock, Console, Training, columns
from tests.conftest import sca_deploy

ESCAPE = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")
SHOW_CURSOR, HIDE_CURSOR = "\x1b[?25h", "\x1b[?25l"


File = TypeVar("File", bound=io.StringIO)


class Terminal(io.StringIO):
    encoding = "utf-8"

    def isatty(self) -> bool:
        return True


def written_to(file: File, monkeypatch: pytest.MonkeyPatch) -> File:
    """`file` in the place of stderr, which pytest takes for itself."""
    monkeypatch.setattr(module, "RichConsole", lambda stderr, **options: RichConsole(file=file, **options))
    return file


@pytest.fixture
def terminal(monkeypatch: pytest.MonkeyPatch) -> Terminal:
    """A terminal of 100 x 30 as stderr."""
    for key in ("LC_ALL", "NO_COLOR", "FORCE_COLOR"):
        monkeypatch.delenv(key, raising=False)
    for key, value in {"TERM": "xterm-256color", "LANG": "en_US.UTF-8", "COLUMNS": "100", "LINES": "30"}.items():
        monkeypatch.setenv(key, value)
    return written_to(Terminal(), monkeypatch)


@pytest.fixture
def log(monkeypatch: pytest.MonkeyPatch) -> io.StringIO:
    """A file as stderr."""
    for key in ("FORCE_COLOR", "TTY_COMPATIBLE", "TTY_INTERACTIVE"):
        monkeypatch.delenv(key, raising=False)
    return written_to(io.StringIO(), monkeypatch)


def entry(epoch: int, test: float, **kept: int) -> dict[str, Any]:
    """A line of metrics.jsonl; channels of layers of 10."""
    masks = {name: "1" * on + "0" * (10 - on) for name, on in kept.items()}
    pruning = {"pruning": {"kept": kept, "masks": masks, "regrown": 0}} if kept else {}
    losses = {"loss": 1 / epoch, "train_accuracy": test + 0.01, "seconds": 2.0}
    return {"epoch": epoch, "test_accuracy": test, **losses, **pruning}


def nothing() -> list[dict[str, Any]]:
    return []


def train(console: Console, epochs: int, batches: int, look: Callable[[], None] = lambda: None) -> None:
    """A training of `batches` batches an epoch, in which ever fewer channels are on."""
    with console.training("net", epochs, epochs * batches, nothing) as watched:
        watched.batch(0)
        for epoch in range(1, epochs + 1):
            for _ in range(batches):
                watched.batch(1)
            watched.epoch(entry(epoch, 0.5 + epoch / 1000, first=10 - epoch % 3, second=4))
            look()


def frame(picture: Any) -> str:
    """The picture as it is drawn on a terminal at this moment."""
    shown = Terminal()
    RichConsole(file=shown).print(picture)
    return shown.getvalue()


@pytest.mark.parametrize("epochs", [1, 2, 3, 9, 10, 19, 20, 21, 50, 300])
def test_a_log_has_a_line_an_epoch_but_never_more_than_twenty(log: io.StringIO, epochs: int) -> None:
    train(Console(), epochs, 40)
    *lines, summary = log.getvalue().splitlines()
    assert len(lines) <= 20
    told = [int(line.split("epoch ")[1].split()[0]) for line in lines if "epoch" in line]
    assert told[-1] == epochs
    assert told == list(range(1, epochs + 1)) if epochs <= 20 else len(told) >= 10
    assert summary.startswith("net: 1 epoch in" if epochs == 1 else f"net: {epochs} epochs in")


def test_the_lines_of_a_log_say_what_one_wants_to_know(log: io.StringIO) -> None:
    train(Console(), 12, 2)
    lines = log.getvalue().splitlines()
    assert lines[1].startswith("net: epoch 2 of 12  loss 0.500  test 50.2 %  12 of 20 channels on  0:00:0")
    assert lines[-1] == "net: 12 epochs in 0:00:24, test accuracy 51.2 % (measured), 14 of 20 channels on"


def test_of_few_long_epochs_a_log_tells_what_lies_between(log: io.StringIO) -> None:
    train(Console(), 2, 500)
    batches = [line for line in log.getvalue().splitlines() if "batch" in line]
    assert [line.split("  ")[0] for line in batches] == [f"net: batch {n}00 of 1,000" for n in range(1, 10)]


def test_quiet_shows_nothing(log: io.StringIO) -> None:
    train(Console(quiet=True), 3, 4)
    with Console(quiet=True).progress("work", 10) as advance:
        advance(10, "done")
    assert log.getvalue() == ""


def test_quiet_shows_nothing_on_a_terminal_either(terminal: Terminal) -> None:
    train(Console(quiet=True), 3, 4)
    with Console(quiet=True).progress("work", 10) as advance:
        advance(10, "done")
    assert terminal.getvalue() == ""


def test_a_network_that_is_not_trained_is_not_watched(log: io.StringIO) -> None:
    with Console().training("net", 0, 0, nothing) as watched:
        watched.batch(0)
    assert log.getvalue() == ""


def test_a_terminal_shows_a_panel_and_keeps_one_line_of_it(
    terminal: Terminal, capsys: pytest.CaptureFixture[str]
) -> None:
    with Console().training("net", 4, 20, nothing) as watched:
        watched.batch(0)
        watched.batch(10)
        watched.epoch(entry(1, 0.501, first=9, second=4))
        watched.epoch(entry(2, 0.502, first=8, second=4))
        lines = ESCAPE.sub("", frame(watched)).splitlines()
        assert lines[0].startswith("net  " + "━" * 20 + "─" * 20 + "  10 of 20 batches  0:00:0")
        assert [line.rstrip() for line in lines[1:]] == [
            "  epoch 3 of 4; the last one: loss 0.500, train 51.2 %",
            "  test   ▁█  50.2 %  best 50.2 %",
            "  kept   ▇▄  12 of 20 channels on: first 8/10, second 4/10",
        ]
    text = terminal.getvalue()
    assert "epoch 3 of 4" in text
    left = text.rpartition("\x1b[2K")[2]  # after the last line that was wiped away
    assert ESCAPE.sub("", left) == "net: 2 epochs in 0:00:04, test accuracy 50.2 % (measured), 12 of 20 channels on\n"
    assert text.count(HIDE_CURSOR) == text.count(SHOW_CURSOR) == 1
    assert capsys.readouterr().out == ""


def test_an_interruption_leaves_the_cursor_and_no_summary(terminal: Terminal) -> None:
    def interrupt() -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(Console(), 3, 5, look=interrupt)
    text = terminal.getvalue()
    assert text.count(HIDE_CURSOR) == text.count(SHOW_CURSOR) == 1
    assert "epochs in" not in text


def test_a_continued_training_shows_what_was_before(terminal: Terminal) -> None:
    with Console().training("net", 4, 40, lambda: [entry(1, 0.9), entry(2, 0.4)]) as watched:
        watched.batch(20)
        shown = ESCAPE.sub("", frame(watched))
    assert "20 of 40 batches" in shown
    assert "epoch 3 of 4; the last one: loss 0.500" in shown
    assert "test   █▁  40.0 %  best 90.0 %" in shown


def test_a_new_training_reads_no_log_that_an_older_one_left() -> None:
    def left() -> list[dict[str, Any]]:
        raise AssertionError("there is nothing to continue")

    watched = Training("net", 2, 20, left)
    watched.batch(0)
    watched.batch(1)
    assert watched.log == []


@pytest.mark.parametrize("width", [20, 40, 60, 99])
def test_no_line_is_wider_than_the_window(terminal: Terminal, monkeypatch: pytest.MonkeyPatch, width: int) -> None:
    monkeypatch.setenv("COLUMNS", str(width))
    with Console().training("net", 60, 600, nothing) as watched:
        watched.batch(0)
        for epoch in range(1, 50):
            watched.epoch(entry(epoch, 0.5, **{f"layer_{n}": 5 for n in range(9)}))
        lines = ESCAPE.sub("", frame(watched)).splitlines()
    assert len(lines) == 4
    # The ^C of an interruption is written where a line ends, and must not begin a new one.
    assert max(map(len, lines)) <= width - len("^C")


@pytest.mark.parametrize(("key", "value"), [("LANG", "C"), ("LC_ALL", "POSIX")])
def test_a_terminal_that_knows_ascii_only_gets_ascii(
    terminal: Terminal, monkeypatch: pytest.MonkeyPatch, key: str, value: str
) -> None:
    monkeypatch.setenv(key, value)
    train(Console(), 3, 5)
    assert "###" in terminal.getvalue()
    assert terminal.getvalue().isascii()


def test_without_colours_a_bar_still_shows_how_much_is_done(
    terminal: Terminal, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NO_COLOR", "1")
    with Console().progress("work", 4) as advance:
        advance(1, "samples")
        shown = frame(advance)
    assert "work  " + 10 * "━" + 30 * "─" + "  1 of 4 samples" in shown


def test_a_dumb_terminal_is_written_to_like_a_log(terminal: Terminal, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "dumb")
    train(Console(), 3, 5)
    assert "\x1b" not in terminal.getvalue()
    assert "net: epoch 1 of 3" in terminal.getvalue()


def test_the_time_left_is_that_of_the_pace_since_it_is_watched(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 1000.0
    monkeypatch.setattr(time, "monotonic", lambda: now)
    clock = Clock(100, done=40)
    assert clock.left == ""  # nothing is known yet
    now, clock.done = 1030.0, 50
    assert clock.left == "0:02:30 left"
    assert clock.fraction == 0.5
    clock.done = 100
    assert clock.left == ""


def test_a_result_has_the_columns_of_the_terminal_and_a_file_has_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "72")
    monkeypatch.setattr(sys, "stdout", Terminal())
    assert columns() == 72
    monkeypatch.setattr(sys, "stdout", io.StringIO())
    monkeypatch.setenv("FORCE_COLOR", "1")
    assert columns() is None


def test_what_a_log_is_told_goes_to_stderr_and_the_result_to_stdout(tmp_path: Any) -> None:
    done = sca_deploy("train", "digits", "--epochs", 2, "--train-samples", 200, "--json", "-o", tmp_path / "run")
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("{")
    assert "pruned: train: epoch 2 of 2" in done.stderr
    assert "\x1b" not in done.stderr
