"""Tiny-ImageNet in the layout it is published in."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from sca_deploy.data import load_dataset
from sca_deploy.data.tiny_imagenet import TINY_IMAGENET, TinyImageNet, load_tiny_imagenet
from sca_deploy.errors import ScaDeployError

PUBLISHED = TinyImageNet(classes=3, train=2, val=1)
WNIDS = ["n02", "n01", "n03"]
"""In an order of their own, as in the published file."""
COLOURS = {"n01": 10, "n02": 120, "n03": 240}


@pytest.fixture
def folder(tmp_path: Path, home: Path) -> Path:
    """Three classes, two images of each to train and one to validate, all of one plain colour a class."""
    root = tmp_path / "tiny-imagenet-200"
    (root / "val/images").mkdir(parents=True)
    (root / "wnids.txt").write_text("\n".join(WNIDS))
    annotations = ""
    for number, wnid in enumerate(WNIDS):
        images = root / "train" / wnid / "images"
        images.mkdir(parents=True)
        (images.parent / f"{wnid}_boxes.txt").write_text(f"{wnid}_0.JPEG\t0\t0\t63\t63\n")
        for index in range(2):
            Image.new("RGB", (64, 64), (COLOURS[wnid],) * 3).save(images / f"{wnid}_{index}.JPEG")
        Image.new("RGB", (64, 64), (COLOURS[wnid],) * 3).save(root / f"val/images/val_{number}.JPEG")
        annotations += f"val_{number}.JPEG\t{wnid}\t0\t32\t44\t62\n"
    (root / "val/val_annotations.txt").write_text(annotations)
    (root / "test/images").mkdir(parents=True)
    Image.new("RGB", (64, 64)).save(root / "test/images/test_0.JPEG")
    return root


def test_labels_follow_the_sorted_identifiers_in_both_splits(folder: Path) -> None:
    found = load_tiny_imagenet(PUBLISHED, folder)
    assert found.shape == (3, 64, 64)
    np.testing.assert_array_equal(found.train_y, [0, 0, 1, 1, 2, 2])
    np.testing.assert_array_equal(found.train_x[:, 0, 5, 5], [10, 10, 120, 120, 240, 240])
    np.testing.assert_array_equal(found.test_y, [1, 0, 2])
    np.testing.assert_array_equal(found.test_x[:, 0, 5, 5], [120, 10, 240])


def test_the_folder_above_is_as_good(folder: Path) -> None:
    assert len(load_tiny_imagenet(PUBLISHED, folder.parent).train_y) == 6


def test_grey_images_become_three_channels_even_if_all_are_grey(folder: Path) -> None:
    for path in folder.rglob("*.JPEG"):
        Image.open(path).convert("L").save(path)
    assert load_tiny_imagenet(PUBLISHED, folder).shape == (3, 64, 64)


def test_size_brings_them_to_another(folder: Path) -> None:
    assert load_tiny_imagenet(PUBLISHED, folder, 32).shape == (3, 32, 32)


DAMAGED: dict[str, tuple[Callable[[Path], object], str]] = {
    "an image gone": (
        lambda f: (f / "train/n03/images/n03_1.JPEG").unlink(),
        "train has 1 images of class n03, the published set 2",
    ),
    "a class emptied": (
        lambda f: [path.unlink() for path in (f / "train/n03/images").iterdir()],
        "train/n03/images holds no images",
    ),
    "a class gone": (lambda f: (f / "train/n03").rename(f / "n03"), "cannot read .*train/n03/images"),
    "a validation image gone": (
        lambda f: (f / "val/images/val_1.JPEG").unlink(),
        "val/images has no val_1.JPEG, which val_annotations.txt names",
    ),
    "an unknown class": (
        lambda f: (f / "val/val_annotations.txt").write_text("val_0.JPEG\tn09\t0\t0\t9\t9\n"),
        "val_annotations.txt, line 1: class 'n09' is not in wnids.txt",
    ),
    "no class": (
        lambda f: (f / "val/val_annotations.txt").write_text("val_0.JPEG\n"),
        "line 1: class '' is not in wnids.txt",
    ),
    "annotations cut short": (
        lambda f: (f / "val/val_annotations.txt").write_text("val_0.JPEG\tn02\t0\t0\t9\t9\n"),
        "val has 0 images of class n01, the published set 1",
    ),
    "no annotations": (lambda f: (f / "val/val_annotations.txt").unlink(), "cannot read .*val_annotations.txt"),
    "fewer classes": (
        lambda f: (f / "wnids.txt").write_text("n01\nn02\n"),
        "wnids.txt names 2 classes, tiny-imagenet has 3",
    ),
    "a truncated image": (
        lambda f: (f / "val/images/val_2.JPEG").write_bytes((f / "val/images/val_2.JPEG").read_bytes()[:-300]),
        "val_2.JPEG cannot be decoded: ",
    ),
}


@pytest.mark.parametrize("case", DAMAGED)
def test_damage_is_named_in_one_line(folder: Path, case: str) -> None:
    damage, message = DAMAGED[case]
    damage(folder)
    with pytest.raises(ScaDeployError, match=message) as error:
        load_tiny_imagenet(PUBLISHED, folder)
    assert "\n" not in str(error.value)


def test_a_missing_set_says_how_to_get_it(home: Path) -> None:
    with pytest.raises(ScaDeployError, match="data set 'tiny-imagenet' is not in") as error:
        load_dataset("tiny-imagenet")
    assert "sca-deploy data fetch tiny-imagenet" in error.value.fix
    assert error.value.fix.endswith(str(home / ".cache/sca-deploy/tiny-imagenet"))


def test_the_numbers_are_those_of_the_published_set() -> None:
    assert (TINY_IMAGENET.classes, TINY_IMAGENET.train, TINY_IMAGENET.val) == (200, 500, 50)
