import csv
import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from sca_deploy.console import Console
from sca_deploy.errors import DoesNotFit, ScaDeployError, UsageError
from sca_deploy.study.cells import cell_folder
from sca_deploy.sweep import cell as cell_module
from sca_deploy.sweep.cell import SweepCell, alone_in, ending
from sca_deploy.sweep.plan import load_sweep
from sca_deploy.sweep.running import run_sweep
from tests.conftest import ROOT, sca_deploy
from tests.sweep.conftest import TINY

FEW = TINY + '[sweep.axes]\n"prune.method" = ["sca", "random"]\n'


def table(folder):
    return list(csv.DictReader((folder / "results.csv").read_text().splitlines()))


@pytest.fixture
def few(tmp_path):
    (tmp_path / "few.toml").write_text(FEW)
    return load_sweep(tmp_path / "few.toml", {"train.epochs": 1})


def made(folder):
    """Files of cells, with the time of their last change."""
    return {path: path.stat().st_mtime_ns for path in (folder / "cells").rglob("*.pt")}


def test_cells_done_side_by_side_are_those_done_one_after_another(grid, in_turn, tmp_path):
    done = sca_deploy("sweep", grid, "-o", tmp_path / "at-once", "-j", os.cpu_count() or 1)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "at-once" / "results.csv").read_bytes() == (in_turn / "results.csv").read_bytes()


def test_a_repeated_sweep_does_nothing_again(few, tmp_path):
    before = run_sweep(few, tmp_path / "sweep", Console(quiet=True))
    files = made(tmp_path / "sweep")
    assert run_sweep(few, tmp_path / "sweep", Console(quiet=True)) == before
    assert made(tmp_path / "sweep") == files != {}


def test_a_longer_plan_keeps_the_cells_that_are_still_in_it(few, tmp_path):
    run_sweep(few, tmp_path / "sweep", Console(quiet=True))
    files = made(tmp_path / "sweep")
    (tmp_path / "few.toml").write_text(FEW.replace('"random"]', '"random", "slimming"]'))
    more = load_sweep(tmp_path / "few.toml", {"train.epochs": 1})
    assert [row["method"] for row in run_sweep(more, tmp_path / "sweep", Console(quiet=True))] == [
        "dense",
        "sca",
        "random",
        "slimming",
    ]
    assert files.items() < made(tmp_path / "sweep").items()


def test_a_cell_of_another_config_is_refused_before_any_training(few, tmp_path):
    run_sweep(few, tmp_path / "sweep", Console(quiet=True))
    files = made(tmp_path / "sweep")
    other = load_sweep(tmp_path / "few.toml", {"train.epochs": 2})
    with pytest.raises(UsageError, match=re.escape("(train.epochs 1, not 2)")):
        run_sweep(other, tmp_path / "sweep", Console(quiet=True))
    assert made(tmp_path / "sweep") == files


def test_an_unknown_method_is_named_with_its_cell_before_any_training(tmp_path):
    (tmp_path / "few.toml").write_text(FEW.replace('"random"', '"randon"'))
    with pytest.raises(UsageError, match="method-randon, seed 0: unknown prune.method 'randon'"):
        run_sweep(load_sweep(tmp_path / "few.toml", {}), tmp_path / "sweep", Console(quiet=True))
    assert made(tmp_path / "sweep") == {}


@pytest.mark.parametrize("threads", [1, 2])
def test_a_cell_has_the_threads_that_are_asked_for_wherever_it_runs(few, tmp_path, monkeypatch, threads):
    seen = []
    monkeypatch.setattr(cell_module, "make_cell", lambda *_: seen.append(torch.get_num_threads()))
    before = torch.get_num_threads()
    SweepCell(threads)(few.cells[0], tmp_path, quiet=True)
    assert seen == [threads]
    assert torch.get_num_threads() == before


