"""Evaluated by any number of workers, in parts of any size: the figures of one process, to the last bit."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sca_deploy import wide
from sca_deploy.agreement import float_batch, together
from sca_deploy.artifact import open_artifact
from sca_deploy.cluster import Cluster, connected
from sca_deploy.console import Console
from sca_deploy.data import load_dataset
from sca_deploy.errors import ScaDeployError, UsageError
from sca_deploy.evaluate import Part, cut
from sca_deploy.hardware.counts import count
from sca_deploy.hardware.simulate import simulate
from sca_deploy.wide import Evaluation, Subject, evaluate_all, subject
from tests.conftest import sca_deploy
from tests.hardware.programs import programs

pytest.importorskip("ray")
# Ray leaves files and the handles of its processes to the garbage collector.
pytestmark = pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning")

QUIET = Console(quiet=True)
SAMPLES = 1300
"""Three batches of the float network, three blocks of random spikes, and no multiple of any part."""


@pytest.fixture(scope="module")
def two() -> Iterator[Cluster]:
    """Two workers on this machine."""
    with connected("local", 2) as cluster:
        yield cluster


@pytest.fixture(scope="module")
def arms(digits_run: Path) -> list[Subject]:
    return [subject(digits_run / arm) for arm in ("dense", "pruned")]


@pytest.fixture
def many(digits_run: Path, tmp_path: Path) -> Subject:
    """The pruned network, and a test set that is larger than one batch: the digits it was trained on."""
    return with_data(subject(digits_run / "pruned"), write_digits(tmp_path / "digits.npz"))


def write_digits(path: Path, change: int = 0) -> Path:
    """A file with other digits for training than for testing."""
    digits = load_dataset("digits")
    x, y = digits.train_x.copy(), digits.train_y
    x[0, 0, 0, 0] ^= change
    np.savez(path, x_train=digits.test_x, y_train=digits.test_y, x_test=x[:SAMPLES], y_test=y[:SAMPLES])
    return path


def with_data(network: Subject, file: Path, **changes: Any) -> Subject:
    data = replace(network.config.data, set="npz", folder=str(file), **changes)
    return replace(network, config=replace(network.config, data=data))


def documents(found: list[Evaluation]) -> list[dict[str, Any] | None]:
    return [evaluation.document for evaluation in found]


def test_one_process_finds_what_the_run_found(arms: list[Subject], digits_run: Path) -> None:
    written = [json.loads((digits_run / arm / "evaluation.json").read_text()) for arm in ("dense", "pruned")]
    assert json.loads(json.dumps(documents(evaluate_all(arms, QUIET)))) == written


@pytest.mark.parametrize("workers", [1, 2])
def test_workers_find_what_one_process_finds(arms: list[Subject], two: Cluster, workers: int) -> None:
    found = evaluate_all(arms, QUIET, replace(two, cpus=workers))
    assert [evaluation.subject for evaluation in found] == arms
    assert documents(found) == documents(evaluate_all(arms, QUIET))


@pytest.mark.parametrize(("coding", "smallest"), [("direct", 77), ("rate", 333)])
def test_parts_that_divide_nothing(
    many: Subject, two: Cluster, coding: str, smallest: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of 1,300 samples, three batches of the float network; with random spikes, which depend on a sample's place."""
    monkeypatch.setattr(wide, "SMALLEST_PART", smallest)
    monkeypatch.setattr(wide, "PARTS_A_WORKER", 100)
    data = replace(many.config.data, coding=coding)
    network = replace(many, config=replace(many.config, data=data))
    [alone] = documents(evaluate_all([network], QUIET))
    [together] = documents(evaluate_all([network], QUIET, two))
    assert alone is not None
    assert alone["figures"]["test_samples"] == SAMPLES
    assert together == alone


@given(samples=st.integers(1, 3000), size=st.integers(1, 3000))
@settings(max_examples=50)
def test_parts_hold_every_sample_once_and_whole_batches_of_floats(digits_run: Path, samples: int, size: int) -> None:
    network = open_artifact(digits_run / "pruned").module
    parts = cut(network, samples, size)
    for what in ("floats", "chip"):
        ends = [(part.start, part.stop) for part in parts if part.what == what]
        assert [number for start, stop in ends for number in range(start, stop)] == list(range(samples))
        assert what == "chip" or all(start % float_batch(network) == 0 for start, _ in ends)
    assert [part for part in parts if part.what == "spikes"] == [Part("spikes", 0, min(64, samples))]


@given(data=st.data())
@settings(max_examples=30)
def test_runs_of_any_parts_count_as_the_whole(data: st.DataObject) -> None:
    program, x = data.draw(programs())
    samples = len(x)
    ends = sorted({0, samples, *data.draw(st.lists(st.integers(0, samples), max_size=4))})
    parted = together([simulate(program, x[a:b]) for a, b in pairwise(ends)])
    whole = simulate(program, x)
    assert count(parted).as_dict() == count(whole).as_dict()
    for name in whole.messages:
        np.testing.assert_array_equal(parted.messages[name], whole.messages[name])
        np.testing.assert_array_equal(parted.payload[name], whole.payload[name])
    assert (parted.readout is None) == (whole.readout is None)
    if whole.readout is not None:
        np.testing.assert_array_equal(parted.readout, whole.readout)


