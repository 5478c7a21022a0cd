"""The cells of a sweep as trials of Ray Tune, on the cluster that this process is connected to.

Ray hands out the cells and tries again what died with a worker or a node; how far a cell is, its own folder knows. What
Tune writes for itself goes with the end of the sweep.
"""

from __future__ import annotations

import contextlib
import logging
import os
import platform
import secrets
import shutil
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from sca_deploy import errors
from sca_deploy.errors import ScaDeployError, UsageError
from sca_deploy.files import write_text
from sca_deploy.study.cells import Attempt, Done, Failure, attempt

DEATHS = 3
"""Times that a cell's worker may die before the cell counts as failed."""
ANSWERED_WITHIN = 120.0
"""Seconds for a node to say whether it has the sweep's folder."""
SILENT = {
    "RAY_AIR_NEW_OUTPUT": "0",  # else it prints tables whatever its verbosity is
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
    "TUNE_PRINT_ALL_TRIAL_ERRORS": "0",
    "TUNE_DISABLE_SIGINT_HANDLER": "1",  # an interruption is for whoever called
}
"""How Ray Tune is told to leave the terminal and ^C alone, where nobody has told it otherwise."""


class Tuned:
    """Tries attempts as trials, as `study.cells.each` wants it; after a failure no other is begun.

    Args:
        folder: of the sweep, which all nodes share.
        cpus: cores that a cell takes.
        jobs: cells at once, at most.
        say: hears of processes that died.
    """

    def __init__(self, folder: Path, cpus: int, jobs: int, say: Callable[[str], None] = lambda line: None) -> None:
        self._folder, self._cpus, self._jobs, self._say = folder / "ray", cpus, jobs, say

    def __call__(self, attempts: Sequence[Attempt], done: Done) -> None:
        """Run them all.

        Raises:
            ScaDeployError: if Ray ended before they were done.
        """
        place = self._folder / f"{platform.node()}-{secrets.token_hex(4)}"
        place.mkdir(parents=True)
        failures: dict[int, Failure] = {}
        over: set[int] = set()

        def ended(number: int, failure: Failure | None) -> None:
            over.add(number)
            if failure is None:
                done(number, None)
            else:
                failures[number] = failure
                (place / "stop").touch()

        def died(number: int) -> None:
            self._say(f"sweep: the process that did {attempts[number][1].title} died; the cell is tried again")

        try:
            with _silent():
                _fit(attempts, place, (self._cpus, self._jobs), ended, died)
        finally:
            shutil.rmtree(place, ignore_errors=True)
            with contextlib.suppress(OSError):  # another process may do cells of this sweep
                self._folder.rmdir()
        for number, failure in sorted(failures.items()):
            done(number, failure)
        if len(over) < len(attempts):
            raise ScaDeployError(
                f"Ray ended before {len(attempts) - len(over)} of {len(attempts)} cells were done",
                "repeat the command to continue",
            )


