"""The plan of a study: one config, the arms that differ from it, the seeds, and what is looked at afterwards.

seeds = [0, 1, 2]            # any key of a config may stand beside [study]
[study]
analyses = ["noise"]         # also: shapley, activity
[[study.arms]]
name = "sca"
prune = { method = "sca" }   # any table of a config, merged over the shared one
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from importlib import resources
from pathlib import Path
from typing import Any

from sca_deploy.config import Config, anchored, from_table, override, read_toml
from sca_deploy.errors import UsageError, unknown_name

ANALYSES = ("noise", "shapley", "activity")


@dataclass(frozen=True)
class NoiseConfig:
    """Accuracy against noise, for every cell."""

    input: list[float] = field(default_factory=lambda: [0.0, 0.1, 0.2, 0.3, 0.4])
    """Standard deviations of the noise on pixels, as fractions of the largest pixel."""
    parameter: list[float] = field(default_factory=lambda: [0.0, 0.1, 0.2, 0.3, 0.4])
    """Standard deviations of the noise on weights, as fractions of a layer's root mean square."""
    draws: int = 3
    """How many times the noise is drawn."""
    samples: int = 1000
    """Test samples it is measured on; 0 is all."""


@dataclass(frozen=True)
class ShapleyConfig:
    """What each channel of the dense network is worth, and what the scores say of it."""

    arm: str = "dense"
    permutations: int = 20
    samples: int = 200
    """Test samples the network is valued on."""


@dataclass(frozen=True)
class StudyConfig:
    """The [study] table."""

    seeds: list[int] = field(default_factory=lambda: [0, 1, 2])
    analyses: list[str] = field(default_factory=list)
    arms: list[dict[str, Any]] = field(default_factory=list)
    noise: NoiseConfig = field(default_factory=NoiseConfig)
    shapley: ShapleyConfig = field(default_factory=ShapleyConfig)


@dataclass(frozen=True)
class Cell:
    """One training of a study."""

    arm: str
    seed: int
    config: Config

    @property
    def title(self) -> str:
        """Its name for people."""
        return f"{self.arm}, seed {self.seed}"


@dataclass(frozen=True)
class Study:
    """A checked plan."""

    name: str
    config: Config
    settings: StudyConfig
    arms: dict[str, Config]

    @property
    def cells(self) -> list[Cell]:
        """Every arm with every seed, seed by seed, so that an interrupted study compares all arms."""
        pairs = [(arm, seed) for seed in self.settings.seeds for arm in self.arms]
        return [Cell(arm, seed, replace(self.arms[arm], seed=seed)) for arm, seed in pairs]

    def to_plain(self) -> dict[str, Any]:
        """The resolved plan as a document."""
        arms = {arm: config.to_plain() for arm, config in self.arms.items()}
        plain = {f.name: getattr(self.settings, f.name) for f in fields(self.settings) if f.name != "arms"}
        plain |= {"noise": vars(self.settings.noise), "shapley": vars(self.settings.shapley)}
        return {"name": self.name, "study": plain, "arms": arms}


def load_study(source: str | Path, flags: Mapping[str, Any]) -> Study:
    """Read a study from a TOML file, or a packaged one by its name ("fashion").

    Args:
        flags: keys of the shared config such as {"data.folder": "..."}; they win over the file but not over an arm.

    Raises:
        UsageError: if there is no such file, or a key is wrong.
        ScaDeployError: if the file is not TOML.
    """
    plain = {"name": Path(source).stem, **read_toml(source, resources.files("sca_deploy.configs") / "studies")}
    if "study" not in plain:
        raise UsageError(f"{source} has no [study] table", "give a study, or use `sca-deploy run`")
    settings = from_table(StudyConfig, plain.pop("study"), "study.")
    base = anchored(override(Config.from_plain(plain), flags))
    _check(settings)
    arms = {}
    for table in settings.arms:
        given = {key: value for key, value in table.items() if key != "name"}
        arms[str(table["name"])] = Config.from_plain(_merged(base.to_plain(), given))
    if "shapley" in settings.analyses and settings.shapley.arm not in arms:
        raise unknown_name("study.shapley.arm", settings.shapley.arm, arms)
    return Study(base.name, base, settings, arms)


def _check(settings: StudyConfig) -> None:
    for analysis in settings.analyses:
        if analysis not in ANALYSES:
            raise unknown_name("analysis", str(analysis), ANALYSES)
    names = [table.get("name") if isinstance(table, Mapping) else None for table in settings.arms]
    if not names or not all(isinstance(name, str) and name.replace("-", "").isalnum() for name in names):
        raise UsageError(f"study.arms are named {names}", "every arm needs a name of letters, digits and '-'")
    if len(set(names)) < len(names):
        raise UsageError(f"study.arms are named {names}, two of them alike")
    seeds = settings.seeds
    if not seeds or len(set(seeds)) < len(seeds) or not all(isinstance(s, int) and s >= 0 for s in seeds):
        raise UsageError(f"study.seeds is {seeds}", "give different whole numbers from 0")


def _merged(base: dict[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    result = dict(base)
    for key, value in over.items():
        old = result.get(key)
        result[key] = _merged(old, value) if isinstance(old, dict) and isinstance(value, Mapping) else value
    return result