def dying(marker: Path, times: int) -> Callable[..., Any]:
    """`_run_part`, but the worker of a part in the middle kills itself, so many times."""
    run = wide._run_part

    def run_or_die(part: Part, *rest: Any) -> Any:
        if part.what == "chip" and part.start:
            for number in range(times):
                try:
                    os.close(os.open(f"{marker}{number}", os.O_CREAT | os.O_EXCL))
                except FileExistsError:
                    continue
                os.kill(os.getpid(), signal.SIGKILL)
        return run(part, *rest)

    return run_or_die


def test_a_killed_worker_changes_nothing(
    arms: list[Subject], two: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(wide, "_run_part", dying(tmp_path / "died", 2))
    found = documents(evaluate_all(arms, QUIET, two))
    assert len(list(tmp_path.iterdir())) == 2
    monkeypatch.undo()
    assert found == documents(evaluate_all(arms, QUIET))


def test_a_part_whose_workers_always_die_is_named(
    arms: list[Subject], two: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(wide, "_run_part", dying(tmp_path / "died", 100))
    monkeypatch.setattr(wide, "RETRIES", 1)
    monkeypatch.setattr(wide, "PARTS_A_WORKER", 1)
    [found] = evaluate_all(arms[1:], QUIET, two)
    assert isinstance(found.failure, ScaDeployError)
    assert (
        found.failure.problem
        == f"the worker of test samples 180 to 360 of {arms[1].source} died 2 times: WorkerCrashedError"
    )


@pytest.mark.parametrize("spread", [False, True])
def test_a_network_that_fails_costs_the_others_nothing(arms: list[Subject], two: Cluster, spread: bool) -> None:
    bad = replace(arms[0], config=replace(arms[0].config, chip="loihi9"))
    found = evaluate_all([bad, arms[1]], QUIET, two if spread else None)
    assert isinstance(found[0].failure, UsageError)
    assert "loihi9" in found[0].failure.problem
    assert found[0].document is None
    assert found[1].failure is None
    assert found[1].document is not None


def test_a_node_without_the_data_says_so(many: Subject, two: Cluster) -> None:
    file = Path(many.config.data.folder)
    assert len(many.dataset.test_x) == SAMPLES  # this process has read it
    file.unlink()
    [found] = evaluate_all([many], QUIET, two)
    assert found.failure is not None
    assert found.failure.problem.startswith(f"node {os.uname().nodename}: ")
    assert str(file) in found.failure.problem


def test_a_node_with_other_data_says_so(many: Subject, two: Cluster) -> None:
    assert len(many.dataset.test_x) == SAMPLES
    write_digits(Path(many.config.data.folder), change=1)
    [found] = evaluate_all([many], QUIET, two)
    assert found.failure is not None
    assert "reads another test set" in found.failure.problem


def test_a_defect_in_a_worker_is_no_failure_of_the_network(
    arms: list[Subject], two: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    def defect(*given: Any) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(wide, "_run_part", defect)
    with pytest.raises(ZeroDivisionError):
        evaluate_all(arms, QUIET, two)


def test_progress_counts_every_sample_once(arms: list[Subject], two: Cluster) -> None:
    class Counting(Console):
        done = 0
        total = 0

        @contextmanager
        def progress(self, title: str, total: int) -> Iterator[Callable[[int, str], None]]:
            def advance(amount: int, remark: str) -> None:
                self.done += amount

            self.total = total
            yield advance

    for cluster in (None, two):
        counting = Counting(quiet=True)
        evaluate_all(arms, counting, cluster)
        assert counting.done == counting.total == 720


def test_the_command_prints_the_same_with_workers(digits_run: Path) -> None:
    alone = sca_deploy("evaluate", digits_run / "dense", digits_run, "--json")
    spread = sca_deploy("evaluate", digits_run / "dense", digits_run, "--json", "--workers", 2)
    assert (alone.returncode, spread.returncode) == (0, 0)
    assert spread.stdout == alone.stdout
    document = json.loads(alone.stdout)
    assert [entry["source"] for entry in document["networks"]] == [str(digits_run / "dense"), str(digits_run)]
    assert document["failures"] == []
    assert "ray" not in spread.stderr.lower()


def test_an_address_where_nobody_listens_is_one_line(digits_run: Path) -> None:
    done = sca_deploy("evaluate", digits_run, "--address", "127.0.0.1:1")
    assert done.returncode == 1
    assert done.stdout == ""
    assert done.stderr.splitlines()[0] == "error: no Ray cluster answers at 127.0.0.1:1: Connection refused"
    assert len(done.stderr.splitlines()) == 2


def test_a_file_outside_a_run_has_no_test_set(digits_run: Path, tmp_path: Path) -> None:
    lone = tmp_path / "lone.nir"
    lone.write_bytes((digits_run / "pruned" / "network.nir").read_bytes())
    with pytest.raises(ScaDeployError, match="is not in a run, which says what to test it on"):
        subject(lone)
