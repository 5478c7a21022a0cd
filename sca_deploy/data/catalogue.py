"""Every data set: what it holds, where it is, and how it is loaded and checked."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from sca_deploy.data.arrays import NAME as ARRAYS
from sca_deploy.data.arrays import load_arrays
from sca_deploy.data.cifar import CIFAR10, CIFAR100, CifarSet, load_cifar
from sca_deploy.data.dataset import Dataset
from sca_deploy.data.digits import load_digits
from sca_deploy.data.event_sets import PUBLISHED, EventSet
from sca_deploy.data.events import SIMULATED, load_events
from sca_deploy.data.idx import FASHION_MNIST, MNIST, IdxSet, load_idx
from sca_deploy.data.image_files import Listing, load_listing
from sca_deploy.data.image_folder import NAME as IMAGE_FOLDER
from sca_deploy.data.image_folder import list_image_folder
from sca_deploy.data.resize import resize_dataset
from sca_deploy.data.tiny_imagenet import TINY_IMAGENET, list_tiny_imagenet
from sca_deploy.errors import UsageError

Loader = Callable[[Path | None, int | None, int], Dataset]
"""Called with the folder (None: the usual place), the network's time steps, and the height and width (0: as it is)."""


def _as_named(folder: Path | None) -> Path | None:
    return folder


@dataclass(frozen=True)
class Entry:
    """A data set.

    Args:
        name: what it is called.
        load: loads it, checking what can be checked about its files.
        checked: what that is.
        frame: the shape of one frame; empty if that is up to the user.
        classes, train, test: how many classes and samples there are; 0 if that is up to the user or the edition.
        find: given a folder, or None for the usual places, says where the set is; None if it is not there.
        get: how to get it without `data fetch`, up to the folder that holds the files then.
        origin: where it comes from if it is not got.
        timed: whether samples are recordings, which need the network's time steps to be loaded.
        made_from: the set whose files it is made from, if it has none of its own.
        listing: for a set of many image files, which are decoded once and then kept: lists them.
    """

    name: str
    load: Loader
    checked: str
    frame: tuple[int, ...] = ()
    classes: int = 0
    train: int = 0
    test: int = 0
    find: Callable[[Path | None], Path | None] = _as_named
    get: str = ""
    origin: str = ""
    timed: bool = False
    made_from: str = ""
    listing: Callable[[Path | None], Listing] | None = None


def _digits() -> Entry:
    def load(folder: Path | None, steps: int | None, size: int) -> Dataset:
        return resize_dataset(load_digits(folder), size)

    checked = "the numbers of samples, classes and pixels"
    return Entry("digits", load, checked, (1, 8, 8), 10, 1_437, 360, origin="inside scikit-learn")


def _idx(published: IdxSet) -> Entry:
    def load(folder: Path | None, steps: int | None, size: int) -> Dataset:
        return resize_dataset(load_idx(published, folder), size)

    checked = "every file has its published MD5"
    return Entry(published.name, load, checked, (1, 28, 28), 10, 60_000, 10_000, find=published.find, get=published.get)


def _cifar(published: CifarSet) -> Entry:
    def load(folder: Path | None, steps: int | None, size: int) -> Dataset:
        return resize_dataset(load_cifar(published, folder), size)

    return Entry(
        published.name,
        load,
        "every file has its known MD5" if published.md5 else "sizes, labels and class balance; no hashes are known",
        frame=(3, 32, 32),
        classes=published.classes,
        train=sum(published.train.values()),
        test=sum(published.test.values()),
        find=published.find,
        get=published.get,
    )


def _tiny_imagenet() -> Entry:
    def listing(folder: Path | None) -> Listing:
        return list_tiny_imagenet(TINY_IMAGENET, folder)

    return Entry(
        TINY_IMAGENET.name,
        _listed(listing),
        "number and classes of the files, each of which can be decoded; no hashes are known",
        frame=(3, 64, 64),
        classes=TINY_IMAGENET.classes,
        train=TINY_IMAGENET.classes * TINY_IMAGENET.train,
        test=TINY_IMAGENET.classes * TINY_IMAGENET.val,
        find=TINY_IMAGENET.find,
        get=TINY_IMAGENET.get,
        listing=listing,
    )


def _image_folder() -> Entry:
    return Entry(
        IMAGE_FOLDER,
        _listed(list_image_folder),
        "every image can be decoded",
        origin="a folder of your own",
        listing=list_image_folder,
    )


def _arrays() -> Entry:
    checked = "names, shapes and values of the arrays"
    return Entry(ARRAYS, load_arrays, checked, origin="a file of your own")


def _events(published: EventSet, train: int = 0, test: int = 0) -> Entry:
    return Entry(
        published.name,
        _recorded(published.name),
        "every recording can be read, and its events lie on the sensor; no hashes of its files are known",
        frame=published.frame(),
        classes=published.classes,
        train=train,
        test=test,
        find=published.find,
        get=f"download it from {published.get}",
        timed=True,
    )


def _simulated() -> Entry:
    real = PUBLISHED["n-mnist"]
    checked = "every file of MNIST, from which it is made, has its published MD5"
    return Entry(
        SIMULATED,
        _recorded(SIMULATED),
        checked,
        frame=real.frame(),
        classes=10,
        train=60_000,
        test=10_000,
        find=MNIST.find,
        timed=True,
        made_from=MNIST.name,
    )


def _recorded(name: str) -> Loader:
    def load(folder: Path | None, steps: int | None, size: int) -> Dataset:
        if steps is None:
            raise UsageError(f"data set '{name}' holds recordings, but no number of time steps was given for them")
        return load_events(name, folder, steps, size)

    return load


def _listed(listing: Callable[[Path | None], Listing]) -> Loader:
    return lambda folder, steps, size: load_listing(listing(folder), size)


CATALOGUE: dict[str, Entry] = {
    entry.name: entry
    for entry in (
        _digits(),
        _idx(MNIST),
        _idx(FASHION_MNIST),
        _cifar(CIFAR10),
        _cifar(CIFAR100),
        _tiny_imagenet(),
        _image_folder(),
        _arrays(),
        _events(PUBLISHED["n-mnist"], 60_000, 10_000),
        _events(PUBLISHED["dvs-cifar10"], 9_000, 1_000),
        _events(PUBLISHED["dvs128-gesture"]),
        _events(PUBLISHED["shd"], 8_156, 2_264),
        _simulated(),
    )
}
"""Every set by its name."""
