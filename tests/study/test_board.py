"""What is seen of the cells of a study while they are worked on."""

from __future__ import annotations

import io
import json
import time
from dataclasses import replace
from pathlib import Path

import pytest
from rich.console import Console as RichConsole

from sca_deploy.config import Config, TrainConfig
from sca_deploy.console import Console
from sca_deploy.study import board as module
from sca_deploy.study.board import Board, Look, look_at, shown
from sca_deploy.study.plan import Cell

CONFIG = replace(Config(), train=TrainConfig(epochs=20))
CELLS = [Cell(arm, seed, CONFIG) for seed in (0, 1, 2) for arm in ("dense", "sca")]


def waiting(cell: Cell) -> Look:
    return Look("training, epoch 1 of 20")


def drawn(board: Board, height: int = 30, width: int = 80) -> list[str]:
    """The rows below the bar."""
    file = io.StringIO()
    RichConsole(file=file, width=width, height=height, color_system=None).print(board)
    return [line.rstrip() for line in file.getvalue().splitlines()]


def folder_of(path: Path, *steps: str, epochs: int) -> Path:
    (path / "train").mkdir(parents=True)
    (path / "steps.json").write_text(json.dumps(dict.fromkeys(steps, "key")))
    rows = [f"{n},0.5,0.9{n % 10},0.1,{7 + n},3" for n in range(1, epochs + 1)]
    text = "\n".join(["epoch,loss,test_accuracy,seconds,kept_a,kept_b", *rows])
    (path / "train" / "metrics.csv").write_text(text + "\n")
    return path


@pytest.mark.parametrize(
    ("steps", "epochs", "doing"),
    [
        ((), 0, "training, epoch 1 of 20"),
        ((), 7, "training, epoch 8 of 20"),
        ((), 20, "training, epoch 20 of 20"),
        (("train",), 20, "compacting"),
        (("train", "compact"), 20, "lowering"),
        (("train", "compact", "lower"), 20, "evaluating"),
        (("train", "compact", "lower", "evaluate"), 20, "done"),
    ],
)
def test_a_cell_is_where_its_files_say(tmp_path: Path, steps: tuple[str, ...], epochs: int, doing: str) -> None:
    assert look_at(CELLS[0], folder_of(tmp_path / "cell", *steps, epochs=epochs)).doing == doing


def test_the_figures_of_a_cell_are_those_of_its_last_epoch(tmp_path: Path) -> None:
    look = look_at(CELLS[0], folder_of(tmp_path / "cell", epochs=5))
    assert look.figures == "test 95.0 %  15 on"
    assert 0.2 < look.fraction <= 0.25


def test_a_cell_without_a_folder_has_not_begun(tmp_path: Path) -> None:
    assert look_at(CELLS[0], tmp_path / "absent") == Look("training, epoch 1 of 20", 0.0, "")


def test_a_row_a_cell_says_what_is_done_at_work_and_waiting() -> None:
    board = Board("study", CELLS, 2, waiting)
    board.finish(0)
    board.finish(1)
    first, *rows = drawn(board)
    assert first.startswith("study  ")
    assert "2 of 6 cells done" in first
    assert [row.split()[:4] for row in rows] == [
        ["dense,", "seed", "0", "done"],
        ["sca,", "seed", "0", "done"],
        [">", "dense,", "seed", "1"],
        [">", "sca,", "seed", "1"],
        ["dense,", "seed", "2", "waiting"],
        ["sca,", "seed", "2", "waiting"],
    ]
    assert "training, epoch 1 of 20" in rows[2]


def test_a_cell_that_ends_early_lets_the_next_one_begin() -> None:
    board = Board("study", CELLS, 2, waiting)
    board.finish(1)
    assert [row[2:].split("  ")[0] for row in drawn(board) if row.startswith(">")] == ["dense, seed 0", "dense, seed 1"]


@pytest.mark.parametrize("done", range(7))
@pytest.mark.parametrize("height", [6, 7, 9, 30])
def test_cells_at_work_stay_in_a_window_that_holds_few_rows(height: int, done: int) -> None:
    board = Board("study", CELLS, 2, waiting)
    for number in range(done):
        board.finish(number)
    rows = drawn(board, height)
    assert len(rows) < height
    assert sum(row.startswith(">") for row in rows) == min(2, 6 - done)


def test_a_slow_cell_stays_in_a_small_window_when_the_others_have_gone_on() -> None:
    board = Board("study", CELLS, 2, waiting)
    for number in (1, 2, 3, 4):
        board.finish(number)
    assert [row[2:].split("  ")[0] for row in drawn(board, 6)[1:]] == ["dense, seed 0", "sca, seed 2"]


def test_no_row_is_wider_than_the_window() -> None:
    assert max(map(len, drawn(Board("study", CELLS, 2, waiting), width=30))) < 30


def test_the_time_left_counts_what_was_done_before_as_done(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 0.0
    monkeypatch.setattr(time, "monotonic", lambda: now)
    shares = {"dense": 1.0, "sca": 0.0}  # three of six cells are there already
    board = Board("study", CELLS, 1, lambda cell: Look("", shares[cell.arm]))
    now, shares["sca"] = 60.0, 0.5
    board.finish(0)
    # Half a cell in a minute; two and a half are left.
    assert "1 of 6 done, sca, seed 0: , 0:05:00 left" in board.line()


class Log(Console):
    """A console that is no terminal."""

    def __init__(self) -> None:
        super().__init__()
        self.lines: list[str] = []

    @property
    def moves(self) -> bool:
        return False

    def say(self, line: str) -> None:
        self.lines.append(line)


def test_a_log_has_a_line_when_a_cell_is_done() -> None:
    log = Log()
    with shown(Board("study", CELLS[:2], 1, lambda cell: Look(figures="test 95.0 %")), log) as finish:
        finish(0)
        finish(1)
    assert log.lines == [
        "study: 1 of 2 done: dense, seed 0  test 95.0 %  0:00:00",
        "study: 2 of 2 done: sca, seed 0  test 95.0 %  0:00:00",
    ]


def test_a_log_is_told_that_a_long_cell_lives(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "TOLD_EVERY", 0.01)
    log = Log()
    with shown(Board("study", CELLS[:2], 1, waiting), log):
        until = time.monotonic() + 10
        while not log.lines and time.monotonic() < until:
            time.sleep(0.01)
    assert log.lines[0] == "study: 0 of 2 done, dense, seed 0: training, epoch 1 of 20"
    told = len(log.lines)
    time.sleep(0.1)
    assert len(log.lines) <= told + 1  # one may have been on its way