def test_a_network_that_does_not_fit_is_a_result_and_not_tried_again(few, tmp_path, monkeypatch):
    make_cell, tried = cell_module.make_cell, []

    def too_large(cell, folder, quiet):
        tried.append(cell.arm)
        if cell.config.prune.method == "random":
            raise DoesNotFit("the smallest network takes 5 cores, the budget is 4", "allow more")
        make_cell(cell, folder, quiet)

    monkeypatch.setattr(cell_module, "make_cell", too_large)
    rows = run_sweep(few, tmp_path / "sweep", Console(quiet=True))
    assert [(row["status"], row["reason"]) for row in rows] == [
        ("ok", None),
        ("ok", None),
        ("does not fit", "the smallest network takes 5 cores, the budget is 4"),
    ]
    assert [row["accuracy_chip"] is None for row in rows] == [False, False, True]
    assert run_sweep(few, tmp_path / "sweep", Console(quiet=True)) == rows
    assert tried == ["dense", "method-sca", "method-random"]


def test_another_failure_ends_the_sweep_and_a_repeat_goes_on(few, tmp_path, monkeypatch):
    make_cell = cell_module.make_cell

    def fails(cell, folder, quiet):
        if cell.config.prune.method == "sca":
            raise ScaDeployError("the disk is full")
        make_cell(cell, folder, quiet)

    with monkeypatch.context() as patched:
        patched.setattr(cell_module, "make_cell", fails)
        with pytest.raises(ScaDeployError, match="^method-sca, seed 0: the disk is full$"):
            run_sweep(few, tmp_path / "sweep", Console(quiet=True))
    assert ending(few.cells[0], tmp_path / "sweep" / "cells")["status"] == "ok"
    assert ending(few.cells[1], tmp_path / "sweep" / "cells") is None
    files = made(tmp_path / "sweep")
    assert len(run_sweep(few, tmp_path / "sweep", Console(quiet=True))) == 3
    assert files.items() < made(tmp_path / "sweep").items()


def test_an_impossible_budget_is_a_row_of_the_table(tmp_path):
    budgets = TINY + '[sweep.axes]\n"prune.budget" = [{ cores = 1 }, { cores = 60 }]\n'
    (tmp_path / "budgets.toml").write_text(budgets)
    done = sca_deploy("sweep", tmp_path / "budgets.toml", "-o", tmp_path / "sweep")
    assert done.returncode == 0, done.stderr
    [dense, impossible, possible] = table(tmp_path / "sweep")
    assert (dense["status"], dense["budget_cores"], dense["keep"]) == ("ok", "", "1.0")
    assert (impossible["status"], impossible["budget_cores"]) == ("does not fit", "1")
    assert f"budget-cores-1, seed 0: {impossible['reason']}" in done.stderr
    assert not impossible["accuracy_chip"]
    assert (possible["status"], possible["budget_cores"], possible["keep"]) == ("ok", "60", "")
    assert int(possible["cores_compiler_like"]) <= 60
    assert "3 cells, 1 of them does not fit" in done.stdout


def test_only_one_process_at_a_time_is_in_a_cell(few, tmp_path):
    folder = cell_folder(tmp_path, few.cells[0]).parent
    with (
        alone_in(folder),
        pytest.raises(ScaDeployError, match=rf"dense/seed0 is worked on by process {os.getpid()} on "),
    ):
        SweepCell(patience=0.3)(few.cells[0], tmp_path, quiet=True)
    with alone_in(folder, patience=0.0):  # it was let go
        pass


def test_a_cell_that_another_process_ends_meanwhile_is_not_done_again(few, tmp_path, monkeypatch):
    cell = few.cells[0]
    SweepCell()(cell, tmp_path, quiet=True)
    monkeypatch.setattr(cell_module, "make_cell", lambda *_: pytest.fail("done again"))
    SweepCell()(cell, tmp_path, quiet=True)


HOLD = """
import sys, time
from pathlib import Path
from sca_deploy.sweep.cell import alone_in
with alone_in(Path(sys.argv[1])):
    print("in", flush=True)
    time.sleep(60)
"""


def test_the_lock_of_a_killed_process_is_gone(tmp_path):
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLD, tmp_path], stdout=subprocess.PIPE, env=os.environ | {"PYTHONPATH": str(ROOT)}
    )
    with holder:
        assert holder.stdout.read(2) == b"in"
        with (
            pytest.raises(ScaDeployError, match=f"worked on by process {holder.pid} on "),
            alone_in(tmp_path, patience=0.0),
        ):
            pass
        holder.kill()
        holder.wait()
    with alone_in(tmp_path, patience=0.0):
        assert (tmp_path / ".lock").read_text().startswith(f"process {os.getpid()} on ")


