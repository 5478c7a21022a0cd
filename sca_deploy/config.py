"""The config of a run: defaults < file < flags, every key checked, nothing changed silently."""

from __future__ import annotations

import re
import sys
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from importlib import resources
from pathlib import Path
from typing import Any, TypeVar

from sca_deploy.errors import ScaDeployError, UsageError, unknown_name

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

SCORES = ("potential", "activity", "rate")
OPTIMIZERS = ("adam", "sgd")


@dataclass(frozen=True)
class AugmentConfig:
    """What is done to training images at random, anew in every epoch."""

    crop: int = 0
    """Pad by so many pixels of 0 on every side and cut the image's size out again at a random place."""
    flip: bool = False
    """Mirror left and right, half of the images."""
    cutout: int = 0
    """Side of a square that is set to 0 at a random place; it may hang over the edge."""
    rotation: float = 0.0
    """Turn by up to so many degrees either way."""


@dataclass(frozen=True)
class DataConfig:
    """Which data set, from where, how much of it, and how its values become input over time."""

    set: str = "digits"
    folder: str = ""
    size: int = 0
    """Bring images or event frames to this height and width; 0 leaves them as they are."""
    coding: str = "direct"
    """direct: the image at every step; rate, latency: binary spikes; events: the recording in T bins."""
    augment: AugmentConfig = field(default_factory=AugmentConfig)
    train_samples: int = 0
    """Use only the first so many training samples; 0 is all of them."""
    test_samples: int = 0


@dataclass(frozen=True)
class NetworkConfig:
    """The layer tables of `nn.spec`, defaults for their neurons, and the time steps."""

    steps: int = 4
    neuron: dict[str, Any] = field(default_factory=dict)
    layers: list[dict[str, Any]] = field(default_factory=list)


@dataclass(frozen=True)
class TrainConfig:
    """How a network is trained; the learning rate falls to zero on a cosine."""

    epochs: int = 20
    batch_size: int = 64
    optimizer: str = "adam"
    lr: float = 2e-3
    momentum: float = 0.9
    weight_decay: float = 0.0
    device: str = "cpu"


@dataclass(frozen=True)
class PruneConfig:
    """SCA: which channels to keep, and when that is decided."""

    keep: float = 0.35
    """Fraction of all channels that are on at the end."""
    score: str = "potential"
    regrow: float = 0.1
    """Fraction of all channels regrown at the first update; falls linearly to 0 at the last (a lone one has 0)."""
    floor: float = 0.1
    """Every layer keeps at least this fraction of its channels, and never fewer than one."""
    start: float = 0.1
    end: float = 0.6
    """Masks are updated after the epochs between these fractions of the training, then stay."""
    l1: float = 0.0
    """Added to the gradient of convolution weights as l1 * sign(w)."""


@dataclass(frozen=True)
class VerifyConfig:
    """How many test samples real Lava repeats in a `run`."""

    samples: int = 32
    timeout: float = 300.0


@dataclass(frozen=True)
class Config:
    """Everything a run needs to be repeated."""

    name: str = "run"
    seed: int = 0
    chip: str = "loihi2"
    data: DataConfig = field(default_factory=DataConfig)
    network: NetworkConfig = field(default_factory=NetworkConfig)
    train: TrainConfig = field(default_factory=TrainConfig)
    prune: PruneConfig = field(default_factory=PruneConfig)
    verify: VerifyConfig = field(default_factory=VerifyConfig)

    def __post_init__(self) -> None:
        _check(self)

    def to_plain(self) -> dict[str, Any]:
        """The config as a document that `from_plain` reads."""
        return asdict(self)

    @classmethod
    def from_plain(cls, plain: Mapping[str, Any]) -> Config:
        """The config of a parsed file.

        Raises:
            UsageError: naming the key that is unknown, of a wrong type or out of range.
        """
        if not isinstance(plain, Mapping):
            raise UsageError(f"the config is a {type(plain).__name__}, it must be a table")
        return _section(cls, plain, "")


