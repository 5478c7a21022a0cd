"""The plan of a sweep: one config, keys of it with the values to try, and the cells that every combination makes.

seeds = [0]                              # any key of a config may stand beside [sweep]
[sweep.axes]
"prune.keep" = [0.2, 0.4]                # a key, each with the values to try
"network.steps" = [2, 4]
"prune.budget" = [{}, { cores = 4 }]     # a value may be a table; one of a section is merged over it
"""

from __future__ import annotations

import math
import random
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, is_dataclass, replace
from importlib import resources
from pathlib import Path
from typing import Any

from sca_deploy.config import Config, PruneConfig, anchored, from_table, override, read_toml
from sca_deploy.errors import UsageError
from sca_deploy.manifest import digest
from sca_deploy.pipeline import arm_config
from sca_deploy.study.plan import Cell
from sca_deploy.sweep.published import Published, packaged, read_published

MOST_CELLS = 10_000
"""Trainings that one sweep is trusted with."""
LONGEST_NAME = 120
"""Letters of a cell's name, which is a folder's."""
NOT_AXES = {"seed": "sweep.seeds", "name": "the file's name"}
"""Keys that no axis may have, and what says them."""


@dataclass(frozen=True)
class SweepConfig:
    """The [sweep] table."""

    seeds: list[int] = field(default_factory=lambda: [0])
    """Every point is trained with each of them."""
    samples: int = 0
    """Train only so many points of the grid, drawn at random without repetition; 0 is all of them."""
    seed: int = 0
    """What these points are drawn by."""
    dense: bool = True
    """Whether the network that is not pruned is trained as well, once for all points that differ in [prune] alone."""
    axes: dict[str, Any] = field(default_factory=dict)
    """Keys of a config, each with the list of values to try."""
    published: list[dict[str, Any]] = field(default_factory=list)
    """Points to mark in the picture beside the packaged ones of the data set."""


@dataclass(frozen=True)
class Sweep:
    """A checked plan.

    Args:
        name: of the sweep.
        config: what all cells share.
        settings: the [sweep] table.
        axes: key -> the values to try, as the config has them.
        cells: in the order in which they are begun, all different.
        published: points to mark in the picture.
    """

    name: str
    config: Config
    settings: SweepConfig
    axes: dict[str, tuple[Any, ...]]
    cells: tuple[Cell, ...]
    published: tuple[Published, ...]

    def to_plain(self) -> dict[str, Any]:
        """The resolved plan as a document."""
        cells = [[cell.arm, cell.seed] for cell in self.cells]
        return {"name": self.name, "config": self.config.to_plain(), "sweep": asdict(self.settings), "cells": cells}


def load_sweep(source: str | Path, flags: Mapping[str, Any]) -> Sweep:
    """Read a sweep from a TOML file, or a packaged one by its name ("digits").

    Args:
        flags: keys of the shared config such as {"data.folder": "..."}; they win over the file but not over an axis.

    Raises:
        UsageError: if there is no such file, or a key or a value of an axis is wrong.
        ScaDeployError: if the file is not TOML.
    """
    name = str(source).removeprefix("configs/").removeprefix("sweeps/")
    plain = read_toml(source if Path(source).is_file() else name, resources.files("sca_deploy.configs") / "sweeps")
    if "sweep" not in plain:
        raise UsageError(f"{source} has no [sweep] table", "give a sweep, or use `sca-deploy run`")
    settings = from_table(SweepConfig, plain.pop("sweep"), "sweep.")
    base = anchored(override(Config.from_plain({"name": Path(source).stem, **plain}), flags))
    _check_seeds(settings.seeds)
    axes = {key: _values(base, key, values) for key, values in _flat(settings.axes).items()}
    if not axes:
        raise UsageError(f"{source} has no [sweep.axes]", 'name a key and its values: "prune.keep" = [0.2, 0.4]')
    points = _points(axes, settings)
    data_set = base.data.set
    published = (*packaged(data_set), *read_published(settings.published, "sweep.published", data_set))
    return Sweep(base.name, base, settings, axes, _cells(base, axes, points, settings), published)


def value_at(config: Config, key: str) -> Any:
    """What a config has under a key such as "prune.keep"; of a section, the table."""
    found: Any = config
    for part in key.split("."):
        found = found[part] if isinstance(found, Mapping) else getattr(found, part)
    return asdict(found) if is_dataclass(found) and not isinstance(found, type) else found


def _flat(axes: Mapping[str, Any], path: str = "") -> dict[str, Any]:
    """Key -> values; keys may be written with or without quotes, which TOML reads as tables in one another."""
    found: dict[str, Any] = {}
    for key, values in axes.items():
        found |= _flat(values, f"{path}{key}.") if isinstance(values, Mapping) else {f"{path}{key}": values}
    return found


def _values(base: Config, key: str, values: Any) -> tuple[Any, ...]:
    """The values of an axis, each of them possible beside the shared config, as the checked config has them."""
    where = f"sweep.axes.{key}"
    if key in NOT_AXES:
        raise UsageError(f"{where}: '{key}' is no axis", f"it is said by {NOT_AXES[key]}")
    if not isinstance(values, list) or not values:
        raise UsageError(f"{where} is {values!r}", "give a list of the values to try")
    found = []
    for value in values:
        try:
            changed = _changed(base, {key: value})
        except UsageError as error:
            raise UsageError(f"{where}: {error.problem}", error.fix) from None
        # Of a section only what was named: the rest is of the shared config.
        found.append(value if isinstance(value, Mapping) else value_at(changed, key))
    if any(value in found[:i] for i, value in enumerate(found)):
        raise UsageError(f"{where} is {values!r}, two of them alike", "give every value once")
    return tuple(found)