def _fit(
    attempts: Sequence[Attempt], place: Path, room: tuple[int, int], ended: Done, died: Callable[[int], None]
) -> None:
    from ray import tune

    cpus, jobs = room

    class Told(tune.Callback):
        """Hears how trials end. Tune writes down all that it is given, which the ears of this process cannot be."""

        def __init__(self, ended: Done, died: Callable[[int], None]) -> None:
            self._ended, self._died = ended, died

        def __getstate__(self) -> dict[str, Any]:
            return {}

        def on_trial_complete(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
            if trial.last_result.get("begun"):
                self._ended(trial.config["number"], _failure(trial.last_result["failure"]))

        def on_trial_recover(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
            self._died(trial.config["number"])

        def on_trial_error(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
            problem = f"the process that did it died {DEATHS + 1} times"
            failure = ScaDeployError, problem, "see that a node has memory enough for it, and repeat the command"
            self._ended(trial.config["number"], failure)

    def one(config: dict[str, Any], attempts: Sequence[Attempt]) -> None:
        begun = not (place / "stop").exists()
        tune.report({"begun": begun, "failure": _tried(attempts[config["number"]]) if begun else None})

    tuner = tune.Tuner(
        tune.with_resources(tune.with_parameters(one, attempts=list(attempts)), {"cpu": cpus}),
        param_space={"number": tune.grid_search(list(range(len(attempts))))},
        # A process that is used again need not import torch for every cell. In return the place of one that died stays
        # empty while the others are done with their cells sooner than a new one has started, in a few seconds.
        tune_config=tune.TuneConfig(reuse_actors=True, max_concurrent_trials=jobs),
        run_config=tune.RunConfig(
            name="tune",
            storage_path=str(place),
            verbose=0,
            failure_config=tune.FailureConfig(max_failures=DEATHS),
            callbacks=[Told(ended, died)],
        ),
    )
    tuner.fit()


def _tried(of: Attempt) -> list[str] | None:
    """The failure of an attempt in words; Tune would try an error again that comes the same every time."""
    try:
        failure = attempt(*of)
    except Exception as error:
        reason = " ".join(str(error).split())[:200]
        failure = ScaDeployError, f"unexpected {type(error).__name__}: {reason}", "this is a defect"
    if failure is None:
        return None
    kind, problem, fix = failure
    return [kind.__name__, f"{problem} (on {platform.node()})", fix]


def _failure(said: Sequence[str] | None) -> Failure | None:
    return None if said is None else (getattr(errors, said[0]), said[1], said[2])


@contextlib.contextmanager
def _silent() -> Iterator[None]:
    """Ray Tune says nothing on stdout and stderr, which belong to the sweep."""
    for name, value in SILENT.items():
        os.environ.setdefault(name, value)
    log = logging.getLogger("ray")
    level = log.level
    log.setLevel(logging.CRITICAL)
    try:
        # What it prints is no result, and what Ray tells of dead processes is told in our words.
        with open(os.devnull, "w", encoding="utf-8") as nowhere, contextlib.redirect_stdout(nowhere):
            yield
    finally:
        log.setLevel(level)


def check_nodes(folder: Path, cpus: int) -> None:
    """See that every node has the sweep's folder, and one of them cores enough for a cell.

    Raises:
        ScaDeployError: naming a node that does not read and write there what this process does.
        UsageError: if a cell takes more cores than the largest node has.
    """
    ray = _ray()
    nodes = [node for node in ray.nodes() if node["Alive"]]
    most = max(node["Resources"].get("CPU", 0.0) for node in nodes)
    if cpus > most:
        raise UsageError(f"a cell takes {cpus} cores, the largest node of the cluster has {most:g}", "lower --threads")
    token, path = secrets.token_hex(16), folder / "ray" / f".token-{secrets.token_hex(4)}"
    write_text(path, token)
    try:
        asked = {node["NodeID"]: _ask(node["NodeID"], path) for node in nodes}
        for node in nodes:
            name = f"node {node['NodeManagerHostname']} ({node['NodeManagerAddress']})"
            _check_answer(name, folder, token, asked[node["NodeID"]], path.with_name(path.name + node["NodeID"][:8]))
    finally:
        for left in path.parent.glob(f"{path.name}*"):
            left.unlink(missing_ok=True)


def _ask(node: str, path: Path) -> Any:
    """Have a node read the token, and write it beside under its own name."""
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    there = NodeAffinitySchedulingStrategy(node, soft=False)
    return _ray().remote(num_cpus=0, scheduling_strategy=there)(copying()).remote(path, path.name + node[:8])


def _ray() -> Any:
    """The module, half of whose functions have no types."""
    import ray

    return ray


def copying() -> Callable[[Path, str], str]:
    """What reads a token and writes it beside under another name; it returns the token, or why it could not.

    A function made inside another travels as code, so a node need not import this package, and torch, to answer.
    """

    def copied(path: Path, name: str) -> str:
        try:
            token = path.read_text(encoding="utf-8")
            path.with_name(name).write_text(token, encoding="utf-8")
        except OSError as error:
            return f"{error.strerror or error}"
        return token

    return copied


def _check_answer(node: str, folder: Path, token: str, answer: Any, copy: Path) -> None:
    ray = _ray()
    try:
        said = ray.get(answer, timeout=ANSWERED_WITHIN)
    except ray.exceptions.RayError as error:
        raise ScaDeployError(f"{node} does not answer: {type(error).__name__}", "see `ray status`") from error
    if said != token or not copy.exists() or copy.read_text(encoding="utf-8") != token:
        reason = "another folder is there" if said == token else said
        raise ScaDeployError(f"{node} does not share {folder}: {reason}", "choose an --output that all nodes share")
