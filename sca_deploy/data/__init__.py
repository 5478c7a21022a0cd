"""Real data sets, as integer pixels and binned events."""

from __future__ import annotations

from pathlib import Path

from sca_deploy.config import DataConfig
from sca_deploy.data.catalogue import CATALOGUE, Loader
from sca_deploy.data.dataset import Dataset
from sca_deploy.errors import unknown_name

__all__ = ["DATASETS", "Dataset", "configured", "load_dataset"]

DATASETS: dict[str, Loader] = {name: entry.load for name, entry in CATALOGUE.items()}


def configured(data: DataConfig, steps: int | None = None) -> Dataset:
    """The data set a config names, at the size and with as many samples as it asks for.

    Args:
        data: the config.
        steps: the network's time steps, into which events are binned; sets of images do without.

    Raises:
        UsageError, ScaDeployError: as `load_dataset`.
    """
    whole = load_dataset(data.set, data.folder or None, steps, data.size)
    return whole.first(data.train_samples, data.test_samples)


def load_dataset(name: str, folder: str | Path | None = None, steps: int | None = None, size: int = 0) -> Dataset:
    """Load a data set by name.

    Args:
        name: a key of `DATASETS`.
        folder: where its files are; None to look in the usual places (see `sca_deploy.data.places`).
        steps: time bins of a recording; sets of images do without.
        size: height and width to bring images and frames of events to; 0 leaves them as they are.

    Raises:
        UsageError: if there is no data set of that name, it takes no folder or needs one, or it needs `steps`.
        ScaDeployError: if its files are missing, damaged or not the published ones.
    """
    if name not in DATASETS:
        raise unknown_name("data set", name, DATASETS)
    return DATASETS[name](None if folder is None else Path(folder).expanduser(), steps, size)