def load_config(source: str | Path) -> Config:
    """Read a TOML config from a path, or a packaged recipe by its name ("digits").

    Raises:
        UsageError: if there is no such file or recipe, or a key is wrong.
        ScaDeployError: if the file is not TOML.
    """
    path = Path(source)
    recipes = recipe_names()
    if path.is_file():
        text = path.read_bytes()
    elif path.stem in recipes and path.parts in ((path.stem,), (path.name,), ("configs", f"{path.stem}.toml")):
        text = (resources.files("sca_deploy.configs") / f"{path.stem}.toml").read_bytes()
    else:
        raise unknown_name("config", str(source), recipes)
    try:
        plain = tomllib.loads(text.decode("utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ScaDeployError(f"{source} is not valid TOML: {error}") from error
    return Config.from_plain({"name": path.stem, **plain})


def recipe_names() -> list[str]:
    """The recipes that come with the package."""
    return sorted(f.name[:-5] for f in resources.files("sca_deploy.configs").iterdir() if f.name.endswith(".toml"))


def anchored(config: Config) -> Config:
    """The config with its paths made absolute, so that a run can be used from any folder."""
    chip = str(Path(config.chip).resolve()) if config.chip.endswith(".toml") else config.chip
    folder = str(Path(config.data.folder).expanduser().resolve()) if config.data.folder else ""
    return replace(config, chip=chip, data=replace(config.data, folder=folder))


def override(config: Config, flags: Mapping[str, Any]) -> Config:
    """`config` with flags such as {"train.epochs": 3} applied; None means the flag was not given."""
    for key, value in flags.items():
        if value is None:
            continue
        if "." in key:
            section, name = key.split(".")
            value = replace(getattr(config, section), **{name: value})
            key = section
        config = replace(config, **{key: value})
    return config


T = TypeVar("T")


def _section(kind: type[T], plain: Mapping[str, Any], path: str) -> T:
    known = {f.name: f for f in fields(kind)}  # type: ignore[arg-type]
    values: dict[str, Any] = {}
    for key, value in plain.items():
        where = f"{path}{key}"
        if key not in known:
            raise unknown_name("config key", where, [f"{path}{name}" for name in known])
        default = getattr(kind(), key)
        if hasattr(default, "__dataclass_fields__"):
            if not isinstance(value, Mapping):
                raise UsageError(f"config key '{where}' is {value!r}, it must be a table")
            values[key] = _section(type(default), value, f"{where}.")
        else:
            values[key] = _typed(where, value, default)
    return kind(**values)


def _typed(where: str, value: Any, default: Any) -> Any:
    expected = type(default)
    if expected is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if not isinstance(value, expected) or (expected is int and isinstance(value, bool)):
        raise UsageError(f"config key '{where}' is {value!r}, it must be of type {expected.__name__}")
    return value


def _check(config: Config) -> None:
    data, train, prune = config.data, config.train, config.prune
    limits: list[tuple[str, float, float, float]] = [
        ("seed", config.seed, 0, 2**31),
        ("data.train_samples", data.train_samples, 0, 1e9),
        ("data.test_samples", data.test_samples, 0, 1e9),
        ("network.steps", config.network.steps, 1, 4096),
        ("train.epochs", train.epochs, 1, 1e6),
        ("train.batch_size", train.batch_size, 2, 1e6),
        ("train.lr", train.lr, 1e-12, 1e3),
        ("train.momentum", train.momentum, 0, 1),
        ("train.weight_decay", train.weight_decay, 0, 1),
        ("prune.keep", prune.keep, 1e-6, 1),
        ("prune.regrow", prune.regrow, 0, 1),
        ("prune.floor", prune.floor, 0, 1),
        ("prune.start", prune.start, 0, 1),
        ("prune.end", prune.end, prune.start, 1),
        ("prune.l1", prune.l1, 0, 1),
        ("verify.samples", config.verify.samples, 1, 1e6),
        ("verify.timeout", config.verify.timeout, 1, 1e6),
    ]
    for key, value, low, high in limits:
        if not low <= value <= high:
            raise UsageError(f"config key '{key}' is {value:g}, outside {low:g} to {high:g}")
    if not re.fullmatch(r"[A-Za-z0-9_-][A-Za-z0-9_.-]*", config.name):
        raise UsageError(f"config key 'name' is {config.name!r}", "letters, digits, '_', '-' and '.' only")
    if prune.score not in SCORES:
        raise unknown_name("prune.score", prune.score, SCORES)
    if train.optimizer not in OPTIMIZERS:
        raise unknown_name("train.optimizer", train.optimizer, OPTIMIZERS)
