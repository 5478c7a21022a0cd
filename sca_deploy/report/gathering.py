"""Everything a report shows, gathered from two arms as one plain document.

What an arm does not hold is named in its "missing", with the reason; a file that is there and damaged is an error.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import cached_property, partial
from pathlib import Path
from typing import Any, cast

from sca_deploy.artifact import ARMS, Artifact, arm_folder, open_artifact
from sca_deploy.console import Console
from sca_deploy.data import configured
from sca_deploy.errors import DoesNotFit, ScaDeployError
from sca_deploy.files import read_json
from sca_deploy.hardware.chip import Chip, load_chip
from sca_deploy.hardware.floor_plan import floor_plan
from sca_deploy.hardware.mapping import Mapping as CoreMapping
from sca_deploy.hardware.mapping import check_fits, map_program
from sca_deploy.hardware.program import Program
from sca_deploy.inputs import inputs_of
from sca_deploy.pipeline import evaluation
from sca_deploy.report.inspection import inspection
from sca_deploy.report.traces import chosen_samples, traces
from sca_deploy.train import read_log

FILES = {
    "verification": ("verify.json", "not compared with Lava in this run; `sca-deploy verify` does it now"),
    "compaction": ("compaction.json", "nothing was compacted here"),
    "calibration": ("calibration.json", "no scales were searched here"),
    "manifest": ("manifest.json", "`sca-deploy run` leaves a manifest when it lowers a network"),
    "budget": ("budget.json", "what training was held to was not kept"),
}
"""Parts that are a file of the arm, and what it means where there is none."""
NETWORKS = ("network.pt", "train/checkpoint.pt", "program.npz")
"""An arm that holds none of these has no network."""
HEAVY = ("masks", "scores")
"""What training logs of every channel, and no page shows."""
OLD = "made by an older version; delete evaluation.json and repeat the run"


def gather(
    console: Console,
    dense: Path,
    pruned: Path,
    comparison: dict[str, Any],
    evaluations: Mapping[str, dict[str, Any]] | None = None,
) -> dict[str, Any]:
    """The document of a report.

    Args:
        console: shows what is worked out.
        dense, pruned: arms of runs.
        comparison: what `pipeline.comparison` gave for them.
        evaluations: of "dense" and "pruned", where they are known already.

    Returns:
        {"title", "comparison", "chip", "arms": {"dense", "pruned"}}; an arm holds "name", "title", "evaluation",
        "log", "layers", "floor", "traces", "verification", "compaction", "calibration", "manifest", "budget" (None, and
        not missing, where none was asked for) and "missing", which says of each other part that is None or empty why,
        in one line.

    Raises:
        ScaDeployError: if a file of an arm is damaged, or its chip is not there.
    """
    places = dict(zip(ARMS, (arm_folder(dense), arm_folder(pruned)), strict=True))
    known = dict(evaluations or {})
    if "accuracy_chip" in comparison["labels"]:
        known |= {name: evaluation(console, place) for name, place in places.items() if name not in known}
    agreements = [found for name in ARMS if (found := known.get(name, {}).get("agreement"))]
    arms = {name: _Arm(name, place, known.get(name), agreements) for name, place in places.items()}
    parts = {name: arm.as_dict() for name, arm in arms.items()}
    chip = arms["pruned"].chip
    sizes = ("cores", "mesh_columns", "mesh_rows", "cores_per_tile")
    return {
        "title": _title(*places.values()),
        "comparison": comparison,
        "chip": {"name": chip.name, "title": chip.title, **{key: chip.limits[key].value for key in sizes}},
        "arms": parts,
    }


def _title(dense: Path, pruned: Path) -> str:
    """The name of the run, or of both where they differ."""
    names = [place.resolve().parent.name for place in (dense, pruned)]
    return names[0] if dense.resolve().parent == pruned.resolve().parent else " and ".join(names)


class _Absent(Exception):
    """A part that an arm does not have; says why."""


class _Arm:
    """One arm of a report, whose parts are made when they are asked for; one that it has not raises `_Absent`."""

    def __init__(
        self, name: str, folder: Path, known: dict[str, Any] | None, agreements: Sequence[Mapping[str, Any]]
    ) -> None:
        self._name, self._folder, self._known, self._agreements = name, folder, known, agreements

    def as_dict(self) -> dict[str, Any]:
        """Plain data, with the reason for what is missing."""
        parts: dict[str, Callable[[], Any]] = {
            **{part: partial(self._file, part) for part in FILES},
            "budget": self._budget,
            "evaluation": self._evaluation,
            "log": self._log,
            "layers": self._layers,
            "floor": self._floor,
            "traces": self._traces,
        }
        found: dict[str, Any] = {}
        missing: dict[str, str] = {}
        for part, make in parts.items():
            try:
                found[part] = make()
            except _Absent as reason:
                found[part] = [] if part in ("log", "layers") else None
                missing[part] = str(reason)
        if self._known is not None:
            missing |= {part: OLD for part in ("over_steps", "agreement") if part not in self._known}
        place = self._folder.resolve()
        return {"name": self._name, "title": f"{place.parent.name}-{place.name}", **found, "missing": missing}

    @cached_property
    def chip(self) -> Chip:
        """The run's chip, else Loihi 2."""
        config = None if self._artifact is None else self._artifact.config
        return load_chip(config.chip if config else "loihi2")

    @cached_property
    def _artifact(self) -> Artifact | None:
        return open_artifact(self._folder) if any((self._folder / name).exists() for name in NETWORKS) else None

    @cached_property
    def _program(self) -> Program:
        if self._artifact is None:
            raise _Absent("there is no network in the folder")
        if self._artifact.program_path is not None:
            return self._artifact.program
        _ = self._artifact.graph  # a damaged file is an error; what follows can only be refused
        try:
            return self._artifact.program
        except ScaDeployError as error:
            raise _Absent(f"stays in floats: {error.problem}") from error

    @cached_property
    def _mapping(self) -> CoreMapping:
        return map_program(self._program, self.chip)

    def _evaluation(self) -> dict[str, Any]:
        if self._known is None:
            _ = self._program
            raise _Absent("only the float networks are compared, as the other one stays in floats")
        return self._known

    def _log(self) -> list[dict[str, Any]]:
        folder = self._folder / "train"
        if not (folder / "metrics.jsonl").exists():
            raise _Absent("this network was not trained here")
        log = read_log(folder)
        if not all(isinstance(entry, dict) and isinstance(entry.get("pruning", {}), dict) for entry in log):
            raise ScaDeployError(f"{folder}/metrics.jsonl is not a readable log", "repeat the training command")
        return [{key: _light(value) if key == "pruning" else value for key, value in entry.items()} for entry in log]

    def _layers(self) -> list[dict[str, Any]]:
        _ = self._program
        layers: list[dict[str, Any]] = inspection(cast(Artifact, self._artifact))["layers"]
        return layers

    def _floor(self) -> dict[str, Any]:
        return floor_plan(self._program, self._mapping, self.chip).as_dict()

    def _traces(self) -> dict[str, Any]:
        program, artifact = self._program, cast(Artifact, self._artifact)
        if artifact.network is None or artifact.config is None:
            raise _Absent("the folder is not in a run, so there is no test set")
        try:
            dataset = configured(artifact.config.data, artifact.config.network.steps)
        except ScaDeployError as error:
            raise _Absent(error.problem) from error
        inputs = inputs_of(artifact.config, dataset)
        return traces(artifact.network, program, dataset, inputs, chosen_samples(dataset.test_y, self._agreements))

    def _file(self, part: str) -> dict[str, Any]:
        name, reason = FILES[part]
        path = self._folder / name
        if path.exists():
            document = read_json(path)
            if not isinstance(document, dict):
                raise ScaDeployError(f"{path} does not hold a document", "delete it and repeat the run")
            return document
        if part == "verification":
            self._check_exportable()
        raise _Absent(reason)

    def _budget(self) -> dict[str, Any] | None:
        """What training was held to, if anything was asked."""
        return self._file("budget") if self._known is not None and "budget" in self._known else None

    def _check_exportable(self) -> None:
        """What is not on the chip cannot be compared with it."""
        try:
            check_fits(self._mapping, self.chip)
        except DoesNotFit as error:
            raise _Absent(error.problem) from error


def _light(pruning: dict[str, Any]) -> dict[str, Any]:
    """What a log says of pruning, without every channel; "of" is how many each layer has, if these are masked."""
    masks = pruning.get("masks")
    sizes = {"of": {layer: len(bits) for layer, bits in masks.items()}} if masks else {}
    return {key: value for key, value in pruning.items() if key not in HEAVY} | sizes
