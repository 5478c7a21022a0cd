"""The config of a run: defaults < file < flags, every key checked, nothing changed silently."""

from __future__ import annotations

import re
import sys
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from sca_deploy.budget import check_budget
from sca_deploy.errors import ScaDeployError, UsageError, unknown_name

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

if TYPE_CHECKING:
    from importlib.resources.abc import Traversable

OPTIMIZERS = ("adam", "sgd")
RATES = ("cosine", "step", "constant")
LOSSES = ("mean_logits", "per_step")
PRECISIONS = ("float32", "bfloat16")
RAMPS = ("cubic", "constant")
ALLOCATIONS = ("activity", "global", "uniform")


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
    """The layer tables of `nn.spec`, the name of a network of `nn.zoo`, or a file to begin with; and the time steps."""

    name: str = ""
    file: str = ""
    """A .nir file that says its dt and reset, or a .pt checkpoint. The dense arm is this network as it is."""
    steps: int = 4
    neuron: dict[str, Any] = field(default_factory=dict)
    layers: list[dict[str, Any]] = field(default_factory=list)


@dataclass(frozen=True)
class TrainConfig:
    """How a network is trained."""

    epochs: int = 20
    batch_size: int = 64
    optimizer: str = "adam"
    lr: float = 2e-3
    rate: str = "cosine"
    """cosine: the learning rate falls to zero; step: it is multiplied by 0.1 at each milestone; constant."""
    milestones: list[float] = field(default_factory=lambda: [0.5, 0.75])
    """For rate = "step": fractions of a phase of the training, which is all of it for most methods."""
    momentum: float = 0.9
    weight_decay: float = 0.0
    loss: str = "mean_logits"
    """Cross-entropy of the logits' mean over time, or per_step: the mean of the cross-entropy of each step."""
    device: str = "cpu"
    precision: str = "float32"
    """bfloat16: convolutions and linear layers by autocast; potentials stay float32."""
    channels_last: bool = True
    checkpoint_seconds: float = 120.0
    """A checkpoint is written after each epoch, and within it after so many seconds; 0: after each batch."""


@dataclass(frozen=True)
class PruneConfig:
    """Which method prunes, how much, when, and what else the loss is charged for."""

    method: str = "sca"
    keep: float = 0.35
    """Fraction of all channels, or of all weights for the unstructured methods, that is on at the end; a budget, where
    there is one, decides this in its place."""
    budget: dict[str, Any] = field(default_factory=dict)
    """What the pruned network may take on the chip, such as { cores = 32, energy-nj = 500 }: `sca_deploy.budget`."""
    allocation: str = "activity"
    """How layers share a budget. activity: what keeps most of every layer's score for what its channels cost; global:
    the best scores of the whole network; uniform: the same fraction of every layer."""
    score: str = ""
    """What channels are ranked by; empty for the method's own. See `sca_deploy.pruning.scores`."""
    regrow: float = 0.2
    """Share of the kept that regrowth chooses among those the ranking left out."""
    regrow_by: str = ""
    """What regrowth ranks by; empty for the method's own. See `sca_deploy.pruning.regrowth`."""
    ramp: str = "cubic"
    """cubic: the kept fraction falls from 1; constant: it is `keep` from the first update."""
    fade: bool = True
    """Whether the share that regrows falls to 0 at the last update, so that the ranking has the last word."""
    floor: float = 0.1
    """Every layer keeps at least this fraction of its channels, and never fewer than one."""
    start: float = 0.1
    end: float = 0.6
    """Updates lie between these fractions of the training; methods that prune once do so at `end`."""
    interval: int = 0
    """Batches between two updates of the unstructured methods; 0: an epoch. Channels are updated after epochs."""
    l1_weights: float = 0.0
    """Added to the gradient of convolution weights as l1 * sign(w)."""
    l1_gamma: float = 0.0
    """Added to the gradient of batch-norm scales as l1 * sign(gamma)."""
    l1_potential: float = 0.0
    """Times mean |V| before the reset, summed over populations, is added to the loss."""
    l1_spikes: float = 0.0
    """Times the mean firing rate, summed over populations, is added to the loss."""


@dataclass(frozen=True)
class LowerConfig:
    """How a trained network becomes integers."""

    search: bool = True
    """Whether each layer's scale is searched; without it the largest that fits is taken."""
    samples: int = 128
    """Training samples to search on."""
    finetune: int = 0
    """Epochs of fine-tuning in integers, at most, where the chip loses more than `max_drop`."""
    max_drop: float = 0.3
    """Percentage points that the chip may lose against the float network."""


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
    lower: LowerConfig = field(default_factory=LowerConfig)
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
        return from_table(cls, plain, "")


def load_config(source: str | Path) -> Config:
    """Read a TOML config from a path, or a packaged recipe by its name ("digits", "paper/sca-vgg16-cifar10").

    Raises:
        UsageError: if there is no such file or recipe, or a key is wrong.
        ScaDeployError: if the file is not TOML.
    """
    plain = read_toml(source, resources.files("sca_deploy.configs"))
    for kind in ("study", "sweep"):
        if kind in plain:
            raise UsageError(f"{source} is a {kind}", f"sca-deploy {kind} {source}")
    return Config.from_plain({"name": Path(source).stem, **plain})