@pytest.mark.skipif((os.cpu_count() or 1) < 2, reason="two cells at once take two cores")
def test_workers_of_a_killed_sweep_end_and_a_repeat_goes_on(grid, in_turn, tmp_path):
    folder = tmp_path / "sweep"
    command = [sys.executable, "-m", "sca_deploy.cli", "sweep", str(grid), "-o", str(folder), "-j", "2", "-q"]
    with subprocess.Popen(command, env=os.environ | {"PYTHONPATH": str(ROOT)}, stdout=subprocess.PIPE) as process:
        until = time.monotonic() + 100
        while len(done := list(folder.glob("cells/*/seed*/cell.json"))) < 4 and time.monotonic() < until:
            time.sleep(0.02)
        process.send_signal(signal.SIGKILL)
    assert len(done) >= 4
    files = {path: path.stat().st_mtime_ns for path in done}
    again = sca_deploy("sweep", grid, "-o", folder)
    assert again.returncode == 0, again.stderr
    assert (folder / "results.csv").read_bytes() == (in_turn / "results.csv").read_bytes()
    assert {path: path.stat().st_mtime_ns for path in done} == files
    workers = {int(path.read_text().split()[1]) for path in folder.glob("cells/*/seed*/.lock")}
    assert [pid for pid in workers if os.path.exists(f"/proc/{pid}/stat")] == []


def test_an_interruption_while_workers_start_is_one_line(grid, tmp_path):
    """^C goes to all processes of a terminal."""
    command = [sys.executable, "-m", "sca_deploy.cli", "sweep", str(grid), "-o", str(tmp_path / "sweep"), "-j", "2"]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    process = subprocess.Popen(
        command,
        env=environment,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # what runs the tests may ignore it
    )
    with process:
        try:
            until = time.monotonic() + 100
            while len(list(workers_of(process.pid))) < 2 and time.monotonic() < until:
                time.sleep(0.02)
            assert len(list(workers_of(process.pid))) == 2
            time.sleep(0.5)
            os.killpg(process.pid, signal.SIGINT)
            said = process.stderr.read()
        finally:
            process.kill()
    assert said.splitlines()[-2:] == ["error: interrupted", "fix: repeat the command to continue"]
    assert "Traceback" not in said
    assert process.wait() == 130
    assert list(workers_of(process.pid)) == []


def workers_of(session):
    """The processes of a session that do cells."""
    for process in Path("/proc").glob("[0-9]*"):
        try:
            if os.getsid(int(process.name)) == session and b"spawn_main" in (process / "cmdline").read_bytes():
                yield process.name
        except (ProcessLookupError, FileNotFoundError):
            continue


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        (["--jobs", 1, "--address", "local"], "--jobs and --address are alternatives"),
        (["--workers", 2], "--workers is for a cluster"),
        (["--cpus-per-cell", 2], "--cpus-per-cell is for a cluster"),
        (["--jobs", 1000], "--jobs 1000 of --threads 1 are more than the"),
        (["--threads", 1000], "--jobs 1 of --threads 1000 are more than the"),
        (["--address", "nowhere"], "'nowhere' is not the address"),
    ],
)
def test_options_that_cannot_be_meant_are_refused(grid, tmp_path, arguments, problem):
    refused = sca_deploy("sweep", grid, "-o", tmp_path / "sweep", *arguments)
    assert refused.returncode == 2
    assert problem in refused.stderr
    assert len(refused.stderr.splitlines()) == 2


def test_what_a_sweep_says_goes_to_stderr_and_its_rows_to_stdout(in_turn):
    rows = json.loads((in_turn.parent / "stdout.json").read_text())
    assert [row["cell"] for row in rows] == [row["cell"] for row in table(in_turn)]
    said = (in_turn.parent / "stderr").read_text().splitlines()
    assert said[-1].startswith("sweep: 28 of 28 done: ")
