"""Chips as data: one TOML file a chip, every value with its unit, source and evidence.

A chip file holds tables of tables. Whole numbers: `limits` (the chip and its mesh), `budgets` (one core),
`storage` (how synapses are laid out in memory). Bands from low to high: `energy` (pJ an operation or a hop),
`power` (mW a chip) and `time` (ns an operation). `systems` names the boards and racks the chip is found in.
The keys are fixed, but for the names of systems: a missing, unknown or ill-typed one is an error that names
file, line and key.
"""

from __future__ import annotations

import hashlib
import math
import re
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sca_deploy.errors import ScaDeployError, unknown_name

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

EVIDENCE = ("published", "measured", "simulated", "inferred")
"""How a value is known, strongest claim of a third party first, a deduction last."""

LIMITS = ("cores", "weight_bits", "message_bits", "mesh_columns", "mesh_rows", "cores_per_tile")
OPTIONAL_LIMITS = ("axon_out",)
"""Limits that are not known of every chip: output axons of one core."""
BUDGETS = ("neurons", "neuron_groups", "axon_in", "synapse_words", "axon_map", "total")
STORAGE = ("word_bits", "list_prefix_bits", "dense_index_bits", "dropped_weight_bits")
ENERGY = (
    "synaptic_operation",
    "neuron_update_active",
    "neuron_update_idle",
    "spike_within_tile",
    "hop_east_west",
    "hop_north_south",
)
POWER = ("static",)
TIME = ("synaptic_operation", "neuron_update_active", "neuron_update_idle", "barrier")
BAND_UNITS = {"energy": "pJ", "power": "mW", "time": "ns"}
SYSTEM = ("chips", "cores")
MAY_BE_ZERO = {"message_bits", "list_prefix_bits", "dense_index_bits", "dropped_weight_bits"}

_TOP = ("name", "title", "limits", "budgets", "storage", "energy", "power", "time", "systems")
_QUANTITY = ("value", "unit", "source", "evidence")
_BAND = ("low", "typical", "high", "unit", "source", "evidence")
_CHIPS = Path(__file__).with_name("chips")


@dataclass(frozen=True)
class Quantity:
    """One whole number of a chip, in `unit`, with where it comes from."""

    value: int
    unit: str
    source: str
    evidence: str


@dataclass(frozen=True)
class Band:
    """A price in `unit` (pJ, mW or ns): low <= typical <= high, with where it comes from."""

    low: float
    typical: float
    high: float
    unit: str
    source: str
    evidence: str


@dataclass(frozen=True)
class System:
    """A board or rack: how many chips it joins, and how many of their cores a network can use."""

    name: str
    sizes: Mapping[str, Quantity]

    @property
    def chips(self) -> int:
        """Chips of the system."""
        return self.sizes["chips"].value

    @property
    def cores(self) -> int:
        """Cores of all its chips together."""
        return self.sizes["cores"].value


@dataclass(frozen=True)
class Chip:
    """What a chip offers and what its operations cost.

    Args:
        name: the short name, e.g. "loihi2".
        title: the name a person reads.
        path: the file it was read from.
        sha256: of that file, for manifests.
        limits: keys `LIMITS` and those known of `OPTIONAL_LIMITS`; of the whole chip, whose cores sit
            `cores_per_tile` to a tile on a mesh of `mesh_columns` x `mesh_rows` tiles.
        budgets: keys `BUDGETS`; of one core.
        storage: keys `STORAGE`; bits of words, lists and synapses.
        energy: keys `ENERGY`; pJ an operation, pJ a hop from tile to tile.
        power: keys `POWER`; mW a chip.
        time: keys `TIME`; ns an operation of one core, ns a barrier.
        systems: by name, in the order of the file.
    """

    name: str
    title: str
    path: Path
    sha256: str
    limits: Mapping[str, Quantity]
    budgets: Mapping[str, Quantity]
    storage: Mapping[str, Quantity]
    energy: Mapping[str, Band]
    power: Mapping[str, Band]
    time: Mapping[str, Band]
    systems: Mapping[str, System]

    @property
    def cores(self) -> int:
        """Neurocores on one chip."""
        return self.limits["cores"].value