def _changed(base: Config, point: Mapping[str, Any]) -> Config:
    """The config with the keys of a point set, checked."""
    plain = base.to_plain()
    for key, value in point.items():
        *sections, last = key.split(".")
        table = plain
        for section in sections:
            inner = table.get(section)
            # What is no section becomes one, which the check below refuses by its name.
            table[section] = dict(inner) if isinstance(inner, Mapping) else {}
            table = table[section]
        table[last] = {**table[last], **value} if _is_section(base, key) and isinstance(value, Mapping) else value
    return anchored(Config.from_plain(plain))


def _is_section(base: Config, key: str) -> bool:
    """Whether a key is that of a table whose keys are all known, [prune] but not prune.budget."""
    found: Any = base
    for part in key.split("."):
        found = getattr(found, part, None)
    return is_dataclass(found)


def _points(axes: Mapping[str, Sequence[Any]], settings: SweepConfig) -> list[dict[str, Any]]:
    """The points of the grid, the last axis changing fastest; a drawing of more points holds that of fewer."""
    total, wanted = math.prod(map(len, axes.values())), settings.samples
    if not 0 <= wanted <= total:
        raise UsageError(f"sweep.samples is {wanted}, the grid has {total:,} points", "0 is all of them")
    trainings = (wanted or total) * len(settings.seeds)
    if trainings > MOST_CELLS:
        raise UsageError(f"the sweep has {trainings:,} cells, more than {MOST_CELLS:,}", "draw some by sweep.samples")
    drawn, numbers = random.Random(settings.seed), set() if wanted else set(range(total))
    while len(numbers) < wanted:
        numbers.add(drawn.randrange(total))
    return [_point(axes, number) for number in sorted(numbers)]


def _point(axes: Mapping[str, Sequence[Any]], number: int) -> dict[str, Any]:
    """The point of the grid with this number: its digits, the last axis giving the lowest one."""
    point: dict[str, Any] = {}
    for key in reversed(list(axes)):
        number, digit = divmod(number, len(axes[key]))
        point[key] = axes[key][digit]
    return {key: point[key] for key in axes}


def _cells(
    base: Config, axes: Mapping[str, Sequence[Any]], points: Sequence[Mapping[str, Any]], settings: SweepConfig
) -> tuple[Cell, ...]:
    """Networks that are not pruned first, then seed by seed, so that what an interrupted sweep has can be compared."""
    words, arms, known = _words(axes), dict[str, Config](), dict[str, str]()
    for point in points:
        try:
            config = _changed(base, point)
        except UsageError as error:
            raise UsageError(f"sweep.axes, at {_name(words, point)}: {error.problem}", error.fix) from None
        if config.prune.budget:  # points that differ in prune.keep alone are one cell
            config = replace(config, prune=replace(config.prune, keep=base.prune.keep))
        without = arm_config(replace(config, prune=PruneConfig(method="dense")), "dense")
        found = {} if config.prune.method == "dense" else {_name(words, _that_count(point, config)): config}
        if settings.dense or not found:
            found[_name(words, _that_count(point, without), "dense")] = without
        for arm, made in found.items():
            same = known.setdefault(digest(made.to_plain()), arm)
            if same == arm and arms.setdefault(arm, made) != made:
                raise UsageError(f"two cells of the sweep are named {arm}", "choose values that differ in letters")
    ordered = sorted(arms, key=lambda arm: arms[arm].prune.method != "dense")
    return tuple(Cell(arm, seed, replace(arms[arm], seed=seed)) for seed in settings.seeds for arm in ordered)


def counts(key: str, config: Config) -> bool:
    """Whether a key has a say: [prune] has none in a network that is not pruned, prune.keep none beside a budget."""
    if config.prune.method == "dense":
        return key.partition(".")[0] != "prune"
    return key != "prune.keep" or not config.prune.budget


def _that_count(point: Mapping[str, Any], config: Config) -> dict[str, Any]:
    return {key: value for key, value in point.items() if counts(key, config)}


def _words(axes: Mapping[str, Any]) -> dict[str, str]:
    """What stands for a key in the name of a cell: its last part, all of it where two axes share that."""
    last = [key.rpartition(".")[2] for key in axes]
    return {key: short if last.count(short) == 1 else key for key, short in zip(axes, last, strict=True)}


def _name(words: Mapping[str, str], point: Mapping[str, Any], first: str = "") -> str:
    """keep-0.2-method-sca: the same for the same point whatever the others of the sweep are."""
    parts = [first, *(f"{words[key]}-{_said(value)}" for key, value in point.items())]
    name = "-".join(part for part in parts if part)
    return name if len(name) <= LONGEST_NAME else f"{name[: LONGEST_NAME - 9]}-{digest(name)[:8]}"


def _said(value: Any) -> str:
    """A value in letters that a folder may have; where some had to go, a digest tells it from others."""
    if isinstance(value, Mapping):
        return "-".join(f"{key}-{_said(inner)}" for key, inner in value.items()) or "none"
    if isinstance(value, list):
        return f"{len(value)}-{digest(value)[:8]}"
    text = str(value).lower() if isinstance(value, bool) else str(value)
    letters = re.sub(r"[^A-Za-z0-9_.]+", "-", text.rpartition("/")[2]).strip("-.") or "none"
    return letters if letters == text or not text else f"{letters}-{digest(text)[:8]}"


def _check_seeds(seeds: Sequence[Any]) -> None:
    whole = all(isinstance(seed, int) and not isinstance(seed, bool) and seed >= 0 for seed in seeds)
    if not seeds or not whole or len(set(seeds)) < len(seeds):
        raise UsageError(f"sweep.seeds is {list(seeds)}", "give different whole numbers from 0")