def read_toml(source: str | Path, recipes: Traversable) -> dict[str, Any]:
    """The tables of a TOML file, given by path or as the name of one in `recipes`, with or without .toml.

    Raises:
        UsageError: if there is no such file.
        ScaDeployError: if it is not TOML.
    """
    path = Path(source)
    name = str(source).removesuffix(".toml").removeprefix("configs/").removeprefix("studies/")
    if path.is_file():
        text = path.read_bytes()
    elif name in recipe_names(recipes):
        text = recipes.joinpath(f"{name}.toml").read_bytes()
    else:
        unknown = unknown_name("config", str(source), recipe_names(recipes))
        raise UsageError(f"no such file: {source}", unknown.fix) if path.suffix == ".toml" else unknown
    try:
        return tomllib.loads(text.decode("utf-8"))
    except (ValueError, RecursionError) as error:  # of a syntax error, another encoding, a number or a nesting too long
        raise ScaDeployError(f"{source} is not valid TOML: {error}") from error


def recipe_names(folder: Traversable | None = None) -> list[str]:
    """The recipes of a packaged folder, by default the configs and those of the papers."""
    top = folder or resources.files("sca_deploy.configs")
    names = [f.name.removesuffix(".toml") for f in top.iterdir() if f.name.endswith(".toml")]
    papers = top.joinpath("paper")
    if papers.is_dir():
        names += [f"paper/{f.name.removesuffix('.toml')}" for f in papers.iterdir() if f.name.endswith(".toml")]
    return sorted(names)


def anchored(config: Config) -> Config:
    """The config with its paths made absolute, so that a run can be used from any folder."""
    chip = str(Path(config.chip).resolve()) if config.chip.endswith(".toml") else config.chip
    folder = str(Path(config.data.folder).expanduser().resolve()) if config.data.folder else ""
    file = str(Path(config.network.file).expanduser().resolve()) if config.network.file else ""
    network = replace(config.network, file=file)
    return replace(config, chip=chip, data=replace(config.data, folder=folder), network=network)


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


def decisive(config: Config) -> dict[str, Any]:
    """The part of a config that decides what a network becomes, as a plain document.

    How patiently it is verified, and how often checkpoints are written, does not.
    """
    plain = config.to_plain()
    del plain["verify"]
    del plain["train"]["checkpoint_seconds"]
    return plain


T = TypeVar("T")


def from_table(kind: type[T], plain: Mapping[str, Any], path: str) -> T:
    """A dataclass from a table of a parsed file, every key checked; `path` stands before keys in errors.

    Raises:
        UsageError: naming the key that is unknown or of a wrong type.
    """
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
            values[key] = from_table(type(default), value, f"{where}.")
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
        ("train.epochs", train.epochs, 0 if config.network.file else 1, 1e6),
        ("train.batch_size", train.batch_size, 2, 1e6),
        ("train.lr", train.lr, 1e-12, 1e3),
        ("train.momentum", train.momentum, 0, 1),
        ("train.weight_decay", train.weight_decay, 0, 1),
        ("prune.keep", prune.keep, 1e-6, 1),
        ("prune.regrow", prune.regrow, 0, 1),
        ("prune.floor", prune.floor, 0, 1),
        ("prune.start", prune.start, 0, 1),
        ("prune.end", prune.end, prune.start, 1),
        ("prune.interval", prune.interval, 0, 1e9),
        ("prune.l1_weights", prune.l1_weights, 0, 1),
        ("prune.l1_gamma", prune.l1_gamma, 0, 1),
        ("prune.l1_potential", prune.l1_potential, 0, 1e3),
        ("prune.l1_spikes", prune.l1_spikes, 0, 1e3),
        ("train.checkpoint_seconds", train.checkpoint_seconds, 0, 1e9),
        ("data.size", data.size, 0, 4096),
        ("data.augment.crop", data.augment.crop, 0, 4096),
        ("data.augment.cutout", data.augment.cutout, 0, 4096),
        ("data.augment.rotation", data.augment.rotation, 0, 180),
        ("lower.samples", config.lower.samples, 1, 1e6),
        ("lower.finetune", config.lower.finetune, 0, 1e6),
        ("lower.max_drop", config.lower.max_drop, 0, 100),
        ("verify.samples", config.verify.samples, 1, 1e6),
        ("verify.timeout", config.verify.timeout, 1, 1e6),
    ]
    for key, value, low, high in limits:
        if not low <= value <= high:
            limits_shown = f"{_number(low)} to {_number(high)}"
            problem = f"config key '{key}' is {value:g}, outside {limits_shown}"
            raise UsageError(problem, f"choose a number from {limits_shown}")
    if not re.fullmatch(r"[A-Za-z0-9_-][A-Za-z0-9_.-]*", config.name):
        raise UsageError(f"config key 'name' is {config.name!r}", "letters, digits, '_', '-' and '.' only")
    names = {
        "train.optimizer": (train.optimizer, OPTIMIZERS),
        "train.rate": (train.rate, RATES),
        "train.loss": (train.loss, LOSSES),
        "train.precision": (train.precision, PRECISIONS),
        "prune.ramp": (prune.ramp, RAMPS),
        "prune.allocation": (prune.allocation, ALLOCATIONS),
    }
    for key, (name, known) in names.items():
        if name not in known:
            raise unknown_name(key, name, known)
    check_budget(prune.budget, "prune.budget")
    if not all(isinstance(m, float | int) and 0 < m < 1 for m in train.milestones):
        raise UsageError(f"config key 'train.milestones' is {train.milestones}, it must hold fractions between 0 and 1")


def _number(value: float) -> str:
    """1,000,000 and 1e-06."""
    return f"{value:,.0f}" if float(value).is_integer() else f"{value:g}"