def chip_names() -> tuple[str, ...]:
    """The chips that come with the package, sorted."""
    return tuple(sorted(path.stem for path in _CHIPS.glob("*.toml")))


def load_chip(name_or_path: str | Path) -> Chip:
    """Read a packaged chip by its name, or a chip file by its path (anything with a suffix or a folder).

    Raises:
        UsageError: for a name that no packaged chip has.
        ScaDeployError: if the file is missing, not TOML, or a key is missing, unknown or ill-typed.
    """
    path = Path(name_or_path)
    if path.name == str(name_or_path) and not path.suffix:
        if path.name not in chip_names():
            raise unknown_name("chip", path.name, chip_names())
        path = _CHIPS / f"{path.name}.toml"
    try:
        raw = path.read_bytes()
    except OSError as error:
        raise ScaDeployError(
            f"cannot read chip file {path}: {error.strerror or error}", f"packaged chips: {', '.join(chip_names())}"
        ) from error
    return _ChipFile(path, raw).chip()


class _ChipFile:
    """The text of one chip file and the checks on it, so that every complaint can name a line."""

    def __init__(self, path: Path, raw: bytes) -> None:
        self.path = path
        self.sha256 = hashlib.sha256(raw).hexdigest()
        try:
            self.text = raw.decode("utf-8")
            self.tree: dict[str, Any] = tomllib.loads(self.text)
        except ValueError as error:  # TOMLDecodeError and UnicodeDecodeError; TOML errors name their line
            raise ScaDeployError(f"chip file {path} is not valid TOML: {error}") from error

    def chip(self) -> Chip:
        self._exact_keys("", self.tree, _TOP)
        chip = Chip(
            name=self._text("", self.tree, "name"),
            title=self._text("", self.tree, "title"),
            path=self.path,
            sha256=self.sha256,
            limits=self._quantities("limits", LIMITS, OPTIONAL_LIMITS),
            budgets=self._quantities("budgets", BUDGETS),
            storage=self._quantities("storage", STORAGE),
            energy=self._bands("energy", ENERGY),
            power=self._bands("power", POWER),
            time=self._bands("time", TIME),
            systems=self._systems(),
        )
        self._check_mesh(chip)
        return chip

    def _check_mesh(self, chip: Chip) -> None:
        columns, rows, per_tile = (chip.limits[k].value for k in ("mesh_columns", "mesh_rows", "cores_per_tile"))
        if chip.cores > columns * rows * per_tile:
            mesh = f"{columns} x {rows} tiles of {per_tile} cores"
            raise self._wrong("limits.cores", "value", f"is {chip.cores}, more than a mesh of {mesh} holds")
        for system in chip.systems.values():
            if system.cores > system.chips * chip.cores:
                most = f"{system.chips} chips of {chip.cores} cores"
                raise self._wrong(f"systems.{system.name}.cores", "value", f"is {system.cores}, more than {most} have")

    def _quantities(self, section: str, names: tuple[str, ...], optional: tuple[str, ...] = ()) -> dict[str, Quantity]:
        entries = self._entries(section, self.tree[section], names, _QUANTITY, optional)
        tables = {name: f"{section}.{name}" for name in entries}
        return {
            name: Quantity(self._whole(tables[name], entry), **self._provenance(tables[name], entry))
            for name, entry in entries.items()
        }

    def _systems(self) -> dict[str, System]:
        table = self._table("systems", self.tree["systems"])
        if not table:
            raise self._wrong("", "systems", "is empty, expected one system at least: a board of one chip")
        systems = {}
        for name, content in table.items():
            section = f"systems.{name}"
            sizes = {
                size: Quantity(self._whole(f"{section}.{size}", entry), **self._provenance(f"{section}.{size}", entry))
                for size, entry in self._entries(section, content, SYSTEM, _QUANTITY).items()
            }
            systems[name] = System(name, sizes)
        return systems

    def _bands(self, section: str, names: tuple[str, ...]) -> dict[str, Band]:
        bands, wanted = {}, BAND_UNITS[section]
        for name, entry in self._entries(section, self.tree[section], names, _BAND).items():
            table = f"{section}.{name}"
            low, typical, high = (self._price(table, entry, key, wanted) for key in ("low", "typical", "high"))
            provenance = self._provenance(table, entry)
            if provenance["unit"] != wanted:
                raise self._wrong(table, "unit", f"is {provenance['unit']!r}, expected {wanted!r}")
            if not low <= typical <= high:
                raise self._wrong(table, "typical", f"is {typical}, outside low {low} to high {high}")
            bands[name] = Band(low, typical, high, **provenance)
        return bands

    def _entries(
        self, section: str, content: Any, names: tuple[str, ...], keys: tuple[str, ...], optional: tuple[str, ...] = ()
    ) -> dict[str, dict[str, Any]]:
        table = self._table(section, content)
        self._exact_keys(section, table, names, optional)
        entries = {name: self._table(f"{section}.{name}", table[name]) for name in (*names, *optional) if name in table}
        for name, entry in entries.items():
            self._exact_keys(f"{section}.{name}", entry, keys)
        return entries

    def _table(self, name: str, value: Any) -> dict[str, Any]:
        if not isinstance(value, dict):
            raise self._wrong("", name, f"is {value!r}, expected a table")
        return value

    def _exact_keys(
        self, table: str, found: Mapping[str, Any], expected: tuple[str, ...], optional: tuple[str, ...] = ()
    ) -> None:
        for key in expected:
            if key not in found:
                raise self._wrong(table, key, "is missing")
        for key in found:
            if key not in (*expected, *optional):
                raise self._wrong(table, key, f"is not known here; known: {', '.join((*expected, *optional))}")

    def _whole(self, table: str, entry: Mapping[str, Any]) -> int:
        value = entry["value"]
        least = 0 if table.split(".")[-1] in MAY_BE_ZERO else 1
        if not isinstance(value, int) or isinstance(value, bool) or value < least:
            raise self._wrong(table, "value", f"is {value!r}, expected a whole number of at least {least}")
        return value

    def _price(self, table: str, entry: Mapping[str, Any], key: str, unit: str) -> float:
        value = entry[key]
        if not isinstance(value, int | float) or isinstance(value, bool) or not 0 <= value < math.inf:
            raise self._wrong(table, key, f"is {value!r}, expected a finite number of {unit}, 0 or more")
        return float(value)

    def _provenance(self, table: str, entry: Mapping[str, Any]) -> dict[str, str]:
        found = {key: self._text(table, entry, key) for key in ("unit", "source", "evidence")}
        if found["evidence"] not in EVIDENCE:
            raise self._wrong(table, "evidence", f"is {found['evidence']!r}, expected one of {', '.join(EVIDENCE)}")
        return found

    def _text(self, table: str, entry: Mapping[str, Any], key: str) -> str:
        value = entry[key]
        if not isinstance(value, str) or not value.strip():
            raise self._wrong(table, key, f"is {value!r}, expected some text")
        return value

    def _wrong(self, table: str, key: str, what: str) -> ScaDeployError:
        line = self._line(table, key)
        where = f"{self.path}, line {line}" if line else str(self.path)
        return ScaDeployError(
            f"chip file {where}: {f'{table}.{key}' if table else key} {what}", f"compare with {_CHIPS / 'loihi2.toml'}"
        )

    def _line(self, table: str, key: str) -> int | None:
        """The line of `key` in `[table]`; else of the table's header, or of its first sub-table; None if none is."""
        wanted = f"{table}.{key}" if table else key
        current, header, within = "", None, None
        for number, line in enumerate(self.text.splitlines(), start=1):
            if opened := re.match(r"\s*\[\s*([\w.-]+)\s*\]", line):
                current = opened[1]
                if current == wanted:
                    return number
                if current == table:
                    header = number
                if within is None and table and current.startswith(f"{table}."):
                    within = number
            elif current == table and re.match(rf"\s*{re.escape(key)}\s*=", line):
                return number
        return header or within
