"""What a study looks at once its cells are trained; every analysis continues where it was interrupted."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from sca_deploy.checkpoint import load_trained
from sca_deploy.console import Console
from sca_deploy.errors import ScaDeployError
from sca_deploy.files import read_json, write_json, write_table
from sca_deploy.manifest import digest
from sca_deploy.nn.network import SpikingNetwork
from sca_deploy.pipeline import Job
from sca_deploy.pruning.groups import channel_groups
from sca_deploy.study import pictures
from sca_deploy.study.activity import channel_rows, channel_similarity, per_class_activity
from sca_deploy.study.cells import Row, cell_folder, each
from sca_deploy.study.channel_scores import channel_scores
from sca_deploy.study.correlation import rank_correlations
from sca_deploy.study.noise import input_noise, parameter_noise
from sca_deploy.study.plan import Cell, NoiseConfig, Study
from sca_deploy.study.shapley import ablation, sampled_shapley

CALIBRATION_SAMPLES = 1024


def run_analysis(name: str, study: Study, folder: Path, results: Path, console: Console, jobs: int) -> None:
    """Do one analysis of a study whose cells are done, and write its tables and pictures to `results`."""
    analyses: dict[str, Callable[[Study, Path, Path, Console, int], None]] = {
        "noise": _noise,
        "shapley": _shapley,
        "activity": _activity,
    }
    analyses[name](study, folder, results, console, jobs)


def _noise(study: Study, folder: Path, results: Path, console: Console, jobs: int) -> None:
    """noise.csv and noise.png: accuracy of every cell against noise on pixels and on weights."""
    each(study.cells, folder, console, jobs, _NoiseOf(study.settings.noise), "noise")
    rows: list[Row] = []
    by_arm: dict[str, list[Row]] = {}
    for cell in study.cells:
        of_cell = read_json(cell_folder(folder, cell) / "noise.json")["rows"]
        # `seed` is the network's in every table of a study; the noise has draws.
        rows += [{"arm": cell.arm, "seed": cell.seed, **_drawn(row)} for row in of_cell]
        by_arm.setdefault(cell.arm, []).extend(of_cell)
    write_table(results / "noise.csv", rows)
    pictures.plot_noise(results / "noise.png", by_arm)


class _NoiseOf:
    """Writes noise.json of a cell; an object, since work for other processes must be picklable."""

    def __init__(self, settings: NoiseConfig) -> None:
        self._settings = settings

    def __call__(self, cell: Cell, folder: Path, quiet: bool) -> None:
        place, settings = cell_folder(folder, cell), self._settings
        key = digest([vars(settings), read_json(place / "evaluation.json")])
        path = place / "noise.json"
        if path.exists() and read_json(path).get("key") == key:
            return
        job = Job(cell.config, place.parent, Console(quiet))
        network = load_trained(place / "network.pt")
        x, y = job.dataset.test_x[: settings.samples or None], job.dataset.test_y[: settings.samples or None]
        draws, encode = range(settings.draws), job.inputs.fixed
        rows = input_noise(network, x, y, settings.input, draws, job.dataset.pixel_max, encode=encode)
        rows += parameter_noise(network, encode(x), y, settings.parameter, draws)
        write_json(path, {"key": key, "rows": rows})


def _drawn(row: Row) -> Row:
    return {("draw" if key == "seed" else key): value for key, value in row.items()}


def _shapley(study: Study, folder: Path, results: Path, console: Console, jobs: int) -> None:
    """channels.csv, correlations.csv and pictures: what channels are worth, and what the scores say of it."""
    settings = study.settings.shapley
    cell = next(cell for cell in study.cells if cell.arm == settings.arm)
    network, job = _trained(cell, folder)
    _refuse_masks(network, settings.arm)
    x, y = job.inputs.fixed(job.dataset.test_x[: settings.samples]), job.dataset.test_y[: settings.samples]
    alone = ablation(network, x, y)
    path = cell_folder(folder, cell) / "shapley.json"
    state = read_json(path) if path.exists() else None
    done = len(state["marginals"]) if state else 0
    with console.progress("shapley", settings.permutations) as advance:
        advance(min(done, settings.permutations), "")

        def keep(walked: dict[str, Any]) -> None:
            write_json(path, walked)
            advance(1, "orders")

        shapley = sampled_shapley(network, x, y, settings.permutations, study.config.seed, state=state, progress=keep)
    scores = channel_scores(network, _calibration(job), cell.seed)
    layers = [row["layer"] for row in alone]
    worth = {
        "accuracy drop": [row["accuracy_drop"] for row in alone],
        "loss increase": [row["loss_increase"] for row in alone],
        "Shapley value": [row["shapley"] for row in shapley],
    }
    table = [
        {**of, **{key: value for key, value in also.items() if key not in of}, **{n: v[i] for n, v in scores.items()}}
        for i, (of, also) in enumerate(zip(alone, shapley, strict=True))
    ]
    correlations = rank_correlations(worth, scores, layers)
    write_table(results / "channels.csv", table)
    write_table(results / "correlations.csv", correlations)
    pictures.plot_correlations(results / "correlations.png", correlations)
    points = [100 * drop for drop in worth["accuracy drop"]]
    pictures.plot_scores(results / "scores_ablation.png", points, scores, layers)
    values = [100 * value for value in worth["Shapley value"]]
    pictures.plot_scores(results / "scores_shapley.png", values, scores, layers, "Shapley value, points of accuracy")


def _activity(study: Study, folder: Path, results: Path, console: Console, jobs: int) -> None:
    """activity.csv and pictures of every arm's first seed: which channels are rare, specific or alike."""
    rows: list[Row] = []
    for cell in study.cells:
        if cell.seed != study.settings.seeds[0]:
            continue
        console.say(f"activity: {cell.title}")
        job = Job(cell.config, cell_folder(folder, cell).parent, console)
        network = load_trained(cell_folder(folder, cell) / "network.pt")
        x = job.inputs.fixed(job.dataset.test_x)
        activity, similarity = per_class_activity(network, x, job.dataset.test_y), channel_similarity(network, x)
        rows += [{"arm": cell.arm, "seed": cell.seed, **row} for row in channel_rows(activity, similarity)]
        pictures.plot_activity(results / f"activity_{cell.arm}.png", activity)
        pictures.plot_similarity(results / f"similarity_{cell.arm}.png", similarity)
    write_table(results / "activity.csv", rows)


def _trained(cell: Cell, folder: Path) -> tuple[SpikingNetwork, Job]:
    """The network as trained, masks and all."""
    place = cell_folder(folder, cell)
    network = load_trained(place / "train" / "checkpoint.pt")
    return network, Job(cell.config, place.parent, Console(quiet=True))


def _refuse_masks(network: SpikingNetwork, arm: str) -> None:
    if not all(bool(norm.mask.all()) for group in channel_groups(network) for norm in group.norms):
        raise ScaDeployError(f"arm '{arm}' has pruned channels, which are worth nothing", "set study.shapley.arm")


def _calibration(job: Job) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """Training samples, drawn the same way every time."""
    order = random.Random(0).sample(range(len(job.dataset.train_x)), min(CALIBRATION_SAMPLES, len(job.dataset.train_x)))
    x, y = torch.from_numpy(job.inputs.fixed(job.dataset.train_x[order])), torch.from_numpy(job.dataset.train_y[order])
    return list(zip(x.split(128), y.split(128), strict=True))
