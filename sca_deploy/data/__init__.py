"""Real data sets, as integer pixels."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from sca_deploy.config import DataConfig
from sca_deploy.data.dataset import Dataset
from sca_deploy.data.digits import load_digits
from sca_deploy.data.idx import FASHION_MNIST, MNIST, load_idx
from sca_deploy.errors import unknown_name

__all__ = ["DATASETS", "Dataset", "configured", "load_dataset"]

DATASETS: dict[str, Callable[[Path | None], Dataset]] = {
    "digits": load_digits,
    "mnist": lambda folder: load_idx(MNIST, folder),
    "fashion-mnist": lambda folder: load_idx(FASHION_MNIST, folder),
}


def configured(data: DataConfig) -> Dataset:
    """The data set a config names, with as many samples as it asks for.

    Raises:
        UsageError, ScaDeployError: as `load_dataset`.
    """
    return load_dataset(data.set, data.folder or None).first(data.train_samples, data.test_samples)


def load_dataset(name: str, folder: str | Path | None = None) -> Dataset:
    """Load a data set by name.

    Args:
        name: "digits", "mnist" or "fashion-mnist".
        folder: where its files are; None to look in the usual places (see `sca_deploy.data.idx`).

    Raises:
        UsageError: if there is no data set of that name, or it takes no folder.
        ScaDeployError: if its files are missing, damaged or not the published ones.
    """
    if name not in DATASETS:
        raise unknown_name("data set", name, DATASETS)
    return DATASETS[name](None if folder is None else Path(folder).expanduser())
