"""Points that others published: an accuracy and at least one cost of a spiking network, with where it stands written.

    packaged(data_set) -> list[Published]                          those that come with the package
    read_published(tables, where, data_set) -> list[Published]     those of a config, `[[sweep.published]]`

Their costs are of other chips, other numbers of steps and other ways of counting: marks to stand beside, no rivals.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from functools import cache
from importlib import resources
from typing import Any

from sca_deploy.config import read_toml
from sca_deploy.errors import UsageError, unknown_name

COSTS = ("cores", "synops", "energy_nj")
"""Neurocores; synaptic operations a sample; energy a sample, nJ."""
EVIDENCE = ("measured", "simulated", "estimated", "not said")
ENERGIES = ("dynamic", "total", "not said")


@dataclass(frozen=True)
class Published:
    """What a source says of one network; a cost that it does not say is None."""

    name: str
    """Short, as it stands in a picture: "NxTF CNN, Loihi"."""
    accuracy: float
    """Fraction of the test set, 0 to 1."""
    source: str
    """Author, venue and year, or an address."""
    data_set: str
    """As `[data] set` names it."""
    cores: float | None = None
    synops: float | None = None
    """Synaptic operations a sample, as the source counts them."""
    energy_nj: float | None = None
    """nJ a sample; `energy` says of what."""
    energy: str = "not said"
    """One of ENERGIES: what is above the idle power, or all of it."""
    evidence: str = "not said"
    """One of EVIDENCE: how the source came to its costs."""
    chip: str = ""
    network: str = ""
    steps: int | None = None
    """Time steps a sample."""
    read_at: str = ""
    """The address at which the numbers were read."""
    note: str = ""


def read_published(tables: object, where: str, data_set: str = "") -> list[Published]:
    """The points of a config's tables, every key checked.

    Args:
        tables: what the parsed file holds.
        where: the key of the tables, as the user knows it: "sweep.published".
        data_set: for tables that name none.

    Raises:
        UsageError: if a key is unknown, missing, of a wrong type or out of range, or a point has no cost.
    """
    if not isinstance(tables, Sequence) or isinstance(tables, str):
        raise UsageError(f"{where} is {tables!r}, it must be a list of tables", f"write [[{where}]] above each point")
    return [_point(table, f"{where}[{i}]", data_set) for i, table in enumerate(tables)]


def packaged(data_set: str) -> list[Published]:
    """The points that come with the package for a data set, in the order of the file; none for one it does not have."""
    return [point for point in all_packaged() if point.data_set == data_set]


@cache
def all_packaged() -> tuple[Published, ...]:
    """Every point of configs/published/points.toml."""
    folder = resources.files("sca_deploy.configs").joinpath("published")
    return tuple(read_published(read_toml("points", folder)["point"], "point"))


def _point(table: object, where: str, data_set: str) -> Published:
    if not isinstance(table, Mapping):
        raise UsageError(f"{where} is {table!r}, it must be a table")
    known = [field.name for field in fields(Published)]
    for key in table:
        if key not in known:
            raise unknown_name(f"key of {where}", str(key), known)
    values: dict[str, Any] = {"data_set": data_set, **table}
    for key in ("name", "source", "data_set"):
        if not _text(where, key, values.get(key, "")).strip():
            raise UsageError(f"{where} has no {key}", f'add {key} = "..."')
    named = f"{where} ({values['name']})"
    for key in ("chip", "network", "read_at", "note"):
        _text(named, key, values.get(key, ""))
    for key, choices in (("evidence", EVIDENCE), ("energy", ENERGIES)):
        if _text(named, key, values.get(key, "not said")) not in choices:
            raise unknown_name(f"{key} of {named}", values[key], choices)
    if "accuracy" not in values:
        raise UsageError(f"{named} has no accuracy", "add accuracy = 0.95 for 95 %")
    if not 0 <= _number(named, "accuracy", values["accuracy"]) <= 1:
        raise UsageError(f"{named}: accuracy is {values['accuracy']}, it lies in 0 to 1", "write 0.95 for 95 %")
    costs = [key for key in (*COSTS, "steps") if key in values]
    for key in costs:
        if not 0 < _number(named, key, values[key]) < float("inf"):
            raise UsageError(f"{named}: {key} is {values[key]}, it must be positive and finite")
    if "steps" in values and not isinstance(values["steps"], int):
        raise UsageError(f"{named}: steps is {values['steps']}, it must be a whole number")
    if not set(costs) & set(COSTS):
        raise UsageError(f"{named} has no cost", f"add at least one of {', '.join(COSTS)}")
    return Published(**values)


def _text(where: str, key: str, value: object) -> str:
    if not isinstance(value, str):
        raise UsageError(f"{where}: {key} is {value!r}, it must be text", f'write {key} = "{value}"')
    return value


def _number(where: str, key: str, value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise UsageError(f"{where}: {key} is {value!r}, it must be a number")
    return value
